"""What a study of noisy pre-training says: tables on the terminal, `noise.json`, `summary.json`, a section of the page."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import rich.table

import jdt
from experiments import noise_page, noise_suspects
from experiments.noise_measures import Measured, of_rates
from experiments.noise_selection import Choice
from experiments.noise_setup import SCRATCH, Config, Study, rate_name
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
        for words in noise_suspects.words(suspects):
            say(words, markup=False)
    figures = {**noise_page.figures(measured), **(noise_suspects.figures(suspects) if suspects is not None else {})}
    jdt.store.write_json(run / FILE, _plain(config, study, measured, verdicts, tried, suspects))
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
        suspects=None if suspects is None else noise_suspects.shown(suspects, study.base),
        views=noise_page.views(study),
        figures=figures,
    )
    return jdt.report.add_noise(run, found, warnings=_warnings(measured))


def table(measured: Measured) -> rich.table.Table:
    """Accuracy by rate and tuner, in and out of distribution, with the spectrum of the frozen features."""
    found = rich.table.Table(title="accuracy, mean over seeds; SVE and LSVR = -ln(s1 / sum s) of frozen features, nats")
    modes = noise_page.main_modes(measured)
    found.add_column("noise")
    found.add_column("source", justify="right")
    for role in _roles(measured):
        for mode in modes:
            found.add_column(f"{role} {mode}", justify="right")
    for role in _roles(measured):
        found.add_column(f"{role} SVE", justify="right")
        found.add_column(f"{role} LSVR", justify="right")
    for index, arm in enumerate(measured.arms):
        cells = [arm, "" if arm == SCRATCH else f"{np.nanmean(measured.source[index]):.1%}"]
        for ood in _roles(measured).values():
            cells += [f"{np.nanmean(measured.scores(mode, ood=ood)[index]):.1%}" for mode in modes]
        for ood in _roles(measured).values():
            cells += [f"{np.nanmean(measured.spectrum_of('linear', what, ood=ood)[index]):.3f}" for what in ("sve", "lsvr")]
        found.add_row(*cells)
    return found


def _roles(measured: Measured) -> dict[str, bool]:
    return {role: ood for role, ood in noise_page.ROLES.items() if measured.has_ood or not ood}


def _question(config: Config, study: Study) -> str:
    return (
        f"{config.seeds} source models at each rate of label noise ({', '.join(map(rate_name, study.rates))}; "
        f"{config.noise}), those of a seed with equal initial values and equal order of batches. Their frozen features "
        "serve clean targets, under heads that are tuned on clean labels, and are tested on images as they are (ID) and "
        "out of distribution (OOD). Learning rates and weights were chosen on held-out training images of the targets, "
        "with models of other seeds that saw no noise."
        if config.selection_seeds
        else f"{config.seeds} source models at each rate of label noise ({', '.join(map(rate_name, study.rates))}; "
        f"{config.noise}), those of a seed with equal initial values and equal order of batches. Their frozen features "
        "serve clean targets, under heads with the published settings, and are tested on images as they are (ID) and "
        "out of distribution (OOD)."
    )


def _warnings(measured: Measured) -> list[str]:
    words = []
    lost = sum(int(np.isnan(one.values).sum()) for one in measured.accuracies)
    if lost:
        words.append(f"{lost} accuracies are missing, since models or their tuned heads diverged; means are without them.")
    if of_rates(measured, measured.source).shape[1] < 2:
        words.append("There is one seed, so that no difference has an interval: pass --seeds 5.")
    return words


def _plain(
    config: Config,
    study: Study,
    measured: Measured,
    verdicts: Sequence[Verdict],
    tried: Sequence[Choice],
    suspects: noise_suspects.Suspects | None,
) -> Mapping[str, object]:
    """All that was measured, so that another program can compute it again from what the run has stored."""
    return {
        "noise": config.noise,
        "seeds": config.seeds,
        "nonce": config.nonce,
        "views": {target: list(names) for target, names in study.views.items()},
        "variants": [dataclasses.asdict(one) for one in study.variants],
        "tuners": {name: jdt.config.to_plain(one) for name, one in study.task.tuners.items()},
        "tried": [dataclasses.asdict(one) for one in tried],
        **measured.to_plain(),
        "verdicts": [dataclasses.asdict(one) for one in verdicts],
        **({} if suspects is None else {"suspects": noise_suspects.plain(suspects)}),
    }
