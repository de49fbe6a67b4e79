"""Whether a study shows what it must: one verdict for each requirement."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether one requirement was met.

    Attributes:
      name: Of the requirement.
      passed: None where the study does not have what it asks for, or nothing is required.
      words: Figures and the bar.
      exploratory: Whether nothing is required: the figures are told, whatever they are.
      figures: Numbers behind the words, for programs that compute them again.
    """

    name: str
    passed: bool | None
    words: str
    exploratory: bool = False
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def result(self) -> str:
        """In a word or two."""
        return "exploratory" if self.exploratory else {True: "reached", False: "MISSED", None: "not asked"}[self.passed]

    def __str__(self) -> str:
        return f"{self.name}: {self.words}: {self.result}."
