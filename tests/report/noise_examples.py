"""A study of noisy pre-training with known numbers, for the tests of the report."""

import numpy as np
from report_examples import figure

from jdt.report import (
    Noise,
    NoiseAblation,
    NoiseBar,
    NoiseFractions,
    NoiseRanking,
    NoiseScatter,
    NoiseSet,
    NoiseSpectrum,
    NoiseSuspect,
    NoiseSuspects,
    NoiseTuning,
    NoiseUnit,
)

RATES = (0.0, 0.05, 0.1, 0.2, 0.3)
TUNERS = ("linear", "mlp", "nmtune", "nmtune-code")
VIEWS = ("edges", "inversion", "colour_swap", "blur:1.5", "pixelation", "contrast")
SEEDS, FEATURES = 5, 24
_LEVEL = {"linear": 0.0, "mlp": 0.012, "nmtune": 0.02, "nmtune-code": 0.015}


def share(value, reach=0.012):
    return figure(value, value - reach, value + reach, SEEDS, "share", "An accuracy.")


def change(value, reach=0.008):
    return figure(value, value - reach, value + reach, SEEDS, "difference of shares", "A change.")


def _set(name, role, level, slope, *, is_mean=False):
    accuracy = {t: tuple(share(level + _LEVEL[t] - slope * r) for r in RATES) for t in TUNERS}
    effect = {t: tuple(change(-slope * r) for r in RATES) for t in TUNERS}
    return NoiseSet(name, role, accuracy, effect, is_mean)


def _spectrum(name, role, tuner, center="column"):
    lift = 0.0 if tuner == "linear" else 0.3
    curve = np.array([np.exp(-np.arange(FEATURES) * (0.25 - 0.3 * r)) for r in RATES])
    curve[:, -1] = 0.0
    sve = tuple(figure(2.5 + lift + r, 2.4 + lift + r, 2.6 + lift + r, SEEDS, "nats") for r in RATES)
    lsvr = tuple(figure(1.2 + lift + 2 * r, 1.1 + lift + 2 * r, 1.3 + lift + 2 * r, SEEDS, "nats") for r in RATES)
    return NoiseSpectrum(name, role, tuner, center, sve, lsvr, curve / curve.sum(axis=1, keepdims=True))


def _scatter(rng, title, x_label, y_label, start, slope, **more):
    rate = np.repeat(RATES, SEEDS)
    x = start + slope * rate + rng.normal(0, 0.02, len(rate))
    y = 0.45 - 0.2 * rate + rng.normal(0, 0.006, len(rate))
    return NoiseScatter(title, x_label, y_label, x, y, rate, correlation=figure(-0.83, -0.93, -0.61, 25), **more)


def _ranking(name, power, auroc, control=None):
    x = np.linspace(0, 1, 60)
    return NoiseRanking(name, x, x**power, figure(auroc, auroc - 0.01, auroc + 0.01, 20000, "AUROC"), control)


def make_bars():
    return (
        NoiseBar("C0", "flips are as many as asked", "1,000 of 1,000 at 5 %; 6,000 of 6,000 at 30 %", "reached"),
        NoiseBar("C3", "OOD accuracy falls from 0 to 30 % noise", "Spearman -1.00", "reached", change(0.051), True),
        NoiseBar("C4", "Spearman of noise and LSVR at least 0.8 on OOD features", "", "missed",
                 figure(0.7, 0.4, 0.9, 25, "rank correlation")),
        NoiseBar("C5", "slight noise helps in domain", "-0.2 pp at 5 %, +0.1 pp at 10 %", "exploratory", change(0.001)),
        NoiseBar("C6", "NMTune repairs OOD accuracy at 30 % noise by 0.5 pp", "", "reached", change(0.02), True),
        NoiseBar("C9", "more target images never hurt", "", "not run"),
    )  # fmt: skip


def make_noise(*, views=VIEWS, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"cifar10_32+{view}" for view in views]
    sets = [
        _set("cifar10_32", "ID", 0.62, 0.12, is_mean=True),
        _set(f"mean of {len(views)} views", "OOD", 0.4, 0.2, is_mean=True),
    ]
    sets += [_set(name, "OOD", 0.55 - 0.05 * i, 0.1 + 0.05 * i) for i, name in enumerate(names)]
    spectra = [
        _spectrum(name, "OOD" if "+" in name else "ID", tuner)
        for name in ("cifar10_32", *names) for tuner in ("linear", "mlp", "nmtune")
    ]  # fmt: skip
    tuning = [
        NoiseTuning(
            rate, tuner,
            {"ID": share(0.6 + _LEVEL[tuner]), "OOD": share(0.4 + _LEVEL[tuner])},
            {other: {role: change(_LEVEL[tuner] - _LEVEL[other]) for role in ("ID", "OOD")}
             for other in ("linear", "mlp") if other != tuner},
        )
        for rate in (0.0, 0.3) for tuner in TUNERS
    ]  # fmt: skip
    terms = {"consistency": -0.004, "covariance": -0.011, "dominance": 0.002, "all three (MLP)": -0.009}
    by_term = {term: {"ID": change(v / 2, 0.005), "OOD": change(v, 0.006)} for term, v in terms.items()}
    fractions = (0.1, 0.25, 0.5, 0.75, 1.0)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    control = figure(0.501, 0.488, 0.513, 20, "AUROC")
    places = {"source": 0.5, "ID": 0.62, "OOD": 0.4}
    arms = {"noisy": 0.0, "dropped": 0.01, "relabelled": 0.02, "oracle": 0.03}
    suspects = NoiseSuspects(
        "Half of the examples were left out of every model.",
        (_ranking("influence", 0.4, 0.74, control), _ranking("confident learning", 0.12, 0.93),
         _ranking("loss", 0.2, 0.88)),
        "20,000 source examples, 30 % of them with a wrong label",
        tuple(NoiseUnit(f"unit {u}", 0.3 if u < 2 else 0.0, {"influence": 0.1 / (u + 1), "loss": 2.0 - u / 10},
                        {"influence": u + 1, "loss": 5 - u}) for u in range(5)),
        {arm: {place: share(level + up) for place, level in places.items()} for arm, up in arms.items()},
        {arm: {place: change(up) for place in places} for arm, up in arms.items() if up},
        tuple(NoiseSuspect(f"image {i}", images[i], "cat", "dog", "dog", "first by influence") for i in range(3)),
    )  # fmt: skip
    scatters = [
        _scatter(rng, "cifar10_32, linear probe", "SVE of frozen features", "ID accuracy", 2.5, 1.0),
        *(
            _scatter(rng, f"{name}, linear probe", "LSVR of frozen features", "OOD accuracy", 1.2, 2.0)
            for name in names
        ),
    ]
    return Noise(
        "Noisy pre-training, tiny_imagenet32 → cifar10_32",
        "A share of the source labels is wrong, by rate; the target's are right. What does it cost?",
        RATES,
        bars=make_bars(),
        sets=tuple(sets),
        spectra=tuple(spectra),
        scatters=tuple(scatters),
        robustness=(_scatter(rng, "linear probe", "ID accuracy", "OOD accuracy", 0.6, -0.1, x_unit="share"),
                    _scatter(rng, "NMTune (paper form)", "ID accuracy", "OOD accuracy", 0.6, -0.1, x_unit="share")),
        tuning=tuple(tuning),
        ablations=(NoiseAblation(0.3, "NMTune (paper form)", by_term),),
        fractions=tuple(
            NoiseFractions(role, rate, fractions,
                           {t: tuple(share(level + _LEVEL[t] + 0.1 * f - rate / 5) for f in fractions) for t in TUNERS})
            for role, level in (("ID", 0.5), ("OOD", 0.3)) for rate in (0.0, 0.3)
        ),
        suspects=suspects,
        views=dict.fromkeys(("cifar10_32", *names), images),
        figures={"OOD/harm/30 %": change(-0.06), "OOD/NMTune minus linear/30 %": change(0.02),
                 "AUROC of confident learning": figure(0.93, 0.92, 0.94, 20000, "AUROC", "For planted wrong labels.")},
    )  # fmt: skip
