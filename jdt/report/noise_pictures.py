"""The figures of noisy pre-training with what they show in words, under the parts of the section they belong to."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Drawing

from jdt.report.bars import Bar, BarLook, Groups, draw_groups
from jdt.report.content import SHARE, Figure
from jdt.report.figures import Drawn, Picture, picture
from jdt.report.noise_content import ID, OOD, Noise, NoiseAblation, NoiseScatter, NoiseSuspects
from jdt.report.noise_plots import (
    RHO,
    draw_roc,
    draw_scatters,
    draw_spectra,
    rate_looks,
    rate_percent,
    rate_words,
    series_looks,
    tuner_looks,
)
from jdt.report.noise_words import (
    LSVR_WORDS,
    SVE_WORDS,
    in_order,
    role_words,
    stage_words,
    tuner_words,
)
from jdt.report.panels import Axis, Panel, draw_panels, panel_chunks
from jdt.report.parts import correlation_words, ends, seeds_words
from jdt.report.plots import LineLook
from jdt.report.requirements import figure_words
from jdt.report.words import NBSP, NOT_MEASURED, capital, clean, decimal, percent, shorten

ACCURACY, EFFECT, SPECTRA, SCATTERS, ABLATION, FRACTIONS, ROBUSTNESS, ROC, RETRAINING = (
    "accuracy", "effect", "spectra", "scatters", "ablation", "fractions", "robustness", "roc", "retraining"
)  # fmt: skip
"""Parts of the section that have figures."""
_NOISE = "wrong labels in the source (%)"
_SOME = 6  # Panels that alternative texts describe.


@dataclasses.dataclass(frozen=True)
class _Looks:
    tuners: Mapping[str, LineLook]
    names: Mapping[str, str]
    rates: Mapping[float, LineLook]


def noise_pictures(found: Noise) -> Iterator[Drawn]:
    """All figures in their order; call it inside `drawing`."""
    tuners = _tuners(found)
    rates = [*found.rates, *(float(r) for one in (*found.scatters, *found.robustness) for r in np.unique(one.rate))]
    looks = _Looks(tuner_looks(tuners), {tuner: tuner_words(tuner) for tuner in tuners}, rate_looks(rates))
    yield from _accuracies(found, looks)
    yield from _spectra(found, looks)
    yield from _scatters(SCATTERS, found.scatters, looks)
    if ablations := [one for one in found.ablations if any(one.change.values())]:
        yield Drawn(ABLATION, "What each term is worth", _ablation(ablations), "ablation")
    yield from _fractions(found, looks)
    yield from _scatters(ROBUSTNESS, found.robustness, looks)
    if found.suspects:
        yield from _suspects(found.suspects)


def _tuners(found: Noise) -> list[str]:
    """All of them, in the order of the first that name them."""
    names = [tuner for one in found.sets for tuner in (*one.accuracy, *one.effect)]
    names += [one.tuner for one in found.tuning]
    names += [tuner for one in found.fractions for tuner in one.accuracy]
    return list(dict.fromkeys([*names, *(one.tuner for one in found.spectra)]))


def _accuracies(found: Noise, looks: _Looks) -> Iterator[Drawn]:
    rates = tuple(100 * rate for rate in found.rates)
    means = [one for one in found.sets if one.is_mean]
    others = [one for one in found.sets if not one.is_mean]
    for sets, title in (
        (means, "Accuracy against noise"),
        (others, "Accuracy against noise, every set of test images"),
    ):
        panels = [Panel(f"{clean(one.name)} ({one.role})", rates, one.accuracy) for one in sets]
        for more, some in panel_chunks(panels):
            drawn = _panels(
                some, Axis(_NOISE, "accuracy (%)", 100.0), looks, "Accuracy against the share of wrong labels"
            )
            yield Drawn(ACCURACY, title + more, drawn, "accuracy")
    with_effect = [one for one in means or others if one.effect]
    lowest = rate_percent(found.rates[0])
    panels = [
        Panel(f"{clean(one.name)} ({one.role})", rates[1:], {tuner: f[1:] for tuner, f in one.effect.items()})
        for one in with_effect
    ]
    for more, some in panel_chunks(panels) if len(rates) > 1 else ():
        what = f"Accuracy minus that at {lowest} noise, paired by seed"
        drawn = _panels(some, Axis(_NOISE, "change of accuracy (pp)", 100.0, True), looks, what)
        yield Drawn(EFFECT, "What noise changes" + more, drawn, "accuracy")


def _spectra(found: Noise, looks: _Looks) -> Iterator[Drawn]:
    rates = tuple(100 * rate for rate in found.rates)
    names = {tuner: stage_words(tuner) for tuner in looks.names}
    for center in dict.fromkeys(one.center for one in found.spectra):
        these = [one for one in found.spectra if one.center == center]
        sets = list(dict.fromkeys((one.name, one.role) for one in these))
        for measure, words, y_label in (
            ("SVE", SVE_WORDS, "SVE in nats (higher = flatter)"),
            ("LSVR", LSVR_WORDS, "LSVR (higher = less dominated)"),
        ):
            panels = [
                Panel(
                    f"{clean(name)} ({role})",
                    rates,
                    {
                        one.tuner: one.sve if measure == "SVE" else one.lsvr
                        for one in these
                        if (one.name, one.role) == key
                    },
                )
                for key in sets
                for name, role in (key,)
            ]
            for more, some in panel_chunks(panels):
                what = f"{measure} against the share of wrong labels, features centred by {center}"
                drawn = _panels(some, Axis(_NOISE, y_label), dataclasses.replace(looks, names=names), what)
                drawn = dataclasses.replace(drawn, caption=f"{drawn.caption} {words}.")
                yield Drawn(SPECTRA, f"{measure} against noise, centred by {center}{more}", drawn, "spectra")
        curved = [one for one in these if one.curve is not None]
        for more, some in panel_chunks(curved):
            titles = [names[one.tuner].partition(" (frozen")[0] for one in some]
            drawing = draw_spectra(some, titles, found.rates, looks.rates)
            alt = (
                f"Singular values of features over their sum in falling order on a logarithmic axis, one line a noise "
                f"rate ({', '.join(map(rate_percent, found.rates))}), in {len(some)} panels: "
                f"{'; '.join(f'{clean(one.name)}, {title}' for one, title in zip(some, titles, strict=True))}."
            )
            caption = (
                "Singular values over their sum, the largest first, mean over seeds. A flatter line has a higher SVE, "
                f"a higher first point a lower LSVR ({LSVR_WORDS}). Rows scaled to length 1, centred by {center}."
            )
            title = f"Spectra, centred by {center}{more}"
            yield Drawn(SPECTRA, title, picture("spectrum", drawing, alt, caption), "singular_values")


def _panels(panels: Sequence[Panel], axis: Axis, looks: _Looks, what: str) -> Picture:
    drawing = draw_panels(panels, axis, looks.tuners, looks.names)
    every = [figure for panel in panels for figures in panel.lines.values() for figure in figures]
    alt = f"{what}: lines in {len(panels)} panel{'' if len(panels) == 1 else 's'}."
    for panel in panels[:_SOME]:
        lines = (_line_words(looks.names[name], panel.x, figures, axis) for name, figures in panel.lines.items())
        alt += f" {panel.title}: {'; '.join(filter(None, lines)) or NOT_MEASURED}."
    caption = f"{what}; mean over {seeds_words(every)}."
    if any(math.isfinite(ends(figure)[1]) for figure in every):
        caption += f" Whiskers: 95{NBSP}% intervals over seeds."
    if len({*(name for panel in panels for name in panel.lines)}) > 1:
        caption += " Points of one place stand a little apart."
    if len(panels) > 1:
        caption += " Every panel has its own scale."
    return picture("lines", drawing, alt, caption)


def _line_words(name: str, x: Sequence[float], figures: Sequence[Figure], axis: Axis) -> str:
    known = [i for i, figure in enumerate(figures) if math.isfinite(ends(figure)[0])]
    if not known:
        return ""
    first, last = (f"{_value(figures[i], axis)} at {decimal(x[i], 0)}{NBSP}%" for i in (known[0], known[-1]))
    return f"{name} {first}" if len(known) == 1 else f"{name} from {first} to {last}"


def _value(figure: Figure, axis: Axis) -> str:
    value = ends(figure)[0]
    if axis.is_change:
        return f"{decimal(100 * value, 1, signed=True)}{NBSP}pp"
    return percent(value) if axis.y_factor == 100 else decimal(value, 2)


def _scatters(part: str, scatters: Sequence[NoiseScatter], looks: _Looks) -> Iterator[Drawn]:
    kinds = dict.fromkeys((one.x_label, one.y_label, one.x_unit, one.y_unit) for one in scatters)
    for kind in kinds:
        these = [one for one in scatters if (one.x_label, one.y_label, one.x_unit, one.y_unit) == kind]
        for more, some in panel_chunks(these):
            there = {float(rate) for one in some for rate in one.rate}
            shown = {rate: look for rate, look in looks.rates.items() if rate in there}
            what = f"{capital(clean(kind[1]))} against {clean(kind[0])}"
            alt = f"Scatter of {clean(kind[1])} against {clean(kind[0])}, one dot a model, {len(some)} panels."
            caption = f"{what}, one dot a model; colours and markers: noise rate of its source."
            for one in some[:_SOME]:
                count = int((np.isfinite(one.x) & np.isfinite(one.y)).sum())
                rank = f", rank correlation {correlation_words(one.correlation)}" if one.correlation else ""
                alt += f" {clean(one.title)}: {count} models{rank}."
            if any(one.correlation for one in some):
                caption += f" {RHO}: Spearman's rank correlation with its 95{NBSP}% interval where there is one."
            labels = f"{kind[0]} {kind[1]}"
            caption += f" {SVE_WORDS}." if "SVE" in labels else ""
            caption += f" {LSVR_WORDS}." if "LSVR" in labels else ""
            caption += "".join(f" {clean(note)}" for note in dict.fromkeys(one.note for one in some if one.note))
            drawing = draw_scatters(some, shown)
            yield Drawn(part, what + more, picture("scatter", drawing, alt, caption), part)


def _ablation(ablations: Sequence[NoiseAblation]) -> Picture:
    labels = list(dict.fromkeys(name for one in ablations for name in one.change))
    series = [f"{clean(one.full)}, {rate_words(one.rate)}" for one in ablations]
    roles = in_order((role for one in ablations for by in one.change.values() for role in by), (ID, OOD))
    panels = {
        role_words(role): [
            {name: _bar(one.change[label][role]) for name, one in zip(series, ablations, strict=True)
             if role in one.change.get(label, {})}
            for label in labels
        ]
        for role in roles
    }  # fmt: skip
    groups = Groups([f"without {shorten(label, 26)}" for label in labels], panels, "change of accuracy (pp)")
    drawing = _bars(groups, series)
    every = [figure for one in ablations for by in one.change.values() for figure in by.values()]
    alt = "Bars of what accuracy changes by when a term of NMTune is left out."
    for one in ablations:
        for label, by in one.change.items():
            parts = (f"{role} {figure_words(figure)}" for role, figure in by.items())
            alt += f" {rate_words(one.rate)}, without {clean(label)}: {', '.join(parts)}."
    caption = (
        f"Accuracy without a term minus accuracy with all of them, paired by seed, mean over {seeds_words(every)}. "
        f"Bars to the left: the term helped. Whiskers: 95{NBSP}% intervals over seeds."
    )
    return picture("ablation", drawing, alt, caption)


def _bar(figure: Figure) -> Bar:
    return Bar(*(100 * x for x in ends(figure)))


def _bars(groups: Groups, series: Sequence[str]) -> Drawing:
    looks: dict[str, BarLook] = series_looks(series)
    return draw_groups(groups, looks, {name: name for name in series}, absent=NOT_MEASURED)


def _fractions(found: Noise, looks: _Looks) -> Iterator[Drawn]:
    panels = [
        Panel(f"{clean(one.name)}, {rate_words(one.rate)}", tuple(100 * x for x in one.fractions), one.accuracy)
        for one in found.fractions
    ]
    for more, some in panel_chunks(panels):
        axis = Axis("training images of the target (%)", "accuracy (%)", 100.0)
        what = "Accuracy against the share of the target's training images"
        yield Drawn(FRACTIONS, "Fewer target images" + more, _panels(some, axis, looks, what), "fractions")


def _suspects(found: NoiseSuspects) -> Iterator[Drawn]:
    if found.rankings:
        areas = "; ".join(f"{clean(one.name)} {correlation_words(one.auroc)}" for one in found.rankings)
        alt = f"ROC curves of {len(found.rankings)} rankings for wrong labels. Areas under them: {areas}."
        caption = (
            f"How many of the wrong labels are among the most suspicious, against how many right ones; the area under "
            f"the curve with its 95{NBSP}% interval: 1 is perfect, 0.5 is chance."
        )
        caption += f" Ranked: {clean(found.ranked)}." if found.ranked else ""
        controls = [(one, one.control) for one in found.rankings if one.control]
        if controls:
            words = "; ".join(f"{clean(one.name)} {correlation_words(control)}" for one, control in controls)
            caption += f" Permuted control, which should be at 0.5: {words}."
        yield Drawn(
            ROC, "How well wrong labels are found", picture("roc", draw_roc(found.rankings), alt, caption), "roc"
        )
    shown, is_change = (found.change, True) if found.change else (found.retraining, False)
    if any(shown.values()):
        yield Drawn(RETRAINING, "Models without the suspects", _retraining(shown, is_change), "retraining")


def _retraining(shown: Mapping[str, Mapping[str, Figure]], is_change: bool) -> Picture:
    arms = list(shown)
    places = list(dict.fromkeys(place for by in shown.values() for place in by))
    series = [clean(arm) for arm in arms]
    bars = [
        {name: _bar(shown[arm][place]) for name, arm in zip(series, arms, strict=True) if place in shown[arm]}
        for place in places
    ]
    label = "change of accuracy against the noisy source (pp)" if is_change else "accuracy (%)"
    drawing = _bars(Groups([shorten(place) for place in places], {"models trained anew": bars}, label), series)
    words = (
        f"{clean(arm)}: {', '.join(f'{clean(place)} {_change_or_share(one, is_change)}' for place, one in by.items())}"
        for arm, by in shown.items()
    )
    alt = f"Bars of {label} of models that were trained anew. {'; '.join(words)}."
    every = [figure for by in shown.values() for figure in by.values()]
    caption = (
        f"Models trained anew without the suspects, with their labels changed, and by an oracle that knows the truth; "
        f"mean over {seeds_words(every)}"
    )
    caption += ", minus models of the noisy source, paired by seed." if is_change else "."
    return picture("retraining", drawing, alt, f"{caption} Whiskers: 95{NBSP}% intervals over seeds.")


def _change_or_share(figure: Figure, is_change: bool) -> str:
    unit = "difference of shares" if is_change else SHARE
    return figure_words(dataclasses.replace(figure, unit=unit))
