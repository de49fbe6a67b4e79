"""Names and numbers in the words of the report: units, digits, intervals, and names made fit for a label."""

import dataclasses
import math
import unicodedata

import numpy as np

from jdt.types import Float

UNKNOWN = "unknown"

NOT_MEASURED = "not measured"

ABSENT = "\N{EN DASH}"  # Of an estimator that gives no such number.

MINUS = "\N{MINUS SIGN}"

NBSP = "\N{NO-BREAK SPACE}"  # Between a number and its unit, so that no line ends between them.

MODES = {
    "fixed": "fixed-feature transfer",
    "full": "full-network transfer",
    "scratch": "training from scratch",
    "untrained": "untrained features",
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How the influences of one target are written.

    Attributes:
      factor: From the output's own unit to the one shown, e.g. 100 from probability to percentage points.
      unit: Short, after numbers, e.g. "pp".
      unit_words: Long, on axes, e.g. "percentage points".
      output: What is influenced, e.g. "mean confidence in the true class".
      decimals: Digits after the point, one choice for a whole target so that columns line up.
    """

    factor: float
    unit: str
    unit_words: str
    output: str
    decimals: int = 2

    def number(self, value: float, *, signed: bool = True) -> str:
        """A value in the shown unit, without the unit; "unknown" where it is not finite."""
        return decimal(value * self.factor, self.decimals, signed=signed)

    def effect(self, value: float) -> str:
        """A value with its unit, e.g. "+1.24 pp"."""
        return f"{self.number(value)}{NBSP}{self.unit}" if math.isfinite(value) else UNKNOWN


_SCALES = {
    "confidence": Scale(100.0, "pp", "percentage points", "mean confidence in the true class"),
    "correct": Scale(100.0, "pp", "percentage points", "accuracy"),
    "margin": Scale(1.0, "logits", "logits", "mean margin"),
    "log_odds": Scale(1.0, "logits", "logits", "mean log-odds of the true class"),
}


def scale_of(output: str, sizes: Float[np.ndarray, "units targets"]) -> Scale:
    r"""The scale for an output, with as many decimals as show two digits of a typical size (of standard errors).

    >>> scale_of("confidence", np.array([[0.0031, np.inf]])).effect(0.01239)
    '+1.24\xa0pp'
    """
    name = clean(output)
    scale = _SCALES.get(output, Scale(1.0, name, name, f"mean {name}"))
    shown = sizes[np.isfinite(sizes) & (sizes > 0)] * scale.factor
    if not shown.size:
        return scale
    return dataclasses.replace(scale, decimals=int(np.clip(1 - math.floor(math.log10(np.median(shown))), 1, 5)))


def sign_sentence(scale: Scale, relative: bool) -> str:
    """What sign and size of an influence mean, in one sentence: it stands wherever such numbers first appear."""
    against = " by that much more than including an average unit does" if relative else ""
    meaning = f"{'raises' if relative else 'raises by that much'} the {scale.output}{against}"
    unit = scale.unit_words if scale.unit == scale.unit_words else f"{scale.unit} = {scale.unit_words}"
    return f"Positive numbers: including the unit {meaning}; negative ones: it lowers it ({unit})."


def decimal(value: float, decimals: int, *, signed: bool = False) -> str:
    """A number with a true minus sign, without a negative zero; "unknown" where it is not finite.

    >>> decimal(-0.001, 2), decimal(-1.5, 1), decimal(1.5, 1, signed=True), decimal(float("inf"), 1)
    ('0.00', '−1.5', '+1.5', 'unknown')
    """
    if not math.isfinite(value):
        return UNKNOWN
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return text.replace("-", MINUS) if value < 0 else f"+{text}" if signed else text


def percent(value: float, decimals: int = 1) -> str:
    """A share as per cent: 0.612 is "61.2 %"."""
    return f"{decimal(value * 100, decimals)}{NBSP}%" if math.isfinite(value) else UNKNOWN


def figure_number(value: float | None) -> str:
    """A key figure of any size with three or four significant digits.

    >>> figure_number(0.94321), figure_number(123456.0), figure_number(4e-7), figure_number(400.0)
    ('0.943', '123,456', '4e−07', '400')
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if (value == int(value) and abs(value) < 1e15) or abs(value) >= 1000:
        text = f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", MINUS)


def figure_interval(low: float | None, high: float | None) -> str:
    """An interval of a key figure, e.g. "0.90 to 0.98"; empty where there is none."""
    if low is None and high is None:
        return ""
    return f"{figure_number(low)} to {figure_number(high)}"


def mode_words(mode: str) -> str:
    """Transfer mode in words."""
    return MODES.get(mode, f"{mode} transfer")


def baseline_words(mode: str) -> str:
    """What transfer must beat, in words: the same transfer of models that never saw the source."""
    return {"fixed": "untrained features", "full": "training from scratch"}.get(mode, "without the source")


def metric_words(name: str) -> str:
    """What a metric of a target is called."""
    return {"auroc": "AUROC", "per_class_accuracy": "mean accuracy of the classes"}.get(name, clean(name))


def capital(text: str) -> str:
    """A sentence's first letter made large."""
    return text[:1].upper() + text[1:]


def clean(name: str) -> str:
    r"""A name without what no label can show: control characters, line breaks and broken Unicode become spaces.

    >>> clean("a\tb\x1b[31m")
    'a b [31m'
    """
    readable = str(name).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Cf" else " " for c in readable).strip() or "?"


def shorten(name: str, width: int = 24) -> str:
    """A name cut in the middle to `width` columns: names that differ only at their end stay different.

    >>> shorten("n02123045_tabby_cat_and_more", 16)
    'n02123045_…_more'
    """
    name = clean(name)
    if _columns(name) <= width:
        return name
    tail = _prefix(name[::-1], (width - 1) // 3)[::-1]
    return f"{_prefix(name, width - 1 - (width - 1) // 3)}…{tail}"


def _columns(name: str) -> int:
    return sum(_width(c) for c in name)


def _width(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _prefix(name: str, width: int) -> str:
    end = used = 0
    while end < len(name) and used + _width(name[end]) <= width:
        used += _width(name[end])
        end += 1
    return name[:end]
