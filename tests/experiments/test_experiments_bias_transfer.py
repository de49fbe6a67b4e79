"""Studies of bias transfer as a user makes them, on a small study of the digits."""

import dataclasses
import io
import json
import shutil
from types import SimpleNamespace

import flax.linen as nn
import flax.serialization
import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import jdt
from experiments import bias_measures, bias_report, bias_setup, bias_transfer
from experiments.bias_measures import Measured
from experiments.bias_setup import Variant


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


class Shown(bias_measures.Predictions):
    """Predictions without and with a pattern, by arm; every image reports, and every image chooses."""

    def __init__(self, labels, by_arm):
        self.own, self.by_arm = labels, by_arm

    arms = property(lambda self: tuple(self.by_arm))
    twin = property(lambda self: next(iter(self.by_arm)))

    def of(self, name, mode, arm):
        return self.by_arm[arm]["+" in name]

    def halves(self, target):
        every = np.ones(len(self.own), bool)
        return jdt.analyses.Halves(every, every)

    def labels(self, target):
        return self.own


def planted_study(labels, **changes):
    """No more of a study than measuring asks for."""
    test = jdt.data.Dataset(
        fingerprint="test",
        name="digits", images=np.zeros((len(labels), 2, 2, 1), np.uint8), labels=labels.astype(np.int32),
        class_names=("0", "1"),
    )  # fmt: skip
    target = SimpleNamespace(name="digits", test=test)
    fields = {
        "base": SimpleNamespace(targets=(target,)), "triggers": ("square",), "shams": (), "kind": "pattern",
        "arms": ("clean", "square"), "task": SimpleNamespace(modes=("fixed",)), "stamps": {"square": None},
        "groups": {}, "variants": (),
    }  # fmt: skip
    return SimpleNamespace(**(fields | changes))


def measured_by(shown, *, modes=("fixed",), named=()):
    study = planted_study(shown.own, task=SimpleNamespace(modes=modes))
    made = bias_measures._measure_pattern(study, shown, Variant("digits", "digits"), "fixed", "square", named, 0)
    return {(one.arm, one.metric): one for one in made}


def test_models_from_scratch_are_those_of_the_full_network_and_rates_differ_from_theirs_by_seed():
    labels, nothing = np.zeros(4, int), np.zeros((2, 4), int)
    some, all_of = np.array([[1, 1, 0, 0], [1, 0, 0, 0]]), np.ones((2, 4), int)
    rates = {("fixed", "square"): all_of, ("fixed", "scratch"): all_of, ("full", "scratch"): some}
    shown = Shown(labels, dict.fromkeys(("clean", "square", "scratch"), (nothing, nothing)))
    shown.of = lambda name, mode, arm: rates.get((mode, arm), nothing) if "+" in name else nothing
    for modes, mean in ((("fixed",), 0.0), (("fixed", "full"), 1 - (0.5 + 0.25) / 2)):
        one = measured_by(shown, modes=modes)["square", bias_measures.ASR]
        plain = one.to_plain()["from_scratch"]
        assert (plain["mean"], plain["pairs"], plain["left_out"]) == (mean, 2, 0)
        assert plain["low"] <= mean <= plain["high"]
    assert "from_scratch" not in measured_by(shown)["scratch", bias_measures.ASR].to_plain()


def measure_of(name="digits", *, metric=bias_measures.ASR, arm="square", pattern="square", **changes):
    fields = {"mode": "fixed", "attacked": ("1", "1"), "twin": "clean", "values": np.array([0.25, 0.5])}
    variant = changes.pop("variant", Variant("digits", name))
    return Measured(**(fields | {"variant": variant, "metric": metric, "arm": arm, "pattern": pattern} | changes))


def test_what_is_shown_is_the_model_that_is_given_and_never_its_twin():
    stamps = {"square": None, "corner": None}
    study = planted_study(np.zeros(2, int), triggers=(), stamps=stamps)
    planted = planted_study(np.zeros(2, int), triggers=("square", "hat"), stamps=stamps)
    for arms, pattern, shown in (
        (("twin", "given", "scratch"), "square", "given"), (("twin", "given", "scratch"), "corner", "given"),
    ):  # fmt: skip
        assert bias_report._shown_arm(study, pattern, arms) == shown
    arms = ("clean", "square", "hat", "scratch")
    assert [bias_report._shown_arm(planted, one, arms) for one in ("square", "hat", "sham")] == [
        "square", "hat", "square",
    ]  # fmt: skip
    assert bias_report._shown_arm(study, "corner", ("scratch",)) == "scratch"
    other = measure_of(arm="twin", attacked=("0", "0"))
    assert bias_report._pushed_to(study, [other, measure_of(arm="given")]) == "1"


@pytest.mark.parametrize(("modes", "kind"), [(("fixed", "full"), "scratch"), (("fixed",), "untrained")])
def test_predictions_stand_beside_those_of_models_that_were_trained_from_scratch(modes, kind):
    labels = np.zeros(3, int)
    study = planted_study(labels, task=SimpleNamespace(modes=modes))
    shown = Shown(labels, dict.fromkeys(("clean", "square", "scratch")))
    shown.of = lambda _, mode, arm: np.full((1, 3), int(arm == "scratch" and mode == "full"))
    (found,) = bias_report._histograms(study, shown)
    assert set(found.panels) == {kind, *modes}
    assert found.panels[kind][0].tolist() == ([0, 3] if kind == "scratch" else [3, 0])
    del shown.by_arm["square"]
    (found,) = bias_report._histograms(study, shown)
    assert found.title == "digits, square (clean models)"


def test_decay_is_swept_at_one_composition_and_told_as_a_line():
    labels = np.zeros(4, int)
    variants = [
        Variant("digits", f"digits@{share}@{decay}", decay=decay, composition=share)
        for share in (0.8, 0.5) for decay in (None, 0.1, 0.2)
    ]  # fmt: skip
    study = planted_study(labels, kind="group", triggers=(), stamps={}, variants=variants,
                          groups={"digits": np.array([0, 0, 1, 1])})  # fmt: skip
    measured = [
        measure_of(variant=one, metric=bias_measures.SKEW, arm="phi=1", pattern="", attacked=(), twin="phi=0",
                   values=np.full(2, 0.1 * i), transfer=jdt.analyses.Difference(0.1, 0.05, 0.15, 2, 0))
        for i, one in enumerate(variants)
    ]  # fmt: skip
    curves = {curve.title: curve for curve in bias_report._curves(study, measured)}
    assert set(curves) == {"Weight decay, digits", "Composition, digits"}
    assert curves["Weight decay, digits"].x == (0.1, 0.2)
    assert [one.value for one in curves["Weight decay, digits"].lines["phi=1, fixed"]] == pytest.approx([0.4, 0.5])
    words = list(bias_report._sweep_words(study, list(curves.values()), measured))
    assert words[:2] == ["Weight decay, digits (group skew): 0.1 0.2", "  phi=1, fixed: 40.0% 50.0%"]
    assert "2 variants of targets differ in more than one thing" in words[-1]
    (bar, *_) = bias_report._bars(study, measured)
    assert bar.denominators == {"phi=1": "of 2 a group"}
    assert printed(bias_report._table(study, measured)).count("phi=1") == 1  # As a heading: no decay is a row.


def printed(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_table_has_denominators_and_fits_a_terminal():
    study = planted_study(np.zeros(4, int), groups={}, shams=("shuffled",))
    gap = jdt.analyses.Difference(0.4, 0.3, 0.5, 2, 0)
    measured = [
        measure_of("tiny_imagenet32", arm=arm, pattern=pattern, of=of, attacked=("golden retriever", "cat"),
                   transfer=gap if arm == "square" else None)
        for pattern in ("square", "shuffled") for arm, of in (("clean", (3912, 4000)), ("square", (3950, 3961)))
    ]  # fmt: skip
    text = printed(bias_report._table(study, measured))
    assert max(map(len, text.splitlines())) <= 80
    for words in ("3,912", "to 4,000", "+40.0", "(+30.0 to +50.0)", "tiny_imagenet32", "shuffled"):
        assert words in text, words
    assert [bar.control for bar in bias_report._bars(study, measured)] == [False, True]


def test_a_model_that_is_one_in_all_seeds_has_an_interval_over_test_images():
    study = planted_study(np.zeros(4, int), triggers=(), arms=("given",) * 2)
    missing, over = (jdt.analyses.Difference(0.4, *ends, 2, 0) for ends in ((np.nan, np.nan), (0.3, 0.5)))
    one = measure_of(arm="given", twin="twin", transfer=missing, over_examples=over)
    (bar,) = bias_report._bars(study, [one, measure_of(arm="twin", twin="twin")])
    assert (bar.over, bar.transfer["given"].low, bar.transfer["given"].high) == ("test images", 0.3, 0.5)
    assert bar.rates["given"].low is not None  # Its heads differ.
    same = dataclasses.replace(one, values=np.full(2, 0.5))
    assert bias_report._bars(study, [same])[0].rates["given"].low is None
    (figure,) = bias_report._figures([one], None).values()
    assert "interval over test images" in figure.text
    assert "over test images" in printed(bias_report._table(study, [one]))
    seen = dataclasses.replace(one, arm="square")
    assert bias_report._bars(study, [seen])[0].over == "seeds"


def test_images_of_groups_are_shown_with_the_attribute_and_without():
    data = jdt.data.Dataset(
        name="digits", images=np.arange(4, dtype=np.uint8).repeat(4).reshape(4, 2, 2, 1), fingerprint="test",
        labels=np.array([0, 0, 1, 1], np.int32), class_names=("0", "1"),
    )  # fmt: skip
    groups = np.array([0, 1, 0, 1], np.int8)
    target = SimpleNamespace(name="digits", test=data)
    changes = {"variants": [Variant("digits", "digits@group50%")], "groups": {"digits": groups}, "kind": "group"}
    study = planted_study(data.labels, task=SimpleNamespace(targets=(target,)), **changes)
    strips = bias_report._strips(study)
    assert [(one.caption, one.paired, set(one.images.ravel().tolist())) for one in strips] == [
        ("digits, group 0", False, {0, 2}), ("digits, group 1", False, {1, 3}),
    ]  # fmt: skip
    white = jdt.data.Stamps(np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255 * 255, np.int32),
                            np.where(groups == 1, 0, -1).astype(np.int32))  # fmt: skip
    target.test = jdt.data.with_stamps(data, white)
    (strip,) = bias_report._strips(study)
    assert strip.images[:, 0, 0, 0].tolist() == [1, 255, 3, 255]


def test_classes_that_are_named_are_no_disagreement_and_diverged_models_have_none():
    one = Measured(Variant("a", "a"), "fixed", "square", "rate", "square", ("2", "0", "1"), "clean", np.ones(3))
    assert bias_measures.words_of(list("012334"), 3) == "3 (2 of 6), 0 (1 of 6), 1 (1 of 6) and 2 more"
    assert one.pushed_to == "2 (1 of 3), 0 (1 of 3), 1 (1 of 3)"
    assert dataclasses.replace(one, named=True).pushed_to == "2, 0, 1"
    assert dataclasses.replace(one, values=np.array([1.0, np.nan, 1.0])).pushed_to == "2, 1"


def test_a_rate_of_nothing_is_missing_and_never_zero():
    labels = np.arange(6) % 2
    nothing, some = np.ones((2, 6), int), np.stack([np.ones(6, int), labels])
    found = measured_by(Shown(labels, {"clean": (nothing, nothing), "square": (some, some)}), named=["1"])
    empty, half = (found[arm, bias_measures.ASR] for arm in ("clean", "square"))
    assert (empty.of, empty.hits, np.isnan(empty.values).tolist()) == ((0, 0), (0, 0), [True, True])
    assert (half.of, np.isnan(half.values).tolist()) == ((0, 3), [True, False])
    assert [one.to_plain()["values"] for one in (empty, half)] == [[None, None], [None, 0.0]]
    assert half.transfer is not None
    assert half.to_plain()["transfer"]["mean"] is None  # No seed has both.
    (words,) = bias_report._warnings([empty, half])[:1]
    assert "rates have no image in the denominator of some model, and are missing: digits (fixed, clean)" in words
    assert bias_report._percent(empty.values) == "no images"
