"""NMTune on cached features beside the obvious PyTorch loop, at equal steps.

Both tune residual networks on the same bank of views: a PyTorch module a model, one after the other, with AdamW and
`torch.linalg.svdvals`, all cores inside its operations; jdt all models at once, a model a core. Rounds alternate. The
full recipe (30 passes over 20,000 examples for 32 models, 5 targets and 3 seeds) is far more than a benchmark may take:
a round is some steps of some models, and what the whole would take follows from seconds a step.

Run  python benchmarks/nmtune_peers.py            (PyTorch from the extra `bench`)
     python benchmarks/nmtune_peers.py --features 128 --form code
"""

# pyright: reportMissingImports=false

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable

from machine import aligned, device_name, note, versions

import jdt

CLASSES, VIEWS, SEED = 10, 2, 0
WHOLE = {"heads": 32 * 5 * 3, "passes": 30, "examples": 20_000, "batch": 64}


def main() -> None:
    """Time both in turn and print seconds a step and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--examples", type=int, default=64 * 40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--form", choices=("paper", "code"), default="paper")
    parser.add_argument("--method", choices=("nmtune", "mlp"), default="nmtune")
    threads = sorted({1, jdt.devices.usable_cores()})
    parser.add_argument("--threads", type=int, nargs="+", default=threads, help="of PyTorch; a variant each")
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    jdt.devices.prepare()
    settings = jdt.transfer.Tuning(arguments.method, arguments.form, epochs=1)
    problem = draw(arguments.models, arguments.examples, arguments.features)
    variants = {f"torch, threads {n}": torch_loop(problem, settings, n) for n in arguments.threads}
    variants["jdt"] = jdt_heads(problem, settings)
    steps = arguments.models * (arguments.examples // settings.batch_size)
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cores: dict[str, list[float]] = {name: [] for name in variants}
    for nth in range(arguments.rounds + 1):
        for name, run in variants.items():
            wall, core = time.perf_counter(), time.process_time()
            run()
            if nth == 0:  # Compilation, and PyTorch's own first calls.
                note(f"{name}: first call {time.perf_counter() - wall:.1f} s")
                continue
            walls[name].append((time.perf_counter() - wall) / steps)
            cores[name].append((time.process_time() - core) / steps)
    whole = WHOLE["heads"] * WHOLE["passes"] * (WHOLE["examples"] // WHOLE["batch"])
    found = {
        "device": device_name(),
        "versions": versions("jax", "torch"),
        "settings": {key: value for key, value in vars(arguments).items() if key != "out"},
        "ms_a_step": {name: [1e3 * value for value in values] for name, values in walls.items()},
        "processor_ms_a_step": {name: [1e3 * value for value in values] for name, values in cores.items()},
        "ratio": {name: _ratio(walls, name) for name in variants},
        "processor_ratio": {name: _ratio(cores, name) for name in variants},
        "hours_of_the_whole": {name: whole * statistics.median(values) / 3600 for name, values in walls.items()},
    }
    rows = [["variant", "ms a step", "processor ms a step", "jdt is faster, clock", "processor", "hours of the whole"]]
    rows += [
        [
            name,
            f"{1e3 * statistics.median(walls[name]):.2f}",
            f"{1e3 * statistics.median(cores[name]):.2f}",
            f"{found['ratio'][name]:.2f}",
            f"{found['processor_ratio'][name]:.2f}",
            f"{found['hours_of_the_whole'][name]:.1f}",
        ]
        for name in variants
    ]
    print(aligned(rows))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _ratio(seconds: dict[str, list[float]], name: str) -> float:
    """How many times as long as jdt something takes, within rounds."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds["jdt"], strict=True))


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arrays that both read: views float32 `[models, views, examples, features]`, labels int32 `[examples]`."""

    views: "object"
    labels: "object"


def draw(models: int, examples: int, width: int) -> Problem:
    """Features as a network with ReLU gives them: not negative, a few directions dominate."""
    import numpy as np

    random = np.random.default_rng(SEED)
    labels = random.integers(0, CLASSES, examples).astype(np.int32)
    mixing = (random.normal(size=(width, width)) / np.sqrt(np.arange(1, width + 1))).T.astype(np.float32)
    views = np.empty((models, VIEWS, examples, width), np.float32)
    for model in range(models):
        centres = random.normal(size=(CLASSES, width))
        for view in range(VIEWS):
            latent = centres[labels] + random.normal(size=(examples, width))
            views[model, view] = np.maximum(latent.astype(np.float32) @ mixing + 0.5, 0)
    return Problem(views, labels)


def jdt_heads(problem: Problem, settings: "jdt.transfer.Tuning") -> Callable[[], None]:
    """All models at once."""
    import numpy as np

    views = np.asarray(problem.views)
    features = np.ascontiguousarray(views[:, 0])

    def run() -> None:
        jdt.nmtune(features, np.asarray(problem.labels), views, num_classes=CLASSES, settings=settings)

    return run


def torch_loop(problem: Problem, settings: "jdt.transfer.Tuning", threads: int) -> Callable[[], None]:
    """One model after the other, as the published loop does it, with so many threads inside operations."""
    import numpy as np
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import nn

    views, labels = torch.from_numpy(np.asarray(problem.views)), torch.from_numpy(np.asarray(problem.labels)).long()
    models, count, examples, width = views.shape
    weights, batch = settings.weights, settings.batch_size

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = settings.ratio * width
            self.mlp = nn.Sequential(
                nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
            )
            self.scale = nn.Parameter(torch.full((width,), settings.scale))
            self.head = nn.Linear(width, CLASSES)

        def forward(self, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            z = self.scale * self.mlp(f) + f
            return z, self.head(z)

    def terms(f: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        half = len(f) // 2
        if settings.form == "paper":
            near = (F.normalize(z) - F.normalize(f)).square().sum(dim=1).mean()
        else:
            near = F.mse_loss(F.normalize(z[half:]), F.normalize(f[:half]))
        sigma = torch.linalg.svdvals(z)
        dominance = -(sigma / sigma.sum())[: settings.dominant].mean()
        centred = z - z.mean(dim=0)
        cov = centred.T @ centred / (len(z) - 1)
        off = (cov.square().sum() - cov.diagonal().square().sum()) / width
        return weights.consistency * near + weights.covariance * off + weights.dominance * dominance

    def run() -> None:
        torch.set_num_threads(threads)
        for model in range(models):
            net, steps = Residual(), examples // batch
            optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.weight_decay)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * settings.epochs)
            for _ in range(settings.epochs):
                order = torch.randperm(examples)
                for i in range(steps):
                    chosen = order[i * batch : (i + 1) * batch].repeat(2)
                    f = views[model, torch.randint(count, (2 * batch,)), chosen]
                    z, logits = net(f)
                    loss = F.cross_entropy(logits, labels[chosen])
                    if any(weights):
                        loss = loss + terms(f, z)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()

    return run


if __name__ == "__main__":
    main()
