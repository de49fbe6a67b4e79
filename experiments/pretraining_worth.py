"""How many images of one source equal another: sizes of a family read against a reference, with intervals."""

import dataclasses
import math
from typing import Any

import jdt
from experiments.pretraining_families import count_of, family, known_family
from experiments.pretraining_measures import RESAMPLES, Cell, Measured, rule_of, shots_name
from experiments.pretraining_setup import Config, Study, require_source


@dataclasses.dataclass(frozen=True, eq=False)
class Worth:
    """What a reference is worth in images of a family: of the first method, on one target at one number of shots.

    Attributes:
      family: Name of the source whose sizes make the curve.
      reference: Name of the source that is to be equalled.
      target: Name of the target.
      shots: Training images of each class; None for all of them.
      method: How both were learnt.
      rule: How both were transferred.
      arms: Sources of the family, their sizes ascending.
      planted: Images of the family that equal one of the reference, where that is known.
      found: Equivalent size, ratio and intervals; None where models diverged.
    """

    family: str
    reference: str
    target: str
    shots: int | None
    method: str
    rule: str
    arms: tuple[str, ...]
    planted: float | None
    found: jdt.analyses.Equivalence | None

    @property
    def place(self) -> str:
        """What it is of, in words."""
        return f"{self.family} for {self.reference} on {self.target}, {shots_name(self.shots)}"

    @property
    def is_planted_beyond(self) -> bool:
        """Whether the planted answer is more than the largest size."""
        return (
            self.planted is not None
            and self.found is not None
            and self.planted * self.found.reference_size > self.found.sizes[-1]
        )

    @property
    def words(self) -> str:
        """In a sentence without an end."""
        if self.found is None:
            return f"{self.place}: models diverged"
        found = self.found
        low, high = found.size_low.text, found.size_high.text
        interval = "" if math.isnan(found.size_low.value) else f" ({low} to {high})"
        known = "" if self.planted is None else f"; planted: {self.planted:g} for one"
        return (
            f"{self.place}: {found.size.text}{interval} images equal {found.reference_size:,.0f}, "
            f"{found.ratio.text} for one{known}"
        )

    def to_plain(self) -> dict[str, Any]:
        """For `pretraining.json`; an infinite size is "beyond"."""
        found = self.found

        def number(size: jdt.analyses.Size) -> Any:
            return None if math.isnan(size.value) else size.value if size.is_measured else size.text

        return {
            "family": self.family, "reference": self.reference, "target": self.target, "shots": self.shots,
            "method": self.method, "rule": self.rule, "arms": list(self.arms), "planted": self.planted,
            **({} if found is None else {
                "size": number(found.size), "low": number(found.size_low), "high": number(found.size_high),
                "ratio": number(found.ratio), "reference_size": found.reference_size, "sizes": found.sizes.tolist(),
                "monotone": found.monotone.tolist(), "not_reached": found.not_reached,
            }),
        }  # fmt: skip


def parse_equivalents(config: Config, study: Study) -> list[tuple[str, str, float | None]]:
    """FAMILY:SOURCE or FAMILY:SOURCE:RATIO."""
    found = []
    for text in config.equivalents:
        name, reference, *rest = (*text.split(":"), "")[:3] if text.count(":") < 3 else ("", "", "")
        ratio = rest[0] if rest else ""
        try:
            planted = float(ratio) if ratio else None
        except ValueError:
            planted = float("nan")
        if not name or not reference or (planted is not None and not planted > 0):
            raise jdt.UserError(
                f"--equivalents has {text!r}, expected FAMILY:SOURCE, or FAMILY:SOURCE:RATIO if planted."
            )
        for one in (name, reference):
            require_source("equivalents", one, study.sources.names)
        known_family(study.sources, name)
        found.append((name, reference, planted))
    return found


def equivalences(config: Config, study: Study, measured: Measured) -> tuple[Worth, ...]:
    """All that --equivalents ask for, on every target, at few shots and with all images."""
    method, rule = study.blocks[0].method, rule_of(study)
    return tuple(
        _worth(study, measured.cell(method, target, shots, rule), name, reference, planted)
        for name, reference, planted in parse_equivalents(config, study)
        for target in study.targets
        for shots in (config.at_shots, None)
    )


def _worth(study: Study, cell: Cell, name: str, reference: str, planted: float | None) -> Worth:
    arms = family(study.sources, name)
    found = None
    if cell.has(*arms, reference):
        accuracy = jdt.analyses.resample(cell.of(*arms, reference), resamples=RESAMPLES)
        sizes = [count_of(study.sources, arm) for arm in arms]
        found = jdt.analyses.data_equivalence(
            sizes, accuracy[: len(arms)], accuracy[len(arms)], count_of(study.sources, reference)
        )
    return Worth(name, reference, cell.target, cell.shots, cell.method, cell.rule, arms, planted, found)
