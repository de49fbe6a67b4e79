import json

import flax.linen as nn
import numpy as np
import pytest
from PIL import Image

import jdt
from experiments import class_influence, influence_run, influence_setup, paper_recipes
from experiments.target_recipes import recipes_of


class Linear(nn.Module):
    """Compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes, name="head")(features), features


TINY = (
    "--preset", "smoke", "--devices", "1", "--num-models", "2", "--recipe.epochs", "0.1", "--plan", "native",
    "--full.recipe.epochs", "1", "--model", f"{__name__}:Linear",
)  # fmt: skip


def only_begin(config):
    """Make or resume the run and train nothing."""
    influence_run.open_writer(config, *influence_setup.load_task(config))


def begin(*arguments):
    argv = [str(argument) for argument in (*TINY, *arguments)]
    return jdt.cli.main(only_begin, class_influence.PRESETS, default="demo", description="", argv=argv)


def refusal(capfd, *arguments):
    assert begin(*arguments) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    return line


def test_sizes_decays_and_recipes_are_part_of_what_a_run_is(capfd, tmp_path):
    out, recipes = tmp_path / "run", tmp_path / "recipes.json"
    recipes.write_text(json.dumps({"jdt_digits": {"epochs": 2, "drop_last": True}}))
    asked = ("--out", out, "--shots", "2", "--weight-decays", "0.01", "--target-recipes", recipes,
             "--transfer", "full")  # fmt: skip
    for _ in range(2):  # The second time it is there.
        assert begin(*asked) == 0
    run = jdt.open_run(out)
    (name,) = run.targets
    assert name == "jdt_digits@2shot@wd0.01"
    assert len(run.targets[name].labels) == 897
    assert (run.config["shots"], run.config["weight_decays"]) == ([2], [0.01])
    recipe = run.config["target_settings"][name]["full"]["recipe"]
    assert (recipe["epochs"], recipe["drop_last"], recipe["weight_decay"]) == (2.0, True, 0.01)
    capfd.readouterr()
    assert "shots: saved [2], asked [3]" in refusal(capfd, *asked, "--shots", "3")


def test_runs_that_ask_for_none_of_it_are_identified_as_before(tmp_path):
    config = influence_setup.Config(out=tmp_path / "run", model=f"{__name__}:Linear", plan="native", devices=1)
    task, _ = influence_setup.load_task(config)
    identity = influence_setup.identity(config, task)
    assert set(identity) == {
        "experiment", "source", "source_split", "target", "image_size", "equalize", "model", "transfer", "units",
        "design", "recipe", "head", "precision", "pool_size", "full", "fingerprints",
    }  # fmt: skip
    assert set(identity["head"]) == {"inverse_penalty", "tolerance", "max_iterations"}
    assert set(identity["recipe"]) == {
        "epochs", "batch_size", "learning_rate", "warmup_epochs", "decay", "decay_epochs", "momentum", "nesterov",
        "weight_decay", "label_smoothing", "crop_pad", "flip", "mean", "std",
    }  # fmt: skip
    full = jdt.config.to_plain(jdt.transfer.FullNetwork())
    assert full == {"recipe": jdt.config.to_plain(jdt.transfer.FullNetwork().recipe)}
    assert "drop_last" in jdt.config.to_plain(jdt.train.Recipe(drop_last=True))


def folder_with_overlap(root):
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (12, 8, 8)).astype(np.uint8)
    for i, picture in enumerate(pictures):
        for split in ("train", "test") if i == 5 else (("train", "test")[i % 2],):
            path = root / split / "ab"[i // 6] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return f"folder:{root}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "11"], "shots is 11, but class '0' has 10 training images"),
        (["--shots", "0"], "shots is 0, but it must be at least 1"),
        (["--target-fractions", "1.5"], "a target fraction is 1.5, but it must be above 0 and at most 1"),
        (["--weight-decays", "0"], "a weight decay is 0.0, but it must be positive"),
        (["--shots", "2", "2"], "name each target once"),
        (["--head.bn", "adapt"], "pass --head.solver sgd as well, or --head.bn frozen"),
        (["--transfer", "full", "--target-recipes", "paper"], "target-recipes is paper, which has no target 'jdt_digi"),
        (["--transfer", "full", "--target-recipes", "/no/such.json"], "cannot read the target recipes /no/such.json"),
        (["--recipe.class-weights", "1", "2"], "class-weights are 2 numbers, but jdt_digits_source[train] has 30 cla"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, message, capfd, tmp_path):
    assert message in refusal(capfd, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_a_target_that_is_tested_on_what_it_trains_on_is_refused_or_warned_of(capfd, tmp_path):
    target = folder_with_overlap(tmp_path / "pictures")
    asked = ("--out", tmp_path / "run", "--target", target)
    line = refusal(capfd, *asked)
    assert "1 of its 6 test images is also in its training split, at 8x8 pixels (the first: test image" in line
    assert "--allow-overlap" in line
    assert begin(*asked, "--allow-overlap") == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"cifar11": {}}, "has a recipe for 'cifar11', which is no target of this run"),
        ({"pets": {"epoch": 3}}, "a recipe has no field 'epoch'; like it are epochs"),
        ({"pets": {"epochs": "three"}}, "pets: epochs is 'three', but it must be a number"),
        ({"pets": {"batch_size": 8.5}}, "pets: batch_size is 8.5, but it must be a whole number"),
        ({"pets": {"flip": 1}}, "pets: flip is 1, but it must be true or false"),
        ({"pets": {"resolution": [160, 192]}}, "resolution is [160, 192], but it must be a list of [first epoch, side"),
        ({"pets": {"class_weights": [1, "2"]}}, "pets: class_weights is [1, '2'], but it must be a list of numbers"),
        ({"pets": {"epochs": -1}}, "pets: epochs is -1.0, but training needs a positive number"),
        (["pets"], "is not a JSON object of target -> recipe"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_recipes_that_do_not_fit_are_refused_by_name(table, message, tmp_path):
    path = tmp_path / "recipes.json"
    path.write_text(json.dumps(table))
    with pytest.raises(jdt.UserError) as refused:
        recipes_of(str(path), ("pets",), jdt.train.Recipe())
    assert message in str(refused.value)


# arXiv 2207.05739, tables of sections 2.1 and 3.3 of its specification: training images, and steps an epoch.
STEPS = {
    "folder:fgvc_aircraft": (6_667, 6), "folder:birdsnap": (32_677, 31), "caltech101": (3_030, 2),
    "folder:caltech256": (15_420, 15), "cifar10": (50_000, 48), "cifar100": (50_000, 48),
    "oxford_flowers102": (2_040, 1), "food101": (75_750, 73), "oxford_iiit_pet": (3_680, 3), "cars196": (8_144, 7),
    "sun397/standard-part1-120k": (19_850, 19), "folder:chestxray14": (78_468, 76), "imagenet2012": (1_281_167, 1251),
}  # fmt: skip


@pytest.mark.parametrize("row", paper_recipes.PAPER_TARGETS, ids=lambda row: row.dataset)
def test_the_papers_recipes_take_the_papers_steps_at_the_papers_rates(row):
    size, per_epoch = STEPS[row.dataset]
    recipe = recipes_of("paper", (row.dataset,), jdt.train.Recipe())[row.dataset]
    assert recipe.steps_per_epoch(size) == per_epoch
    assert recipe.num_steps(size) == row.epochs * per_epoch
    steps = np.arange(row.epochs * per_epoch)
    if row.schedule == "triangle":
        expected = np.interp(steps, [0, 5 * per_epoch, row.epochs * per_epoch], [0, row.learning_rate, 0])
    else:
        expected = row.learning_rate * 0.1 ** (steps // (int(row.schedule.removeprefix("step")) * per_epoch))
    rate = recipe.schedule(size)
    some = steps[:: max(1, len(steps) // 40)]
    np.testing.assert_allclose([float(rate(step)) for step in some], expected[some], rtol=1e-5, atol=1e-8)
    assert (recipe.batch_size, recipe.momentum, recipe.nesterov, recipe.label_smoothing) == (1024, 0.9, False, 0.0)
    assert recipe.weight_decay == (1e-5 if row.metric == "AUROC" else 5e-4)
    assert sum(recipe.class_weights) == (1 if row.metric == "AUROC" else 0)


def test_the_paper_preset_trains_by_the_papers_recipes():
    preset = class_influence.PRESETS["paper"]
    assert preset.target_recipes == "paper"
    assert set(recipes_of(preset.target_recipes, preset.target, preset.full.recipe)) == set(preset.target)
    moved = recipes_of("paper", ("folder:/data/birdsnap", "folder:birdsnap"), preset.full.recipe)
    assert len(moved) == 2
    assert len(set(moved.values())) == 1
