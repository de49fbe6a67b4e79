import itertools
import shutil
import types

import numpy as np
import pytest
from PIL import Image

import jdt
from experiments import class_influence, fit_datamodels, influence_setup, transfer_again, verify


def command(module, *arguments):
    return jdt.cli.main(
        module.main, module.PRESETS, default="demo", description="", argv=[str(argument) for argument in arguments]
    )


MODEL = """
import flax.linen as nn

class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, *, train):
        features = nn.relu(nn.Dense(8, name="dense")(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes, name="head")(features), features
"""


def folder_of_images(root, classes):
    draw = np.random.default_rng(len(classes))
    for split, label, number in itertools.product(("train", "test"), range(len(classes)), range(24)):
        picture = draw.integers(0, 90, (8, 8)).astype(np.uint8)
        picture[:, 2 * label] = 255
        path = root / split / classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return f"folder:{root}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of somebody's own model that keeps its source models; nobody reads its report."""
    root = tmp_path_factory.mktemp("kept")
    (root / "net_of_a_user.py").write_text(MODEL)
    source, target = (folder_of_images(root / name, "abcd") for name in ("source", "first"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        patch.setattr(class_influence, "report", lambda *_: None)
        tiny = ("--num-models", "4", "--block-size", "2", "--recipe.epochs", "1", "--recipe.batch-size", "8")
        places = ("--out", root / "run", "--source", source, "--target", target)
        options = ("--plan", "scan", "--devices", "1", "--model", "net_of_a_user:Net", "--save-models")
        assert command(class_influence, "--preset", "smoke", *places, *tiny, *options) == 0
        yield root / "run"


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return folder_of_images(tmp_path_factory.mktemp("target"), "wxyz")


def test_a_target_is_added_reported_fitted_and_verified(kept, target, tmp_path, capfd, monkeypatch):
    run = shutil.copytree(kept, tmp_path / "run")
    again = ("--run", run, "--target", target, "--devices", "1", "--model", "net_of_a_user:Net")
    again += ("--estimators", "difference")
    assert command(transfer_again, *again) == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "4 of 4 source models are there, 0 are transferred already." in printed
    assert "4 models, none of them trained again." in printed
    found = jdt.open_run(run)
    assert found.outputs(target).shape == (4, 96)
    assert found.source_model(3, trust=True).apply(np.zeros((2, 8, 8, 1), np.uint8)).logits.shape == (2, 4)
    influences = jdt.load_influences(run, target=target, level="class", estimator="difference")
    assert influences.influence.shape == (4, 4)
    inside = found.holding(target).path
    assert "summary.json" in {path.name for path in inside.iterdir()}
    assert (inside / "report.html").exists()

    monkeypatch.setattr(transfer_again, "report", lambda *_: None)
    records = {path: path.read_bytes() for path in (inside / "blocks").iterdir()}
    assert command(transfer_again, *again) == 0
    assert "4 are transferred already" in " ".join(capfd.readouterr().out.split())
    assert {path: path.read_bytes() for path in (inside / "blocks").iterdir()} == records
    assert command(fit_datamodels, "--run", run, "--target", target, "--estimator", "difference") == 0
    assert command(verify, "--run", run) == 0
    assert "0 faults" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "folder:first"], "has had the target 'folder:"),
        (["--image-size", "12"], "images of shape (12, 12, 1)"),
        (["--model", "resnet9"], "--model is resnet9, but the run was made with net_of_a_user:Net"),
        (["--run", "/no/such/run"], "/no/such/run is not a run directory"),
        (["--devices", "9"], "devices is 9, but this process has 8"),
        (["unnamed"], "pass --model net_of_a_user:Net"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_writes_nothing(kept, target, capfd, arguments, message):
    arguments = [argument.replace(":first", f":{kept.parent / 'first'}") for argument in arguments]
    model = [] if "unnamed" in arguments else ["--model", "net_of_a_user:Net"]
    given = [argument for argument in arguments if argument != "unnamed"]
    assert command(transfer_again, "--run", kept, "--target", target, *model, *given) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert message in line
    assert not (kept / "transfers").exists()


@pytest.mark.parametrize("views", ["no table", ["paper"], None])
def test_what_a_run_says_of_its_views_is_not_trusted(tmp_path, views):
    run = types.SimpleNamespace(
        path=tmp_path, modes=("fixed",), config={"views": views, "head": {}}, provenance={"settings": {"views": views}}
    )
    with pytest.raises(jdt.UserError, match=r"unknown views .*; known: whole, paper, paper-bias"):
        transfer_again.settings(transfer_again.Config(run=tmp_path, target="digits"), run)
    like = influence_setup.Config(out=tmp_path)
    with pytest.raises(jdt.UserError, match="views"):
        influence_setup.settings_of(run, like)
    run.provenance["settings"] = {"target_recipes": [views]}
    with pytest.raises(jdt.UserError, match="which is no name"):
        influence_setup.settings_of(run, like)
