"""What the engine computes: the same for a model in any company, under every plan, on any devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_examples import (
    CLASSES,
    assert_same,
    ensemble,
    leading,
    make_source,
    members_of,
    run,
)

from jdt import masks, models, train
from jdt.train import engine, planning

WHOLE = models.SmallCNN(CLASSES, width=4)


def named(value):
    """Parts of the names of tests."""
    return value if isinstance(value, str) else "little" if value is None else "whole"


@pytest.fixture(scope="module")
def source():
    return make_source()


@pytest.fixture(scope="module", autouse=True)
def quick_draws():
    """Optimise what trains alone: nothing here is about the numbers of initial values and orders of examples."""

    class Quick:
        def __init__(self, program):
            self.program, self._cache_size = program, program._cache_size

        def __call__(self, *args, **kwargs):
            jax.config.update("jax_disable_most_optimizations", True)
            try:
                return self.program(*args, **kwargs)
            finally:
                jax.config.update("jax_disable_most_optimizations", False)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_initial_states", "_draw_indices"):
            patch.setattr(engine, name, Quick(getattr(engine, name)))
        yield


@pytest.mark.parametrize(
    ("plan", "kind", "module"),
    [
        *((plan, "fixed-size", None) for plan in train.PLANS),
        *(("matmul", kind, WHOLE) for kind in masks.KINDS),
    ],
    ids=named,
)
def test_a_model_is_the_same_alone_and_in_company(source, plan, kind, module):
    design = masks.Design(kind, seed=3)
    together = run(source, plan, design=design, module=module)
    alone = run(source, plan, ids=[2], design=design, module=module)
    # Sums inside a batched matrix product may be ordered otherwise for another number of models.
    tolerance = {"rtol": 0, "atol": 0} if train.PLANS[plan].layout == "unrolled" else {"rtol": 1e-4, "atol": 1e-5}
    assert_same(jax.tree.map(lambda leaf: leaf[2:3], together.variables), alone.variables, **tolerance)
    np.testing.assert_allclose(together.loss[2:3], alone.loss, rtol=tolerance["rtol"])


@pytest.mark.parametrize(
    ("plan", "module"), [*((plan, None) for plan in train.PLANS if plan != "matmul"), ("winograd", WHOLE)], ids=named
)
def test_every_plan_computes_the_same_numbers(source, plan, module):
    reference, other = (run(source, name, module=module) for name in ("matmul", plan))
    np.testing.assert_allclose(other.loss, reference.loss, rtol=1e-4)
    assert_same(other.variables, reference.variables, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plan", ["winograd", "matmul", "vmapped", "native"])
def test_an_excluded_example_never_influences_a_model(source, plan):
    design, ids = masks.Design("fixed-size", seed=3), np.arange(4)
    excluded = ~members_of(design, ids)
    before = run(source, plan, ids=ids, design=design)
    for model in ids[:2]:
        noise = np.random.default_rng(1).integers(0, 256, source.images.shape).astype(np.uint8)
        images = jnp.where(excluded[model][:, None, None, None], noise, source.images)
        after = run(train.SourceData(images, source.labels), plan, ids=ids, design=design)
        for a, b in zip(jax.tree.leaves(before.variables), jax.tree.leaves(after.variables), strict=True):
            np.testing.assert_array_equal(a[model], b[model])
        others = np.setdiff1d(ids, [model])
        assert any(
            (np.asarray(a[others]) != np.asarray(b[others])).any()
            for a, b in zip(jax.tree.leaves(before.variables), jax.tree.leaves(after.variables), strict=True)
        ), "the noise reached no model at all: the test would pass with training switched off"


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("plan", ["winograd", "vmapped"])
def test_a_second_block_compiles_nothing(source, plan, num_devices):
    programs = (engine._run_steps, engine._draw_indices, engine._initial_states, engine._all_finite)
    run(source, plan, ids=range(4), num_devices=num_devices)
    sizes = [program._cache_size() for program in programs]
    run(source, plan, ids=range(4, 8), num_devices=num_devices)
    assert [program._cache_size() for program in programs] == sizes


@pytest.mark.multidevice
@pytest.mark.parametrize(("plan", "counts"), [("winograd", (2, 8)), ("vmapped", (2,))])
def test_any_number_of_devices_gives_the_same_models(source, plan, counts):
    reference = run(source, plan, ids=range(4))
    # A batched product of another width may be summed in another order; a model by itself is not touched by company.
    tolerance = {"rtol": 0, "atol": 0} if train.PLANS[plan].layout == "unrolled" else {"rtol": 1e-4, "atol": 1e-5}
    for num_devices in counts:  # None divides three models: they are filled up.
        other = run(source, plan, ids=range(3), num_devices=num_devices)
        assert_same(other.variables, leading(3, reference.variables), **tolerance)
        np.testing.assert_allclose(other.loss, reference.loss[:3], rtol=tolerance["rtol"])
        assert other.finite.shape == (3,)


@pytest.mark.multidevice
@pytest.mark.parametrize("plan", ["winograd", "vmapped", "grouped"])
def test_devices_do_not_communicate(plan):
    wide = dataclasses.replace(train.PLANS[plan], width=1 if plan == "winograd" else 2)
    devices = 8 if plan == "winograd" else 2  # As other tests train them: programs are shared.
    text = planning._lowered(dataclasses.replace(ensemble(num_devices=devices), plan=wide), 96).compile().as_text()
    assert "fusion" in text
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in text
