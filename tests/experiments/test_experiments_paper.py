"""The paper preset as it is written, on folders with the structure of its datasets, made small."""

import flax.linen as nn
import numpy as np
import pytest
from PIL import Image

import jdt
from experiments import class_influence, influence_setup, paper_recipes, plan

CLASSES = 1000


class Pooled(nn.Module):
    """Sees images of any size, and compiles fast."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.relu(nn.Dense(4, name="pixels")(images)).mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features


def command(module, *arguments):
    argv = [str(argument) for argument in arguments]
    return jdt.cli.main(module.main, module.PRESETS, default="demo", description="", argv=argv)


def write(root, splits, classes, *, kind="jpg", side=None):
    """A few images a class, of mixed sizes unless one is given; every fiftieth grey, one CMYK, one turned by EXIF."""
    draw = np.random.default_rng(0)
    for split, count in splits.items():
        for label in range(classes):
            folder = root / split / f"n{label:05}"
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = draw.integers(9, 40, 2) if side is None else (side, side)
                image = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
                exif = Image.Exif()
                if (2 * label + i) % 50 == 0:
                    image = image.convert("L")
                elif side is None and (label, i) == (1, 0):
                    image = image.convert("CMYK")
                elif side is None and (label, i) == (2, 0):
                    exif[0x0112] = 6
                image.save(folder / f"{i}.{kind}", exif=exif)
    return f"folder:{root}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    source = write(root / "imagenet", {"train": 2, "validation": 1}, CLASSES)
    birds = write(root / "birdsnap", {"train": 3, "test": 2}, 3)
    cifar = write(root / "cifar10", {"train": 3, "test": 2}, 3, kind="png", side=8)
    return (
        "--preset", "paper", "--source", source, "--target", birds, cifar, "--model", f"{__name__}:Pooled",
        "--image-size", 16, "--num-models", 4, "--block-size", 2, "--plan", "native", "--devices", 2,
        "--estimators", "difference", "--recipe.epochs", 1, "--recipe.batch-size", 200, "--recipe.warmup-epochs", 0.5,
        "--recipe.resolution", 0, 12, 0.5, 16, "--memory-budget", 1200 * 16 * 16 * 3 / 2**30,
    )  # fmt: skip


def test_the_preset_runs_and_is_planned_on_folders_of_its_structure(world, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(jdt.report, "write_report", lambda path, _: path)  # Pictures take long to draw.
    tasks, load = [], influence_setup.load_task
    monkeypatch.setattr(class_influence, "load_task", lambda config: tasks.append(load(config)) or tasks[-1])

    assert command(plan, *world, "--out", tmp_path / "run", "--budget", "0.1") == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "2 blocks of 2 models to train" in printed
    forecast = jdt.pipeline.saved_forecast(tmp_path / "run")
    assert forecast is not None
    assert all(0 < stage.seconds < 60 for stage in forecast.stages)

    assert command(class_influence, *world, "--out", tmp_path / "run") == 0
    assert "2 pools a pass" in " ".join(capfd.readouterr().out.split())
    run = jdt.open_run(tmp_path / "run")
    assert len(run.complete) == 4
    assert (run.mask().sum(axis=1) == CLASSES // 2).all()
    birds, cifar = run.config["target"]
    for target in (birds, cifar):
        assert np.isfinite(run.outputs(target, "fixed", "margin")).all()
        influences = jdt.load_influences(tmp_path / "run", target=target, level="class", estimator="difference")
        assert influences.influence.shape == (CLASSES, 3)
    assert run.config["recipe"]["resolution"] == [[0, 12], [0.5, 16]]
    assert run.config["views"] == "paper"

    (task, _) = tasks[-1]
    assert task.source_test.name.endswith("[validation]")
    assert task.ensemble.sizes == ((0, 12), (2, 16))
    with Image.open(sorted((pathlib_of(cifar) / "train/n00000").iterdir())[0]) as first:
        enlarged = np.asarray(first.convert("RGB")).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(task.targets[1].train.images[0], enlarged)
    with Image.open(sorted((pathlib_of(birds) / "train/n00001").iterdir())[1]) as other:
        box = paper_recipes.PAPER_EVALUATION.box(*other.size)
        cut = other.convert("RGB").crop(box).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(task.targets[0].train.images[4], np.asarray(cut))


def pathlib_of(name):
    return jdt.store.run_path(name.removeprefix("folder:"))


def test_without_imagenet_the_preset_says_how_to_prepare_it(capfd, tmp_path):
    assert command(class_influence, "--preset", "paper", "--data-dir", tmp_path, "--out", tmp_path / "run") == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "tfds.builder('imagenet2012', data_dir=" in line
    assert "ILSVRC2012_img_train.tar" in line
    assert not (tmp_path / "run").exists()


def test_rows_say_how_targets_are_cut():
    assert paper_recipes.PAPER_SOURCE_RECIPE.resolution == ((0, 160), (12, 192))
    assert [row.dataset for row in paper_recipes.PAPER_HEAD_TARGETS if paper_recipes.still_view(row.dataset).kind
            == "native"] == ["cifar10", "cifar100"]  # fmt: skip
    assert paper_recipes.paper_target("folder:/data/fgvc_aircraft").classes == 100
    assert paper_recipes.paper_target("jdt_digits") is None
    config = class_influence.PRESETS["paper"]
    assert (config.views, config.source_test_split, config.image_size) == ("paper", "validation", 224)
