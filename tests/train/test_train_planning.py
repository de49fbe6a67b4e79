import dataclasses
import json
import logging
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jdt import models, train
from jdt.checks import UserError
from jdt.train import engine, planning

SHAPE, EXAMPLES = (8, 8, 3), 64


class Scanned(nn.Module):
    """Its second convolution runs inside a loop, where no rule reaches it."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.relu(nn.Conv(4, (3, 3), name="first")(images))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, 4, 4))

        def again(x, _):
            with jax.named_scope("inner"):
                return jax.lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                ), None

        features = jax.lax.scan(again, x, None, length=2)[0].mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features


class Convolved(nn.Module):
    """One layer for the plans to differ in."""

    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Conv(self.width, (3, 3), use_bias=False, name="conv")(images)
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)).mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features


def ensemble(module=None, **kwargs):
    recipe = train.Recipe(epochs=1, batch_size=8, learning_rate=0.05)
    network = models.Network(module or Convolved(4))
    return train.Ensemble(network, recipe, train.PLANS["native"], SHAPE, 64.0, 32, **kwargs)


def choose(name, made=None, *, num_models=100, **kwargs):
    return train.choose(name, made or ensemble(), num_models=num_models, num_examples=EXAMPLES, **kwargs)


def test_auto_times_candidates_once_and_remembers(tmp_path):
    first = choose("auto", cache_dir=tmp_path)
    assert first.reason == "timed"
    assert first.timings
    assert {timing.plan for timing in first.timings} <= set(planning.CANDIDATES["cpu"])
    assert all(0 < timing.seconds_per_step < 10 for timing in first.timings)
    programs = engine._run_steps._cache_size()
    again = choose("auto", cache_dir=tmp_path)
    assert again.reason == "remembered"
    assert (again.plan, again.timings) == (first.plan, first.timings)
    assert engine._run_steps._cache_size() == programs
    record = json.loads(json.dumps(again.record()))
    assert record["name"] == first.plan.name
    assert len(record["timings"]) == len(first.timings)


def test_the_timed_program_is_the_one_that_trains(tmp_path):
    made = ensemble(num_devices=2)
    chosen = choose("auto", made, cache_dir=tmp_path).plan
    programs = engine._run_steps._cache_size()
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (EXAMPLES, *SHAPE), np.uint8)
    source = train.SourceData(jnp.asarray(images), jnp.asarray(draw.integers(0, 4, EXAMPLES), jnp.int32))
    used = train.Ensemble(made.network, made.recipe, chosen, SHAPE, 64.0, 32, num_devices=2)
    train.train(used, source, np.ones((2, EXAMPLES), bool), np.arange(2), seed=0)
    assert engine._run_steps._cache_size() == programs


@pytest.mark.parametrize(
    ("num_models", "best"),
    [(1, "quick"), (1_000_000, "fast")],
)
def test_compilation_must_be_won_back(tmp_path, monkeypatch, num_models, best):
    timings = (train.Timing("matmul", 1, 0.001, 100.0), train.Timing("native", 1, 0.002, 1.0))
    monkeypatch.setattr(planning, "_time_candidates", lambda *_: timings)
    plan = choose("auto", num_models=num_models, cache_dir=tmp_path).plan
    assert plan.name == {"quick": "native", "fast": "matmul"}[best]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}'])
def test_a_broken_memory_of_plans_is_replaced(tmp_path, content, monkeypatch, caplog):
    monkeypatch.setattr(planning, "_time_candidates", lambda *_: (train.Timing("matmul", 1, 0.1, 1.0),))
    (tmp_path / "plans.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert choose("auto", cache_dir=tmp_path).reason == "timed"
    assert choose("auto", cache_dir=tmp_path).reason == "remembered"


def test_other_shapes_are_timed_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_time_candidates", lambda *_: (train.Timing("matmul", 1, 0.1, 1.0),))
    assert choose("auto", cache_dir=tmp_path).reason == "timed"
    assert choose("auto", ensemble(Convolved(4, width=8)), cache_dir=tmp_path).reason == "timed"
    assert choose("auto", ensemble(precision="bfloat16"), cache_dir=tmp_path).reason == "timed"
    assert choose("auto", ensemble(num_devices=2), cache_dir=tmp_path).reason == "timed"
    for changes in ({"resolution": ((0, 16),)}, {"resolution": ((0, 24),)}, {"epochs": 0.1}):
        other = dataclasses.replace(ensemble(), recipe=dataclasses.replace(ensemble().recipe, **changes))
        assert choose("auto", other, cache_dir=tmp_path).reason == "timed", changes


def test_learning_rates_and_schedules_are_not_timed_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_time_candidates", lambda *_: (train.Timing("matmul", 1, 0.1, 1.0),))
    choose("auto", cache_dir=tmp_path)
    recipe = dataclasses.replace(ensemble().recipe, learning_rate=0.3, decay="cosine", epochs=0.9)
    other = dataclasses.replace(ensemble(), recipe=recipe)
    assert choose("auto", other, cache_dir=tmp_path).reason == "remembered"


def test_a_plan_can_be_forced():
    choice = choose("vmapped", block_size=6)
    assert (choice.plan.name, choice.plan.width, choice.reason) == ("vmapped", 6, "asked for")
    assert choose("vmapped", ensemble(num_devices=4), block_size=6).plan.width == 2


def test_an_unknown_plan_lists_the_known_ones(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UserError, match="unknown plan 'fast'; known: auto, winograd, matmul, vmapped-winograd"):
        choose("fast")


def test_a_width_that_does_not_fit_the_memory_is_halved():
    whole = choose("vmapped", block_size=8, memory_bytes=2**40).plan
    assert whole.width == 8
    needed = planning.memory_needed(train.Ensemble(**{**vars(ensemble()), "plan": whole}), EXAMPLES)
    halved = choose("vmapped", block_size=8, memory_bytes=needed - 1).plan
    assert halved.width == 4
    assert planning.memory_needed(train.Ensemble(**{**vars(ensemble()), "plan": halved}), EXAMPLES) < needed


def test_too_little_memory_for_one_model_says_how_much_is_needed():
    with pytest.raises(UserError, match=r"one model at a time needs \d+\.\d+ GiB on each device, which has 0\.00 GiB"):
        choose("matmul", memory_bytes=1000)


@pytest.mark.parametrize("name", ["auto", "winograd", "vmapped"])
def test_a_convolution_that_no_rule_covers_is_named_once(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        choice = choose(name, ensemble(Scanned(4)))
    assert choice.plan == train.PLANS["native"]
    (warning,) = caught
    assert "Scanned" in str(warning.message)
    assert "inner" in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("native", ensemble(Scanned(4))).plan == train.PLANS["native"]
