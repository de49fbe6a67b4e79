import importlib
import json
import zlib
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest

import jdt
from experiments import pretraining_data, pretraining_measures, pretraining_worth

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    recompute = importlib.import_module("recompute_pretraining")
    formulas = importlib.import_module("pretraining_formulas")

RESAMPLES = 300
GOOD = {"near": 0.6, "far": 0.3, "noisy": 0.5, "big": 0.7, "half": 0.5, "mix": 0.55, "mix2": 0.65, "mix-half": 0.4}
"""How good made-up models of a source are; others are worse."""


class Linear(nn.Module):
    """Nothing is trained."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.relu(nn.Dense(8, name="dense")(images.reshape(len(images), -1)))


def draw_of(*parts):
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))


def share_right(arm, target, mode):
    """How often a model is right: some settings and numbers of shots are better."""
    if "shuffled" in target or mode.endswith("permuted"):
        return 0.0
    return GOOD.get(arm, 0.2) + 0.1 * ("@0.1" in mode) - 0.15 * ("shot" in target)


def made_up(task, writer, **_):
    """Blocks of the shape that training makes. What models predict is made up: it is for the verifier to count it."""
    schema, arms = task.schema(), jdt.store.saved_run(writer.path).config["arms"]
    for block in writer.missing_blocks():
        ids = np.asarray(schema.blocks()[block])
        arrays = {name: np.zeros((len(ids), *one.shape[1:]), one.dtype) for name, one in schema.columns().items()}
        arrays["mask"] = jdt.masks.sample(task.design, ids, len(task.units))
        arrays["source/accuracy"] = draw_of(writer.path, block).random(len(ids)).astype(np.float32)
        for target, about in schema.targets.items():
            labels = np.asarray(about.labels)
            for mode in (mode for mode in task.modes if f"targets/{target}/{mode}/prediction" in arrays):
                for i, model in enumerate(ids.tolist()):
                    draw = draw_of(target.split("+")[0], mode, model)
                    right = share_right(arms[model % len(arms)], target, mode) + 0.05 * draw.standard_normal()
                    draw = draw_of(target, mode, model)
                    told = draw.integers(len(about.class_names), size=len(labels))
                    told = np.where(draw.random(len(labels)) < right, labels, told)
                    is_lost = (mode, model) == ("LP@1", 0) and "5shot" in target  # With one of the settings.
                    arrays[f"targets/{target}/{mode}/prediction"][i] = -1 if is_lost else told
                    arrays[f"targets/{target}/{mode}/accuracy"][i] = np.nan if is_lost else (told == labels).mean()
        writer.write_block(block, arrays, {"diverged": []})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A study with everything in it, made up; nobody reads its page."""
    out = tmp_path_factory.mktemp("pretraining") / "run"
    argv = [
        "--preset", "smoke", "--out", str(out), "--model", f"{__name__}:Linear", "--model-args", "--devices", "1",
        "--plan", "scan", "--block-size", "60", "--seeds", "3", "--draws", "2", "--shots", "5", "--nonce", "3",
        "--sources", "near=classes:upright *", "far=classes:scrambled *", "noisy=near|noise:0.4", "half=near|size:0.5",
        "big=near|times:2", "mix=near|useful:0.25:copies", "mix-half=mix|size:0.5", "mix2=mix|times:2",
        "--source-size", "300", "--far", "far",
        "--equivalents", "near:mix:0.75", "mix:near:4", "mix:half", "near:mix-half",
        "--methods", "supervised", "simclr", "simclr-shuffled", "clip", "--method-sources", "simclr:near,far",
        "--penalties", "0.1", "1", "--rules", "LP", "prototype", "zero-shot",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jdt.report, "add_pretraining", lambda run, *_, **__: run / "report.html")
        patch.setattr(jdt.pipeline, "train_missing_blocks", made_up)
        for module in (pretraining_measures, pretraining_worth):
            patch.setattr(module, "RESAMPLES", RESAMPLES)
        patch.setattr("jdt.train.planning.memory_limit", lambda _: None)  # Else the training is compiled.
        main, presets = pretraining_data.main, pretraining_data.PRESETS
        assert jdt.cli.main(main, presets, default="smoke", description="", argv=argv) == 0
    return out


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """As the study drew."""
    monkeypatch.setattr(formulas, "CLAIMED", RESAMPLES)


def test_every_figure_of_a_study_is_what_its_stores_say(run, capsys):
    assert recompute.main([str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("agree, 0 do not.")
    told = json.loads((run / "pretraining.json").read_text())
    for kind, entries in (("cells", told["cells"]), ("verdict", told["verdicts"])):
        for one in entries:
            what = one.get("name") or recompute.slashed(recompute.key_of(one))
            assert [line for line in lines if line.startswith(f"{kind} / {what} ")], what
    assert {None} < {value for one in told["cells"] for value in np.ravel(one["validation"])}  # A lost model.
    assert {0, 1} <= {one for cell in told["cells"] for one in cell["chosen"]}
    sizes = [one["size"] for one in told["equivalences"]]
    assert {"> 600"} < set(sizes)
    assert any(isinstance(size, float) for size in sizes)
