import json
import shutil

import numpy as np
import pytest
from PIL import Image

import jdt
from experiments import class_influence, fit_datamodels, transfer_again, verify


def command(module, *arguments):
    return jdt.cli.main(
        module.main, module.PRESETS, default="demo", description="", argv=[str(argument) for argument in arguments]
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    out = tmp_path_factory.mktemp("kept") / "run"
    tiny = ("--preset", "smoke", "--devices", "2", "--num-models", "4", "--recipe.epochs", "0.1")
    assert command(class_influence, *tiny, "--out", out, "--save-models") == 0
    return out


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("target"), np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(2):
            for number in range(12):
                picture = draw.integers(0, 90, (8, 8)).astype(np.uint8)
                picture[:, 2 * label] = 255
                path = root / split / "ab"[label] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    return f"folder:{root}"


def test_a_target_is_added_reported_fitted_and_verified(kept, target, tmp_path, capfd):
    run = shutil.copytree(kept, tmp_path / "run")
    again = ("--run", run, "--target", target, "--devices", "2")
    assert command(transfer_again, *again) == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "4 of 4 source models are there, 0 are transferred already." in printed
    assert "4 models, none of them trained again." in printed
    found = jdt.open_run(run)
    assert found.outputs(target).shape == (4, 24)
    assert found.source_model(3).apply(np.zeros((2, 8, 8, 1), np.uint8)).logits.shape == (2, 30)
    assert jdt.load_influences(run, target=target, level="class").influence.shape == (30, 2)
    inside = found.holding(target).path
    assert "summary.json" in {path.name for path in inside.iterdir()}
    assert (inside / "report.html").exists()

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
        (["--target", "jdt_digits"], "has had the target 'jdt_digits' from the start"),
        (["--image-size", "12"], "images of shape (12, 12, 1)"),
        (["--model", "resnet9"], "--model is resnet9, but the run was made with small_cnn"),
        (["--run", "/no/such/run"], "/no/such/run is not a run directory"),
        (["--devices", "9"], "devices is 9, but this process has 8"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_writes_nothing(kept, target, capfd, arguments, message):
    assert command(transfer_again, "--run", kept, "--target", target, *arguments) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert message in line
    assert not (kept / "transfers").exists()


def test_the_code_of_a_model_is_imported_only_if_the_user_names_it(kept, target, tmp_path, capfd):
    run = shutil.copytree(kept, tmp_path / "run")
    saved = json.loads((run / "run.json").read_text())
    saved["provenance"]["source_model"]["spec"] = "my_package.my_module:Net"
    saved.pop("digest")
    (run / "run.json").write_text(json.dumps(jdt.store.records.sealed(saved)))
    assert command(transfer_again, "--run", run, "--target", target) == 2
    assert "pass --model my_package.my_module:Net" in capfd.readouterr().err
    assert command(transfer_again, "--run", run, "--target", target, "--model", "my_package.my_module:Net") == 2
    assert "unknown model 'my_package.my_module:Net'" in capfd.readouterr().err
