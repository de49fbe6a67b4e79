"""Noisy pre-training in words: names of tuners and roles, and how to read a spectrum."""

from collections.abc import Iterable, Sequence

from jdt.report.noise_content import LINEAR
from jdt.report.words import MINUS, clean

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
