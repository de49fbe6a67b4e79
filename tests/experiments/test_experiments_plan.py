import json
import re

import flax.linen as nn
import pytest

import jdt
from experiments import class_influence, influence_run, influence_setup, plan


class Linear(nn.Module):
    """Compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes, name="head")(features), features


TINY = (
    "--preset", "smoke", "--devices", "2", "--num-models", "4", "--recipe.epochs", "0.1", "--plan", "native",
    "--model", f"{__name__}:Linear",
)  # fmt: skip


def command(module, *arguments):
    argv = [str(argument) for argument in arguments]
    return jdt.cli.main(module.main, module.PRESETS, default="demo", description="", argv=argv)


def train_blocks(out):
    """Train what is missing in a run and nothing else."""

    def only_train(config):
        influence_run.train_run(config, *influence_setup.load_task(config), jdt.hosts.ALONE, lambda *_, **__: None)

    argv = [*TINY, "--out", str(out)]
    assert jdt.cli.main(only_train, class_influence.PRESETS, default="demo", description="", argv=argv) == 0


def test_a_run_is_planned_half_done_and_compared_once_it_is_complete(capfd, tmp_path, monkeypatch):
    quick = ("--estimators", "difference")  # The others take long to compile.
    out = tmp_path / "run"
    train_blocks(out)
    (out / "blocks" / "000001.json").unlink()

    assert command(plan, *TINY, *quick, "--out", out, "--budget", "0.1", "--deadline", "20", "--hosts", "4", "1") == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert "1 blocks of 2 models to train" in printed
    assert re.search(r"a model takes [\d.]+ s .* models an hour on 2 devices \(cpu\)", printed)
    assert "1 host for a deadline of 20 h" in printed
    forecast = jdt.pipeline.saved_forecast(out)
    assert forecast is not None
    assert forecast.missing_blocks == 1
    names = [stage.name for stage in forecast.stages]
    assert names == ["training", "source accuracy", "jdt_digits, fixed", "writing"]
    assert all(0 < stage.seconds < 60 for stage in (*forecast.stages, *forecast.start, *forecast.once))
    assert forecast.memory.keys() == {"training", "features", "heads"}
    assert all(2**10 < needed < 2**30 for needed in forecast.memory.values())
    assert 0.1 < forecast.stored_share < 2

    train_blocks(out)
    assert command(plan, *TINY, *quick, "--out", out) == 0
    compared = jdt.pipeline.compared(jdt.open_run(out))
    assert compared is not None
    assert " ".join(capfd.readouterr().out.split()) == str(compared)
    seconds = json.loads((out / "blocks" / "000001.json").read_text())["seconds"] / 2
    assert compared.measured == pytest.approx(seconds)
    assert compared.error == pytest.approx(seconds / forecast.recorded_seconds_per_model - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--deadline", "0"], "--deadline is 0.0 hours, but it must be positive"),
        (["--hosts", "1", "0"], "--hosts is (1, 0), but must be numbers from 1 on"),
        (["--budget", "-1"], "--budget is -1.0 seconds, but it must be positive"),
        (["--source", "folder:/no/such/folder"], "/no/such/folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_questions_are_one_line_and_write_nothing(arguments, message, capfd, tmp_path):
    assert command(plan, *TINY, "--out", tmp_path / "run", *arguments) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
