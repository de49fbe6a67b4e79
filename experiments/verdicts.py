"""Whether a study shows what it must: one verdict for each requirement."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether one requirement was met.

    Attributes:
      name: Of the requirement.
      passed: None where the study does not have what it asks for, or nothing is required.
      words: Figures and the bar.
      exploratory: Whether nothing is required: the figures are told, whatever they are.
    """

    name: str
    passed: bool | None
    words: str
    exploratory: bool = False

    @property
    def result(self) -> str:
        """In a word or two."""
        return "exploratory" if self.exploratory else {True: "reached", False: "MISSED", None: "not asked"}[self.passed]

    def __str__(self) -> str:
        return f"{self.name}: {self.words}: {self.result}."
