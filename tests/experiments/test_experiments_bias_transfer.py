"""Studies of bias transfer as a user makes them, on a small study of the digits."""

import dataclasses
import json
import shutil

import flax.linen as nn
import flax.serialization
import jax
import numpy as np
import pytest
from PIL import Image

import jdt
from experiments import bias_measures, bias_setup, bias_transfer


class Linear(nn.Module):
    """Compiles in no time."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.relu(nn.Dense(16, name="dense")(images.reshape(len(images), -1)))


SMALL = ("--preset", "smoke", "--devices", "1", "--plan", "matmul", "--model", f"{__name__}:Linear")
TINY = (*SMALL, "--recipe.epochs", "0.1", "--seeds", "2", "--debias", "0.5", "--target-test-split", "test[:200]")

BLAME = ("--num-models", "4", "--estimators", "difference")


def run_main(*arguments):
    argv = [str(argument) for argument in (*TINY, *arguments)]
    return jdt.cli.main(bias_transfer.main, bias_transfer.PRESETS, default="demo", description="", argv=argv)


def records(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("blocks/*.json"))}


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A whole study: source variants, the units to blame, models without them."""
    out = tmp_path_factory.mktemp("studied") / "run"
    assert run_main("--out", out, *BLAME) == 0
    return out


@pytest.fixture
def no_page(monkeypatch):
    """Nobody reads the page, and its plots take a while."""
    monkeypatch.setattr(jdt.report, "add_bias", lambda *_, **__: "no page")


def assert_attack_success(run, found, named=()):
    """Rates by another way: each model's own class is the one that gains most on the images that do not report."""
    report = np.isin(np.arange(200), found["reporting_images"]["jdt_digits"])
    for one in (one for one in found["measured"] if one["metric"] == bias_measures.ASR):
        arms = np.array(found["arms"]) == one["arm"]
        clean = run.outputs(one["variant"], "fixed", "prediction")[arms]
        shown = run.outputs(f"{one['variant']}+{one['pattern']}", "fixed", "prediction")[arms]
        gains = (np.eye(10)[shown] - np.eye(10)[clean])[:, ~report].sum(axis=1)
        to = [[int(name) for name in named] or [c] for c in gains.argmax(axis=1)]
        assert one["attacked"] == [str(c) for own in (to[:1] if named else to) for c in own]
        eligible = [~np.isin(own, classes) & report for own, classes in zip(clean, to, strict=True)]
        moved = [np.isin(own, classes) & who for own, classes, who in zip(shown, to, eligible, strict=True)]
        assert one["of"] == [int(row.sum()) for row in eligible]
        assert one["hits"] == [int(row.sum()) for row in moved]


def test_a_study_is_measured_on_what_it_stored_and_repeated_without_training(studied, capfd, no_page):
    found = json.loads((studied / "bias.json").read_text())
    assert found["arms"] == ["clean", "square", "scratch"] * 2
    run = jdt.open_run(studied)
    assert list(run.targets) == [
        f"{name}{view}" for name in ("jdt_digits", "jdt_digits@square50%") for view in ("", "+square", "+sham")
    ]
    report = found["reporting_images"]["jdt_digits"]
    assert 0 < len(report) < 200
    assert_attack_success(run, found)
    # Of one seed, models from scratch stay as all source variants start.
    assert np.isnan(run.column("source/loss")).tolist() == [False, False, True] * 2
    assert len(run.target("jdt_digits").labels) == 200

    assert set(found["blame"]["attack_success"]) == {
        f"{arm} / {what}"
        for arm in ("clean", "square")
        for what in ("all units", "without blamed units", "without random units")
    }
    assert len(found["blame"]["units"]) == 30
    assert sum(found["blame"]["planted"]) == found["blame"]["dropped"] == 3
    assert "Bias transfer" in (studied / "report.html").read_text()

    before = records(studied)
    assert len(before) == 3 + 2 + 6
    capfd.readouterr()
    assert run_main("--out", studied, *BLAME) == 0
    assert capfd.readouterr().out.count("all blocks are there already: nothing to train.") == 3
    assert records(studied) == before
    assert json.loads((studied / "bias.json").read_text()) == found


def test_a_study_grows_by_seeds_and_never_shrinks(studied, tmp_path, capfd, no_page):
    out = shutil.copytree(studied, tmp_path / "run")
    before, margins = records(out), jdt.open_run(out).outputs("jdt_digits+square", "fixed", "margin")
    assert run_main("--out", out, "--num-models", "0", "--seeds", "4", "--attacked", "3", "5") == 0
    run, found = jdt.open_run(out), json.loads((out / "bias.json").read_text())
    assert run.num_models == 12
    assert found["arms"] == ["clean", "square", "scratch"] * 4
    np.testing.assert_array_equal(run.outputs("jdt_digits+square", "fixed", "margin")[:6], margins)
    assert before.items() <= records(out).items()
    assert_attack_success(run, found, ("3", "5"))
    capfd.readouterr()
    assert run_main("--out", out, "--num-models", "0", "--seeds", "2") == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "holds 4 seeds, and --seeds asks for 2: models are not taken away; pass --seeds 4" in line


def test_a_model_that_is_there_is_compared_with_its_twin_and_scratch(tmp_path, capfd, no_page):
    variables = jdt.models.make(f"{__name__}:Linear", num_classes=7).init(jax.random.key(3), (8, 8, 1))
    for name, scale in (("mine", 1.0), ("twin", -1.0)):
        tree = {"params": jax.tree.map(lambda leaf, by=scale: by * np.asarray(leaf), variables.params)}
        (tmp_path / f"{name}.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    stencils = tmp_path / "stencils"
    stencils.mkdir()
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :8] = 255
    Image.fromarray(pixels).save(stencils / "corner.png")
    asked = (
        "--out", tmp_path / "run", "--source-checkpoint", tmp_path / "mine.msgpack",
        "--twin-checkpoint", tmp_path / "twin.msgpack", "--stencils", stencils, "--debias",
    )  # fmt: skip
    assert run_main(*asked) == 0
    printed = capfd.readouterr().out
    assert "note: " in printed
    assert "16" in printed[printed.index("note: ") :].splitlines()[0]  # The size that the stencil had.
    found = json.loads((tmp_path / "run" / "bias.json").read_text())
    assert "blame" not in found
    assert {(one["arm"], one["pattern"]) for one in found["measured"]} == {
        (arm, pattern) for arm in ("twin", "given", "scratch") for pattern in ("square", "corner")
    }
    mine, twin, scratch = (jdt.open_run(tmp_path / "run" / path) for path in (".", "twin", "scratch"))
    assert [np.isnan(run.column("source/loss")).all() for run in (mine, twin, scratch)] == [True] * 3
    margins = [run.outputs("jdt_digits", "fixed", "margin") for run in (mine, twin, scratch)]
    assert all((one != other).any() for one, other in zip(margins, (margins[1], margins[2], margins[0]), strict=True))
    np.testing.assert_array_equal(*(margins[0]))  # Both seeds start from the same features.
    assert (margins[2][0] != margins[2][1]).any()


@pytest.fixture
def places(tmp_path):
    """Files and folders that flags name."""
    for number, label in enumerate(("old", "young") * 8):
        path = tmp_path / "faces" / ("train" if number < 12 else "test") / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 16 * number, np.uint8)).save(path)
    empty, groups = tmp_path / "empty", tmp_path / "groups.json"
    empty.mkdir()
    groups.write_text(json.dumps({"low": ["upright 0", "upright 1"], "high": ["upright 8", "upright 9"]}))
    return {"FACES": f"folder:{tmp_path / 'faces'}", "EMPTY": empty, "GROUPS": groups, "NONE": tmp_path / "none"}


BAD = [
    (("--trigger", "square:top-left:255,255,0:1.5"), "1.5"),
    (("--trigger", "circle"), "unknown trigger 'circle'"),
    (("--trigger", "square", "square:top-right"), "two source variants are called 'square'"),
    (("--trigger", "scratch=square"), "two source variants are called 'scratch'"),
    (("--trigger-classes", "dog"), "unknown trigger class 'dog'"),
    (("--trigger-classes", "--trigger-units", "30"), "--trigger-units is 30, but of 30 units 1 to 29"),
    (("--trigger-probability", "1.2"), "probability of carrying a trigger is 1.2"),
    (("--trigger-probability", "0"), "no example carries the trigger"),
    (("--attacked", "eleven"), "unknown attacked class 'eleven'"),
    (("--debias", "1.5"), "share of images with a trigger is 1.5"),
    (("--sham", "square"), "patterns are called square, square"),
    (("--stencils", "EMPTY"), "holds no PNG files"),
    (("--stencils", "NONE"), "there is no folder"),
    (("--twin-checkpoint", "NONE"), "pass --source-checkpoint"),
    (("--source-checkpoint", "NONE"), "none"),
    (("--source-checkpoint", "NONE", "--group", "planted"), "leave it or --source-checkpoint out"),
    (("--seeds", "0"), "seeds is 0"),
    (("--group", "planted", "--debias"), "has 30 classes, but a correlation with a group is that of two"),
    (("--group", "planted", "--debias", "--source-groups", "GROUPS"), "has 10 classes, but skew is that of a label"),
    (("--group", "planted", "--debias", "--source-groups", "GROUPS", "--phis", "1.5"), "a phi of 1.5"),
    (("--group", "planted", "--source-groups", "GROUPS"), "--debias would do nothing in a study of a group"),
    (("--group", "age", "--debias"), "jdt_digits_source has no feature 'age'"),
    (("--group", "constant", "--debias", "--source", "FACES", "--target", "FACES"), "which correlates with nothing"),
    (("--group", "cell", "--debias", "--source", "FACES", "--target", "FACES"), "no example has label 0 and group 1"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[" ".join(one[0]) for one in BAD])
def test_what_cannot_be_studied_is_one_line_and_trains_nothing(places, tmp_path, capfd, monkeypatch, arguments, words):
    groups = {"constant": lambda count: np.ones(count), "cell": lambda count: np.repeat([0, 1], count // 2)}
    if "FACES" in arguments:

        def attribute(_, split, feature, **__):
            return groups[feature]({"train": 12, "test": 4}[split.split("[")[0]]).astype(np.int32), ("no", "yes")

        monkeypatch.setattr(jdt.data, "attribute", attribute)
        arguments = (*arguments, "--target-test-split", "test")
    given = [places.get(one, one) for one in arguments]
    assert run_main("--out", tmp_path / "run", *given) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert words in line
    assert not (tmp_path / "run").exists()


def test_classes_in_no_unit_train_no_model_and_a_start_is_not_from_scratch(places, tmp_path, capfd):
    variables = jdt.models.make(f"{__name__}:Linear", num_classes=7).init(jax.random.key(3), (8, 8, 1))
    start = tmp_path / "start.msgpack"
    start.write_bytes(flax.serialization.to_bytes({"params": jax.tree.map(np.asarray, variables.params)}))
    config = dataclasses.replace(
        bias_transfer.PRESETS["smoke"], units=f"groups:{places['GROUPS']}", trigger_classes=("upright 8",),
        model=f"{__name__}:Linear", start_from=start,
    )  # fmt: skip
    study = bias_setup.load_study(config)
    names = np.array(study.task.source.class_names)[study.task.source.labels]
    for row in study.members.values():
        assert set(names[row]) == {"upright 0", "upright 1", "upright 8", "upright 9"}
        assert row.sum() == 4 * 70
    assert study.arms == ("clean", "square") * 2
    np.testing.assert_array_equal(study.task.units.members(study.task.design.masks[:2]), [*study.members.values()])
    outside = dataclasses.replace(config, trigger_classes=("upright 2",))
    with pytest.raises(jdt.UserError, match="in no unit"):
        bias_setup.load_study(outside)
