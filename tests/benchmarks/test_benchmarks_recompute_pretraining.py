import importlib
import json
import shutil
import zlib
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
import tensorstore

import jdt
from experiments import pretraining_bars, pretraining_data, pretraining_measures, pretraining_worth

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    recompute = importlib.import_module("recompute_pretraining")
    formulas = importlib.import_module("pretraining_formulas")

RESAMPLES = 300
FEWER = {"LEAST_SEEDS": 3, "ORDER_SHOTS": (5,)}
"""What the near source is judged by, in a study that is soon made."""
GOOD = {"near": 0.6, "far": 0.3, "noisy": 0.5, "big": 0.7, "half": 0.4, "mix": 0.5, "mix2": 0.55, "mix-half": 0.4}
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
    return GOOD.get(arm, 0.2) + 0.1 * (arm == "near" and "@0.1" in mode) - 0.15 * ("shot" in target)


def made_up(task, writer, **_):
    """Blocks of the shape that training makes. What models predict is made up: it is for the verifier to count it."""
    schema, arms = task.schema(), json.loads((writer.path / "run.json").read_text())["config"]["arms"]
    for block in writer.missing_blocks():
        ids = np.asarray(schema.blocks()[block])
        arrays = {name: np.zeros((len(ids), *one.shape[1:]), one.dtype) for name, one in schema.columns().items()}
        arrays["mask"] = jdt.masks.sample(task.design, ids, len(task.units))
        arrays["source/accuracy"][:] = draw_of(task.objective, block).random(len(ids))
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
        "--source-size", "300", "--far", "far", "--equivalents", "near:mix:0.75", "mix:near:4", "near:far",
        "--methods", "supervised", "simclr", "simclr-shuffled", "clip", "--method-sources", "simclr:near,far",
        "--penalties", "0.1", "1", "--rules", "LP", "zero-shot",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jdt.report, "add_pretraining", lambda run, *_, **__: run / "report.html")
        patch.setattr(jdt.pipeline, "train_missing_blocks", made_up)
        for module in (pretraining_measures, pretraining_worth):
            patch.setattr(module, "RESAMPLES", RESAMPLES)
        for name, value in FEWER.items():
            patch.setattr(pretraining_bars, name, value)
        patch.setattr("jdt.train.planning.memory_limit", lambda _: None)  # Else the training is compiled.
        main, presets = pretraining_data.main, pretraining_data.PRESETS
        assert jdt.cli.main(main, presets, default="smoke", description="", argv=argv) == 0
    return out


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """As the study drew, and was judged."""
    monkeypatch.setattr(formulas, "CLAIMED", RESAMPLES)
    for name, value in FEWER.items():
        monkeypatch.setattr(recompute, name, value)


def test_every_figure_of_a_study_is_what_its_stores_say(run, capsys):
    assert recompute.main([str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("agree, 0 do not.")
    told = json.loads((run / "pretraining.json").read_text())
    for kind, entries in (("cells", told["cells"]), ("verdict", told["verdicts"])):
        for one in entries:
            what = one.get("name") or recompute.slashed(recompute.key_of(one))
            assert [line for line in lines if line.startswith(f"{kind} / {what} ")], what
    # What is made up has a lost model, settings of all kinds, optimism, and sizes on both sides and between.
    assert None in np.ravel(next(one["validation"] for one in told["cells"] if len(one["modes"]) == 2))
    assert {0, 1} == {one for cell in told["cells"] for one in cell["chosen"]}
    assert max(one for cell in told["cells"] for one in cell["optimism"]) > 0
    sizes = [one["size"] for one in told["equivalences"]]
    assert {"> 600", "<= 150"} < set(sizes)
    assert any(isinstance(size, float) for size in sizes)


def cell(claims, rule="LP", shots: int | None = 5, method="supervised"):
    asked = {"method": method, "rule": rule, "shots": shots}
    return next(one for one in claims["cells"] if all(one[name] == value for name, value in asked.items()))


def verdict(claims, start):
    return next(one for one in claims["verdicts"] if one["name"].startswith(start))


def paged(claims, part, **asked):
    return next(one for one in claims["page"][part] if all(one[name] == value for name, value in asked.items()))


def better_once(claims):
    cell(claims)["test"][0][1][2][1] += 1e-6


def chosen_on_test(claims):
    chosen = cell(claims, shots=None)["chosen"]
    chosen[0] = 1 - chosen[0]


def more_honest(claims):
    cell(claims, "zero-shot", method="clip")["optimism"][0] = 0.01


def better_by_chance(claims):
    claims["shuffled"][0]["validation"][0][0][0][0] -= 1e-6


def another_size(claims):
    next(one for one in claims["equivalences"] if isinstance(one["size"], float))["size"] *= 1.001


def reached(claims):
    next(one for one in claims["equivalences"] if one["size"] == "> 600")["size"] = 599.0


def surer(claims):
    found = next(
        one for one in claims["equivalences"] if isinstance(one["size"], float) and isinstance(one["high"], float)
    )
    found["high"] = found["size"] * 1.0001


def zero_shot(claims):
    claims["zero_shot"][0]["permuted"][0][1] += 0.01


def fades(claims):
    verdict(claims, "D2, the spread fades")["figures"]["low"] += 0.3


def narrower(claims):
    verdict(claims, "D2, the same source")["figures"]["jdt_digits, all images"][1] *= 1.01


def passes(claims):
    verdict(claims, "D3")["passed"] ^= True


def larger(claims):
    verdict(claims, "D7, simclr")["figures"]["far, all images"][0] += 1e-4


def closer(claims):
    paged(claims, "spreads", method="supervised", transfer="LP")["relative"]["5"]["value"] += 1e-6


def halved(claims):
    paged(claims, "gains", source="near", transfer="LP", shots=5)["gain"]["high"] += 0.5


def more_images(claims):
    claims["sources"]["half"] += 1


FALSIFIED = {
    better_once: "cells / supervised / jdt_digits / 5 / LP / test:",
    chosen_on_test: "cells / supervised / jdt_digits / all / LP / chosen:",
    more_honest: "cells / clip / jdt_digits / 5 / zero-shot / optimism:",
    better_by_chance: "shuffled / supervised / jdt_digits / 5 / LP / validation:",
    another_size: "equivalence / near for mix / jdt_digits / 5 shots:",
    reached: "equivalence / mix for near / jdt_digits / 5 shots:",
    surer: "equivalence / near for mix / jdt_digits / ",
    zero_shot: "zero-shot / own:",
    fades: "verdict / D2, the spread fades on jdt_digits:",
    narrower: "verdict / D2, the same source with other seeds is within the null band:",
    passes: "verdict / D3, near beats far at few shots: reached:",
    larger: "verdict / D7, simclr minus supervised under LP on jdt_digits:",
    closer: "page / spreads / supervised / jdt_digits / LP / relative, 5:",
    halved: "page / gains / supervised / near / jdt_digits / LP / 5 / gain:",
    more_images: "sources:",
}


def linked(run, to, *without):
    """The run with some of its files to be written anew."""
    to.mkdir()
    for path in run.iterdir():
        if path.name not in without:
            (to / path.name).symlink_to(path)
    return to


def wrong_lines(run, capsys):
    assert recompute.main([str(run), "--brief"]) == 1
    start = "DISAGREES: "
    return [line[len(start) :] for line in capsys.readouterr().out.splitlines() if line.startswith(start)]


def test_what_was_falsified_is_named_and_nothing_else(run, tmp_path, capsys):
    claims = json.loads((run / "pretraining.json").read_text())
    for falsify in FALSIFIED:
        falsify(claims)
    copy = linked(run, tmp_path / "run", "pretraining.json", "summary.json")
    (copy / "pretraining.json").write_text(json.dumps(claims))
    summary = json.loads((run / "summary.json").read_text())
    summary["fade of the spread on jdt_digits"]["value"] += 1e-6
    (copy / "summary.json").write_text(json.dumps(summary))
    wrong = wrong_lines(copy, capsys)
    expected = (*FALSIFIED.values(), "summary.json: fade of the spread on jdt_digits:")
    assert [start for start in expected if not any(line.startswith(start) for line in wrong)] == []
    assert [line for line in wrong if not line.startswith(expected)] == []


def test_a_variant_that_is_tested_on_other_labels_is_seen(run, tmp_path, capsys):
    kept, name = run / "store.zarr" / "targets", "jdt_digits@5shot.1"
    folder = next(path.parent for path in kept.glob("*/zarr.json") if f'"{name}"' in path.read_text())
    store = linked(run / "store.zarr", linked(run, tmp_path / "run", "store.zarr") / "store.zarr", "targets")
    own = linked(folder, linked(kept, store / "targets", folder.name) / folder.name, "label")
    shutil.copytree(folder / "label", own / "label")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(own / "label")}}
    labels = tensorstore.open(spec, open=True).result()
    labels.write((labels.read().result() + 1) % 10).result()
    wrong = wrong_lines(tmp_path / "run", capsys)
    assert any(line.startswith("supervised: variants of jdt_digits with other labels:") for line in wrong)


def test_what_is_no_run_is_said_so(tmp_path, capsys):
    assert recompute.main([str(tmp_path)]) == 2
    assert "cannot be compared" in capsys.readouterr().err


def test_formulas_by_hand():
    assert formulas.pairwise(np.array([0.0, 0.25, 1.0])) == pytest.approx(2 / 3)
    assert formulas.needed([100, 200], np.array([0.5, 0.25]), np.array([0.4])) == np.inf  # 0.375 everywhere.
    assert formulas.band(np.array([[[0.5], [0.6]], [[0.5], [0.6]]])) == pytest.approx((0, 0), abs=1e-9)
    assert formulas.left(np.array([0.1, 0.5]), np.array([0.2, 0.4])) == pytest.approx(0.5)
    right = np.random.default_rng(0).random((1, 4, 2, 500)) < 0.7
    value, low, high = formulas.interval(lambda a: a[..., 0], formulas.resampled(right))
    assert value == pytest.approx(right.mean())
    assert low.value < value < high.value
