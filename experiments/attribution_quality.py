"""Which estimator and which design of subsets need the fewest models?

Question  Influences are fitted on growing parts of one run for each design and predict the outputs of models that no
          fit has seen, the same for all designs. How does the linear datamodeling score (LDS) grow?
Source    LDS: arXiv 2303.14186, section 2; designs: docs/decisions/0008-balanced-design.md.
Run       python -m experiments.attribution_quality --out runs/quality
Smoke     python -m experiments.attribution_quality --out runs/quality_smoke --preset smoke
Your data any flag of experiments.class_influence, e.g. --source folder:PATH --target cifar10 --image-size 32

OUT/DESIGN are runs as class_influence makes them; the held-out models are the last ones of OUT/fixed-size, whose rows
are drawn one by one. The same command resumes; OUT/summary.json, attribution_quality.png and .html are made anew.
"""

import base64
import dataclasses
import html
import itertools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tyro
from rich.table import Table

import jdt
from experiments import class_influence, influence_run, influence_setup
from experiments.quality_curves import Curve, HeldOut, draw, gain_over, measure, models_to_reach

HELD_OUT_DESIGN = "fixed-size"
MEASURE = "difference"
"""The published estimator: what the others are compared with."""


@dataclasses.dataclass(frozen=True)
class Config(influence_setup.Config):
    """The flags of class_influence, for every design in turn."""

    design: tyro.conf.Suppress[jdt.masks.DesignKind] = HELD_OUT_DESIGN
    """Not a flag here: see designs."""
    designs: tuple[jdt.masks.DesignKind, ...] = ("fixed-size", "antithetic", "balanced", "balanced-pairs", "bernoulli")
    """Designs to compare; fixed-size is trained in any case."""
    estimators: tuple[str, ...] = ("ridge", "difference", "lasso")
    """Estimators to compare; difference, which the others are measured by, is fitted in any case. The path of a LASSO
    takes long with fewer models than units."""
    held_out: int = 64
    """Fixed-size models that no fit sees."""
    sizes: tuple[int, ...] = ()
    """Numbers of models to fit on; by default num-models and its halves down to 8."""
    resamples: int = 200
    """Bootstrap resamples of parts of the run and of held-out models."""


def _from(base: influence_setup.Config, **changes: object) -> Config:
    return Config(**{**vars(base), "design": HELD_OUT_DESIGN, **changes})  # pyright: ignore[reportArgumentType]


PRESETS = {
    "demo": _from(
        class_influence.DEMO,
        out=pathlib.Path("runs/quality"),
        num_models=64,
        held_out=48,
        recipe=dataclasses.replace(class_influence.DEMO.recipe, epochs=3),
    ),
    "smoke": _from(
        class_influence.PRESETS["smoke"],
        out=pathlib.Path("runs/quality_smoke"),
        designs=("fixed-size", "balanced-pairs"),
        held_out=8,
        resamples=20,
        recipe=dataclasses.replace(class_influence.PRESETS["smoke"].recipe, epochs=0.1),
    ),
}


def run_config(config: Config, kind: jdt.masks.DesignKind) -> Config:
    """Configuration of the run of one design; the held-out models are the last of the fixed-size run."""
    extra = config.held_out if kind == HELD_OUT_DESIGN else 0
    return dataclasses.replace(config, out=config.out / kind, design=kind, num_models=config.num_models + extra)


def fit_sizes(config: Config) -> tuple[int, ...]:
    """Numbers of models to fit on, ascending and even.

    Raises:
      UserError: If a number is odd, too small, or more than num-models.
    """
    halves = itertools.takewhile(lambda size: size >= 8, (config.num_models // 2**i for i in itertools.count()))
    sizes = sorted(set(config.sizes or [size - size % 2 for size in halves] or [config.num_models]))
    for size in sizes:
        if size % 2 or not 4 <= size <= config.num_models:
            raise jdt.UserError(
                f"sizes has {size}, but must hold even numbers from 4 to num-models ({config.num_models}): pairs "
                "stay together."
            )
    return tuple(sizes)


def outputs_by_level(run: jdt.store.Run, target: str, outputs: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs `[models, examples]` and their means over the test images of each class `[models, classes]`."""
    labels = run.targets[target].labels
    by_class = np.stack([outputs[:, labels == c].mean(axis=1) for c in np.unique(labels)], axis=1)
    return {"example": outputs, "class": by_class}


def compared_estimators(config: Config) -> list[jdt.estimators.Estimator]:
    """Estimators to compare, and the one they are measured by.

    Raises:
      UserError: If there is none of some name.
    """
    return list(jdt.estimators.named({*config.estimators, MEASURE}))


def curves_of_target(config: Config, target: str, mode: str, say: Callable[[str], None]) -> dict[str, list[Curve]]:
    """Curves of all designs and estimators on one target, by level; `say` is told what is being scored."""
    held: dict[str, HeldOut] = {}
    found: dict[str, list[Curve]] = {}
    for kind in dict.fromkeys((HELD_OUT_DESIGN, *config.designs)):
        run = jdt.open_run(config.out / kind)
        rows = jdt.pipeline.usable_rows(run, target, mode)
        fitted = np.setdiff1d(run.complete, rows.left_out) < config.num_models
        levels = outputs_by_level(run, target, rows.outputs[config.output])
        if kind == HELD_OUT_DESIGN:
            held = {level: HeldOut(rows.masks[~fitted], values[~fitted]) for level, values in levels.items()}
        for (level, values), estimator in itertools.product(levels.items(), compared_estimators(config)):
            say(f"scoring {estimator.name} on {kind}: {target}, {mode} transfer, {level} level")
            curve = measure(
                estimator, kind, (rows.masks[fitted], values[fitted]), held[level], fit_sizes(config),
                paired=rows.paired, resamples=config.resamples,
            )  # fmt: skip
            found.setdefault(level, []).append(curve)
    return found


def bar_of(curves: Sequence[Curve]) -> Curve:
    """The published way: differences of means of fixed-size subsets, with all models."""
    return next(c for c in curves if c.design == HELD_OUT_DESIGN and c.estimator == MEASURE)


def summary(panels: Mapping[str, Sequence[Curve]]) -> dict[str, jdt.report.Figure]:
    """Every figure, by panel, estimator, design and number of models."""
    figures: dict[str, jdt.report.Figure] = {}
    for title, curves in panels.items():
        for curve in curves:
            name, (low, high) = f"{title}/{curve.estimator}/{curve.design}", curve.intervals
            for i, size in enumerate(curve.sizes):
                figures[f"{name}/lds/{size}"] = jdt.report.Figure(
                    float(curve.value[i]), float(low[i]), float(high[i]), int(curve.parts[i]), "rank correlation",
                    f"LDS with {size} models, mean over targets and {curve.parts[i]} disjoint parts of the run",
                )  # fmt: skip
            gain, less, more = gain_over(curve, bar_of(curves))
            figures[f"{name}/gain"] = jdt.report.Figure(
                gain, less, more, int(curve.sizes[-1]), "rank correlation",
                "LDS with all models, less that of differences of means of fixed-size models, on the same models",
            )  # fmt: skip
            needed = [x if np.isfinite(x) else None for x in models_to_reach(curve, bar_of(curves))]
            value = float("nan") if needed[0] is None else needed[0]
            figures[f"{name}/models_needed"] = jdt.report.Figure(
                value, needed[1], needed[2], int(curve.sizes[-1]), "models",
                "models that reach the LDS of differences of means of all fixed-size models; null: more than all",
            )  # fmt: skip
    return figures


def table(title: str, curves: Sequence[Curve]) -> Table:
    """LDS with all models, and models needed for what the published way reaches with all of its models."""
    bar = bar_of(curves)
    out = Table("estimator", "design", "LDS", "gain", "models needed", title=title)
    for curve in sorted(curves, key=lambda c: -c.value[-1]):
        low, high = curve.intervals
        gain, less, more = gain_over(curve, bar)
        needed = [f"{x:.0f}" if np.isfinite(x) else f">{curve.sizes[-1]}" for x in models_to_reach(curve, bar)]
        out.add_row(
            curve.estimator,
            curve.design,
            f"{curve.value[-1]:.3f} ({low[-1]:.3f} to {high[-1]:.3f})",
            f"{gain:+.3f} ({less:+.3f} to {more:+.3f})",
            "{} ({} to {})".format(*needed),
        )
    return out


def page(config: Config, png: bytes, panels: Mapping[str, Sequence[Curve]]) -> str:
    """One self-contained page: the picture and the figures."""
    rows = [
        f"<tr><td>{html.escape(name)}</td><td>{one.value:.3f}</td><td>{_end(one.low)}</td><td>{_end(one.high)}</td></tr>"
        for name, one in summary(panels).items()
    ]
    title = html.escape(f"{config.source} → {', '.join(config.target)}: quality of influences")
    picture = base64.b64encode(png).decode()
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}img{max-width:100%}"
        "td,th{text-align:left;padding:.1em 1em .1em 0}</style>"
        f"<h1>{title}</h1><p>Linear datamodeling score on {config.held_out} fixed-size models that no fit has seen, "
        "against the number of models fitted on. Bars: 95 % bootstrap over disjoint parts of the run and over "
        "held-out models; with all models there is one part, and its choice is not in the bar.</p>"
        f'<img alt="LDS against the number of models, a line for each estimator and design" '
        f'src="data:image/png;base64,{picture}">'
        f"<table><tr><th>figure</th><th>value</th><th>low</th><th>high</th></tr>{''.join(rows)}</table></html>\n"
    )


def _end(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main(config: Config) -> None:
    """Train what is missing of every design, score, and write figures, picture and page."""
    say = jdt.cli.console.print
    hosts = jdt.hosts.join(config.shard, config.distributed)
    fit_sizes(config)
    compared_estimators(config)
    if config.held_out < 4:
        raise jdt.UserError(f"held-out is {config.held_out}, but a rank correlation over models needs at least 4.")
    done = True
    for kind in dict.fromkeys((HELD_OUT_DESIGN, *config.designs)):
        say(f"{kind}:", style="bold")
        one = run_config(config, kind)
        task, choice = influence_setup.load_task(one)
        done &= influence_run.train_run(one, task, choice, hosts, say)[1]
    if not done:
        say("other processes still train: when they are done, the same command again makes the figures.")
        return
    panels = {}
    for target, mode in itertools.product(config.target, config.transfer):
        with jdt.cli.console.status(f"scoring {target}, {mode} transfer") as status:
            for level, curves in curves_of_target(config, target, mode, status.update).items():
                panels[f"{target}/{mode}/{level}"] = curves
    png = draw(panels)
    jdt.store.write_json(config.out / "summary.json", summary(panels))
    jdt.store.write_bytes(config.out / "attribution_quality.png", png)
    jdt.store.write_bytes(config.out / "attribution_quality.html", page(config, png, panels).encode())
    for title, curves in panels.items():
        say(table(title, curves))
    say("gain: over differences of means of fixed-size models; models needed: for what those reach with all models.")
    say(f"figures: {config.out / 'summary.json'}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
