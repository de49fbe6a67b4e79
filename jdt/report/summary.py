"""The findings of a report in sentences with numbers."""

import numpy as np

from jdt.report.content import EstimatorFindings, Figure, PlantedTruth, TargetFindings
from jdt.report.figures import target_scale
from jdt.report.select import Effect, effects, extremes, finite, first_estimator
from jdt.report.words import (
    MINUS,
    NBSP,
    Scale,
    baseline_words,
    clean,
    decimal,
    figure_interval,
    figure_number,
    mode_words,
    percent,
    sign_sentence,
)


def target_summary(findings: TargetFindings, relative: bool) -> str:
    """What was found for one target, in one paragraph: how well the models do, what helps and harms, how reliable."""
    name = first_estimator(findings)
    task, scale = findings.estimators[name].task, target_scale(findings)
    rows = effects(task, 0)
    helpful, harmful = extremes(task, 0, 1)
    sentences = [_accuracy_sentence(findings)]
    if helpful:
        sentences.append(
            f"Of {len(rows)} source units, {_unit_words(rows[helpful[0]], scale)} helps the whole task most "
            f"(by {name}, on {scale.output})."
        )
    if harmful:
        worst = rows[harmful[0]]
        sentences.append(f"{_unit_words(worst, scale)} {'harms it most' if worst.influence < 0 else 'helps it least'}.")
    if helpful:
        sentences.append(sign_sentence(scale, relative))
    else:
        sentences.append("The models cannot tell the influence of any unit.")
    if np.isfinite(value := findings.estimators[name].reliability.value):
        needed = models_needed_words(findings.estimators[name])
        sentences.append(f"Split-half reliability is {decimal(value, 2)} (1 is perfect, 0 is chance); {needed}.")
    if findings.truth:
        sentences.append(f"Was the planted truth found? {truth_sentence(findings.truth)}")
    return " ".join(sentences)


def _accuracy_sentence(findings: TargetFindings) -> str:
    models, untrained = finite(findings.accuracy), finite(findings.random_accuracy)
    place = f"{clean(findings.target)} ({mode_words(findings.mode)})"
    baseline = baseline_words(findings.mode)
    if not len(models):
        return f"On {place}, no accuracies were measured."
    sentence = (
        f"On {place}, {len(findings.accuracy)} models, each trained on a subset of the source, reach "
        f"{percent(models.mean())} accuracy on average (standard deviation {decimal(100 * models.std(), 1)} points, "
        f"from {percent(models.min())} to {percent(models.max())})"
    )
    if not len(untrained):
        return f"{sentence}; {baseline}: not measured."
    sentence += f"; {baseline}: {percent(untrained.mean())}."
    if models.mean() <= untrained.mean():
        sentence += " Training on the source is worth nothing here, so these influences mean little."
    return sentence


def _unit_words(effect: Effect, scale: Scale) -> str:
    z = "" if effect.z is None else f"; z{NBSP}{decimal(effect.z, 1)}"
    return f"“{clean(effect.unit)}” ({effect_words(effect, scale)}{z})"


def effect_words(effect: Effect, scale: Scale) -> str:
    """An influence with its interval if the estimator gives one: "+1.24 pp, 95 % interval +0.63 to +1.85"."""
    if effect.standard_error is None:
        return scale.effect(effect.influence)
    if not np.isfinite(effect.low):
        return f"{scale.effect(effect.influence)}, interval unknown"
    return f"{scale.effect(effect.influence)}, 95 % interval {scale.number(effect.low)} to {scale.number(effect.high)}"


def truth_sentence(truth: PlantedTruth) -> str:
    """Whether the planted truth was found, with its negative control."""
    return (
        f"{'Yes' if truth.passed else 'No'}: AUROC {with_interval(truth.auroc)}; "
        f"negative control with permuted masks {with_interval(truth.control)}."
    )


def with_interval(figure: Figure) -> str:
    """A key figure with its interval, e.g. "0.943 (0.9 to 0.975)"."""
    interval = figure_interval(figure.low, figure.high)
    return figure_number(figure.value) + (f" ({interval})" if interval else "")


def reliability_sentence(findings: EstimatorFindings) -> str:
    """How to read the split-half reliability of one estimator."""
    value = findings.reliability.value
    if not np.isfinite(value):
        return "Unknown: the models could not be split into halves that both tell the units."
    verdict = (
        "the ranking would be much the same with other models"
        if value >= 0.7
        else "extremes can be trusted, the order in the middle cannot"
        if value >= 0.3
        else "another set of models would rank the units quite differently"
    )
    return f"Two halves of the models agree with {decimal(value, 2)} (1 is perfect, 0 is chance): {verdict}."


def z_variance_sentence(findings: EstimatorFindings) -> str:
    """How to read the variance of z of one estimator."""
    if findings.z_variance is None:
        return "This estimator gives no standard errors."
    value = findings.z_variance.value
    if not np.isfinite(value):
        return "Unknown."
    share = max(0.0, 1 - 1 / value) if value > 0 else 0.0
    if value < 1.1:
        return "Close to 1, which is what noise alone gives: single influences cannot be told from noise."
    return f"Noise alone gives 1, so about {percent(share, 0)} of the variance of z comes from real differences."


def evidence_words(findings: EstimatorFindings) -> str:
    """How many influences are beyond noise, and how many models would be reliable, in one line."""
    parts = [f"{figure.value:.0f} {figure.text}" for figure in findings.significant.values()]
    return "; ".join([*parts, models_needed_words(findings)])


def models_needed_words(findings: EstimatorFindings) -> str:
    """How many models a high reliability takes, e.g. "about 540 models for split-half reliability 0.9, ..."."""
    figure = findings.models_needed
    if not np.isfinite(figure.value):
        return f"unknown number of {figure.text}"
    return f"about {figure.value:,.0f} {figure.text}"


PAIR_SENTENCE = (
    "Outputs of the two models of an antithetic pair (each keeps what the other leaves out): towards "
    f"{MINUS}1 where the subset decides, so that pairs cancel noise; near 0 where training noise decides; positive "
    "where models trained side by side share noise."
)
