import dataclasses

import numpy as np
import pytest

from jdt import estimators, evaluate, pipeline, store
from jdt.checks import UserError
from jdt.pipeline.stopping import class_reliability


@pytest.fixture(scope="module")
def finished(make_task, tmp_path_factory):
    task = make_task(num_models=12)
    writer = store.create_or_open(
        tmp_path_factory.mktemp("stopping") / "run",
        config={"design": {"kind": task.design.kind}},
        provenance={"output": "confidence"},
        schema=task.schema(),
    )
    pipeline.train_missing_blocks(task, writer, writer.missing_blocks())
    run = store.open_run(writer.path)
    found, _ = pipeline.estimate_target(
        run,
        "target",
        "fixed",
        output="confidence",
        class_images={},
        estimators=estimators.named(["ridge", "difference"]),
    )
    return run, found


def test_blocks_are_trained_until_there_are_enough_and_the_rest_stay_missing(make_task, open_writer):
    task = make_task(num_models=8)
    asked = []

    def enough(num_models):
        asked.append(num_models)
        return num_models >= 4

    writer = open_writer(task)
    pipeline.train_missing_blocks(task, writer, [0, 1, 2, 3], enough=enough)
    assert asked == [0, 2, 4]
    assert writer.missing_blocks() == [2, 3]
    pipeline.train_missing_blocks(task, writer, [2, 3], enough=enough)  # A resumed run counts what is there.
    assert asked == [0, 2, 4, 4]
    pipeline.train_missing_blocks(task, writer, [2, 3])
    assert len(store.open_run(writer.path).complete) == 8


def test_the_rule_asks_what_the_report_shows(finished):
    run, found = finished
    first = found.estimators["ridge"]
    value = class_reliability(run, "target", "fixed", "confidence", estimators.TABLE[0])
    assert value == pytest.approx(first.reliability.value)
    outputs, labels = run.outputs("target", "fixed", "confidence").astype(float), run.targets["target"].labels
    by_class = np.stack([outputs[:, labels == c].mean(axis=1) for c in range(4)], axis=1)
    assert value == pytest.approx(
        evaluate.split_half(estimators.TABLE[0], run.mask(), by_class, paired=True)[0], abs=1e-4
    )
    assert pipeline.UntilReliability(run.path, max(value - 0.01, 0.01), "confidence")(12) == (value > 0.01)
    assert not pipeline.UntilReliability(run.path, min(value + 0.01, 0.999), "confidence")(12)


def test_the_rule_asks_no_more_often_than_the_models_grow_by_a_tenth(finished, monkeypatch):
    opened = []
    monkeypatch.setattr(store, "open_run", lambda path, real=store.open_run: opened.append(path) or real(path))
    rule = pipeline.UntilReliability(finished[0].path, 0.999, "confidence")
    assert [rule(models) for models in (0, 2, 7)] == [False] * 3
    assert opened == []
    for models, times in ((8, 1), (8, 1), (10, 2), (100, 3), (109, 3), (111, 4)):
        rule(models)
        assert len(opened) == times


def test_a_rule_that_cannot_be_met_is_refused(tmp_path):
    for threshold in (0.0, 1.0, 90.0):
        with pytest.raises(UserError, match=f"until-reliability is {threshold}"):
            pipeline.UntilReliability(tmp_path, threshold, "margin")


def with_reliability(found, mode, value):
    first = found.estimators["ridge"]
    changed = dataclasses.replace(first, reliability=dataclasses.replace(first.reliability, value=value))
    return dataclasses.replace(found, mode=mode, estimators={"ridge": changed})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.93, 0.95), "is 0.93 or more on every target after 12 of 96 models; asked: 0.9."),
        # 12 x 9 x 0.25 / 0.75 = 36.
        ((0.95, 0.75), "is 0.75 on target (full) after 12 of 96 models; asked: 0.9; about 36 models in all would be "
                       "needed, 24 more: run the same command with --num-models 36."),
        ((0.95, -0.2), "cannot be told from so little agreement"),
        ((float("nan"), 0.95), "is unknown on target (fixed) after 12 of 96 models"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_was_reached_or_what_it_would_take(finished, values, text):
    findings = [with_reliability(finished[1], mode, v) for mode, v in zip(("fixed", "full"), values, strict=True)]
    assert text in pipeline.verdict(findings, 0.9, 12, 96)
