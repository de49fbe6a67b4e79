"""Bias transfer in sentences, written from intervals: whether a bias survives, and whether the control is quiet."""

import math
from collections.abc import Sequence

from jdt.report.bias_content import BiasBar
from jdt.report.bias_plots import CLEAN, SCRATCH
from jdt.report.content import Figure
from jdt.report.parts import between, ends
from jdt.report.words import NBSP, capital, clean, decimal, mode_words

NO_IMAGES = "no images"
GIVEN, TWIN = "given", "twin"
"""Source arms of models that the user brings."""
FEW_VERDICTS = 4
"""Up to so many, the head of the page has them all; beyond, it counts them."""
_SURVIVES, _NOTHING, _WEAKER, _UNSURE, _MISSING = (
    "the bias survives",
    "no transfer is seen",
    "the bias is smaller than with {}",
    "whether the bias survives cannot be said from so few seeds",
    "nothing can be said",
)


def arm_words(arm: str) -> str:
    """What a source arm is, in words."""
    words = {CLEAN: "clean source", SCRATCH: "no source", GIVEN: "given models", TWIN: "their twin"}
    return words.get(arm, f"{clean(arm)} source")


def twin_words(arm: str) -> str:
    """The models that others are compared with, in words that go on after "with" or "to"."""
    words = {SCRATCH: "models from scratch", TWIN: "their twin"}
    return words.get(arm, f"the {clean(arm)} source")


def verdict(figure: Figure, compared_with: str = CLEAN) -> str:
    """What the interval of a difference to the twin says, in a few words."""
    return _verdict(figure).format(twin_words(compared_with))


def _verdict(figure: Figure) -> str:
    value, low, high = ends(figure)
    if not math.isfinite(value):
        return _MISSING
    if not (math.isfinite(low) and math.isfinite(high)):
        return _UNSURE
    return _SURVIVES if low > 0 else _WEAKER if high < 0 else _NOTHING


def points(figure: Figure) -> str:
    """A difference of shares with its interval, e.g. "+43.0 pp (+38.1 to +48.0)"."""
    value, low, high = ends(figure)
    if not math.isfinite(value):
        return NO_IMAGES
    interval = between(low, high, signed=True)
    return f"{decimal(100 * value, 1, signed=True)}{NBSP}pp" + (f" ({interval})" if interval else "")


def comparisons(bars: Sequence[BiasBar]) -> list[tuple[BiasBar, str, Figure | None]]:
    """What there is a verdict about: the first metric of every target, mode and pattern, by biased source arm.

    Returns:
      Bars, each with an arm and the same arm's difference under the control pattern, where there is one.
    """
    found = []
    for bar in _first_bars(bars):
        control = _control_of(bar, bars)
        for arm in biased_arms(bar):
            found.append((bar, arm, control.transfer.get(arm) if control else None))
    return found


def effect_words(bar: BiasBar, figure: Figure) -> str:
    """What a difference to the twin is, e.g. "+43.0 pp (+38.1 to +48.0) of images are pushed to bird"."""
    if not math.isfinite(ends(figure)[0]):
        return "no images are left in the denominator"
    what = f"of images are pushed to {clean(bar.attacked)}" if bar.attacked else f"in {clean(bar.metric)}"
    return f"{points(figure)} {what}"


def control_verdict(figure: Figure) -> str:
    """What the control says: it should contain 0."""
    return f"{points(figure)}{', which should contain 0' if _verdict(figure) in (_SURVIVES, _WEAKER) else ''}"


def bias_summary(bars: Sequence[BiasBar], compared_with: str = CLEAN) -> list[str]:
    """What was found, for the head of the page: every verdict as a sentence, or how many there are of each kind."""
    compared = comparisons(bars)
    if not compared:
        return []
    if len(compared) <= FEW_VERDICTS:
        return [_sentence(bar, arm, control, compared_with) for bar, arm, control in compared]
    found = [(bar, bar.transfer[arm]) for bar, arm, _ in compared]
    counts = {word: sum(_verdict(figure) == word for _, figure in found) for word in
              (_SURVIVES, _NOTHING, _WEAKER, _UNSURE, _MISSING)}  # fmt: skip
    parts = [f"{word.format(twin_words(compared_with))} in {count}" for word, count in counts.items() if count]
    text = f"Of {len(found)} combinations of target, transfer, pattern and source, {'; '.join(parts)}."
    if counts[_SURVIVES]:
        bar, figure = max(found, key=lambda entry: (_verdict(entry[1]) == _SURVIVES, ends(entry[1])[0]))
        text += (
            f" It is strongest on {clean(bar.target)} ({mode_words(bar.mode)}, {clean(bar.pattern)}): {points(figure)} "
            f"in {clean(bar.metric)} against {twin_words(compared_with)}."
        )
    return [text + control_words(bars)]


def control_words(bars: Sequence[BiasBar]) -> str:
    """In how many places the control is quiet; empty where there is none, else with a space before it."""
    figures = [figure for bar in bars if bar.control for arm, figure in bar.transfer.items() if arm != SCRATCH]
    known = [figure for figure in figures if math.isfinite(ends(figure)[1])]
    if not known:
        return ""
    quiet = sum(_verdict(figure) == _NOTHING for figure in known)
    return (
        f" The control, a pattern that no source image has, moves nothing beyond noise in {quiet} of {len(known)} "
        "comparisons."
    )


def biased_arms(bar: BiasBar) -> list[str]:
    """Source arms with a bias that were compared with the twin, that of the bar's own pattern first."""
    arms = [arm for arm in bar.transfer if arm not in (CLEAN, SCRATCH)]
    return sorted(arms, key=lambda arm: arm != bar.pattern)


def _first_bars(bars: Sequence[BiasBar]) -> list[BiasBar]:
    """The first metric of every target, mode and pattern; controls alone only where there is nothing else."""
    real = [bar for bar in bars if not bar.control] or bars
    firsts: dict[tuple[str, str, str], BiasBar] = {}
    for bar in real:
        firsts.setdefault((bar.target, bar.mode, bar.pattern), bar)
    return list(firsts.values())


def _control_of(bar: BiasBar, bars: Sequence[BiasBar]) -> BiasBar | None:
    same = (bar.target, bar.mode, bar.metric)
    found = [one for one in bars if one is not bar and one.control and (one.target, one.mode, one.metric) == same]
    return next(iter(found), None)


def _sentence(bar: BiasBar, arm: str, control: Figure | None, compared_with: str) -> str:
    figure = bar.transfer[arm]
    source = "" if arm == bar.pattern else f" ({arm_words(arm)})"
    text = f"{clean(bar.target)}, {mode_words(bar.mode)}, “{clean(bar.pattern)}”{source}: "
    text += f"{verdict(figure, compared_with)}. {capital(effect_words(bar, figure))}"
    if math.isfinite(ends(figure)[0]):
        text += f" against {twin_words(compared_with)}" + ("" if bar.over == "seeds" else f", interval over {bar.over}")
    return f"{text}{f'; control pattern: {control_verdict(control)}' if control else ''}."
