import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt import transfer
from jdt.checks import UserError

CLASSES, EXAMPLES = 4, 60
# Of one length, so that one program draws for all of them; every class has five members at least.
labels_of = st.permutations(range(EXAMPLES)).flatmap(
    lambda order: st.lists(st.integers(0, CLASSES - 1), min_size=EXAMPLES - 20, max_size=EXAMPLES - 20).map(
        lambda rest: np.array([*np.repeat(range(CLASSES), 5), *rest], np.int32)[list(order)]
    )
)
seeds = st.integers(0, 2**31 - 1)
shots, fractions = st.integers(1, 5), st.floats(0.01, 1.0)


def few(labels, k, seed):
    return transfer.few_shot(labels, CLASSES, k, seed=seed)


@settings(max_examples=40, deadline=None)
@given(labels=labels_of, seed=seeds, some=shots, more=shots, part=fractions, whole=fractions)
def test_choices_are_nested_by_class_and_the_same_in_any_order_of_asking(labels, seed, some, more, part, whole):
    asked = {k: few(labels, k, seed) for k in sorted({some, more})}
    for k in sorted({some, more}, reverse=True):
        np.testing.assert_array_equal(few(labels, k, seed), asked[k])
    for k, chosen in asked.items():
        assert (np.diff(chosen) > 0).all()  # Without replacement, and in order.
        assert np.bincount(labels[chosen]).tolist() == [k] * CLASSES
    assert set(asked[min(some, more)]) <= set(asked[max(some, more)])

    small, large = (transfer.target_fraction(labels, f, seed=seed) for f in sorted((part, whole)))
    sizes = np.bincount(labels)
    np.testing.assert_array_equal(np.bincount(labels[large]), np.maximum(1, np.round(max(part, whole) * sizes)))
    assert set(small) <= set(large)
    for k, chosen in asked.items():
        kept = np.bincount(labels[small])
        assert (kept < k).any() or set(chosen) <= set(small)
    assert len(transfer.target_fraction(labels, 1.0, seed=seed)) == EXAMPLES


def test_another_seed_chooses_others():
    labels = np.repeat(np.arange(CLASSES), 50)
    assert set(few(labels, 5, 0)) != set(few(labels, 5, 1))


def test_what_cannot_be_chosen_is_refused():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    names = ["ant", "bee", "fly"]
    with pytest.raises(UserError, match=r"shots is 3, but class 'bee' has 2 training images.*at most 2"):
        transfer.few_shot(labels, 3, 3, seed=0, class_names=names)
    with pytest.raises(UserError, match="class 'moth' has 0 training images"):
        transfer.few_shot(labels, 4, 1, seed=0, class_names=[*names, "moth"])
    with pytest.raises(UserError, match="shots is 0"):
        transfer.few_shot(labels, 3, 0, seed=0)
    for fraction in (0.0, 1.5, -1.0, float("nan")):
        with pytest.raises(UserError, match="target fraction is"):
            transfer.target_fraction(labels, fraction, seed=0)


def draws(labels, k, seed, ids, number=0):
    return transfer.drawn_rows(labels, CLASSES, k, seed=seed, randomness_ids=np.asarray(ids), number=number)


@settings(max_examples=30, deadline=None)
@given(labels=labels_of, seed=seeds, k=shots, more=shots, number=st.integers(0, 9), first=st.integers(0, 10**6))
def test_draws_of_models_are_nested_by_class_and_their_own(labels, seed, k, more, number, first):
    ids = np.array([first, 7, first])
    found = {size: draws(labels, size, seed, ids, number) for size in sorted({k, more})}
    for size, rows in found.items():
        assert (rows.dtype, rows.shape) == (np.int32, (3, CLASSES * size))
        assert (labels[rows] == np.repeat(np.arange(CLASSES), size)).all()
        assert all(len(set(row)) == len(row) for row in rows.tolist())
        np.testing.assert_array_equal(rows[0], rows[2])  # Equal ids are given equal images, whatever their place.
        np.testing.assert_array_equal(draws(labels, size, seed, [0, 1, first], number)[2], rows[0])
    assert all(set(few) <= set(many) for few, many in zip(found[min(k, more)], found[max(k, more)], strict=True))


def test_other_models_seeds_and_numbers_draw_others_and_every_image_has_the_same_chance():
    labels = np.tile(np.arange(CLASSES), 25)
    base = draws(labels, 5, 0, [0, 1])
    others = [base[1], draws(labels, 5, 1, [0])[0], draws(labels, 5, 0, [0], 1)[0]]
    assert len({tuple(row) for row in (base[0], *others)}) == 4
    times = np.bincount(draws(labels, 5, 3, np.arange(500)).ravel(), minlength=len(labels))
    assert np.abs(times - 100).max() < 5 * np.sqrt(100 * 0.8)  # Binomial(500, 5 of 25).


def test_a_draw_that_a_class_is_too_small_for_is_refused_by_name():
    with pytest.raises(UserError, match=r"shots is 3, but class 'bee' has 2 training images.*at most 2"):
        transfer.drawn_rows(
            np.array([0, 0, 0, 1, 1]), 2, 3, seed=0, randomness_ids=np.arange(2), class_names=["ant", "bee"]
        )
    for wrong in ({"shots": 0}, {"shots": 1, "number": -1}):
        with pytest.raises(UserError, match="must be at least"):
            transfer.Draw(**wrong)
