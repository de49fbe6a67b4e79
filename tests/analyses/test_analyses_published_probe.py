"""The published probe's mistakes, each behind its switch: what they do to a number, and that they are off."""

import inspect

import numpy as np
import pytest

from jdt.analyses import published_probe
from jdt.checks import UserError

CLASSES, WIDTH = 5, 150
ALL, SOME = np.repeat(np.arange(CLASSES), 40), np.repeat(np.arange(CLASSES), 12)


def noise(labels, seed):
    """Features that know nothing of the labels."""
    return np.random.default_rng(seed).normal(size=(len(labels), WIDTH)), labels


def told(labels, seed):
    """Features that do, some of the time."""
    x, y = noise(labels, seed)
    x[:, :CLASSES] += 3 * np.eye(CLASSES)[y]
    return x, y


def test_training_on_the_test_images_reads_random_labels_and_the_default_does_not():
    settings = {"shots": 4, "epochs": 40, "learning_rate": 0.01}
    honest, published = (
        published_probe(noise(SOME, 0), noise(ALL, 1), trains_on_test=switch, **settings) for switch in (False, True)
    )
    chance, error = 1 / CLASSES, np.sqrt(0.2 * 0.8 / len(ALL))
    assert abs(honest.last - chance) < 3 * error
    assert published.last > 0.9
    assert abs(published.test[0] - chance) < 4 * error  # The first pass sees the training images still.
    assert published.test[0] == pytest.approx(honest.test[0], abs=0.2)
    assert honest.train[-1] == 1.0
    assert published.train[-1] < 0.7  # And what it learnt from them it forgets.
    assert published.best >= published.last


def test_a_thinned_test_split_makes_another_and_coarser_number_and_the_default_tests_on_all():
    train, test = told(SOME, 2), told(ALL, 3)
    settings = {"epochs": 10, "learning_rate": 0.01}
    found = [published_probe(train, test, shots=2, seed=seed, thins_test=True, **settings) for seed in range(6)]
    whole = [published_probe(train, test, shots=2, seed=seed, **settings) for seed in range(6)]
    assert {one.num_tested for one in found} == {2 * CLASSES}
    assert {one.num_tested for one in whole} == {len(ALL)}
    assert published_probe(train, test, **settings).num_tested == len(ALL)
    lattice = np.array([one.test for one in found]) * 2 * CLASSES
    np.testing.assert_allclose(lattice, lattice.round(), atol=1e-9)
    differences = [abs(one.last - other.last) for one, other in zip(found, whole, strict=True)]
    assert max(differences) > 0.02  # Ten images say less than two hundred.
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_array_equal(one.train, other.train)  # It is trained as it was.


def test_both_switches_are_off_and_it_is_the_same_each_time():
    defaults = {name: one.default for name, one in inspect.signature(published_probe).parameters.items()}
    assert not defaults["trains_on_test"]
    assert not defaults["thins_test"]
    first, second = (published_probe(told(SOME, 2), told(ALL, 3), epochs=3) for _ in range(2))
    np.testing.assert_array_equal(first.test, second.test)


def test_the_published_warm_up_never_ends_in_a_few_steps():
    few = published_probe(told(SOME, 2), told(ALL, 3), shots=1, epochs=20, warmup_steps=500, learning_rate=1e-4)
    whole = published_probe(told(SOME, 2), told(ALL, 3), shots=1, epochs=20, learning_rate=1e-4)
    assert few.num_tested == whole.num_tested
    assert (few.test != whole.test).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"thins_test": True}, "pass shots as well"),
        ({"shots": 13}, "shots is 13, but class 0 has 12 training images"),
        ({"epochs": 0}, "epochs is 0"),
        ({"test": (np.zeros((3, WIDTH)), np.full(3, -1))}, "a class of each example, from 0 on"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        published_probe(**{"train": told(SOME, 2), "test": told(ALL, 3), **changes})
