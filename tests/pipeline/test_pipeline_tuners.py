"""Tuners as modes of transfer: their columns, the spectra of what their heads read, and who can have them."""

import dataclasses
import json

import numpy as np
import pytest

import jdt
from jdt import pipeline, transfer
from jdt.checks import UserError
from jdt.pipeline import blocks
from jdt.transfer import tuning_transfer

TUNERS = {
    "linear": transfer.Tuning("linear", epochs=2, batch_size=20, flip=False),
    "nmtune": transfer.Tuning("nmtune", epochs=2, batch_size=20, num_views=2, flip=False),
}
OUTPUTS = ("margin", "confidence", "prediction", "accuracy", "train_accuracy", "loss")


def tuned(make_task, **changes):
    task = make_task("fixed-size", **{"num_models": 4, "epochs": 1, "block_size": 4, **changes})
    (target,) = task.targets
    few = target.test.part(np.arange(40, 3, -3), "few")
    targets = (dataclasses.replace(target, views=(("few", few),)),)
    return dataclasses.replace(task, targets=targets, modes=("fixed", *TUNERS), tuners=TUNERS, baseline_models=0)


def opened(task, path):
    plain = {
        "design": {"kind": task.design.kind, "fraction": 0.5, "seed": 5},
        "recipe": jdt.config.to_plain(task.recipe),
    }
    more = {"head": jdt.config.to_plain(task.head), "precision": "float32", "full": None, "save_models": True}
    about = pipeline.describe_source_model("small_cnn", 4, (6, 6, 1), task.recipe.mean, task.recipe.std)
    provenance = {"plan": {"name": task.plan.name, "width": task.plan.width}, "source_model": about}
    return jdt.store.create_or_open(path, config={**plain, **more}, provenance=provenance, schema=task.schema())


@pytest.fixture(scope="module")
def run(make_task, tmp_path_factory):
    """Four models in one block, kept."""
    task, path = tuned(make_task), tmp_path_factory.mktemp("tuners") / "run"
    pipeline.train_missing_blocks(task, opened(task, path), save_models=True)
    return jdt.open_run(path)


def tuned_columns(run):
    return {name: run.column(name) for name in run.layout.columns() if "/linear/" in name or "/nmtune/" in name}


def test_a_tuner_is_a_mode_with_the_columns_of_one_and_spectra(run):
    columns = tuned_columns(run)
    expected = {*OUTPUTS, *jdt.store.SPECTRA.values()}
    for mode in TUNERS:
        for name in ("target", "target+few"):
            assert {one.split("/")[-1] for one in columns if one.startswith(f"targets/{name}/{mode}/")} >= expected
            right = run.outputs(name, mode, "prediction") == run.target(name).labels
            np.testing.assert_allclose(columns[f"targets/{name}/{mode}/accuracy"], right.mean(axis=1), rtol=1e-6)
            assert (run.outputs(name, mode, "margin") > 0).tolist() == right.tolist()
            assert columns[f"targets/{name}/{mode}/singular_values"].shape == (4, 8)
    assert not [name for name in run.layout.columns() if "/fixed/singular" in name]
    assert (columns["targets/target/linear/margin"] != columns["targets/target/nmtune/margin"]).any()


@pytest.mark.parametrize("view", ["", "few"])
def test_spectra_of_a_linear_probe_are_those_of_the_frozen_features(run, make_task, network, view):
    test = tuned(make_task).targets[0].tests[f"target+{view}" if view else "target"]
    for model in (0, 3):
        features = np.asarray(run.source_model(model, network=network).apply(test.images).features, np.float64)
        length = np.linalg.norm(features, axis=1, keepdims=True)
        rows = features / np.where(length > 0, length, 1)  # After a ReLU a row may be all 0.
        for center, axis in (("column", 0), ("row", 1)):
            expected = np.linalg.svd(rows - rows.mean(axis=axis, keepdims=True), compute_uv=False)
            name = f"targets/{'target+few' if view else 'target'}/linear/{jdt.store.SPECTRA[center]}"
            np.testing.assert_allclose(run.column(name)[model], expected, atol=2e-5, err_msg=name)


def test_spectra_of_nmtune_are_of_what_its_head_reads(run):
    """A network lies between: its spectrum is another, with as many values, descending."""
    frozen, read = (run.column(f"targets/target/{mode}/singular_values") for mode in TUNERS)
    assert (np.diff(read, axis=1) <= 0).all()
    assert (np.abs(read - frozen).max(axis=1) > 1e-3).all()


def test_models_alone_are_as_in_their_block(run, make_task, tmp_path):
    task = dataclasses.replace(tuned(make_task, block_size=1), modes=("nmtune",))
    pipeline.train_missing_blocks(task, opened(task, tmp_path / "alone"))
    alone = jdt.open_run(tmp_path / "alone")
    for name, its in tuned_columns(alone).items():
        values = run.column(name)
        if name.endswith("prediction"):
            assert (its == values).mean() > 0.98, name
        else:
            np.testing.assert_allclose(its, values, rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_model_that_diverges_has_blank_columns(make_task, tmp_path):
    task = dataclasses.replace(tuned(make_task, learning_rate=1e30), modes=tuple(TUNERS))
    pipeline.train_missing_blocks(task, opened(task, tmp_path / "run"))
    lost = jdt.open_run(tmp_path / "run")
    for name, values in tuned_columns(lost).items():
        assert (values == -1 if name.endswith("prediction") else np.isnan(values)).all(), name


def test_a_target_is_added_with_plain_modes_alone(run, make_task, network, tmp_path):
    (target,) = tuned(make_task).targets
    new = dataclasses.replace(target, name="new", views=())
    added = pipeline.added_target(run, new, network=network)
    assert added.modes == ("fixed",)
    task = dataclasses.replace(tuned(make_task), modes=tuple(TUNERS))
    opened(task, tmp_path / "run")
    with pytest.raises(UserError, match=r"tunes heads \(linear, nmtune\), which a target that is added later does not"):
        pipeline.added_target(jdt.open_run(tmp_path / "run"), new, network=network)


def test_a_run_without_spectra_says_nothing_of_them_and_opens(make_task, tmp_path):
    task = make_task("fixed-size", num_models=4, epochs=1, block_size=4)
    opened(task, tmp_path / "run")
    assert "spectrum" not in json.loads((tmp_path / "run" / "run.json").read_text())["schema"]
    assert jdt.open_run(tmp_path / "run").layout.spectrum == 0
    opened(tuned(make_task), tmp_path / "tuned")
    assert jdt.open_run(tmp_path / "tuned").layout.spectrum == 8


def test_spectra_are_kept_of_targets_that_ask_and_of_all_in_a_run_from_before(run, make_task, tmp_path):
    task = dataclasses.replace(tuned(make_task), modes=("linear",))
    (target,) = task.targets
    plain = dataclasses.replace(target, name="plain", whole=target, spectra=False)
    task = dataclasses.replace(task, targets=(target, plain))
    pipeline.train_missing_blocks(task, opened(task, tmp_path / "run"))
    chosen = jdt.open_run(tmp_path / "run")
    names = {name.split("/")[1] for name in chosen.layout.columns() if "/singular" in name}
    assert names == set(chosen.layout.spectrum_targets) == {"target", "target+few"}
    values = "targets/target+few/linear/singular_values"
    np.testing.assert_allclose(chosen.column(values), run.column(values), rtol=1e-4, atol=1e-5)

    # A run that was begun when there was no choice has no word of it: it goes on with all.
    every = dataclasses.replace(task, targets=(target, dataclasses.replace(plain, spectra=True)))
    opened(every, tmp_path / "old")
    assert "spectrum_of" not in json.loads((tmp_path / "old" / "run.json").read_text())["schema"]
    writer = opened(task, tmp_path / "old")
    pipeline.train_missing_blocks(task, writer)
    assert np.isfinite(jdt.open_run(tmp_path / "old").column("targets/plain+few/linear/singular_values")).all()
    assert jdt.store.check_run(tmp_path / "old").is_sound


def test_banks_are_made_once_for_all_blocks_and_labels(make_task, tmp_path, monkeypatch):
    task = dataclasses.replace(tuned(make_task, block_size=2), modes=("nmtune",))
    (target,) = task.targets
    other = dataclasses.replace(target.train, labels=target.train.labels[::-1].copy(), fingerprint="other")
    task = dataclasses.replace(
        task, targets=(target, dataclasses.replace(target, name="other", train=other, whole=target, spectra=False))
    )
    made, real = [], tuning_transfer.augmented_views
    monkeypatch.setattr(
        tuning_transfer, "augmented_views", lambda *args, **kwargs: (made.append(1), real(*args, **kwargs))[1]
    )
    pipeline.train_missing_blocks(task, opened(task, tmp_path / "run"))
    assert len(made) == 1
    small = transfer.ViewBanks(5, num_bytes=0)
    assert small.of(other, TUNERS["nmtune"]) is not small.of(other, TUNERS["nmtune"])
    assert small.of(other, TUNERS["linear"]) is None


def test_features_that_overflow_have_no_spectrum():
    read = np.ones((3, 4, 2), np.float32)
    read[0, 0], read[1, 2, 1], read[2, 0] = 2.0, np.inf, 3.0
    for values in blocks._spectra(read, np.asarray([True, True, False])).values():
        assert np.isfinite(values).all(axis=1).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modes": ("mlp",)}, "unknown transfer mode 'mlp'"),
        ({"tuners": {**TUNERS, "full": TUNERS["linear"]}}, "a tuner is called 'full', as another mode is"),
    ],
)
def test_modes_that_nobody_is_called_and_names_that_are_taken_are_refused(make_task, changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(tuned(make_task), **changes)
