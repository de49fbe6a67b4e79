import json

import numpy as np
import pytest

import jdt
from jdt import pipeline, store
from jdt.checks import UserError


@pytest.fixture(scope="module")
def finished(make_task, tmp_path_factory):
    task = make_task(num_models=12)
    writer = store.create_or_open(
        tmp_path_factory.mktemp("findings") / "run",
        config={"design": {"kind": task.design.kind}},
        provenance={"output": "confidence"},
        schema=task.schema(),
    )
    pipeline.train_missing_blocks(task, writer, writer.missing_blocks())
    run = store.open_run(writer.path)
    truth = pipeline.Truth("does a help more than d?", ("good", "good", "bad", "bad"), "good", "bad")
    found, _ = pipeline.estimate_target(run, "target", "fixed", output="confidence", class_images={}, truth=truth)
    return run, found


def test_influences_are_saved_for_every_output_estimator_and_level(finished):
    run, found = finished
    for output in pipeline.OUTPUTS:
        outputs = run.outputs("target", "fixed", output)
        labels = run.targets["target"].labels
        by_class = np.stack([outputs[:, labels == c].mean(axis=1) for c in range(4)], axis=1)
        for estimator in jdt.estimators.TABLE:
            expected = {
                "example": outputs,
                "class": by_class,
                "task": outputs.mean(axis=1, keepdims=True),
            }
            for level, values in expected.items():
                loaded = jdt.load_influences(run.path, output=output, estimator=estimator.name, level=level)
                direct = estimator.fit(run.mask(), values, paired=True)
                np.testing.assert_allclose(loaded.influence, direct.influence, rtol=1e-4, atol=1e-6)
                if direct.standard_error is None:
                    assert loaded.standard_error is loaded.z is loaded.degrees_of_freedom is None
                else:
                    np.testing.assert_allclose(loaded.standard_error, direct.standard_error, rtol=1e-3, atol=1e-6)
                assert loaded.unit_names == ("a", "b", "c", "d")
    assert jdt.load_influences(run.path, level="class").target_names == ("a", "b", "c", "d")
    assert jdt.load_influences(run.path).output == "confidence"
    assert found.estimators["ridge"].classes.top("a", 1)[0].unit in "abcd"


def test_missing_influences_list_what_exists(finished):
    run, _ = finished
    with pytest.raises(UserError, match=r"no influences target/full/confidence/ridge; it has: target/fixed/"):
        jdt.load_influences(run.path, mode="full")


def test_zarr_and_xarray_read_saved_influences(finished):
    import xarray
    import zarr

    run, _ = finished
    path = jdt.estimators.influence_path(run.path, "target", "fixed", "confidence", "ridge")
    loaded = jdt.load_influences(path)
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["influence"][:], loaded.influence)
    opened = xarray.open_zarr(path, consolidated=False)
    assert opened["influence"].dims == ("unit", "example")
    assert list(opened["unit_name"].values) == ["a", "b", "c", "d"]


def test_the_summary_is_json_with_intervals(finished):
    _, found = finished
    summary = pipeline.summary_of([found], {})
    json.dumps(summary, allow_nan=True)
    accuracy = summary["target/fixed/accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert accuracy["n"] == 12
    expected = (
        "truth/auroc", "truth/control", "pair_correlation/raw", "ridge/models_needed", "ridge/significant/task",
        "ridge/significant/class", "difference/reliability",
    )  # fmt: skip
    assert {f"target/fixed/{name}" for name in expected} <= set(summary)


def test_what_is_significant_and_how_many_models_it_takes(finished):
    _, found = finished
    for one in found.estimators.values():
        tested = {} if one.classes.z is None else {"task": one.task, "class": one.classes}
        assert one.significant.keys() == tested.keys()
        for level, influences in tested.items():
            called = jdt.evaluate.significance(influences)
            assert one.significant[level].value == called.count <= called.tested
            assert one.significant[level].text.startswith(f"of {called.tested} ")
        needed, reliability = one.models_needed, one.reliability
        assert needed.value == jdt.evaluate.models_needed(reliability.value, 12, 0.9, paired=True)
        assert needed.low <= needed.value <= needed.high
        assert one.growth.sizes.tolist() == []  # Half of six pairs are too few to be halved.


def test_a_small_feature_gap_is_warned_about(finished):
    import dataclasses

    _, found = finished
    flat = dataclasses.replace(found, random_accuracy=found.accuracy - 0.01)
    assert "mostly noise" in (pipeline.feature_gap_warning(flat) or "")
    wide = dataclasses.replace(found, random_accuracy=found.accuracy - 0.5)
    assert pipeline.feature_gap_warning(wide) is None


def test_a_run_without_two_usable_models_says_so(make_task, open_writer):
    task = make_task(num_models=8)
    run = store.open_run(open_writer(task).path)
    with pytest.raises(UserError, match="0 of 0 trained models can be used"):
        pipeline.usable_rows(run, "target", "fixed")
