"""The search for noisy labels: planted noise on the digits is found, and nothing where there is nothing."""

import dataclasses
import json

import flax.linen as nn
import numpy as np
import pytest

import jdt
from experiments import influence_setup, noise_repair, noise_setup, noise_suspect_page, noise_suspects
from experiments.noise_rankings import CONFIDENT, INFLUENCE, RANKINGS


class Linear(nn.Module):
    """Compiles in no time."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        return nn.relu(nn.Dense(32, name="dense")(images.reshape(len(images), -1)))


def config(out, **changes):
    return noise_setup.Config(
        **{
            "out": out, "transfer": ("fixed",), "seeds": 2, "nonce": 7, "unit_rate": 0.8,
            "model": f"{__name__}:Linear", "plan": "matmul", "devices": 1, "num_models": 16,
            "block_size": 16, "target_test_split": "test[:100]", "estimators": ("difference",),
            "recipe": jdt.train.Recipe(epochs=3, batch_size=64, learning_rate=0.1), **changes,
        }
    )  # fmt: skip


def searched(asked, hosts=jdt.hosts.ALONE, noise=noise_suspects.FLIPS):
    return noise_suspects.find(asked, influence_setup.make_task(asked), hosts, jdt.cli.console.print, noise)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    asked = config(tmp_path_factory.mktemp("suspects") / "run")
    return asked, searched(asked)


def test_planted_labels_are_found_and_permuted_truth_is_not(study):
    asked, found = study
    examples, units = found.examples, found.units
    assert units is not None
    base = influence_setup.make_task(asked)
    assert examples.planted.sum() == round(0.2 * len(base.source)) == (examples.given != base.source.labels).sum()
    for name in RANKINGS:
        ranking = examples.rankings[name]
        assert ranking.detection.low > 0.6, name
        assert ranking.control.value == pytest.approx(0.5, abs=0.02)
        assert np.trapezoid(ranking.curve[1], ranking.curve[0]) == pytest.approx(ranking.detection.value, abs=0.01)
    assert examples.mask_control.value < examples.rankings[INFLUENCE].detection.low
    assert units.planted.sum() == 2
    assert len(units.names) == len(base.units) == 30
    noisy = np.isin(base.units.of_example, np.flatnonzero(units.planted))
    assert (units.given != base.source.labels)[~noisy].sum() == 0
    assert (units.given != base.source.labels)[noisy].mean() == 0.8
    assert units.rankings[CONFIDENT].detection.value > 0.9


def test_suspects_are_dropped_and_judged_on_images_that_scored_nobody(study):
    asked, found = study
    repair, examples = found.repair, found.examples
    assert (found.scoring, found.reporting) == (150, 150)
    assert repair.dropped == examples.picked.sum()
    assert repair.wrong[noise_repair.NOISY] == examples.planted.sum()
    assert repair.wrong[noise_repair.ORACLE] == 0
    for name in RANKINGS:
        taken = noise_repair.suspected(examples.rankings[name].scores, repair.dropped)
        assert taken.sum() == repair.dropped
        assert repair.wrong[f"dropped by {name}"] == (examples.planted & ~taken).sum()
    true = influence_setup.make_task(asked).source.labels
    taken = noise_repair.suspected(examples.rankings[CONFIDENT].scores, repair.dropped)
    mended = np.where(taken, examples.likely, examples.given)
    assert repair.wrong[f"relabelled by {CONFIDENT}"] == (mended != true).sum()
    run = jdt.open_run(asked.out / repair.run)
    assert run.num_models == 8 * asked.seeds
    first, second = run.mask().reshape(asked.seeds, 8, -1)
    assert (first == second).all(axis=1).tolist() == [True] * 5 + [False] + [True] * 2  # Others are drawn at random.
    for arm, gain in repair.gain.items():
        np.testing.assert_allclose(gain.mean, (repair.accuracy[arm] - repair.accuracy[noise_repair.NOISY]).mean())


def test_a_search_is_repeated_without_training_and_saved(study, capsys):
    asked, found = study
    before = {path: path.read_bytes() for path in asked.out.rglob("blocks/*.json")}
    again = searched(asked)
    assert again is not None
    assert {path: path.read_bytes() for path in asked.out.rglob("blocks/*.json")} == before
    noise_suspects.save(asked, again)
    saved = json.loads((asked.out / "suspects.json").read_text())
    np.testing.assert_array_equal(
        saved["examples"]["rankings"][INFLUENCE]["scores"], found.examples.rankings[INFLUENCE].scores
    )
    assert saved["repair"]["accuracy"] == {arm: v.tolist() for arm, v in found.repair.accuracy.items()}


def test_what_was_found_is_said_also_where_no_units_were_ranked(study):
    asked, found = study
    source = influence_setup.make_task(asked).source
    for one in (found, dataclasses.replace(found, units=None, repair=None)):
        assert len(noise_suspect_page.words(one)) == (1 + 1 + 8 if one.units else 1)
        assert all(np.isfinite(figure.value) for figure in noise_suspect_page.figures(one).values())
        assert len(noise_suspect_page.shown(one, source).units) == (30 if one.units else 0)


def test_models_are_asked_under_their_own_heads_and_only_where_they_were_kept(study):
    asked, found = study
    task = influence_setup.make_task(asked)
    images = task.source.images[:10]
    run = jdt.open_run(asked.out / "suspects")
    pieces = list(jdt.pipeline.own_outputs(run, task.ensemble, {"some": images}, at_once=6))
    assert [(name, said.first, len(said.models)) for name, said in pieces] == [("some", 0, 16), ("some", 6, 16)]
    alone = run.source_model(3, network=task.network).apply(images)
    logits = np.asarray(alone.logits, np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    whole = np.concatenate([said.probabilities for _, said in pieces], axis=1)
    np.testing.assert_allclose(whole[3], expected, atol=1e-5)
    np.testing.assert_array_equal(pieces[0][1].masks, run.mask())
    with pytest.raises(jdt.UserError, match="keeps no source models"):
        next(jdt.pipeline.own_outputs(jdt.open_run(asked.out / found.repair.run), task.ensemble, {"some": images}))


def test_a_search_by_classes_waits_for_other_processes_and_knows_every_label(study, tmp_path):
    """Models know the class of an example that they never saw, from the other part of its unit."""
    changes = {"suspect_units": "classes", "num_models": 8, "block_size": 4, "drop": 0}
    asked = dataclasses.replace(study[0], out=tmp_path / "run", **changes)
    assert searched(asked, jdt.hosts.Hosts(0, 2)) is None
    found = searched(asked)
    assert found is not None
    assert found.repair is None
    assert found.examples.rankings[CONFIDENT].detection.value > 0.7
    assert not len(found.examples.never_in)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suspect_rate": 1.5}, "suspect-rate is 1.5"),
        ({"suspect_rate": 1e-6}, "nothing to find"),
        ({"unit_rate": 0.0}, "unit-rate is 0.0"),
        ({"noisy_units": 30}, "of 30 units 1 to 29 can be noisy"),
        ({"num_models": 3}, "num-models is 3"),
        ({"num_models": 5}, "num-models is 5, which is odd"),
        ({"drop": 2000}, "drop is 2000, but of 2100 examples"),
        ({"suspect_units": "pictures"}, "units is 'pictures'"),
        ({"source_test_split": "test[:40]"}, "fewer than 2 images"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_trained(tmp_path, changes, words):
    with pytest.raises(jdt.UserError, match=words):
        searched(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
