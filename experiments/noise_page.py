"""What the page shows of a study of noisy pre-training: figures with intervals over seeds, from what was measured."""

from collections.abc import Mapping, Sequence

import numpy as np

import jdt
from experiments.bias_page import gap_figure as gap
from experiments.bias_page import mean_figure
from experiments.noise_bars import SOUND, gain
from experiments.noise_measures import Measured, effects, of_rates
from experiments.noise_setup import CODE, LINEAR, MLP, PAPER, TERMS, Study, rate_name, without
from experiments.verdicts import Verdict

ROLES = {"ID": False, "OOD": True}
HEADLINES = ("C3", "C6")
SHOWN_IMAGES = 8


def share(values: np.ndarray, text: str, unit: str = jdt.report.SHARE) -> jdt.report.Figure:
    """Mean over seeds with its t interval; `[seeds]`."""
    return mean_figure(np.asarray(values, np.float64), unit, text)


def bars(verdicts: Sequence[Verdict]) -> tuple[jdt.report.NoiseBar, ...]:
    """Requirements as the page has them."""
    found = []
    for one in verdicts:
        name, _, asked = one.name.partition(", ") if one.name != SOUND else ("source", "", one.name)
        verdict = "exploratory" if one.exploratory else {True: "reached", False: "missed", None: "not run"}[one.passed]
        headline = name in HEADLINES and not one.exploratory
        found.append(jdt.report.NoiseBar(name, asked, one.words, verdict, headline=headline))
    return tuple(found)


def sets(study: Study, measured: Measured) -> tuple[jdt.report.NoiseSet, ...]:
    """Accuracy against noise: means of both roles, then every set of test images; ablations have their own panel."""
    modes = main_modes(measured)
    found = []
    for role, ood in ROLES.items():
        if ood and not measured.has_ood:
            continue
        scores = {mode: measured.scores(mode, ood=ood) for mode in modes}
        number = len({(one.variant.target, one.view) for one in measured.accuracies if bool(one.view) == ood})
        what = {"ID": "target", "OOD": "set"}[role]
        found.append(
            _set(f"mean of {number} {what}s" if number > 1 else f"the {what}", role, scores, measured, is_mean=True)
        )
    for target in study.base.targets:
        for view in ("", *study.views[target.name]):
            name = jdt.pipeline.view_name(target.name, view) if view else target.name
            rows = {
                one.mode: one.values
                for one in measured.accuracies
                if one.variant.is_plain and one.variant.target == target.name and one.view == view and one.mode in modes
            }
            found.append(_set(name, "OOD" if view else "ID", rows, measured))
    return tuple(found)


def _set(
    name: str, role: str, rows: Mapping[str, np.ndarray], measured: Measured, *, is_mean: bool = False
) -> jdt.report.NoiseSet:
    accuracy, effect = {}, {}
    for mode, values in rows.items():
        what = f"accuracy on {name}, {mode}"
        accuracy[mode] = tuple(share(row, what) for row in of_rates(measured, values))
        none = jdt.report.Figure(0.0, None, None, values.shape[1], jdt.report.DIFFERENCE, "by definition")
        more = f"{what}: minus that without noise, paired by seed"
        effect[mode] = (none, *(gap(one, more) for one in effects(measured, values)))
    return jdt.report.NoiseSet(name, role, accuracy, effect, is_mean)


def main_modes(measured: Measured) -> tuple[str, ...]:
    """Tuners without those of the ablation."""
    return tuple(mode for mode in measured.modes if mode not in map(without, TERMS))


def spectra(measured: Measured) -> tuple[jdt.report.NoiseSpectrum, ...]:
    """SVE and LSVR against noise of every set, before and after tuning; column-centred, and of frozen features both."""
    found = []
    for one in measured.spectra:
        if one.mode not in main_modes(measured) or (one.center == "row" and one.mode != LINEAR):
            continue
        name = jdt.pipeline.view_name(one.variant.name, one.view) if one.view else one.variant.name
        sve, lsvr = (
            tuple(share(row, f"{what} of {name}, {one.mode}, {one.center}-centred", "nats") for row in rows)
            for what, rows in (("SVE", of_rates(measured, one.sve)), ("LSVR", of_rates(measured, one.lsvr)))
        )
        curve = of_rates(measured, one.values) if one.center == "column" and one.mode in (LINEAR, PAPER) else None
        found.append(
            jdt.report.NoiseSpectrum(name, "OOD" if one.view else "ID", one.mode, one.center, sve, lsvr, curve)
        )
    return tuple(found)


def scatters(measured: Measured) -> tuple[jdt.report.NoiseScatter, ...]:
    """Accuracy against the spectrum, a dot a model: SVE in distribution, LSVR out of it."""
    found = []
    for role, what, label in (("ID", "sve", "singular value entropy"), ("OOD", "lsvr", "LSVR = -ln(s1 / sum s)")):
        if ROLES[role] and not measured.has_ood:
            continue
        x = of_rates(measured, measured.spectrum_of(LINEAR, what, ood=ROLES[role]))
        y = of_rates(measured, measured.scores(LINEAR, ood=ROLES[role]))
        found.append(
            _scatter(measured, f"{role} accuracy against {what.upper()}", label, f"{role} accuracy", x, y, "nats")
        )
    return tuple(found)


def robustness(measured: Measured) -> tuple[jdt.report.NoiseScatter, ...]:
    """Accuracy in against out of distribution, a dot a model, for each tuner."""
    if not measured.has_ood:
        return ()
    return tuple(
        _scatter(
            measured, f"ID against OOD accuracy, {mode}", "ID accuracy", "OOD accuracy",
            of_rates(measured, measured.scores(mode, ood=False)), of_rates(measured, measured.scores(mode, ood=True)),
            jdt.report.SHARE,
        )
        for mode in (LINEAR, PAPER)
    )  # fmt: skip


def _scatter(
    measured: Measured, title: str, x_label: str, y_label: str, x: np.ndarray, y: np.ndarray, unit: str
) -> jdt.report.NoiseScatter:
    rates = np.repeat(measured.rates, x.shape[1])
    flat = [np.asarray(values).reshape(-1) for values in (x, y)]
    value = float(jdt.analyses.sweep_correlation(flat[0], flat[1][:, None])[0])
    figure = None
    if np.isfinite(value):
        figure = jdt.report.Figure(
            value, None, None, int(np.isfinite(flat[1]).sum()), "Spearman", f"{title}: of ranks, over models"
        )
    return jdt.report.NoiseScatter(title, x_label, y_label, flat[0], flat[1], rates, x_unit=unit, correlation=figure)


def tuning(measured: Measured) -> tuple[jdt.report.NoiseTuning, ...]:
    """What every tuner reaches at every rate, and what it gains on the linear probe and on the MLP."""
    found = []
    roles = {role: ood for role, ood in ROLES.items() if measured.has_ood or not ood}
    for index, rate in enumerate(measured.rates.tolist()):
        for mode in main_modes(measured):
            accuracy = {
                role: share(of_rates(measured, measured.scores(mode, ood=ood))[index], f"{role} accuracy, {mode}")
                for role, ood in roles.items()
            }
            gains = {
                other: {
                    role: gap(gain(measured, mode, other, ood=ood, rate=index), f"{role}, {mode} minus {other}")
                    for role, ood in roles.items()
                }
                for other in (LINEAR, MLP)
                if other in measured.modes and other != mode and mode != LINEAR
            }
            found.append(jdt.report.NoiseTuning(rate, mode, accuracy, gains))
    return tuple(found)


def ablations(measured: Measured) -> tuple[jdt.report.NoiseAblation, ...]:
    """What NMTune loses without each of its terms, without noise and at the largest rate."""
    terms = [term for term in TERMS if without(term) in measured.modes]
    roles = {role: ood for role, ood in ROLES.items() if measured.has_ood or not ood}
    if not terms:
        return ()
    left_out = {**{term: without(term) for term in terms}, "all three: MLP": MLP}
    return tuple(
        jdt.report.NoiseAblation(
            float(measured.rates[index]),
            "NMTune (paper form)",
            {
                what: {
                    role: gap(
                        gain(measured, mode, PAPER, ood=ood, rate=index),
                        f"{role}, {mode} minus {PAPER} at {rate_name(measured.rates[index])}",
                    )
                    for role, ood in roles.items()
                }
                for what, mode in left_out.items()
            },
        )
        for index in (0, len(measured.rates) - 1)
    )


def fractions(measured: Measured) -> tuple[jdt.report.NoiseFractions, ...]:
    """Accuracy against the share of the targets' training images, without noise and at the largest rate."""
    shares = measured.fractions
    if len(shares) < 2:
        return ()
    found = []
    for role, ood in ROLES.items():
        for index in (0, len(measured.rates) - 1):
            if ood and not measured.has_ood:
                continue
            accuracy = {
                mode: tuple(
                    share(
                        of_rates(measured, measured.scores(mode, ood=ood, fraction=part))[index],
                        f"{role} accuracy with {100 * part:g}% of the target, {mode}",
                    )
                    for part in shares
                )
                for mode in main_modes(measured)
            }
            found.append(jdt.report.NoiseFractions(role, float(measured.rates[index]), shares, accuracy))
    return tuple(found)


def views(study: Study) -> dict[str, np.ndarray]:
    """The same test images of the first target in every rendering; other datasets show theirs."""
    target = study.base.targets[0]
    rows = np.linspace(0, len(target.test) - 1, min(SHOWN_IMAGES, len(target.test))).astype(int)
    shown = {}
    for name, data in target.tests.items():
        mine = rows if len(data) == len(target.test) else rows * len(data) // len(target.test)
        shown[name] = np.asarray(data.images[mine])
    return shown


def figures(measured: Measured) -> dict[str, jdt.report.Figure]:
    """Key figures: what the largest rate costs, and what NMTune gives back."""
    last = rate_name(measured.rates[-1])
    found = {}
    for role, ood in ROLES.items():
        if ood and not measured.has_ood:
            continue
        effect = effects(measured, measured.scores(LINEAR, ood=ood))[-1]
        found[f"{role}/{LINEAR}/effect of {last}"] = gap(
            effect, f"{role} accuracy at {last} noise minus that without, linear probe, paired by seed"
        )
        for mode in (PAPER, CODE):
            for other in (LINEAR, MLP):
                found[f"{role}/{mode} minus {other} at {last}"] = gap(
                    gain(measured, mode, other, ood=ood), f"{role} accuracy at {last} noise, {mode} minus {other}"
                )
    return found
