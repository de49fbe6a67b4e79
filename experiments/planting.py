"""Truth that an experiment plants in its source (`--plant`), and whether the influences of the run find it again.

The bars are those of section 6 of the specification of arXiv 2207.05739 (A5 to A7). They are not to be tuned: where one
is missed, more models or other models are what is to be changed.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

import jdt

LEAK_FIRST, LEAK_CONTROL = 0.8, 0.05
"""Leaked copies that must rank first for the test image that they copy, and that may in a control."""
MISLEADING_EXTREME, MISLEADING_SHARE = 0.7, 0.01
"""Misleading copies that must be among the so many most harmful units for the test image that they copy."""
HARMFUL_SHARE = 0.05
"""A harmful unit must be among the so many most harmful ones for the whole task."""
FORMS = "leak:COUNT, misleading:COUNT, mislabelled:UNIT, mislabelled:SHARE:UNIT, harmful:UNIT"
PLANTED_FILE = "planted.json"


def read_fits(
    path: pathlib.Path | None, source: jdt.data.Dataset, target: jdt.data.Dataset
) -> dict[str, tuple[str, ...]]:
    """Which source classes fit each target class: from a JSON file, by default those of the same name.

    Raises:
      UserError: If the file cannot be read or has another form.
    """
    if path is None:
        return {name: (name,) for name in target.class_names if name in source.class_names}
    try:
        fits = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise jdt.UserError(f"cannot read --plant-fits {str(path)!r}: {error}.") from error
    if not isinstance(fits, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in fits.values()
    ):
        raise jdt.UserError(
            f"--plant-fits {str(path)!r} must map each target class to a list of source classes that mean the same, "
            'like {"dog": ["beagle"]}.'
        )
    return {target_class: tuple(names) for target_class, names in fits.items()}


def plant(
    orders: Sequence[str],
    source: jdt.data.Dataset,
    units: jdt.masks.Units,
    target: jdt.pipeline.TargetData,
    *,
    fits: pathlib.Path | None,
    changes: Sequence[jdt.plant.Change],
    is_control: bool,
    seed: int,
) -> tuple[jdt.data.Dataset, tuple[jdt.plant.Planted, ...]]:
    """Plant what was ordered, one after the other; units are those of the source as it was.

    Raises:
      UserError: If an order has none of the known forms, or cannot be carried out.
    """
    whole = target.whole or target  # A variant has fewer training images.
    data, done = source, []
    for order in orders:
        kind, _, rest = order.partition(":")
        common = {"seed": seed, "is_control": is_control, "beside": tuple(done)}
        if kind in ("leak", "misleading"):
            make = jdt.plant.leaked_copies if kind == "leak" else jdt.plant.misleading_copies
            count = int(_number(order, rest))
            fitting = read_fits(fits, source, whole.test)
            allowed = units.of_example != jdt.masks.OUTSIDE
            data, planted = make(data, whole.test, count, fits=fitting, changes=changes, allowed=allowed, **common)
            if len(units) < int(allowed.sum()):
                raise jdt.UserError(
                    f"--plant {order} is looked for among single images, but units are larger: pass --units examples "
                    "(experiments.example_influence)."
                )
        elif kind == "mislabelled" and rest:
            share, separator, unit = rest.partition(":")
            part, unit = (_number(order, share), unit) if separator else (1.0, rest)
            data, planted = jdt.plant.mislabelled_unit(data, units, unit, part, **common)
        elif kind == "harmful" and rest:
            data, planted = jdt.plant.harmful_unit(data, whole.train, units, rest, **common)
        else:
            raise jdt.UserError(f"--plant has {order!r}, but must be one of {FORMS}.")
        done.append(planted)
    return data, tuple(done)


def truth_of(planted: Sequence[jdt.plant.Planted], units: jdt.masks.Units) -> jdt.pipeline.Truth | None:
    """What the page looks for: units that were planted to harm are below all others; None where there are none."""
    bad = {one.unit for one in planted if one.kind in ("harmful", "mislabelled") and not one.is_control}
    if not bad:
        return None
    return jdt.pipeline.Truth(
        question=f"is what was planted to harm ({', '.join(sorted(bad))}) below the other source units?",
        kinds=tuple("planted" if name in bad else "others" for name in units.names),
        helpful="others",
        useless="planted",
    )


def save(run: jdt.store.Place, planted: Sequence[jdt.plant.Planted]) -> None:
    """Write into a run what was planted in its source, so that anyone can score its influences."""
    jdt.store.write_json(run / PLANTED_FILE, {"planted": [one.to_plain() for one in planted]})


@dataclasses.dataclass(frozen=True)
class Found:
    """Whether one estimator found one kind of planted truth.

    Attributes:
      name: In the summary: target, mode, estimator and kind.
      figures: What was measured, by name.
      words: For the terminal: the figure, the bar, and whether it was reached.
    """

    name: str
    figures: dict[str, jdt.report.Figure]
    words: str


def find(
    run: jdt.store.Run,
    task: jdt.pipeline.Task,
    output: str,
    estimators: Sequence[jdt.estimators.Estimator],
) -> list[Found]:
    """Score the saved influences of a run by what was planted in its source."""
    found = []
    for one in task.planted:
        for target in task.targets:
            if one.kind in ("leak", "misleading") and (target.whole or target).test.name != one.target_name:
                continue
            for mode in task.modes:
                for estimator in estimators:
                    level = "example" if one.kind in ("leak", "misleading") else "task"
                    influences = jdt.load_influences(
                        run.path, target=target.name, mode=mode, output=output, estimator=estimator.name, level=level
                    )
                    score = _pairs if level == "example" else _unit
                    name = f"{target.name}/{mode}/{estimator.name}/planted/{one.kind}"
                    found.append(score(name, one, task.units, influences))
    return found


def _pairs(name: str, planted: jdt.plant.Planted, units: jdt.masks.Units, influences: jdt.Influences) -> Found:
    seek_harm = planted.kind == "misleading"
    of_unit = units.of_example[list(planted.source)]
    scored = jdt.evaluate.detect_pairs(
        influences.influence,
        of_unit,
        np.array(planted.target),
        seek_harm=seek_harm,
        extreme_share=MISLEADING_SHARE,
    )
    end, control = ("bottom" if seek_harm else "top"), (", control" if planted.is_control else "")
    what = f"{'misleading' if seek_harm else 'leaked'} copies{control}"
    first = _share(scored.first, f"{what}, whose influence on their target image is the {end} one of all units")
    extreme = _share(scored.extreme, f"{what}, among the {end} {MISLEADING_SHARE:.0%} of units for their target image")
    ranks = jdt.report.Figure(
        float(np.median(scored.ranks)), None, None, len(scored.ranks), "rank",
        f"median rank of {what} among {scored.num_units} units, from the {end}",
    )  # fmt: skip
    z = influences.z
    strength = {}
    if z is not None:
        own = z[of_unit, np.array(planted.target)]
        # No interval: these images share their models.
        mean, text = float(own.mean()), f"mean z of {what}; its square grows with the models"
        strength["z"] = jdt.report.Figure(mean, None, None, len(own), "z", text)
    if planted.is_control:
        judged, bar, reached = first, f"at most {LEAK_CONTROL:.0%}", first.value <= LEAK_CONTROL
        judged, reached = (extreme, extreme.value <= LEAK_CONTROL) if seek_harm else (first, reached)
    elif seek_harm:
        judged, bar, reached = extreme, f"at least {MISLEADING_EXTREME:.0%}", extreme.value >= MISLEADING_EXTREME
    else:
        judged, bar, reached = first, f"at least {LEAK_FIRST:.0%}", first.value >= LEAK_FIRST
    words = f"{name}: {judged.value:.0%} ({judged.low:.0%} to {judged.high:.0%}) of {judged.text}; bar: {bar}, "
    figures = {"first": first, "extreme": extreme, "median_rank": ranks, **strength}
    return Found(name, figures, words + ("reached." if reached else "NOT reached."))


def _unit(name: str, planted: jdt.plant.Planted, units: jdt.masks.Units, influences: jdt.Influences) -> Found:
    number = units.names.index(planted.unit)
    scored = jdt.evaluate.detect_harmful_unit(
        np.asarray(influences.influence)[:, 0], number, extreme_share=HARMFUL_SHARE
    )
    control = ", control" if planted.is_control else ""
    text = f"rank of {planted.unit} ({planted.kind}{control}) among {scored.num_units} units, 1 is the most harmful"
    figures = {"rank": jdt.report.Figure(scored.rank, None, None, influences.num_models, "rank", text)}
    if influences.z is not None:
        figures["z"] = jdt.report.Figure(
            float(influences.z[number, 0]), None, None, influences.num_models, "z",
            f"z of the influence of {planted.unit} ({planted.kind}{control}) on the whole task",
        )  # fmt: skip
    reached = scored.is_extreme != planted.is_control
    bar = f"{'not ' if planted.is_control else ''}in the bottom {HARMFUL_SHARE:.0%}"
    words = f"{name}: {text}: {scored.rank}; bar: {bar}, {'reached' if reached else 'NOT reached'}."
    return Found(name, figures, words)


def _share(share: jdt.evaluate.Share, text: str) -> jdt.report.Figure:
    return jdt.report.Figure(share.value, share.low, share.high, share.of, "share", text)


def _number(order: str, text: str) -> float:
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise jdt.UserError(f"--plant has {order!r}, but must be one of {FORMS}.") from error
