import ast
import importlib
import json
import shutil
import zlib
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest

import jdt
from experiments import bias_blame, bias_transfer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(BENCHMARKS))
    recompute = importlib.import_module("recompute_bias")


class Linear(nn.Module):
    """Compiles in no time; nothing is trained."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.Dense(4, name="dense")(images.reshape(len(images), -1))


LOST = 2
"""Of the models on random subsets, and of those of the source variants, the one that diverges."""


def predicted(target, labels, num_classes, model):
    """Right at first but for some; with a pattern, some more are taken for a class that is the model's own."""
    plain, _, pattern = target.partition("+")
    draw = np.random.default_rng([model, zlib.crc32(plain.encode())])
    found = np.where(draw.random(len(labels)) < 0.2, draw.integers(num_classes, size=len(labels)), labels)
    if pattern:
        draw = np.random.default_rng([model, zlib.crc32(target.encode())])
        to, share = draw.integers(num_classes), 0.1 + 0.3 * draw.random()
        found = np.where(draw.random(len(labels)) < share, to, found)
    return found.astype(np.int32)


def made_up(task, writer, **_):
    """Blocks of the shape that training makes. What models predict is made up: it is for the verifier to count it."""
    schema = task.schema()
    for block in writer.missing_blocks():
        ids = np.asarray(schema.blocks()[block])
        arrays = {name: np.zeros((len(ids), *one.shape[1:]), one.dtype) for name, one in schema.columns().items()}
        arrays["mask"] = jdt.masks.sample(task.design, ids, len(task.units))
        for target, about in schema.targets.items():
            of_target = f"targets/{target}/fixed/"
            arrays[f"{of_target}prediction"] = np.stack(
                [predicted(target, about.labels, len(about.class_names), model) for model in ids.tolist()]
            )
            for name in arrays:
                if name.startswith(of_target):
                    arrays[name][ids == LOST] = -1 if name.endswith("/prediction") else np.nan
        writer.write_block(block, arrays, {"diverged": [LOST] if LOST in ids else []})


def study(out, *flags):
    argv = [
        "--preset", "smoke", "--out", str(out), "--model", f"{__name__}:Linear", "--devices", "1", "--plan", "scan",
        "--seeds", "3", "--num-models", "8", "--block-size", "4",
        "--estimators", "difference", *map(str, flags),
    ]  # fmt: skip
    assert jdt.cli.main(bias_transfer.main, bias_transfer.PRESETS, default="smoke", description="", argv=argv) == 0
    return out


PATTERN = ("--trigger-classes", "--trigger-units", "3", "--nonce", "3", "--sham", "gaussian", "--debias", "0.5")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A study of a pattern that was drawn from a number, and one of a group; nobody reads their pages."""
    root = tmp_path_factory.mktemp("bias")
    digits = {"low": [0, 1, 2, 3, 4], "high": [5, 6, 7, 8, 9]}
    for name, prefix in (("source", "upright "), ("target", "")):
        groups = {group: [f"{prefix}{digit}" for digit in members] for group, members in digits.items()}
        (root / name).write_text(json.dumps(groups))
    group = ("--debias", "--group", "planted", "--source-groups", root / "source", "--target-groups", root / "target")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jdt.report, "add_bias", lambda run, *_, **__: run / "report.html")
        patch.setattr(jdt.pipeline, "train_missing_blocks", made_up)
        patch.setattr("jdt.train.planning.memory_limit", lambda _: None)  # Else the training is compiled.
        yield {
            "pattern": study(root / "pattern", *PATTERN),
            "group": study(root / "group", *group, "--compositions", "0.5"),
        }


@pytest.mark.parametrize("program", ["recompute_bias", "recompute_noise", "stored_figures"])
def test_nothing_of_jdt_is_used(program):
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse((BENCHMARKS / f"{program}.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not imported & {"jdt", "experiments", "jax"}


@pytest.mark.parametrize("kind", ["pattern", "group"])
def test_every_figure_of_a_study_is_what_its_store_says(runs, kind, capsys):
    assert recompute.main([str(runs[kind])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("agree, 0 do not.")
    told = json.loads((runs[kind] / "bias.json").read_text())
    rates = [one for one in told["measured"] if one["of"]]
    assert rates
    for one in rates:  # Denominators are printed.
        what = recompute.slashed(recompute.key_of(one))
        (line,) = [line for line in lines if line.startswith(f"{what}  ")]
        counts = " ".join(f"{hits}/{of}" for hits, of in zip(one["hits"], one["of"], strict=True))
        assert line.split(what)[1].split() == [*counts.split(), *counts.split(), "yes"]


def entry(claims, **what):
    return next(one for one in claims["measured"] if all(one[name] == value for name, value in what.items()))


def one_more_hit(claims):
    entry(claims, arm="square", metric=recompute.ASR, variant="jdt_digits@square50%")["hits"][1] += 1


def narrower(claims):
    entry(claims, arm="square", metric="total shift", pattern="gaussian")["transfer"]["low"] += 1e-6


def wider_over_images(claims):
    interval = entry(claims, arm="square", metric=recompute.ASR, pattern="square")["over_examples"]
    interval["high"] += 0.5 * (interval["high"] - interval["low"])


def another_class_of_one_seed(claims):
    for one in claims["measured"]:
        if (one["variant"], one["pattern"], one["arm"]) == ("jdt_digits", "gaussian", "square"):
            one["attacked"][1] = str((int(one["attacked"][1]) + 1) % 10)


def pushed_elsewhere(claims):
    claims["blame"]["attacked"] = "0"


def less_dropped(claims):
    claims["blame"]["attack_success_hits"]["clean / without random units"][1] += 1


def left_out(claims):
    claims["measured"].remove(entry(claims, arm="scratch", metric="flip rate", pattern="square"))


def fewer_report(claims):
    claims["reporting_images"]["jdt_digits"].pop()


def better_found(claims):
    claims["blame"]["auroc"] = 1.0


def others_planted(claims):
    claims["blame"]["planted"] = claims["blame"]["planted"][::-1]


def less_left(claims):
    claims["blame"]["attack_success"]["square / without blamed units"][0] = 0.0


def arms_exchanged(claims):
    claims["arms"][:2] = claims["arms"][1::-1]


def skewed(claims):
    entry(claims, arm="phi=0.8", metric="group skew")["values"][0] += 1e-6


SQUARE = "fixed / square / attack success rate / square"


@pytest.mark.parametrize(
    ("kind", "falsified"),
    [
        ("pattern", {
            one_more_hit: f"jdt_digits@square50% / {SQUARE}:",
            narrower: "jdt_digits / fixed / gaussian / total shift / square: minus clean:",
            wider_over_images: f"jdt_digits / {SQUARE}: minus clean, over images:",
            another_class_of_one_seed: "jdt_digits / fixed / gaussian / square: attacked class of each seed:",
            pushed_elsewhere: "blame: classes that were named:",
            less_dropped: "dropped / attack success rate / clean / without random units: ",
            left_out: "jdt_digits / fixed / square / flip rate / scratch",
            better_found: "blame: AUROC, 3 planted units:",
            less_left: "dropped / attack success rate / square / without blamed units:",
            arms_exchanged: "arms, model by model:",
        }),
        ("pattern", {others_planted: "blame: planted units:"}),
        ("pattern", {fewer_report: "jdt_digits: images that report, by class:"}),
        ("group", {skewed: "jdt_digits@group50% / fixed / group skew / phi=0.8:"}),
    ],
    ids=["figures", "planted", "halves", "groups"],
)  # fmt: skip
def test_what_was_falsified_is_named(runs, tmp_path, capsys, kind, falsified):
    run = tmp_path / "run"
    run.mkdir()
    for path in runs[kind].iterdir():
        (run / path.name).symlink_to(path)
    claims = json.loads((run / "bias.json").read_text())
    for falsify in falsified:
        falsify(claims)
    (run / "bias.json").unlink()
    (run / "bias.json").write_text(json.dumps(claims))
    assert recompute.main([str(run), "--brief"]) == 1
    start = "DISAGREES: "
    wrong = [line[len(start) :] for line in capsys.readouterr().out.splitlines() if line.startswith(start)]
    assert [name for name in falsified.values() if not any(line.startswith(name) for line in wrong)] == []
    if one_more_hit in falsified:  # A class names every entry that it is in; all else is as it was.
        about = ("attack success rate", "flip rate", "accuracy", "total shift")
        places = (*falsified.values(), *(f"jdt_digits / fixed / gaussian / {metric}" for metric in about))
        assert [line for line in wrong if not line.startswith(places)] == []


def test_models_that_are_missing_are_no_agreement(runs, tmp_path, capsys):
    run = shutil.copytree(runs["group"], tmp_path / "run")
    (run / "blocks" / "000001.json").unlink()
    assert recompute.main([str(run)]) == 2
    assert "holds 5 of 9 models" in capsys.readouterr().err
    assert recompute.main([str(tmp_path)]) == 2


def test_other_units_are_dropped_in_a_run_of_their_own(runs, monkeypatch):
    asked, train = [], bias_blame._train

    def as_others_would(own, *rest):
        asked.append(own.out.name)
        return len(asked) == 1 and train(own, *rest)

    monkeypatch.setattr(bias_blame, "_train", as_others_would)
    study(runs["pattern"], *PATTERN, "--drop", "1")
    before = json.loads((runs["pattern"] / "bias.json").read_text())["blame"]["run"]
    assert asked[0] == "influence"
    assert {name.partition("-")[0] for name in (asked[1], before)} == {"dropped"}
    assert asked[1] != before


def test_formulas_by_hand():
    clean, shown, labels = np.array([0, 1, 2, 2, 1]), np.array([2, 1, 2, 0, 2]), np.array([0, 2, 2, 2, 1])

    def shares(metric, clean=clean, shown=shown):
        parts = recompute.parts_of(metric, clean, shown, labels, [2], np.array([1, 1, 0, 0, 0]))
        return [recompute.sums(part) for part in parts]

    assert shares(recompute.ASR) == [(2, 3)]
    assert shares(recompute.ASR_OTHERS) == [(2, 2)]
    assert shares(recompute.FLIPS) == [(3, 5)]
    assert shares(recompute.DROP) == [(4, 5), (1, 5)]
    assert shares(recompute.SKEW) == [(1, 2), (1, 3)]
    assert shares(recompute.ASR, clean=np.full(5, -1)) == [(0, 0)]
    assert recompute.total_shift(clean, shown, 3) == pytest.approx(0.2)
    assert recompute.gained_most(clean, shown, 3) == 2
    assert recompute.gained_most(clean[:2], clean[1::-1], 3) == 0  # Nothing gains: the first of equals.
    assert recompute.gained_most(np.full(5, -1), shown, 3) == 0
    assert np.isnan(recompute.share(np.array(0), np.array(0)))
    found = recompute.difference([0.5, 0.75, np.nan], [0.25, 0.0, 0.0])
    assert (found["mean"], found["pairs"], found["left_out"]) == (0.5, 2, 1)
    assert found["high"] - found["mean"] == pytest.approx(12.7062 * 0.25, rel=1e-4)


def test_what_the_last_command_named_holds_for_all_models(runs, tmp_path, capsys):
    run = study(shutil.copytree(runs["pattern"], tmp_path / "run"), *PATTERN, "--attacked", "3", "5", "--drop", "12")
    told = json.loads((run / "bias.json").read_text())
    assert {tuple(one["attacked"]) for one in told["measured"]} == {("3", "5")}
    assert (told["blame"]["attacked"], told["blame"]["dropped"]) == ("3, 5", 12)
    code = recompute.main([str(run), "--brief"])
    assert (code, capsys.readouterr().out.splitlines()[-1].split(", ")[-1]) == (0, "0 do not.")
