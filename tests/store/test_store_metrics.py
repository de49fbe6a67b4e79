import dataclasses
import json

import numpy as np
import pytest
from store_examples import block_arrays, schema, write_missing, writer

from jdt.checks import UserError
from jdt.metrics import binary_auroc
from jdt.store import Target, check_run, open_run


def binary(train_accuracy=True, **options):
    labels = (np.arange(7) % 2).astype(np.int32)
    made = schema(num_models=6, block_size=2, targets=("pets",), **options)
    return dataclasses.replace(made, targets={"pets": Target(labels, ("cat", "dog"))}, train_accuracy=train_accuracy)


def test_a_run_tells_how_good_its_models_are(tmp_path):
    write_missing(tmp_path / "run", binary())
    run = open_run(tmp_path / "run")
    labels, margin = run.targets["pets"].labels, run.outputs("pets", output="margin")
    np.testing.assert_array_equal(run.metric("pets"), run.column("targets/pets/fixed/accuracy"))
    np.testing.assert_array_equal(
        run.metric("pets", name="train_accuracy"), run.column("targets/pets/fixed/train_accuracy")
    )
    probability = 1 / (1 + np.exp(-np.where(labels == 1, margin, -margin).astype(np.float64)))
    np.testing.assert_allclose(run.metric("pets", name="auroc"), binary_auroc(probability, labels))
    right = run.outputs("pets", output="prediction") == labels
    expected = (right[:, labels == 0].mean(axis=1) + right[:, labels == 1].mean(axis=1)) / 2
    np.testing.assert_allclose(run.metric("pets", name="per_class_accuracy"), expected)
    log_odds = run.outputs("pets", output="log_odds")
    np.testing.assert_allclose(log_odds, margin, atol=1e-6)  # Of two classes they are the same.
    np.testing.assert_array_equal(run.outputs("pets", output="log_odds", examples=slice(2, 4)), log_odds[:, 2:4])
    with pytest.raises(UserError, match="unknown metric 'f1'; known: accuracy, train_accuracy, per_class_accuracy, au"):
        run.metric("pets", name="f1")
    with pytest.raises(UserError, match="unknown target 'dogs'"):
        run.metric("dogs", name="auroc")


def test_auroc_is_of_two_classes(tmp_path):
    write_missing(tmp_path / "run", schema())
    with pytest.raises(UserError, match="target 'cifar10' has 5 classes, but auroc is of two"):
        open_run(tmp_path / "run").metric("cifar10", name="auroc")


def test_a_run_from_before_the_training_accuracy_goes_on_without_it(tmp_path):
    old, new = binary(train_accuracy=False), binary()
    first = writer(tmp_path / "run", old)
    first.write_block(0, block_arrays(old, 0), {"seconds": 1.0})
    saved = (tmp_path / "run" / "run.json").read_bytes()
    assert "train_accuracy" not in json.loads(saved)["schema"]

    resumed = writer(tmp_path / "run", new)
    assert (resumed.schema.train_accuracy, resumed.damaged, resumed.missing_blocks()) == (False, (), [1, 2])
    assert (tmp_path / "run" / "run.json").read_bytes() == saved
    for block in resumed.missing_blocks():
        resumed.write_block(block, block_arrays(resumed.schema, block), {"seconds": 1.0})
    grown = writer(tmp_path / "run", dataclasses.replace(new, num_models=8))
    grown.write_block(3, block_arrays(grown.schema, 3), {"seconds": 1.0})
    assert check_run(tmp_path / "run").is_sound
    run = open_run(tmp_path / "run")
    assert len(run.complete) == 8
    assert len(run.metric("pets")) == 8
    with pytest.raises(UserError, match="holds no train_accuracy of the models: it was not recorded"):
        run.metric("pets", name="train_accuracy")
    with pytest.raises(UserError, match="holds a run with another data"):
        writer(tmp_path / "run", dataclasses.replace(new, sgd_head=True, num_models=8))


def test_a_new_run_is_not_continued_without_the_training_accuracy(tmp_path):
    writer(tmp_path / "run", binary())
    with pytest.raises(UserError, match="train_accuracy: saved True, asked"):
        writer(tmp_path / "run", binary(train_accuracy=False))


def test_heads_that_are_trained_have_a_loss(tmp_path):
    write_missing(tmp_path / "run", binary(train_accuracy=True, modes=("fixed", "full")))
    trained = dataclasses.replace(binary(modes=("fixed", "full")), sgd_head=True)
    write_missing(tmp_path / "trained", trained)
    for name, scalar in (("run", "gradient_norm"), ("trained", "loss")):
        columns = open_run(tmp_path / name).layout.columns()
        assert f"targets/pets/fixed/{scalar}" in columns
        assert "targets/pets/full/loss" in columns
