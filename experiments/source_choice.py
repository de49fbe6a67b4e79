"""Which candidate source to take for a target: a ranking, what follows from it, and what being surer would cost."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

import jdt
from experiments.pretraining_measures import RESAMPLES, Cell, shots_name

LEAST_SEEDS = 3
"""Of which resamples say how often a source is the best."""
LEVEL = 0.95
"""Of all intervals, and of the band that equal sources stay in."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What can be taken.

    Attributes:
      source: Name of the source.
      method: How it was learnt.
      rule: How models were transferred.
      name: What it is called: its source, and what else tells it from others.
    """

    source: str
    method: str
    rule: str
    name: str


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one more seed of all candidates costs on this machine.

    Attributes:
      seeds: Seeds that there are.
      models: Source models of a seed, those without a source among them.
      seconds: That these take, by what those that are there took.
    """

    seeds: int
    models: int
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """Candidates for a target at one number of shots, the best first.

    Attributes:
      target: Name of the target.
      shots: Training images of each class; None for all of them.
      candidates: In their order.
      ranking: Their accuracies, and whether they differ by more than noise.
      leads: Lead of the first over each of the others, and what would make it clear; None of those without a value.
      cost: Of one more seed.
    """

    target: str
    shots: int | None
    candidates: tuple[Candidate, ...]
    ranking: jdt.analyses.Ranking
    leads: tuple[jdt.analyses.Surer | None, ...]
    cost: Cost

    @property
    def place(self) -> str:
        """What it is a choice for, in words."""
        return f"{self.target}, {shots_name(self.shots)}"

    @property
    def is_noise(self) -> bool:
        """Whether equal candidates would be as far apart as these are."""
        return bool(np.isfinite(self.ranking.noise.band)) and not self.ranking.noise.is_beyond_noise

    @property
    def level_with_first(self) -> tuple[int, ...]:
        """Places of the candidates that are not told apart from the first; the first is at place 0."""
        return tuple(
            place
            for place, lead in enumerate(self.leads, start=1)
            if lead is not None and (self.is_noise or not lead.is_clear)
        )

    @functools.cached_property
    def seeds_needed(self) -> int | None:
        """Seeds, in all, that would tell the first from the second; None where no number would, or nobody knows."""
        lead = self.leads[0]
        if lead is None or lead.seeds is None:
            return None
        if not self.is_noise:
            return lead.seeds
        noise = jdt.analyses.seeds_beyond_noise(self.ranking.noise, self.cost.seeds)
        return None if noise is None else max(noise, lead.seeds)


def candidates_of(cells: Sequence[Cell], sources: Sequence[str]) -> tuple[Candidate, ...]:
    """All that cells of one target and number of shots have of some sources, named as briefly as tells them apart."""
    found = [(arm, cell.method, cell.rule) for cell in cells for arm in cell.arms if arm in sources]
    methods, rules = ({one[part] for one in found} for part in (1, 2))

    def name(arm: str, method: str, rule: str) -> str:
        more = ", ".join([method] * (len(methods) > 1) + [rule] * (len(rules) > 1))
        return f"{arm} ({more})" if more else arm

    return tuple(Candidate(*one, name(*one)) for one in found)


def choose(cells: Sequence[Cell], sources: Sequence[str], cost: Cost) -> Choice:
    """Rank what can be taken for the target and number of shots that cells are of.

    Args:
      cells: Of one target and number of shots: one for each method and rule of transfer.
      sources: Names of the candidate sources; other arms are not ranked.
      cost: Of one more seed.
    """
    found = candidates_of(cells, sources)
    by_place = {(cell.method, cell.rule): cell for cell in cells}
    homes = [by_place[one.method, one.rule] for one in found]
    correct = np.concatenate([cell.of(one.source) for cell, one in zip(homes, found, strict=True)])
    usable = np.array([cell.has(one.source) for cell, one in zip(homes, found, strict=True)])
    ranking = jdt.analyses.rank_sources(
        [one.name for one in found], correct, np.broadcast_to(usable[:, None, None], correct.shape[:3]),
        resamples=RESAMPLES, level=LEVEL,
    )  # fmt: skip
    first, *others = ranking.order.tolist()
    leads = [
        jdt.analyses.surer(correct[first].astype(np.int8) - correct[one], LEVEL) if usable[first] and usable[one]
        else None
        for one in others
    ]  # fmt: skip
    order = tuple(found[place] for place in ranking.order)
    return Choice(cells[0].target, cells[0].shots, order, ranking, tuple(leads), cost)


def recommendation(choice: Choice) -> str:
    """What to take, in one sentence without an end."""
    first, best = choice.candidates[0], choice.ranking.accuracy[0]
    if not np.isfinite(best.value):
        return f"{choice.place}: no source can be recommended, since models of all of them diverged"
    take = f"{choice.place}: take {first.name}: {best.value:.1%} right ({best.low:.1%} to {best.high:.1%})"
    lead = choice.leads[0]
    if lead is None:
        return f"{take}; models of all other sources diverged"
    second = choice.candidates[1].name
    level = choice.level_with_first
    if not level:
        best = best_of(choice, 0)
        share = "" if np.isnan(best) else f", and the best in {best:.0%} of resamples"
        return f"{take}, {points(lead.difference)} points (± {points(lead.margin)}) ahead of {second}{share}"
    noise = choice.ranking.noise
    if choice.is_noise:
        apart = (
            f"but the sources are {points(noise.spread)} points apart, and equal ones would be up to "
            f"{points(noise.band)}"
        )
    else:
        apart = f"{_listed([first.name, *(choice.candidates[place].name for place in level)])} are not told apart"
    return f"{take}; {apart}: {surer_words(choice)}"


def surer_words(choice: Choice) -> str:
    """What would tell the first from the second, in words."""
    lead, cost = choice.leads[0], choice.cost
    if lead is None or not choice.level_with_first:
        return ""
    if choice.seeds_needed is None:
        if cost.seeds < 2 and lead.difference:
            return "one seed says nothing of others, so pass --seeds 3 or more"
        if lead.examples is not None:
            return (
                f"no number of seeds would tell, but {lead.examples:,} test images might, of which there are "
                f"{lead.components.examples:,}"
            )
        return "nothing tells, since the first two are equally often right" if not lead.difference else "no seeds would"
    more = max(1, choice.seeds_needed - cost.seeds)
    return (
        f"{more} more seed{'s' if more > 1 else ''} ({more * cost.models:,} models, about "
        f"{jdt.pipeline.span(more * cost.seconds)}) would tell, if the difference is as large as it looks: --seeds "
        f"{cost.seeds + more}"
    )


def draws_words(choice: Choice) -> str:
    """What more few-shot draws would do, and what only more test images would, in sentences; may be empty."""
    lead = choice.leads[0]
    if lead is None:
        return ""
    found = []
    if choice.level_with_first and lead.draws is not None and choice.shots is not None and not lead.is_clear:
        found.append(f"So would {lead.draws} draws of each seed (--draws, as a run of its own).")
    if lead.floor >= 0.0005:  # Less is shown as none.
        found.append(
            f"However many seeds there are, ± {points(lead.floor)} points of the lead stay open with these "
            f"{lead.components.examples:,} test images."
        )
    return " ".join(found)


def points(value: float) -> str:
    """A difference of shares in percentage points, without a sign."""
    return f"{100 * abs(value):.1f}"


def best_of(choice: Choice, place: int) -> float:
    """Probability of being the best; NaN below three seeds, whose resamples hardly ever change the order."""
    return float(choice.ranking.best[place]) if choice.cost.seeds >= LEAST_SEEDS else float("nan")


def shown(choice: Choice) -> jdt.report.PretrainingRanking:
    """The choice as tables have it."""
    level, ranking = choice.level_with_first, choice.ranking
    methods, rules = ({getattr(one, part) for one in choice.candidates} for part in ("method", "rule"))
    alike = len(methods) == len(rules) == 1  # Then the page says elsewhere what they are.
    rows = []
    for place, one in enumerate(choice.candidates):
        lead = choice.leads[place - 1] if place else None
        text = f"accuracy of {one.name}, {choice.place}"
        behind = None if lead is None else jdt.report.Figure(
            -lead.difference, -lead.difference - lead.margin, -lead.difference + lead.margin, choice.cost.seeds,
            jdt.report.DIFFERENCE, f"{text}, minus that of {choice.candidates[0].name}",
        )  # fmt: skip
        found = ranking.accuracy[place]
        ends = (None, None) if np.isnan(found.low) else (found.low, found.high)
        rows.append(
            jdt.report.PretrainingRanked(
                one.source, jdt.report.Figure(found.value, *ends, choice.cost.seeds, jdt.report.SHARE, text),
                best_of(choice, place), "" if alike else one.method, "" if alike else one.rule, behind,
                "not told apart from the first" if place in level else "",
            )
        )  # fmt: skip
    text = f"{recommendation(choice)}. {draws_words(choice)}".strip()
    return jdt.report.PretrainingRanking(choice.target, choice.shots, tuple(rows), text)


def to_plain(choice: Choice) -> dict[str, object]:
    """All of it for `choice.json`; NaN as None."""
    ranking, noise, cost = choice.ranking, choice.ranking.noise, choice.cost
    needed = choice.seeds_needed
    more = None if needed is None else max(0, needed - cost.seeds)
    rows = []
    for place, one in enumerate(choice.candidates):
        accuracy, lead = ranking.accuracy[place], choice.leads[place - 1] if place else None
        rows.append({
            "source": one.source, "method": one.method, "rule": one.rule, "name": one.name,
            "accuracy": _known(accuracy.value), "low": _known(accuracy.low), "high": _known(accuracy.high),
            "best": _known(best_of(choice, place)),
            "behind": None if lead is None else lead.difference,
            "margin": None if lead is None else _known(lead.margin),
            "is_told_apart": None if lead is None else place not in choice.level_with_first,
            "seeds_needed": None if lead is None else lead.seeds,
            "draws_needed": None if lead is None else lead.draws,
            "test_images_needed": None if lead is None else lead.examples,
            "floor": None if lead is None else _known(lead.floor),
        })  # fmt: skip
    return {
        "target": choice.target,
        "shots": choice.shots,
        "recommendation": recommendation(choice),
        "take": choice.candidates[0].name if np.isfinite(ranking.accuracy[0].value) else None,
        "not_told_apart": [choice.candidates[place].name for place in choice.level_with_first],
        "candidates": rows,
        "noise": {
            "spread": _known(noise.spread), "band": _known(noise.band), "p_value": _known(noise.p_value),
            "blocks": noise.blocks, "is_beyond_noise": noise.is_beyond_noise,
        },
        "surer": {
            "more_seeds": more,
            "models": None if more is None else more * cost.models,
            "seconds": None if more is None else more * cost.seconds,
        },
        "covers": list(ranking.covers),
    }  # fmt: skip


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
