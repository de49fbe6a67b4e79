"""What follows from a ranking of candidate sources: the sentence, the table, and what being surer costs."""

import dataclasses

import numpy as np
import pytest

import jdt
from experiments import source_choice
from experiments.pretraining_measures import Cell
from experiments.source_choice import Cost

COST = Cost(seeds=4, models=3, seconds=60.0)


def cell(rates, *, seeds=4, draws=2, examples=200, wobble=0.02, method="supervised", arms=None):
    """A cell of arms that are right on about such shares of the test images; NaN for one that diverged."""
    rng, arms = np.random.default_rng(0), arms or tuple(f"s{i}" for i in range(len(rates)))
    shape = (len(rates), seeds, draws)
    share = np.nan_to_num(np.array(rates))[:, None, None] + wobble * rng.standard_normal(shape)
    hard = rng.random((1, 1, 1, examples))  # Images are as hard for all.
    correct = 0.8 * hard + 0.2 * rng.random((*shape, examples)) < share[..., None]
    test = correct.mean(axis=-1)[None]
    chosen = np.where(np.isnan(rates), -1, 0)
    means = test[0].mean(axis=(1, 2))
    selected = jdt.analyses.Selection(chosen, means, means, np.zeros(len(rates)))
    told, labels = correct.astype(np.int32), np.ones(examples, np.int32)
    return Cell(method, "photos", 5, "LP", ("LP@1",), (*arms,), test, test, selected, told, labels)


def choose(found, sources=None, cost=COST):
    return source_choice.choose([found], sources or found.arms, cost)


def test_a_clear_winner_is_named_with_its_lead_and_interval():
    choice = choose(cell([0.3, 0.8, 0.5]))
    words = source_choice.recommendation(choice)
    assert words.startswith("photos, 5 shots: take s1: ")
    assert "ahead of s2, and the best in 100% of resamples" in words
    assert choice.level_with_first == ()
    assert not choice.is_noise
    plain = source_choice.to_plain(choice)
    assert plain["take"] == "s1"
    assert plain["surer"] == {"more_seeds": 0, "models": 0, "seconds": 0.0}
    assert [one.source for one in source_choice.shown(choice).candidates] == ["s1", "s2", "s0"]


def test_two_that_are_level_cost_so_many_more_seeds_models_and_minutes():
    choice = choose(cell([0.2, 0.54, 0.5], wobble=0.04))
    words = source_choice.recommendation(choice)
    first, second, _ = (one.name for one in choice.candidates)
    assert choice.level_with_first == (1,)
    assert f"{first} and {second} are not told apart: " in words
    lead, needed = choice.leads[0], choice.seeds_needed
    assert lead is not None
    assert needed is not None
    more = needed - COST.seeds
    assert more > 0
    assert f"{more} more seeds ({more * 3} models, about {jdt.pipeline.span(more * 60.0)}) would" in words
    assert f"--seeds {more + COST.seeds}" in words
    # The number it says does make the margin smaller than the lead, and one less does not.
    assert lead.components.margin(needed, 2) < lead.difference
    assert lead.components.margin(needed - 1, 2) >= lead.difference
    assert ("test images" in source_choice.draws_words(choice)) == (lead.floor >= 0.0005)
    assert source_choice.shown(choice).candidates[1].note == "not told apart from the first"


def test_equal_sources_are_said_to_be_no_further_apart_than_noise():
    choice = choose(cell([0.5, 0.5, 0.5]))
    assert choice.is_noise
    assert choice.level_with_first == (1, 2)
    assert "equal ones would be up to" in source_choice.recommendation(choice)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (cell([0.52, 0.5], seeds=1, draws=1), "pass --seeds 3 or more"),
        (cell([0.505, 0.5], wobble=0.0, seeds=12, examples=20), "seeds"),
        (cell([0.5, np.nan]), "models of all other sources diverged"),
        (cell([np.nan, np.nan]), "no source can be recommended"),
    ],
)
def test_what_cannot_be_told_is_said(found, words):
    choice = choose(found, cost=dataclasses.replace(COST, seeds=found.correct.shape[1]))
    assert words in source_choice.recommendation(choice)
    jdt.config.fingerprint(source_choice.to_plain(choice))  # Plain JSON, without NaN.
    assert len(source_choice.shown(choice).candidates) == 2


def test_candidates_are_told_apart_by_method_and_rule_where_these_differ():
    cells = [cell([0.6, 0.4, 0.1], arms=("near", "far", "scratch")), cell([0.7], arms=("near",), method="simclr")]
    choice = source_choice.choose(cells, ("near", "far"), COST)
    assert [one.name for one in choice.candidates] == ["near (simclr)", "near (supervised)", "far (supervised)"]
