"""Noisy pre-training in sentences: verdicts with their figures, names of tuners, and how to read a spectrum."""

import math
from collections.abc import Iterable, Sequence

from jdt.report.content import DIFFERENCE, SHARE, Figure
from jdt.report.noise_content import EXPLORATORY, LINEAR, MISSED, NOT_RUN, REACHED, VERDICTS, NoiseBar
from jdt.report.noise_plots import NOT_MEASURED
from jdt.report.parts import between, ends
from jdt.report.words import MINUS, NBSP, capital, clean, decimal, figure_interval, figure_number, percent

_TUNERS = {
    "linear": "linear probe",
    "mlp": "MLP",
    "nmtune": "NMTune (paper form)",
    "nmtune-code": "NMTune (code form)",
    "fixed": "convex head",
}
_CENTERS = {
    "column": "centred by column (each feature minus its mean over the images)",
    "row": "centred by row (each image's features minus their own mean)",
    "none": "not centred",
}
_ROLES = {"ID": "in domain", "OOD": "out of domain"}
SVE_WORDS = "SVE is the entropy of the singular values in nats: higher = flatter"
LSVR_WORDS = f"LSVR = {MINUS}ln(σ₁/Σσ): higher = less dominated by one direction"
_RESULTS = {REACHED: "reached", MISSED: "MISSED", EXPLORATORY: "exploratory", NOT_RUN: "not run"}


def tuner_words(tuner: str) -> str:
    """What a tuner is called, e.g. "NMTune (paper form)" or "NMTune without consistency"."""
    if tuner in _TUNERS:
        return _TUNERS[tuner]
    base, _, term = tuner.partition("-no-")
    if not term:
        return clean(tuner)
    # The paper form is the one that terms are left out of, unless the name says the other.
    return f"{'NMTune' if base == 'nmtune' else tuner_words(base)} without {clean(term)}"


def stage_words(tuner: str) -> str:
    """Which features a spectrum is of."""
    return "before tuning (frozen features)" if tuner == LINEAR else f"after {tuner_words(tuner)}"


def role_words(role: str) -> str:
    """What a role means, e.g. "OOD (out of domain)"."""
    return f"{clean(role)} ({_ROLES[role]})" if role in _ROLES else clean(role)


def in_order(names: Iterable[str], first: Sequence[str]) -> list[str]:
    """Names without repetition: the known ones in their own order, then all others."""
    return sorted(dict.fromkeys(names), key=lambda name: first.index(name) if name in first else len(first))


def spectrum_words(centers: Iterable[str]) -> str:
    """How to read SVE and LSVR; stands next to such numbers."""
    how = "; ".join(_CENTERS.get(center, clean(center)) for center in dict.fromkeys(centers))
    return f"{SVE_WORDS}. {LSVR_WORDS}. Features of the test images, scaled to length 1, then {how}."


def verdict_words(verdict: str) -> str:
    """A verdict; what was missed is in capitals."""
    return _RESULTS[verdict]


def figure_words(figure: Figure) -> str:
    """A figure with its interval in its own unit, e.g. "+3.1 pp (+1.0 to +5.2)"."""
    value, low, high = ends(figure)
    if not math.isfinite(value):
        return NOT_MEASURED
    if figure.unit in (SHARE, DIFFERENCE):
        signed = figure.unit == DIFFERENCE
        words = f"{decimal(100 * value, 1, signed=True)}{NBSP}pp" if signed else percent(value)
        interval = between(low, high, signed=signed)
        return words + (f" ({interval})" if interval else "")
    interval = figure_interval(figure.low, figure.high) if math.isfinite(low) and math.isfinite(high) else ""
    unit = f" {clean(figure.unit)}" if figure.unit else ""
    return f"{figure_number(value)}{f' ({interval})' if interval else ''}{unit}"


def bar_sentence(bar: NoiseBar) -> str:
    """One requirement in a sentence, e.g. "C3 (reached): OOD accuracy falls. Found: +3.1 pp ..."."""
    found = "; ".join(
        filter(None, [figure_words(bar.figure) if bar.figure else "", clean(bar.found) if bar.found else ""])
    )
    said = f"{clean(bar.name)} ({verdict_words(bar.verdict)}): {capital(clean(bar.asked)).rstrip('.')}."
    return f"{said} Found: {found.rstrip('.')}." if found else said


def noise_summary(bars: Sequence[NoiseBar]) -> list[str]:
    """What was found, for the head of the page: the headlines, then how many requirements were met, by name."""
    if not bars:
        return []
    by_verdict = {verdict: [clean(bar.name) for bar in bars if bar.verdict == verdict] for verdict in VERDICTS}
    parts = [
        f"{len(names)} {verdict_words(verdict)} ({', '.join(names)})" for verdict, names in by_verdict.items() if names
    ]
    counted = f"Of {len(bars)} requirements that were fixed before the run: {'; '.join(parts)}."
    return [*(bar_sentence(bar) for bar in bars if bar.headline), counted]


def exploratory_words(bars: Sequence[NoiseBar]) -> list[str]:
    """What is reported whatever it is."""
    return [bar_sentence(bar) for bar in bars if bar.verdict == EXPLORATORY]
