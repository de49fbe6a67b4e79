"""What a study of noisy pre-training says: on the terminal, in `noise.json` and `summary.json`, and on the page."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import rich.table

import jdt
from experiments import noise_page, noise_suspect_page, noise_suspects
from experiments.noise_measures import Measured, of_rates
from experiments.noise_selection import Choice
from experiments.noise_setup import LINEAR, SCRATCH, Config, Study, rate_name
from experiments.verdicts import Verdict

FILE = "noise.json"


def publish(
    config: Config,
    study: Study,
    measured: Measured,
    verdicts: Sequence[Verdict],
    tried: Sequence[Choice],
    suspects: noise_suspects.Suspects | None,
    say: Callable[..., None],
) -> jdt.store.Place:
    """Print, and write beside the models; returns the place of the page."""
    run = jdt.store.run_path(config.out)
    say(table(measured))
    for one in tried:
        if one.chosen:
            say(
                f"{one.tuner}: {one.rate:g} times the published learning rate, {one.weight:g} times the weights "
                f"(accuracy {one.accuracy:.1%} on held-out training images).",
                markup=False,
            )
    for one in verdicts:
        say(str(one), markup=False)
    if suspects is not None:
        for words in noise_suspect_page.words(suspects):
            say(words, markup=False)
        noise_suspects.save(config, suspects)
    figures = noise_page.figures(measured) | ({} if suspects is None else noise_suspect_page.figures(suspects))
    jdt.store.write_json(run / FILE, _plain(config, study, measured, verdicts, tried))
    jdt.store.write_json(run / "summary.json", {name: dataclasses.asdict(one) for name, one in figures.items()})
    found = jdt.report.Noise(
        title=f"Noisy pre-training, {config.source} → {', '.join(config.target)}",
        text=_question(config, study),
        rates=study.rates,
        bars=noise_page.bars(verdicts),
        sets=noise_page.sets(study, measured),
        spectra=noise_page.spectra(measured),
        scatters=noise_page.scatters(measured),
        robustness=noise_page.robustness(measured),
        tuning=noise_page.tuning(measured),
        ablations=noise_page.ablations(measured),
        fractions=noise_page.fractions(measured),
        suspects=None if suspects is None else noise_suspect_page.shown(suspects, study.base.source),
        views=noise_page.views(study),
        figures=figures,
    )
    return jdt.report.add_noise(run, found, warnings=_warnings(measured))


def table(measured: Measured) -> rich.table.Table:
    """Accuracy of every tuner, in and out of distribution, and the spectrum of the frozen features, by rate."""
    found = rich.table.Table(title="means over seeds; SVE and LSVR = -ln(s1 / sum s) in nats, of frozen features")
    found.add_column("")
    for arm in measured.arms:
        found.add_column(arm, justify="right")

    def add(name: str, values: np.ndarray, form: str) -> None:
        means = [np.nanmean(row) if np.isfinite(row).any() else np.nan for row in values]
        found.add_row(name, *("" if np.isnan(mean) else format(mean, form) for mean in means))

    trained = [arm != SCRATCH for arm in measured.arms]
    add("source accuracy", np.where(np.array(trained)[:, None], measured.source, np.nan), ".1%")
    for role, ood in noise_page.ROLES.items():
        if ood and not measured.has_ood:
            continue
        found.add_section()
        for mode in noise_page.main_modes(measured):
            add(f"{role}, {mode}", measured.scores(mode, ood=ood), ".1%")
        for what in ("sve", "lsvr"):
            add(f"{role}, {what.upper()}", measured.spectrum_of(LINEAR, what, ood=ood), ".3f")
    return found


def _question(config: Config, study: Study) -> str:
    chosen = (
        "Learning rates and weights were chosen on held-out training images of the targets, with models of other seeds "
        "that saw no noise."
        if config.selection_seeds
        else "Learning rates and weights are the published ones."
    )
    return (
        f"{config.seeds} source models at each rate of label noise ({', '.join(map(rate_name, study.rates))}; "
        f"{config.noise}), those of a seed with equal initial values and equal order of batches. Their frozen features "
        "serve clean targets, under heads that are tuned on clean labels, and are tested on images as they are (ID) "
        f"and out of distribution (OOD). {chosen}"
    )


def _warnings(measured: Measured) -> list[str]:
    words = []
    lost = sum(int(np.isnan(one.values).sum()) for one in measured.accuracies)
    if lost:
        words.append(
            f"{lost} accuracies are missing, since models or their tuned heads diverged; means are without them."
        )
    if of_rates(measured, measured.source).shape[1] < 2:
        words.append("There is one seed, so that no difference has an interval: pass --seeds 5.")
    return words


def _plain(
    config: Config,
    study: Study,
    measured: Measured,
    verdicts: Sequence[Verdict],
    tried: Sequence[Choice],
) -> Mapping[str, object]:
    """All that was measured, so that another program can compute it again from what the run has stored."""
    return {
        "noise": config.noise,
        "seeds": config.seeds,
        "nonce": config.nonce,
        "notes": list(study.notes),
        "views": {target: list(names) for target, names in study.views.items()},
        "variants": [dataclasses.asdict(one) for one in study.variants],
        "tuners": {name: jdt.config.to_plain(one) for name, one in study.task.tuners.items()},
        "tried": [dataclasses.asdict(one) for one in tried],
        **measured.to_plain(),
        "verdicts": [dataclasses.asdict(one) for one in verdicts],
    }
