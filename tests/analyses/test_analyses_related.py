"""Relatedness finds what was planted, and nothing where names mean nothing."""

import numpy as np
import pytest

from jdt.analyses import related_masks, relatedness
from jdt.checks import UserError

UNITS = tuple(f"u{i}" for i in range(20))
CLASSES = ("cat", "dog", "ship")
RELATED = {"cat": ["u0", "u1"], "ship": ["u7"]}


def world(effect, seed=0):
    influence = np.random.default_rng(seed).normal(size=(20, 3))
    influence[[0, 1], 0] += effect
    influence[7, 2] += effect
    return influence


def test_planted_relations_are_found_first():
    masks = related_masks(RELATED, CLASSES, UNITS)
    found = relatedness(world(50.0), masks, CLASSES)
    assert found.classes == ("cat", "ship")
    assert found.best_rank == (1, 1)
    assert found.auroc == (1.0, 1.0)
    assert found.pooled_auroc == pytest.approx(1.0)
    assert found.p < 0.005
    assert found.expected == pytest.approx(0.5, abs=0.01)


def test_p_is_uniform_where_relations_mean_nothing():
    masks = related_masks(RELATED, CLASSES, UNITS)
    p = [relatedness(world(0.0, seed), masks, CLASSES, permutations=199, seed=seed).p for seed in range(200)]
    for level in (0.05, 0.25, 0.5):
        assert abs(np.mean(np.array(p) <= level) - level) < 4 * np.sqrt(level * (1 - level) / 200)


@pytest.mark.parametrize(
    ("related", "words"),
    [
        ({"cats": ["u0"]}, "target class 'cats', which is unknown; nearest: cat"),
        ({"cat": ["u99"]}, "unit 'u99', said to be related to 'cat'"),
        ({"cat": list(UNITS)}, "every unit is related to 'cat'"),
    ],
)
def test_names_that_do_not_fit_are_refused(related, words):
    with pytest.raises(UserError, match=words):
        related_masks(related, CLASSES, UNITS)


def test_no_relation_at_all_is_refused():
    with pytest.raises(UserError, match="no target class"):
        relatedness(world(0.0), related_masks({}, CLASSES, UNITS), CLASSES)
