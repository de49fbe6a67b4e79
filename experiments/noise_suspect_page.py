"""What the search for wrong labels found, in words for the terminal and as values for the page."""

import numpy as np

import jdt
from experiments.bias_page import gap_figure as gap
from experiments.noise_bars import words_of
from experiments.noise_page import share
from experiments.noise_rankings import NEIGHBOURS, RANKINGS, Found, Ranking
from experiments.noise_repair import NOISY
from experiments.noise_suspects import Suspects

SHOWN = 12
"""Suspects of which the page has the image."""


def figures(found: Suspects) -> dict[str, jdt.report.Figure]:
    """Key figures: how well each ranking finds what was planted, and what mending is worth."""
    made = {
        f"suspects/{part.what}/{name}/auroc": _auroc(part, name)
        for part in (found.examples, found.units)
        if part is not None
        for name in RANKINGS
    }
    if found.repair is not None:
        for arm, gain in found.repair.gain.items():
            if arm != NOISY:
                text = f"source accuracy of models with {arm} minus that of models of the noisy source, paired by seed"
                made[f"suspects/{arm}/gain"] = gap(gain, text)
    return made


def words(found: Suspects) -> list[str]:
    """What was found, for the terminal."""
    made = []
    for part in filter(None, (found.examples, found.units)):
        areas = ", ".join(f"{name} {_area_words(one.detection)}" for name, one in part.rankings.items())
        made.append(
            f"wrong {part.what}, {int(part.planted.sum())} of {len(part.planted)}, {part.num_models} models: AUROC "
            f"{areas}; permuted masks {part.mask_control.value:.3f}. Confident learning says {part.estimated_rate:.1%} "
            f"of the labels are wrong, and {part.true_rate:.1%} are."
        )
    if (repair := found.repair) is not None:
        for arm, values in repair.accuracy.items():
            gain = repair.gain[arm]
            beside = "" if arm == NOISY else f", {words_of(gain)}"
            made.append(
                f"{arm}: {repair.wrong[arm]} wrong labels, source accuracy {np.nanmean(values):.1%}{beside}, on "
                f"{repair.target} {np.nanmean(repair.transfer[arm]):.1%}"
            )
    return made


def _area_words(found: jdt.analyses.Detection) -> str:
    """An area with its interval, where there is one."""
    return f"{found.value:.3f}" + ("" if np.isnan(found.low) else f" ({found.low:.3f} to {found.high:.3f})")


def shown(found: Suspects, source: jdt.data.Dataset) -> jdt.report.NoiseSuspects:
    """What the page shows; `source` has the true labels."""
    examples, units = found.examples, found.units
    retraining, change = {}, {}
    if (repair := found.repair) is not None:
        for arm in repair.accuracy:
            retraining[arm] = {
                "source": share(repair.accuracy[arm], "accuracy on the source"),
                "ID": share(repair.transfer[arm], f"accuracy on {repair.target}"),
            }
            if arm != NOISY:
                text = f"{arm} minus {NOISY}, paired by seed"
                change[arm] = {"source": gap(repair.gain[arm], text), "ID": gap(repair.transfer_gain[arm], text)}
    text = (
        f"{examples.num_models} models were trained on random subsets of a source of which {examples.true_rate:.0%} of "
        f"the labels are wrong. Influence: what a label does to clean source images that look like its image "
        f"({found.scoring} of them, which judge nothing else); the similarity alone, without influence, has an area of "
        f"{examples.rankings[NEIGHBOURS].detection.value:.3f}. Confident learning: what models say of an example that "
        "they did not see. Loss: what those say that did. Retrained models are judged on "
        f"{found.reporting} other clean images."
    )
    return jdt.report.NoiseSuspects(
        text=text,
        rankings=tuple(_ranking(examples, name) for name in RANKINGS),
        ranked=f"{len(examples.planted):,} source examples, {int(examples.planted.sum()):,} of them with a wrong label",
        units=() if units is None else _units(units),
        retraining=retraining,
        change=change,
        examples=_images(examples, source),
    )


def _ranking(part: Found, name: str) -> jdt.report.NoiseRanking:
    ranking = part.rankings[name]
    return jdt.report.NoiseRanking(name, *ranking.curve, auroc=_auroc(part, name), control=ranking.control)


def _auroc(part: Found, name: str) -> jdt.report.Figure:
    found = part.rankings[name].detection
    text = f"how often a wrong one of the {part.what} stands above a right one, by {name}"
    low, high = (None if np.isnan(end) else end for end in (found.low, found.high))
    return jdt.report.Figure(found.value, low, high, part.num_models, "AUROC", text)


def _units(part: Found) -> tuple[jdt.report.NoiseUnit, ...]:
    places = {name: _places(part.rankings[name]) for name in RANKINGS}
    found = [
        jdt.report.NoiseUnit(
            name,
            part.rate if part.planted[i] else 0.0,
            {ranking: float(part.rankings[ranking].scores[i]) for ranking in RANKINGS},
            {ranking: int(places[ranking][i]) for ranking in RANKINGS},
        )
        for i, name in enumerate(part.names)
    ]
    return tuple(sorted(found, key=lambda unit: unit.place[RANKINGS[0]]))


def _places(ranking: Ranking) -> np.ndarray:
    """Places, int `[suspects]`: 1 for the most suspicious; those without a score last."""
    order = np.argsort(-ranking.scores, kind="stable")
    places = np.empty(len(order), int)
    places[order] = np.arange(1, len(order) + 1)
    return places


def _images(part: Found, source: jdt.data.Dataset) -> tuple[jdt.report.NoiseSuspect, ...]:
    """The examples that influence suspects most."""
    places, names = _places(part.rankings[RANKINGS[0]]), source.class_names
    true = np.asarray(source.labels)
    return tuple(
        jdt.report.NoiseSuspect(
            name=f"image {i}",
            image=np.asarray(source.images[[i]])[0],
            given=names[part.given[i]],
            suggested=names[part.likely[i]] if part.likely[i] >= 0 else "",
            true=names[true[i]],
            note=f"place {places[i]} by {RANKINGS[0]}",
        )
        for i in np.argsort(places)[:SHOWN].tolist()
    )
