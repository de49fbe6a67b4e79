"""Models whose subset is empty: they stay as they were initialised, beside models that are trained."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import verify
from jdt import masks, pipeline, store, train
from jdt.checks import UserError
from jdt.pipeline import blocks

IDS = np.array([4, 4, 9, 9, 4, 2])
KEPT = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
"""A block of both kinds, and one of untrained models alone."""


def listed(kept=KEPT, ids=IDS):
    return masks.Listed(kept, ids, seed=5, allow_untrained=True)


@pytest.fixture
def study(make_task):
    """On two devices: of the first block, two models are trained; of the second, three are not."""
    task = make_task("fixed-size", num_models=2, epochs=1, num_devices=2)
    return dataclasses.replace(task, design=listed(), num_models=6, block_size=3, baseline_models=0)


def everything(writer):
    run = store.open_run(writer.path)
    return {name: run.column(name) for name in run.layout.columns()}


@pytest.mark.multidevice
def test_models_without_units_stay_as_they_start_each_in_its_row(study, open_writer, monkeypatch):
    task, kept, real = study, [], blocks._outputs_of_block
    monkeypatch.setattr(blocks, "_outputs_of_block", lambda *args: (kept.append(args[-1]), real(*args))[1])
    writer = open_writer(task, "whole")
    assert pipeline.train_missing_blocks(task, writer) == []
    whole = everything(writer)
    untrained = ~KEPT.any(axis=1)
    np.testing.assert_array_equal(whole["mask"], KEPT)
    for name in ("source/loss", "source/accuracy"):
        np.testing.assert_array_equal(np.isnan(whole[name]), untrained, err_msg=name)
    for name, values in whole.items():
        assert name.startswith("source/") or np.isfinite(values).all(), name

    initial = train.initial_variables(task.ensemble, 5, IDS)
    both = jax.tree.map(lambda *parts: np.concatenate(list(map(np.asarray, parts))), *(one.variables for one in kept))
    for ours, start in zip(jax.tree.leaves(both), jax.tree.leaves(initial), strict=True):
        np.testing.assert_array_equal(ours[untrained], np.asarray(start)[untrained])
    kernel, start = both.params["dense"]["kernel"], np.asarray(initial.params["dense"]["kernel"])
    assert (kernel != start).any(axis=(1, 2)).tolist() == (~untrained).tolist()
    np.testing.assert_array_equal(kernel[1], kernel[4])  # One randomness id, in two blocks.
    trained = train.train(
        task.ensemble, train.source_data(task.source), task.units.members(KEPT[~untrained]), IDS[~untrained], seed=5
    )
    np.testing.assert_array_equal(kernel[~untrained], trained.variables.params["dense"]["kernel"])
    np.testing.assert_array_equal(whole["source/loss"][~untrained], trained.loss)

    # Killed in the training of the first block, and when the second was to be written.
    monkeypatch.setattr(blocks, "_outputs_of_block", real)
    again = open_writer(task, "again")
    with pytest.raises(KeyboardInterrupt):
        pipeline.train_missing_blocks(task, again, checkpoint_seconds=0, progress=killed)
    assert again.num_complete == 0
    with monkeypatch.context() as patch:
        write = store.RunWriter.write_block
        patch.setattr(store.RunWriter, "write_block", lambda *args: killed() if args[1] == 1 else write(*args))
        with pytest.raises(KeyboardInterrupt):
            pipeline.train_missing_blocks(task, open_writer(task, "again"), checkpoint_seconds=0)
    assert len(store.open_run(again.path).complete) == 3
    pipeline.train_missing_blocks(task, open_writer(task, "again"))
    assert_same(everything(again), whole)

    verify.main(verify.Config(run=writer.path))
    assert store.check_run(writer.path).is_sound


def killed(*_):
    raise KeyboardInterrupt


def assert_same(ours, expected):
    assert list(ours) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)


def test_an_empty_subset_is_no_design_unless_it_is_asked_for():
    with pytest.raises(UserError, match="listed subset 1 keeps no unit, but a model needs data"):
        masks.Listed(KEPT, IDS, seed=5)
    sizes = np.array([5, 7, 2, 1])
    assert (listed().smallest_subset(sizes), listed().epoch_size(sizes)) == (10, 13.0)
    nobody = listed(KEPT[3:], IDS[3:])
    assert (nobody.smallest_subset(sizes), nobody.epoch_size(sizes)) == (15, 15.0)
    assert not masks.sample(nobody, np.arange(3), 4).any()
    one = listed(np.ones((2, 1), bool), IDS[:2])
    assert masks.sample(one, np.arange(2), 1).all()  # One unit is enough for subsets that are known.
