import dataclasses
import json
import math

import flax.linen as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jdt import pipeline, store, train, transfer
from jdt.checks import UserError
from jdt.pipeline import forecast as forecasts
from jdt.pipeline import trial as trials


def made(*, blocks=10, block_size=4, model=1.0, writing=0.5, start=30.0, once=60.0, **kwargs):
    stages = (pipeline.Stage("training", model, "all"), pipeline.Stage(forecasts.WRITING, writing, "here"))
    settings = {
        "num_models": blocks * block_size,
        "block_size": block_size,
        "missing_blocks": blocks,
        "num_devices": 8,
        "device": "TPU v4",
        "stages": stages,
        "rounds": (model + writing,),
        "start": (pipeline.Stage("compiling", start, "anew"),),
        "once": (pipeline.Stage("estimation", once, "made up"),),
        "memory": {"training": 3 * 2**30, "heads": 2**30},
        "memory_limit": 16 * 2**30,
        "shared_memory": False,
        "block_bytes": 4000,
        "stored_share": 0.5,
        "once_bytes": 10_000,
    }
    return pipeline.Forecast(**{**settings, **kwargs})


@pytest.mark.parametrize(
    ("hosts", "seconds"),
    [(1, 30 + 10 * 6 + 60), (2, 30 + 5 * 6 + 60), (3, 30 + 4 * 6 + 60), (9, 30 + 2 * 6 + 60), (50, 30 + 6 + 60)],
)
def test_a_host_trains_whole_blocks(hosts, seconds):
    assert made().hours(hosts) == pytest.approx(seconds / 3600)


def test_what_follows_from_the_times():
    found = made()
    assert found.seconds_per_model == 1.5
    assert found.recorded_seconds_per_model == 1.0
    assert found.models_per_hour == 2400
    assert found.device_hours == pytest.approx(8 * 150 / 3600)
    assert found.run_bytes == 0.5 * 10 * 4000 + 10_000
    assert found.peak_memory == ("training", 3 * 2**30)
    assert made(missing_blocks=0).hours() == pytest.approx(90 / 3600)
    with pytest.raises(UserError, match="hosts is 0"):
        found.hours(0)


# Numbers, not forecasts: the checks of types draw random numbers of their own, which Hypothesis does not allow inside.
numbers = st.fixed_dictionaries(
    {
        "blocks": st.integers(1, 2000),
        "block_size": st.integers(1, 64),
        "model": st.floats(1e-3, 1e5),
        "writing": st.floats(0, 10),
        "start": st.floats(0, 1e4),
        "once": st.floats(0, 1e4),
    }
)


@given(numbers, st.integers(1, 3000), st.floats(1e-4, 1e5))
def test_more_hosts_never_take_longer_and_as_few_as_can_be_meet_a_deadline(settings, hosts, deadline):
    found = made(**settings)
    assert found.hours(hosts + 1) <= found.hours(hosts)
    assert found.least_hours <= found.hours(hosts)
    enough = found.hosts_for(deadline)
    if enough is None:
        assert found.least_hours > deadline
        with pytest.raises(UserError, match="no number of hosts"):
            found.verdict(deadline)
        assert found.hosts_for(1.01 * found.least_hours) is not None
    else:
        assert 1 <= enough <= found.missing_blocks
        assert found.hours(enough) <= deadline
        assert enough == 1 or found.hours(enough - 1) > deadline


@given(numbers)
def test_a_record_is_json_and_comes_back_as_it_was(settings):
    assert pipeline.Forecast.from_record(json.loads(json.dumps(made(**settings).record()))) == made(**settings)


def test_a_deadline_that_cannot_be_met_says_what_the_least_is():
    assert made().verdict(1.0) == "1 host for a deadline of 60 min: done after 2.5 min."
    assert made().verdict(100 / 3600) == "10 hosts for a deadline of 100 s: done after 96 s."
    with pytest.raises(UserError) as refused:
        made().verdict(0.02)
    assert str(refused.value) == (
        "no number of hosts is done in 72 s: one block of 4 models takes 6 s, a start 30 s and the estimation 60 s; "
        "allow 96 s or more (--deadline 0.0267), or make models or blocks smaller."
    )
    with pytest.raises(UserError, match=r"deadline is 0\.0 hours"):
        made().verdict(0.0)


def test_the_table_of_hosts_ends_with_one_a_block():
    rows = pipeline.host_table(made(blocks=5), (8, 1, 2, 16))
    assert [row[0] for row in rows] == [1, 2, 5]
    assert [row[1] for row in rows] == [made(blocks=5).hours(count) for count in (1, 2, 5)]
    assert rows[0][2] == pytest.approx(made(blocks=5).device_hours)
    assert rows[2][2] == pytest.approx(8 * (5 * 30 + 5 * 6 + 60) / 3600)


def test_a_damaged_plan_is_refused_and_a_missing_one_is_none(tmp_path):
    assert pipeline.saved_forecast(tmp_path) is None
    pipeline.save_forecast(made(), tmp_path / "run")
    assert pipeline.saved_forecast(tmp_path / "run") == made()
    store.write_json(tmp_path / "run" / store.PLAN_FILE, {"stages": []})
    with pytest.raises(UserError, match="not the record of a forecast"):
        pipeline.saved_forecast(tmp_path / "run")


@pytest.mark.parametrize(
    ("blocks", "seconds"),
    [
        ([("a", 0, 99), ("a", 1, 4), ("a", 2, 8)], (1.0, 2.0)),
        ([("a", 0, 99), ("b", 0, 99), ("a", 1, 4), ("b", 1, 8)], (1.0, 2.0)),
        ([("a", 5, 4), ("a", 1, 99)], (1.0,)),  # A resumed run fills gaps: first is what was written first.
        ([("a", 0, 99), ("b", 0, 99)], ()),
        ([], ()),
    ],
)
def test_each_hosts_first_block_is_left_out(blocks, seconds):
    records = [
        {
            "block": i,
            "models": [4 * i, 4 * i + 4],
            "host": host,
            "seconds": took,
            "written": f"2026-01-01T00:00:{at:02}",
        }
        for i, (host, at, took) in enumerate(blocks)
    ]
    assert forecasts.measured_seconds(records) == seconds


def test_a_comparison_says_error_and_spread():
    compared = pipeline.Comparison(predicted=1.0, seconds=(1.0, 1.1, 1.2, 1.3, 1.4))
    assert compared.error == pytest.approx(0.2)
    assert str(compared) == ("predicted 1 s a model, took 1.2 (+20 %); 5 blocks, median 1.2, most from 1.04 to 1.36.")
    assert str(pipeline.Comparison(2.0, (1.5,))) == "predicted 2 s a model, took 1.5 (-25 %); one block."
    figures = compared.figures()
    error = figures["forecast_error"]
    assert error.value == pytest.approx(0.2)
    assert (error.high - error.value) == pytest.approx(
        stats.t.ppf(0.975, 4) * np.std(compared.seconds, ddof=1) / math.sqrt(5)
    )
    spread = figures["block_seconds_per_model"]
    assert (spread.low, spread.value, spread.high, spread.n) == pytest.approx((1.04, 1.2, 1.36, 5))


class Linear(nn.Module):
    """Compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = images.reshape(len(images), -1)
        return nn.Dense(self.num_classes, name="head")(features), features


def test_a_long_task_is_cut_and_scaled_and_a_short_one_is_taken_as_it_is(make_task):
    def many(data, times):
        return dataclasses.replace(
            data, images=np.tile(data.images, (times, 1, 1, 1)), labels=np.tile(data.labels, times)
        )

    task = make_task(num_models=8, block_size=6, num_devices=2, epochs=100, module=Linear(4))
    target = pipeline.TargetData("target", many(task.targets[0].train, 20), many(task.targets[0].test, 25))
    full = transfer.FullNetwork(dataclasses.replace(task.recipe, epochs=10))
    task = dataclasses.replace(task, targets=(target,), modes=("fixed", "full"), full=full)
    choice = train.Choice(task.plan, "asked for", (train.Timing("matmul", 1, 1e-3, 1.0),))

    long = trials.plan_trial(task, choice, 1e-3)
    assert long.num_models == 2  # One wave of the three that a block takes.
    assert long.share_of_model == pytest.approx(3 / 6)
    assert long.task.ensemble.num_steps == 128
    assert long.how() == {
        "training": "128 of 500 steps, scaled",
        "source accuracy": "all 20 images",
        "target, fixed": "1,000 of 2,000 images, scaled",
        "target, full": "128 of 1,000 steps, scaled, 1,000 of 2,000 images, scaled",
        "writing": "to a temporary folder",
    }
    assert long.scale("source accuracy", 2.0) == 2.0
    assert long.scale("target, fixed", 2.0) == 4.0
    apply = long.batch_seconds
    assert long.scale("target, full", 2.0) == pytest.approx((2.0 - 2 * apply) * 1000 / 128 + 5 * apply)

    short = trials.plan_trial(task, choice, 1e4)
    assert short.task.ensemble == task.ensemble  # So the programs are those of the run.
    assert not any("scaled" in words for words in short.how().values())
    assert all(short.scale(name, 3.0) == pytest.approx(3.0) for name in short.how())


def test_the_pace_of_training_is_that_between_the_first_and_the_last_call():
    pace = trials.Pace(steps=30, all_steps=100, num_waves=2, told=[(5.0, 0), (6.0, 10), (7.0, 20)])
    assert pace.rest() == pytest.approx(2 * 70 * 0.1)
    assert trials.Pace(steps=30, all_steps=30, num_waves=2).rest() == 0.0
