"""Studies of pre-training data in words: shots, methods, fades of spreads, and what images are worth."""

import math
from collections.abc import Iterable, Sequence

from jdt.report.content import Figure
from jdt.report.parts import between, ends
from jdt.report.pretraining_content import (
    ALL,
    Pretraining,
    PretrainingReference,
    PretrainingSize,
    PretrainingSpread,
    Shots,
)
from jdt.report.requirements import bar_summary
from jdt.report.words import NBSP, NOT_MEASURED, clean, decimal, figure_number, percent

MOST_SENTENCES = 2
"""Of each kind, at the head of the page."""
_METHODS = {"supervised": "supervised", "simclr": "SimCLR", "clip": "CLIP"}
_TRANSFERS = {
    "LP": "linear probe",
    "FT": "fine-tuning",
    "LP-FT": "probe, then fine-tuning",
    "prototype": "class means",
    "zero-shot": "no training",
}
_NO_INTERVAL = "No interval: one run."
_NO_INTERVALS = "No intervals: one run a number."


def shots_words(shots: Shots) -> str:
    """Shots in words, e.g. "5 shots"."""
    return "full data" if shots is ALL else f"{shots:,} shot{'' if shots == 1 else 's'}"


def method_words(method: str) -> str:
    """What a method is called."""
    return _METHODS.get(method, clean(method))


def setting_words(method: str, transfer: str) -> str:
    """A method and a transfer, e.g. "SimCLR, LP"; what is empty is left out."""
    return ", ".join([method_words(method)] * bool(method) + [clean(transfer)] * bool(transfer)) or "all models"


def transfer_note(transfers: Iterable[str]) -> str:
    """What the short names of transfers mean, in a sentence; empty where they say it."""
    known = [f"{name}: {_TRANSFERS[name]}" for name in dict.fromkeys(transfers) if name in _TRANSFERS]
    return f"{'; '.join(known)}." if known else ""


def runs_sentence(figures: Iterable[Figure]) -> str:
    """How many runs figures rest on, with a space after it; empty where they are single ones."""
    counts = {figure.n for figure in figures if math.isfinite(ends(figure)[0])} or {0}
    low, high = min(counts), max(counts)
    if high <= 1:
        return ""
    return f"A number is of {f'{low:,}' if low == high else f'{low:,} to {high:,}'} runs. "


def interval_sentence(figures: Iterable[Figure], drawn: str = "") -> str:
    """What intervals there are, and by what they are drawn ("Bands", "Whiskers")."""
    known = [figure for figure in figures if math.isfinite(ends(figure)[0])]
    if not known:
        return ""
    sure = sum(has_interval(figure) for figure in known)
    if not sure:
        several = any(figure.n > 1 for figure in known)
        return "No intervals." if several else _NO_INTERVAL if len(known) == 1 else _NO_INTERVALS
    words = f"{drawn}: 95{NBSP}% intervals" if drawn else f"With 95{NBSP}% intervals"
    return f"{words}{'' if sure == len(known) else ' where there is more than one run'}."


def has_interval(figure: Figure) -> bool:
    """Whether both ends are known; they may be infinite."""
    return not any(map(math.isnan, ends(figure)[1:]))


def spread_sentence(one: PretrainingSpread) -> str:
    """How far sources are apart at few shots and with all images; empty where neither is known."""
    known = {shots: figure for shots, figure in one.spread.items() if math.isfinite(ends(figure)[0])}
    if not known:
        return ""
    few = [shots for shots in known if shots is not ALL]
    chosen = [max(few, key=lambda shots: known[shots].value)] * bool(few) + [ALL] * (ALL in known)
    pairs = {shots: _pair(one, shots) for shots in chosen}
    parts = [
        f"{spread_words(known[shots])} {'with' if shots is ALL else 'at'} {shots_words(shots)}{pairs[shots]}"
        for shots in chosen
    ]
    words = f"{clean(one.target)} ({setting_words(one.method, one.transfer)}): sources are apart by "
    return f"{words}{' and '.join(parts)}{fade_clause(one)}."


def spread_words(figure: Figure) -> str:
    """A spread, which has no sign, with its interval, e.g. "12.6 pp (11.0 to 14.1)"."""
    value, low, high = ends(figure)
    interval = between(low, high)
    return f"{decimal(100 * value, 1)}{NBSP}pp{f' ({interval})' if interval else ''}"


def _pair(one: PretrainingSpread, shots: Shots) -> str:
    best, worst = one.best.get(shots), one.worst.get(shots)
    return f" ({clean(best)} before {clean(worst)})" if best and worst else ""


def fade_clause(one: PretrainingSpread) -> str:
    """What is left of the spread, as the end of a sentence; empty where nobody asked."""
    if one.left is None or not math.isfinite(ends(one.left)[0]):
        return ""
    return f"; {left_words(one.left)}{faded_words(one.faded)}"


def left_words(left: Figure) -> str:
    """E.g. "17 % (9 to 30) of the few-shot spread is left with full data"."""
    value, low, high = ends(left)
    interval = "" if not has_interval(left) else f" ({decimal(100 * low, 0)} to {decimal(100 * high, 0)})"
    return f"{percent(value, 0)}{interval} of the few-shot spread is left with full data"


def faded_words(faded: Figure | None) -> str:
    """What the interval of the fade says; empty where there is none."""
    if faded is None or not math.isfinite(ends(faded)[0]):
        return ""
    value, low, high = ends(faded)
    words = f" (a fade of {decimal(100 * value, 1, signed=True)}{NBSP}pp"
    if interval := between(low, high, signed=True):
        words += f", {interval}: {'beyond noise' if low > 0 else 'not told from none' if high >= 0 else 'it grows'}"
    return words + ")"


def images_words(images: float) -> str:
    """A number of images, short: "950", "12.5k", "2.7M", "2B"."""
    if not math.isfinite(images):
        return NOT_MEASURED
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(images) >= 0.9995 * size:
            return f"{images / size:.3g}{unit}"
    return f"{images:.3g}"


def needed_words(one: PretrainingReference, sizes: Sequence[int]) -> str:
    """How many images are as good as a reference: "3.1k", "> 10k" (all are too few), "≤ 500" (any are enough)."""
    if one.needed is None or math.isnan(one.needed.value):
        return NOT_MEASURED
    if math.isinf(one.needed.value):
        return f"> {images_words(sizes[-1])}"
    return f"{'≤ ' if one.needed.value <= sizes[0] else ''}{images_words(one.needed.value)}"


def needed_interval(one: PretrainingReference, sizes: Sequence[int]) -> str:
    """The interval of the same, e.g. "2.2k to > 10k"; empty where there is none."""
    if one.needed is None or not has_interval(one.needed):
        return ""
    low, high = (f"> {images_words(sizes[-1])}" if math.isinf(end) else images_words(end)
                 for end in ends(one.needed)[1:])  # fmt: skip
    return low if low == high and low.startswith(">") else f"{low} to {high}"


def ratio_words(one: PretrainingReference, sizes: Sequence[int]) -> str:
    """How many images of the curve's source are worth one of the reference, e.g. "2.1 (1.4 to 3.3)"."""
    if one.ratio is None or math.isnan(one.ratio.value):
        return NOT_MEASURED
    most = f"> {factor_words(sizes[-1] / one.images)}" if one.images else "> all"

    def word(value: float) -> str:
        return most if math.isinf(value) else factor_words(value)

    words = word(one.ratio.value)
    if one.needed and one.needed.value <= sizes[0]:
        words = f"≤ {words}"
    if has_interval(one.ratio):
        low, high = map(word, ends(one.ratio)[1:])
        words += "" if low == high == most else f" ({low} to {high})"
    return words


def factor_words(value: float) -> str:
    """A ratio with two digits or more, e.g. "0.72", "3.0", "1,600"."""
    return decimal(value, 2) if value < 1 else decimal(value, 1) if value < 10 else figure_number(round(value))


def size_sentence(one: PretrainingSize, reference: PretrainingReference) -> str:
    """What images of one source are worth in those of another, in a sentence; empty where that was not asked."""
    if reference.needed is None or math.isnan(reference.needed.value):
        return ""
    interval = needed_interval(reference, one.sizes)
    words = (
        f"{clean(one.target)} ({setting_words(one.method, one.transfer)}, {shots_words(one.shots)}): "
        f"{images_words(reference.images)} images of {clean(reference.name)} are worth "
        f"{needed_words(reference, one.sizes)}{f' ({interval})' if interval else ''} of {clean(one.source)}"
    )
    if math.isinf(reference.needed.value):
        return f"{words}: the curve does not reach them."
    ratio = reference.ratio
    return f"{words}{f', a ratio of {ratio_words(reference, one.sizes)}' if ratio else ''}."


def study_summary(found: Pretraining) -> list[str]:
    """What was found, for the head of the page: requirements, then spreads and what images are worth."""
    spreads = [*filter(None, map(spread_sentence, found.spreads))]
    worth = [*filter(None, (size_sentence(one, by) for one in (*found.sizes, *found.label_worth)
                            for by in one.references))]  # fmt: skip
    return [*bar_summary(found.bars), *_some(spreads), *_some(worth)]


def _some(sentences: Sequence[str]) -> list[str]:
    if len(sentences) <= MOST_SENTENCES:
        return [*sentences]
    rest = len(sentences) - MOST_SENTENCES
    more = f"{rest} more {'is' if rest == 1 else 'are'} below."
    return [*sentences[: MOST_SENTENCES - 1], f"{sentences[MOST_SENTENCES - 1]} ({more})"]
