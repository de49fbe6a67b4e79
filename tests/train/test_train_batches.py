import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.train.batches import batch_indices, passes_touched

EXAMPLES = 40


def draw(ids, members, first, *, num_steps=12, batch_size=8, smallest=8, seed=0):
    return np.asarray(
        batch_indices(
            jnp.asarray(seed),
            jnp.asarray(ids),
            jnp.asarray(members),
            jnp.asarray(first),
            jnp.asarray(0),
            num_steps=num_steps,
            batch_size=batch_size,
            num_passes=passes_touched(num_steps, batch_size, smallest),
        )
    )


def random_members(count, rng, sizes):
    members = np.zeros((count, EXAMPLES), bool)
    for row, size in zip(members, sizes, strict=True):
        row[rng.choice(EXAMPLES, size, replace=False)] = True
    return members


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.lists(st.integers(8, EXAMPLES), min_size=2, max_size=2), st.integers(0, 30))
def test_every_pass_visits_members_once_and_nothing_else(seed, sizes, first):
    members = random_members(2, np.random.default_rng(seed), sizes)
    indices = draw(np.arange(2), members, first)
    for model, size in enumerate(sizes):
        assert members[model][indices[:, model]].all()
        per_pass = size // 8
        passes = (first + np.arange(12)) // per_pass
        for number in np.unique(passes):
            drawn = indices[passes == number, model].ravel()
            assert len(np.unique(drawn)) == len(drawn)


def test_consecutive_calls_continue_where_the_last_one_ended():
    members = random_members(2, np.random.default_rng(0), [17, 33])
    whole = draw(np.arange(2), members, 0, num_steps=12)
    parts = [draw(np.arange(2), members, first, num_steps=4) for first in (0, 4, 8)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_models_batches_do_not_depend_on_the_others():
    members = random_members(3, np.random.default_rng(0), [12, 20, 33])
    together = draw(np.arange(3), members, 5)
    alone = draw(np.array([1]), members[1:2], 5)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])


def test_orders_differ_between_passes_models_and_seeds():
    members = np.ones((2, EXAMPLES), bool)
    indices = draw(np.arange(2), members, 0, num_steps=10, smallest=EXAMPLES)
    first_pass, second_pass = indices[:5, 0].ravel(), indices[5:, 0].ravel()
    assert sorted(first_pass) == sorted(second_pass) == list(range(EXAMPLES))
    assert (first_pass != second_pass).any()
    assert (indices[:, 0] != indices[:, 1]).any()
    assert (indices != draw(np.arange(2), members, 0, num_steps=10, smallest=EXAMPLES, seed=1)).any()


def test_a_subset_smaller_than_the_batch_fills_it_with_all_of_its_members():
    members = random_members(1, np.random.default_rng(0), [3])
    indices = draw(np.array([0]), members, 0, smallest=3)
    for batch in indices[:, 0]:
        counts = np.bincount(batch, minlength=EXAMPLES)[members[0]]
        assert sorted(counts) == [2, 3, 3]
