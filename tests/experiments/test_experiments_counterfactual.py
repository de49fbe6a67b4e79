"""Counterfactual runs as a user makes them, on a small run of the digits."""

import dataclasses
import json

import flax.linen as nn
import numpy as np
import pytest

import jdt
from experiments import class_influence, counterfactual, influence_run, influence_setup


class Linear(nn.Module):
    """Compiles in no time."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))


TINY = (
    "--preset", "smoke", "--devices", "2", "--plan", "matmul", "--num-models", "4", "--recipe.epochs", "0.1",
    "--baseline-models", "0", "--model", f"{__name__}:Linear",
)  # fmt: skip


def run_main(module, *arguments):
    argv = [str(argument) for argument in arguments]
    return jdt.cli.main(module.main, module.PRESETS, default="demo", description="", argv=argv)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A run of which all is there but its influences and its page."""

    def only_train(config):
        task, choice = influence_setup.load_task(config)
        influence_run.train_run(config, task, choice, jdt.hosts.ALONE, jdt.cli.console.print)

    out = tmp_path_factory.mktemp("studied") / "run"
    argv = [*TINY, "--out", str(out)]
    assert jdt.cli.main(only_train, class_influence.PRESETS, default="demo", description="", argv=argv) == 0
    return out


def ask(studied, *arguments):
    common = ("--devices", "2", "--plan", "matmul", "--model", f"{__name__}:Linear")
    return run_main(counterfactual, "--run", studied, *common, *arguments)


def retrained(studied):
    return sorted(path for path in (studied / "counterfactuals").iterdir() if path.is_dir())


def test_curves_are_trained_grow_by_seeds_and_are_those_of_the_stored_outputs(studied, capfd, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("# the worst by eye\nscrambled 3\n\nscrambled 7\n")
    asked = ("--removed", "5", "--arms", "bottom", "top", "--hand-picked", names)
    assert ask(studied, *asked, "--seeds", "1") == 0
    capfd.readouterr()
    (out,) = retrained(studied)
    first = jdt.open_run(out)
    assert first.num_models == 6, "all units, two points of two arms, and the units of the file"
    margins = first.outputs("jdt_digits", output="margin")
    units = jdt.open_run(studied).unit_names
    assert [units[u] for u in np.flatnonzero(~first.mask()[5])] == ["scrambled 3", "scrambled 7"]

    assert ask(studied, *asked, "--seeds", "2") == 0
    printed = capfd.readouterr().out
    assert retrained(studied) == [out]
    second = jdt.open_run(out)
    assert second.num_models == 12
    np.testing.assert_array_equal(second.outputs("jdt_digits", output="margin")[:6], margins)

    labels = second.target("jdt_digits").labels
    report = jdt.analyses.halves(labels, 0).report
    right = (second.outputs("jdt_digits", output="prediction") == labels)[:, report].mean(axis=1)
    summary = json.loads((out / "summary.json").read_text())
    expected = jdt.analyses.mean_interval(right[[2, 8]] - right[[4, 10]])
    found = summary["bottom - top at 5"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx(expected)
    assert found["n"] == 2
    assert {"best", "best, read off its own test images", "hand-picked - all at 2"} <= set(summary)
    capfd.readouterr()
    assert ask(studied, *asked, "--seeds", "1") == 2
    assert "pass --seeds 2" in capfd.readouterr().err
    assert f"bottom - top at 5: {100 * expected[0]:+.1f} points" in printed
    assert run_main(counterfactual, "--run", out) == 2
    assert "holds retrained models" in capfd.readouterr().err


def test_a_class_is_ranked_for_and_measured_by_itself(studied):
    config = counterfactual.Config(run=studied, target_class="3", estimator="difference")
    question = counterfactual.ask(config)
    labels = question.run.target("jdt_digits").labels
    assert set(labels[question.halves.score]) == set(labels[question.halves.report]) == {3}
    masks, outputs = question.run.mask(), question.run.outputs("jdt_digits", output="confidence")
    ranked = outputs[:, question.halves.score].mean(axis=1)
    expected = [ranked[masks[:, u]].mean() - ranked[~masks[:, u]].mean() for u in range(30)]
    np.testing.assert_allclose(question.influence, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "cifar"), "unknown target 'cifar'; known: jdt_digits"),
        (("--mode", "full"), "no full transfer: pass --mode, one of fixed"),
        (("--target-class", "12"), "unknown target class '12'; known: 0, 1"),
        (("--estimator", "trak"), "trak"),
        (("--removed", "30"), "from 1 to 29"),
        (("--removed", "nan"), "removed is nan"),
        (("--seeds", "0"), "seeds is 0"),
        (("--hand-picked", "scrambled 33"), "unit 'scrambled 33', which the run does not have; nearest: scrambled 3"),
        (("--hand-picked", "scrambled 3\nscrambled 3"), "more than once"),
        (("--hand-picked", "#"), "names no unit"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(studied, arguments, words, capfd, tmp_path):
    if arguments[0] == "--hand-picked":
        (tmp_path / "names.txt").write_text(arguments[1])
        arguments = ("--hand-picked", tmp_path / "names.txt")
    before = retrained(studied) if (studied / "counterfactuals").exists() else []
    assert ask(studied, *arguments) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert words in line
    assert before == (retrained(studied) if (studied / "counterfactuals").exists() else [])


def test_the_run_itself_is_no_place_for_retrained_models(studied, capfd):
    before = sorted(path.name for path in (studied / "blocks").iterdir())
    assert ask(studied, "--out", studied, "--overwrite") == 2
    assert "is the run itself" in capfd.readouterr().err
    assert sorted(path.name for path in (studied / "blocks").iterdir()) == before


def test_other_data_than_the_run_had_are_refused(studied, capfd, tmp_path):
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"a": ["upright 1"], "b": ["upright 2"]}))
    assert ask(studied, "--units", f"groups:{groups}") == 2
    assert "is not what is there now" in capfd.readouterr().err


def test_code_that_a_run_names_is_imported_only_when_asked_for(studied):
    run, like = jdt.open_run(studied), influence_setup.Config(out=studied)
    with pytest.raises(jdt.UserError, match="importing that runs its code"):
        influence_setup.settings_of(run, like)
    with pytest.raises(jdt.UserError, match="the run was made with"):
        influence_setup.settings_of(run, like, model="resnet9")
    assert influence_setup.settings_of(run, like, model=f"{__name__}:Linear").num_models == 4


def test_a_run_that_does_not_say_how_it_was_made_is_refused(studied):
    run = jdt.open_run(studied)
    old = dataclasses.replace(run, provenance={k: v for k, v in run.provenance.items() if k != "settings"})
    with pytest.raises(jdt.UserError, match="does not say with which flags it was made"):
        influence_setup.settings_of(old, influence_setup.Config(out=studied))
