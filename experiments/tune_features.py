"""How much is a tuned head worth on frozen features: a linear probe, a residual network, or NMTune?

Question  A feature extractor is given, perhaps pre-trained on noisy labels. What do its features score on your test
          data, in and out of domain, under each way of tuning, and what does tuning do to their spectrum?
Source    arXiv 2309.17002, sections 3 and 4. Both forms of NMTune: `nmtune` (paper), `nmtune-code` (published code).
Run       python -m experiments.tune_features --features FILE.npz --out runs/tuned
          FILE.npz holds features [examples, features] and labels [examples]; where there are some, views [views,
          examples, features], test_features and test_labels, and ood_NAME_features and ood_NAME_labels for any NAME.
Demo      python -m experiments.tune_features                (embedded digits, pixels as features)
Smoke     python -m experiments.tune_features --preset smoke
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from rich.markup import escape
from rich.table import Table

import jdt


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob of the experiment."""

    features: pathlib.Path | None = None
    """.npz file with features [examples, D] and labels [examples]; where there are some also views [views, examples, D]
    (augmented copies), test_features and test_labels, and ood_NAME_features and ood_NAME_labels for any NAME. The
    embedded digits, pixels as features, when left out."""
    out: pathlib.Path = pathlib.Path("runs/tuned")
    """Folder for heads, predictions, figures and the plot."""
    methods: tuple[str, ...] = ("linear", "mlp", "nmtune", "nmtune-code")
    """Which of them."""
    seeds: int = 5
    """Heads of each method: other initial values, batches and draws of views."""
    epochs: int | None = None
    """Passes over the training examples; 30 when left out, 60 on the embedded digits."""
    batch_size: int | None = None
    """Examples a step; 64 when left out, 16 on the embedded digits."""
    learning_rate: float | None = None
    """Of the first step; 0.01 for a linear probe and 0.001 for the others when left out, 0.01 for all on the digits."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    select: bool = False
    """Choose the learning rate, and what NMTune's terms weigh, on a validation part of the training examples."""
    validation: float = 0.2
    """Share of the training examples that --select chooses on; also what is tested on where the file has no test."""
    center: Literal["column", "row", "none"] = "column"
    """How features are centred before their spectrum; the published code centres by row."""
    seed: int = 0
    """Root seed."""
    overwrite: bool = False
    """Replace what --out holds of another configuration or other features."""


DEFAULTS = {"epochs": 30, "batch_size": 64}
DIGITS = {"epochs": 60, "batch_size": 16, "learning_rate": 0.01}
"""What is left out, on the embedded digits: a hundred images."""
PRESETS = {
    "demo": Config(),
    "smoke": Config(out=pathlib.Path("runs/tuned-smoke"), seeds=2, epochs=2),
    "paper": Config(epochs=30, batch_size=64),
}
METHODS = {
    "linear": jdt.transfer.Tuning("linear"),
    "mlp": jdt.transfer.Tuning("mlp"),
    "nmtune": jdt.transfer.Tuning("nmtune", "paper"),
    "nmtune-code": jdt.transfer.Tuning("nmtune", "code"),
}
RATES = (1 / 3, 1.0, 3.0)
"""What --select tries, as multiples of the method's learning rate ..."""
WEIGHTS = (0.1, 1.0, 10.0)
"""... and of the form's weights."""
FIGURES = "figures.json"
STAGED = ".partial"
"""Folder in --out of results that are not complete."""
HELD_OUT = "held out"
"""What the in-domain test set is called where it is a part of the training examples."""
SELECTING = 1_000
"""Seeds of heads that --select chooses by are this much higher: none of them is reported."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Examples of one kind: features float32 `[examples, features]` and labels int32 `[examples]`."""

    features: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Problem:
    """Training examples, their views float32 `[views, examples, features]`, and test sets by name."""

    train: Part
    views: np.ndarray | None
    tests: dict[str, Part]
    num_classes: int


def main(config: Config) -> None:
    """Tune, save, print and plot."""
    for name in config.methods:
        jdt.checks.require_known("method", name, METHODS)
    jdt.checks.require_at_least("--seeds", config.seeds, 1)
    jdt.checks.require_fraction("--validation", config.validation)
    config = filled(config)
    problem = with_test(digits(config.seed) if config.features is None else read(config.features), config)
    about = identity(config)
    require_free(config, about)
    settings = {name: settings_of(config, name) for name in config.methods}
    chosen: dict[str, Any] = {}
    if config.select:
        for name in config.methods:
            settings[name], chosen[name] = select(problem, settings[name], config)
    staged = config.out / STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    figures, predictions = {}, {f"labels.{name}": part.labels for name, part in problem.tests.items()}
    spectra: dict[str, np.ndarray] = {"frozen": spectrum(next(iter(problem.tests.values())).features, config)[0]}
    for name in config.methods:
        tuned = tune(problem, settings[name], config.seeds, config.seed)
        tuned.to_npz(staged / f"{name}.npz")
        figures[name] = {"tests": {}, "train_accuracy": tuned.train_accuracy.tolist(), "finite": tuned.finite.tolist()}
        figures[name]["settings"] = jdt.config.to_plain(settings[name])
        for test, part in problem.tests.items():
            found = measured(tuned, part, config)
            predictions[f"{name}.{test}"] = found.pop("predictions")
            sigma = found.pop("singular_values")
            if test == next(iter(problem.tests)):
                spectra[name] = mean(sigma)
            figures[name]["tests"][test] = found
    frozen = {name: shape_of(spectrum(part.features, config)) for name, part in problem.tests.items()}
    found = {"identity": about, "methods": figures, "frozen": frozen, "selected": chosen}
    save(config, staged, found, predictions, spectra)
    say(config, problem, figures, frozen, chosen)


def filled(config: Config) -> Config:
    """The configuration with defaults for what was left out."""
    defaults = DIGITS if config.features is None else DEFAULTS
    return dataclasses.replace(
        config, **{name: value for name, value in defaults.items() if getattr(config, name) is None}
    )


def identity(config: Config) -> dict[str, Any]:
    """What decides the results: settings, and the content of the file of features."""
    plain = {name: value for name, value in jdt.config.to_plain(config).items() if name not in ("out", "overwrite")}
    if config.features is not None:
        plain["features"] = hashlib.sha256(config.features.read_bytes()).hexdigest()
    return plain


def require_free(config: Config, about: Mapping[str, Any]) -> None:
    """Refuse to replace results of another configuration, or of other features, unless that is asked for."""
    path = config.out / FIGURES
    if config.overwrite or not path.exists():
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8")).get("identity", {})
    except (ValueError, AttributeError):  # Damaged, or somebody else's.
        saved = {}
    if jdt.config.fingerprint(saved) != jdt.config.fingerprint(about):
        changes = jdt.config.difference(saved, dict(about))
        raise jdt.UserError(
            f"{config.out} holds results of another configuration: {'; '.join(changes)}; pass another --out, or "
            "--overwrite to replace them."
        )


def tune(problem: Problem, settings: jdt.transfer.Tuning, seeds: int, seed: int) -> jdt.transfer.Tuned:
    """A head a seed on the same features, all at once: the host holds them once, a device for each of its seeds."""
    views = None if problem.views is None else np.broadcast_to(problem.views, (seeds, *problem.views.shape))
    return jdt.nmtune(
        np.broadcast_to(problem.train.features, (seeds, *problem.train.features.shape)),
        problem.train.labels, views, num_classes=problem.num_classes, seed=seed, settings=settings,
    )  # fmt: skip


def settings_of(config: Config, name: str) -> jdt.transfer.Tuning:
    """How a method is tuned."""
    return dataclasses.replace(
        METHODS[name], epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
    )  # fmt: skip


def measured(tuned: jdt.transfer.Tuned, part: Part, config: Config) -> dict[str, Any]:
    """Accuracy of every seed with its interval, and the spectrum of what the heads read."""
    stacked = np.broadcast_to(part.features, (len(tuned.finite), *part.features.shape))
    predictions = np.where(tuned.finite[:, None], tuned.predict(stacked), -1).astype(np.int32)
    accuracy = np.where(tuned.finite, (predictions == part.labels).mean(axis=1), np.nan)
    center, low, high = jdt.analyses.mean_interval(accuracy)
    sigma = spectrum(tuned.features(stacked), config, tuned.finite)
    return {
        "accuracy": accuracy.tolist(), "mean": center, "low": low, "high": high, **shape_of(sigma),
        "predictions": predictions, "singular_values": sigma,
    }  # fmt: skip


def spectrum(features: np.ndarray, config: Config, there: np.ndarray | None = None) -> np.ndarray:
    """Singular values of features, one row a set of them; NaN for sets that are not finite, or not `there`."""
    features = features if features.ndim == 3 else features[None]
    sound = np.isfinite(features).all(axis=(1, 2)) & (True if there is None else there)
    found = np.full((len(features), features.shape[-1]), np.nan)
    if sound.any():
        found[sound] = jdt.analyses.singular_values(features[sound], config.center, zero_rows="keep")
    return found


def shape_of(sigma: np.ndarray) -> dict[str, float]:
    """SVE and LSVR = -ln(sigma_1 / sum), means over the seeds that have a spectrum; NaN where none has."""
    rows = sigma[np.isfinite(sigma).all(axis=1) & (sigma > 0).any(axis=1)]
    if not len(rows):
        return {"sve": float("nan"), "lsvr": float("nan")}
    return {"sve": float(jdt.analyses.sve(rows).mean()), "lsvr": float(jdt.analyses.lsvr(rows).mean())}


def mean(sigma: np.ndarray) -> np.ndarray:
    """Singular values, means over the seeds that have any; NaN where none has."""
    rows = sigma[np.isfinite(sigma).all(axis=1)]
    return rows.mean(axis=0) if len(rows) else np.full(sigma.shape[1], np.nan)


def select(
    problem: Problem, settings: jdt.transfer.Tuning, config: Config
) -> tuple[jdt.transfer.Tuning, dict[str, Any]]:
    """Choose the learning rate and what the terms weigh by accuracy on a validation part, at other seeds."""
    fitted, held = divided(problem, config)
    tried = []
    for rate in RATES:
        for factor in WEIGHTS if any(settings.weights) else (1.0,):
            weights = {key: factor * value for key, value in settings.weights._asdict().items()}
            one = dataclasses.replace(settings, learning_rate=rate * settings.rate, **weights)
            tuned = tune(fitted, one, min(config.seeds, 3), config.seed + SELECTING)
            stacked = np.broadcast_to(held.features, (len(tuned.finite), *held.features.shape))
            accuracy = float((tuned.predict(stacked) == held.labels).mean()) if tuned.finite.all() else float("nan")
            tried.append((accuracy, rate, factor, one))
    if not (sound := [entry for entry in tried if np.isfinite(entry[0])]):
        raise jdt.UserError(f"{settings.method} diverged with all settings that were tried: pass --learning-rate.")
    best = max(sound, key=lambda entry: entry[0])
    rows = [{"accuracy": accuracy, "rate": rate, "weights": factor} for accuracy, rate, factor, _ in tried]
    return best[3], {"tried": rows, "learning_rate": best[3].rate, "weights": best[2]}


def divided(problem: Problem, config: Config) -> tuple[Problem, Part]:
    """Split the training examples at random: the rest, and a validation part."""
    count = len(problem.train.labels)
    held = max(1, round(config.validation * count))
    if count - held < 2:
        raise jdt.UserError(f"{count} training examples are too few to hold {held} of them out: pass a test set.")
    order = np.random.default_rng([config.seed, 1]).permutation(count)
    rest, kept = np.sort(order[held:]), order[:held]
    views = None if problem.views is None else problem.views[:, rest]
    train = Part(problem.train.features[rest], problem.train.labels[rest])
    fitted = dataclasses.replace(problem, train=train, views=views)
    return fitted, Part(problem.train.features[kept], problem.train.labels[kept])


def with_test(problem: Problem, config: Config) -> Problem:
    """The problem with an in-domain test set, split off the training examples where it has none."""
    if "test" in problem.tests:
        return problem
    fitted, held = divided(problem, config)
    return dataclasses.replace(fitted, tests={HELD_OUT: held, **problem.tests})


_SAVE_IT = "pass an .npz file of plain numbers, numpy.savez(FILE, features=..., labels=...)."


def read(path: pathlib.Path) -> Problem:
    """Read and check a user's file; nothing in it is unpickled."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise jdt.UserError(f"{path} holds one array without a name: {_SAVE_IT}")
        with file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else str(error)
        raise jdt.UserError(f"cannot read {path} ({reason}): {_SAVE_IT}") from error
    if missing := [name for name in ("features", "labels") if name not in arrays]:
        raise jdt.UserError(
            f"{path} has no {' and no '.join(missing)}; it holds {', '.join(arrays) or 'nothing'}: save features "
            "[examples, features] and labels [examples] under these names."
        )
    return of_arrays(arrays)


def of_arrays(arrays: Mapping[str, np.ndarray]) -> Problem:
    """Check arrays by their names in a file."""
    labels = arrays["labels"]
    num_classes = int(labels.max()) + 1 if labels.size and np.issubdtype(labels.dtype, np.integer) else None
    train = checked_part("features", arrays["features"], labels, num_classes)
    views = arrays.get("views")
    if views is not None:
        views = jdt.transfer.checked_views(views, (1, *train.features.shape), False)[0]
    tests, known = {}, {"features", "labels", "views"}
    for name in arrays:
        prefix = name.removesuffix("_features")
        if prefix == name or not (prefix == "test" or prefix.startswith("ood_")):
            continue
        if f"{prefix}_labels" not in arrays:
            raise jdt.UserError(f"there are {name}, but no {prefix}_labels: give every example its class.")
        part = checked_part(name, arrays[name], arrays[f"{prefix}_labels"], num_classes, trains=False)
        if part.features.shape[1] != train.features.shape[1]:
            raise jdt.UserError(
                f"{name} have {part.features.shape[1]} columns, but the training features {train.features.shape[1]}: "
                "compute both with one network."
            )
        test = prefix.removeprefix("ood_")
        if prefix != "test" and test in ("", "test", HELD_OUT):
            raise jdt.UserError(f"{name} are called {test!r}, as test examples in domain are: name them otherwise.")
        tests[test] = part
        known |= {name, f"{prefix}_labels"}
    if unknown := sorted(arrays.keys() - known):
        raise jdt.UserError(
            f"unknown arrays {', '.join(unknown)}: known are features, labels, views, test_features, test_labels, "
            "ood_NAME_features and ood_NAME_labels."
        )
    return Problem(train, views, dict(sorted(tests.items(), key=lambda item: item[0] != "test")), num_classes or 0)


def checked_part(
    name: str, features: np.ndarray, labels: np.ndarray, num_classes: int | None, *, trains: bool = True
) -> Part:
    """Features and labels that fit one another."""
    if features.ndim != 2:
        raise jdt.UserError(f"{name} have shape {features.shape}, but must be [examples, features].")
    checked = jdt.transfer.checked_features(name, features)[0]
    wanted, _ = jdt.transfer.checked_labels(labels, len(checked), num_classes, name=name, trains=trains)
    return Part(checked, wanted)


def digits(seed: int) -> Problem:
    """The embedded digits: pixels as features, eight views without mirroring; out of domain, a pixel to the right."""
    train = jdt.data.load("jdt_digits", "train")
    test = jdt.data.load("jdt_digits", jdt.data.evaluation_split("jdt_digits"))
    bank = jdt.data.augmented_views(train, 8, seed=seed, flip=False)

    def pixels(images: Any) -> np.ndarray:
        return np.asarray(images).reshape(len(images), -1).astype(np.float32) / 255

    moved = pixels(np.pad(np.asarray(test.images)[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0))))
    return Problem(
        Part(pixels(train.images), np.asarray(train.labels)),
        pixels(bank.images).reshape(8, len(train), -1),
        {"test": Part(pixels(test.images), test.labels), "moved": Part(moved, test.labels)},
        len(train.class_names),
    )


def save(
    config: Config,
    staged: pathlib.Path,
    found: dict[str, Any],
    predictions: Mapping[str, np.ndarray],
    spectra: Mapping[str, np.ndarray],
) -> None:
    """Write figures, predictions and the plot beside the heads, then move all to their place.

    Figures go first and come last: where they are, everything is there that they are of.
    """
    plain: Any = jdt.config.to_plain(config)
    found = {"config": plain, "provenance": jdt.cli.provenance(), "center": config.center, **found}
    arrays: Any = dict(predictions)
    np.savez(staged / "predictions.npz", **arrays)
    plot(staged / "tuned.png", found["methods"], spectra)
    text = json.dumps(found, indent=1, allow_nan=True)
    (staged / FIGURES).write_text(text, encoding="utf-8")
    (config.out / FIGURES).unlink(missing_ok=True)
    for name in METHODS:
        (config.out / f"{name}.npz").unlink(missing_ok=True)
    for path in sorted(staged.iterdir(), key=lambda path: path.name == FIGURES):
        path.replace(config.out / path.name)
    staged.rmdir()


def plot(path: pathlib.Path, figures: Mapping[str, Any], spectra: Mapping[str, np.ndarray]) -> None:
    """Accuracy of every method on every test set with its interval, and the spectra on the first of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    tests = list(next(iter(figures.values()))["tests"])
    for i, (name, found) in enumerate(figures.items()):
        means = np.array([found["tests"][test]["mean"] for test in tests])
        reach = np.array([found["tests"][test]["high"] for test in tests]) - means
        place = np.arange(len(tests)) + (i - (len(figures) - 1) / 2) * 0.15
        left.errorbar(place, means, yerr=np.nan_to_num(reach), fmt="o", capsize=3, label=name)
    left.set_xticks(range(len(tests)), tests)
    left.set(ylabel="accuracy", title="mean over seeds, 95 % interval")
    left.legend()
    for name, sigma in spectra.items():
        shares = np.ravel(sigma) / np.sum(sigma)
        right.semilogy(np.arange(1, len(shares) + 1)[shares > 0], shares[shares > 0], label=name)
    right.set(xlabel="singular value", ylabel="share of the sum", title=f"features on {tests[0]}")
    right.legend()
    figure.savefig(path, dpi=120, format="png")


def say(
    config: Config, problem: Problem, figures: Mapping[str, Any], frozen: Mapping[str, Any], chosen: Mapping[str, Any]
) -> None:
    """Print the table."""
    print_ = jdt.cli.console.print
    views = 0 if problem.views is None else len(problem.views)
    count, width = problem.train.features.shape
    print_(f"{count:,} training examples of {width} features in {problem.num_classes} classes, {views} views.")
    for test, part in problem.tests.items():
        before = frozen[test]
        title = escape(f"{test}: {len(part.labels):,} examples")
        made = Table("method", "accuracy, %", "95 % interval", "SVE", "LSVR", title=title, title_justify="left")
        made.add_row("(frozen features)", "", "", f"{before['sve']:.3f}", f"{before['lsvr']:.3f}")
        for name, method in figures.items():
            found = method["tests"][test]
            interval = (
                "too few seeds" if np.isnan(found["low"]) else f"{100 * found['low']:.2f} to {100 * found['high']:.2f}"
            )
            cells = f"{100 * found['mean']:.2f}", interval, f"{found['sve']:.3f}", f"{found['lsvr']:.3f}"
            made.add_row(name, *cells)
        print_(made)
    print_(
        f"Means over {config.seeds} seeds. SVE: entropy of the singular values' shares, higher is flatter. LSVR: "
        f"-ln(sigma_1 / sum), higher is less dominated by one direction. Centred by {config.center}.",
    )
    for name, found in chosen.items():
        print_(f"{name}: chosen rate {found['learning_rate']:.2g}, weights times {found['weights']:g}.", markup=False)
    if lost := [name for name, found in figures.items() if not all(found["finite"])]:
        print_(f"diverged, in some seeds: {', '.join(lost)}; try a smaller --learning-rate.", markup=False)
    print_(f"saved in {config.out}: figures.json, predictions.npz, tuned.png, and heads by method.", markup=False)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
