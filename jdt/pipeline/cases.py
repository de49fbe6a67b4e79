"""Questions put to the influences of a run, answered as the cases and suspects that a report shows."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jdt import checks, store
from jdt.analyses import (
    Effects,
    Failures,
    Mending,
    Mistakes,
    Subpopulation,
    failures,
    mistakes,
    moved,
    movers,
    natural_matches,
    q_values_of,
    subpopulations,
)
from jdt.estimators import Influences
from jdt.masks import OUTSIDE
from jdt.pipeline.evidence import MOST_IN_MEMORY, Evidence
from jdt.pipeline.gallery import NO_IMAGES, Gallery
from jdt.report.content import Case, Figure, Mover
from jdt.types import Float, Int, UInt8

_IMAGES_OF_A_UNIT = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Inspector:
    """Answers questions about one target of a run.

    Attributes:
      evidence: Influences to ask.
      gallery: Images, where the run's data are at hand.
      count: How many movers a case shows each way.
      level: False discovery rate from which on something is beyond noise.
    """

    evidence: Evidence
    gallery: Gallery | None = None
    count: int = 6
    level: float = 0.05

    @property
    def run(self) -> store.Run:
        """The run that holds the target."""
        return self.evidence.run

    @functools.cached_property
    def labels(self) -> Int[np.ndarray, " examples"]:
        """True class of every target image; -1 where it is not known."""
        return self.run.target(self.evidence.target).labels

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the target's classes; empty where nobody gave them."""
        return self.run.target(self.evidence.target).class_names

    @functools.cached_property
    def are_examples(self) -> bool:
        """Whether units are single source images."""
        return self.run.config.get("units") == "examples" or (
            self.gallery is not None and len(self.gallery.units) == len(self.gallery.source_labels)
        )

    @functools.cached_property
    def mistakes(self) -> Mistakes | None:
        """What models make of each image, read a part of the images at a time; None where the run does not hold it."""
        target, mode, run = self.evidence.target, self.evidence.mode, self.run
        if "prediction" not in run.layout.example_outputs or not self.class_names or not len(run.complete):
            return None
        tile = max(1, MOST_IN_MEMORY // max(len(run.complete), len(self.class_names)))
        parts = [
            mistakes(
                run.outputs(target, mode, "prediction", examples=slice(start, start + tile)),
                self.labels[start : start + tile],
                len(self.class_names),
            )
            for start in range(0, len(self.labels), tile)
        ]
        return Mistakes(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    # Names and images.

    def unit_title(self, unit: int) -> str:
        """A source unit's name; of a source image its number and class."""
        name = self.run.unit_names[unit]
        if not self.are_examples:
            return name
        if self.gallery is None:
            return f"source image {name}"
        label = self.gallery.source_labels[self.source_of_unit[unit]]
        return f"source image {name} ({self.gallery.source_classes[label]})"

    def example_title(self, example: int) -> str:
        """A test image's number and class."""
        return f"test image {example}" + (f" ({name})" if (name := self._class_of(example)) else "")

    def taken_words(self, example: int) -> str:
        """What models take a test image for, if any is wrong."""
        if self.mistakes is None or not self.mistakes.wrong[example] > 0:
            return ""
        taken = self.class_names[self.mistakes.taken_for[example]]
        return f"taken for {taken} by {self.mistakes.taken[example]:.0%} of the models"

    def _class_of(self, example: int) -> str:
        label = int(self.labels[example])
        return self.class_names[label] if label >= 0 and self.class_names else ""

    @functools.cached_property
    def source_of_unit(self) -> Int[np.ndarray, " units"]:
        """Number of the source image that each unit is."""
        assert self.gallery is not None
        of_example = self.gallery.units.of_example
        found = np.zeros(len(self.gallery.units), np.int64)
        inside = np.flatnonzero(of_example != OUTSIDE)
        found[of_example[inside]] = inside
        return found

    def unit_images(
        self, unit: int, count: int = _IMAGES_OF_A_UNIT
    ) -> UInt8[np.ndarray, "count height width channels"]:
        """A few images of a source unit."""
        return NO_IMAGES if self.gallery is None else self.gallery.of_unit(unit, count)

    def example_images(self, examples: Sequence[int]) -> UInt8[np.ndarray, "count height width channels"]:
        """Test images."""
        images = None if self.gallery is None else self.gallery.targets.get(self.evidence.target)
        if images is None or not len(examples):
            return NO_IMAGES
        return np.stack([np.asarray(images[int(i)]) for i in examples])

    def unit_number(self, name: str) -> int:
        """Row of the unit of a name.

        Raises:
          UserError: If there is none; the nearest names are in the message.
        """
        names = self.run.unit_names
        if name not in names:
            raise checks.UserError(
                f"the run has no source unit {name!r}; nearest of {len(names):,}: "
                f"{checks.nearest(name, names[:20_000])}."
            )
        return names.index(name)

    def _units_as_movers(self, effects: Effects) -> tuple[Mover, ...]:
        return tuple(
            _mover(effects, i, self.unit_title(int(unit)), self.unit_images(int(unit)), self._noise_words(effects, i))
            for i, unit in enumerate(effects.units)
        )

    def _examples_as_movers(self, effects: Effects) -> tuple[Mover, ...]:
        return tuple(
            _mover(
                effects, i, self.example_title(int(example)), self.example_images([int(example)]),
                "; ".join(filter(None, (self.taken_words(int(example)), self._noise_words(effects, i)))),
            )
            for i, example in enumerate(effects.targets)
        )  # fmt: skip

    def _noise_words(self, effects: Effects, place: int) -> str:
        if effects.q is None or not np.isfinite(effects.q[place]):
            return ""
        q = float(effects.q[place])
        return f"q {q:.1g}" if q < self.level else f"within noise (q {q:.2g})"

    # Questions.

    def of_class(self, name: str) -> Case:
        """The source units that move a target class most, both ways.

        Raises:
          UserError: If there is no such class, or it has no test image.
        """
        checks.require_known("target class", name, self.class_names)
        members = np.flatnonzero(self.labels == self.class_names.index(name))
        if not len(members):
            raise checks.UserError(
                f"target class {name!r} has no test image, so nothing has an influence on it: choose another class."
            )
        classes = self.evidence.level("class")
        helps, harms = movers(classes, classes.target_names.index(name), self.count, q=q_values_of(classes))
        shown = members[np.unique(np.linspace(0, len(members) - 1, min(self.count, len(members))).astype(int))]
        return Case(
            kind="class",
            title=f"target class {name}",
            text=f"{_what(self.are_examples)} that move the mean {_of(self.evidence.output)} of the {len(members):,} "
            f"test images of {name} most. {self._level_words(classes)}",
            images=self.example_images(shown.tolist()),
            helps=self._units_as_movers(helps),
            harms=self._units_as_movers(harms),
            output=self.evidence.output,
        )

    def of_example(self, example: int) -> Case:
        """The source units that move a test image most, both ways.

        Raises:
          UserError: If there is no such image.
        """
        self._require_example(example)
        found = self.evidence.examples(only=np.array([example]))
        helps, harms = movers(found, 0, self.count, q=q_values_of(found))
        words = self.taken_words(example)
        return Case(
            kind="example",
            title=self.example_title(example) + (f", {words}" if words else ""),
            text=f"{_what(self.are_examples)} that move the {_of(self.evidence.output)} of this image most. "
            f"{self._level_words(found)}",
            images=self.example_images([example]),
            helps=self._units_as_movers(helps),
            harms=self._units_as_movers(harms),
            output=self.evidence.output,
        )

    def of_unit(self, unit: int) -> Case:
        """The test images that a source unit moves most, both ways."""
        found = self.evidence.examples(units=np.array([unit]))
        q = q_values_of(found)
        helps, harms = moved(found, 0, self.count, q=q)
        text = f"Test images whose {_of(self.evidence.output)} including this {self._unit_word} moves most."
        if self.class_names:
            classes = self.evidence.level("class", units=np.array([unit]))
            order = np.argsort(-classes.influence[0], kind="stable")
            text += f" Of the classes it helps {classes.target_names[order[0]]} most and harms "
            text += f"{classes.target_names[order[-1]]} most." if classes.influence[0].min() < 0 else "none."
        figures = {}
        if q is not None:
            beyond = int((q < self.level).sum())
            figures["beyond noise"] = self.count_figure(
                beyond, f"of {q.size:,} test images that it moves beyond noise (q < {self.level})", "images"
            )
        return Case(
            kind="unit",
            title=self.unit_title(unit),
            text=f"{text} {self._level_words(found)}",
            images=self.unit_images(unit, self.count),
            helps=self._examples_as_movers(helps),
            harms=self._examples_as_movers(harms),
            output=self.evidence.output,
            figures=figures,
        )

    def subpopulations(self, count: int, units: Sequence[int] | None = None) -> tuple[Case, ...]:
        """Test images that a source unit drives although their label is not its natural match, the strongest groups.

        Args:
          count: How many groups at most; of one unit two at most, so that one unit does not fill them all.
          units: Of these units; all of them when None.

        Raises:
          UserError: If classes are not known, or influences of all units are too many to be read together.
        """
        if not self.class_names:
            raise checks.UserError("labels of the target are not known, and subpopulations are told apart by labels.")
        if units is None and not self.evidence.fits_in_memory:
            raise checks.UserError(
                f"influences of {self.evidence.num_units:,} units on {self.evidence.num_examples:,} images are too "
                "many to be read together: name some units."
            )
        rows = np.arange(self.evidence.num_units) if units is None else np.array(units)
        classes = self.evidence.level("class", units=rows)
        matches = natural_matches(classes, self._labels_of(classes))
        found = self.evidence.examples(units=rows)
        groups, kept = subpopulations(found, self.labels, matches, level=self.level, least=3), []
        for group in groups:
            if len(kept) < count and sum(group.unit == other.unit for other in kept) < 2:
                kept.append(group)
        return tuple(self._subpopulation(group, int(rows[group.unit])) for group in kept)

    def _labels_of(self, classes: Influences) -> Int[np.ndarray, " classes"]:
        return np.array([self.class_names.index(name) for name in classes.target_names])

    def _subpopulation(self, group: Subpopulation, unit: int) -> Case:
        label, match = self.class_names[group.label], self.class_names[group.match]
        members = len(group.effects)
        beyond = "that it drives beyond noise" if group.effects.q is not None else "that it helps"
        return Case(
            kind="subpopulation",
            title=f"{self.unit_title(unit)} → {label}",
            text=f"{self.unit_title(unit)} helps {match} most, but {members} of the {group.size} test images labelled "
            f"{label} are among those {beyond}: look at what they have in common.",
            images=self.unit_images(unit, self.count),
            helps=self._examples_as_movers(group.effects.take(np.arange(min(members, 2 * self.count)))),
            harms=(),
            output=self.evidence.output,
            figures={"images": self.count_figure(members, f"of {group.size} test images labelled {label}", "images")},
        )

    def failures(self, count: int) -> Failures:
        """Test images that most models get wrong, those with the most harmful units; few of one unit and class.

        Raises:
          UserError: If the run holds no predictions.
        """
        if self.mistakes is None:
            raise checks.UserError(f"{self.run.path} holds no predictions with known classes: there are no failures.")
        failing = np.flatnonzero(self.mistakes.wrong > 0.5)
        some = Mistakes(*(values[failing] for values in self.mistakes))
        tile = max(1, MOST_IN_MEMORY // self.evidence.num_units)
        if len(failing) > tile:  # Those that most models get wrong.
            worst = np.sort(np.argsort(-some.wrong, kind="stable")[:tile])
            failing, some = failing[worst], Mistakes(*(values[worst] for values in some))
        if not len(failing):
            return failures(some, self.labels[failing], self.evidence.examples(only=failing))
        found = failures(some, self.labels[failing], self.evidence.examples(only=failing))
        blamed = dataclasses.replace(found.blamed, targets=failing[found.blamed.targets])
        found = dataclasses.replace(found, blamed=blamed)
        # Beyond noise first.
        order = range(len(found))
        if blamed.q is not None:
            order = np.argsort(blamed.q >= self.level, kind="stable").tolist()
        kept: list[int] = []
        for place in order:
            like = [k for k in kept if (blamed.units[k], found.labels[k]) == (blamed.units[place], found.labels[place])]
            if len(kept) < count and len(like) < max(1, count // 3):
                kept.append(place)
        return found.take(np.array(kept, np.int64))

    def failure_cases(self, found: Failures, mendings: Sequence[Mending] = ()) -> tuple[Case, ...]:
        """Failures as cases; with what retraining without the unit to blame changed, where it was done."""
        cases = []
        retrained = {(one.example, one.unit): one for one in mendings}
        for place, (example, unit) in enumerate(zip(found.blamed.targets, found.blamed.units, strict=True)):
            case = self.of_example(int(example))
            one = found.take(np.array([place]))
            name = self.unit_title(int(unit))
            taken = self.class_names[one.taken_for[0]]
            output, blamed = self.evidence.output, one.blamed
            blame = f"{_number(float(blamed.influence[0]), output)}{_interval_words(blamed, output)}"
            text = (
                f"{one.wrong[0]:.0%} of the models are wrong. To blame: {name}, {blame}{_q_words(blamed, self.level)}. "
                f"Without it the datamodel expects a {_of(output)} of {_plain(float(one.without[0]), output)} "
                f"instead of {_plain(float(one.expected[0]), output)}."
            )
            mending = retrained.get((int(example), int(unit)))
            cases.append(
                dataclasses.replace(
                    case,
                    kind="failure",
                    title=f"{self.example_title(int(example))}, taken for {taken} by {one.taken[0]:.0%} of the models",
                    text=text if mending is None else f"{text} {self._mending_words(mending, name)}",
                    figures={} if mending is None else _mending_figures(mending),
                )
            )
        return tuple(cases)

    def _mending_words(self, mending: Mending, name: str) -> str:
        return (
            f"Retrained without {name}, {mending.seeds} seeds: confidence {_change_words(mending.confidence)}, "
            f"accuracy on its class {_change_words(mending.accuracy)}; {mending.right[1]:.0%} of the models get it "
            f"right, {mending.right[0]:.0%} with the whole source."
        )

    def count_figure(self, value: int, text: str, unit: str) -> Figure:
        """A number of something as a key figure."""
        return Figure(float(value), None, None, self.evidence.num_models, unit, text)

    def _require_example(self, example: int) -> None:
        if not 0 <= example < self.evidence.num_examples:
            raise checks.UserError(
                f"test image {example} is asked for, but {self.evidence.target} has {self.evidence.num_examples:,}, "
                f"numbered from 0 to {self.evidence.num_examples - 1}."
            )

    @property
    def _unit_word(self) -> str:
        return "source image" if self.are_examples else "source unit"

    def _level_words(self, influences: Influences) -> str:
        beyond = (
            f"q below {self.level:g} is beyond noise."
            if influences.z is not None
            else f"The estimator {influences.estimator} gives no intervals."
        )
        return f"From {self.evidence.num_models:,} models. {beyond}"


def _mover(effects: Effects, place: int, name: str, images: np.ndarray, note: str) -> Mover:
    return Mover(
        name, images, float(effects.influence[place]), entry(effects.low, place), entry(effects.high, place),
        entry(effects.z, place), note,
    )  # fmt: skip


def entry(values: Float[np.ndarray, " picked"] | None, place: int) -> float | None:
    """One of some values; None where there are none, or it is not known."""
    return None if values is None or not np.isfinite(values[place]) else float(values[place])


def _what(are_examples: bool) -> str:
    return "Source images" if are_examples else "Source units"


def _of(output: str) -> str:
    return {"confidence": "confidence in the true class"}.get(output, output)


def _number(value: float, output: str) -> str:
    return f"{100 * value:+.2f} pp" if output == "confidence" else f"{value:+.3f}"


def _plain(value: float, output: str) -> str:
    return f"{value:.1%}" if output == "confidence" else f"{value:.3f}"


def _interval_words(effects: Effects, output: str) -> str:
    low, high = entry(effects.low, 0), entry(effects.high, 0)
    return "" if low is None or high is None else f" (95 % {_number(low, output)} to {_number(high, output)})"


def _q_words(effects: Effects, level: float) -> str:
    if effects.q is None:
        return ""
    q = float(effects.q[0])
    return f", q {q:.1g} among all failures" if q < level else f", within noise among all failures (q {q:.2g})"


def _change_words(change: tuple[float, float, float]) -> str:
    return "{:+.1f} pp ({:+.1f} to {:+.1f})".format(*(100 * value for value in change))


def _mending_figures(mending: Mending) -> dict[str, Figure]:
    texts = {
        "confidence": "change of confidence in the true class without the unit to blame, paired by seed",
        "accuracy": "change of accuracy on the image's class without the unit to blame, paired by seed",
    }
    changes = {"confidence": mending.confidence, "accuracy": mending.accuracy}
    return {
        name: Figure(one.value, one.low, one.high, mending.seeds, "change", texts[name])
        for name, one in changes.items()
    }
