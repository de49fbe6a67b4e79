"""SimCLR of several models beside the obvious PyTorch loop, at equal steps.

Both train `small_cnn` by NT-Xent with AdamW on two views of every image. PyTorch trains a model after the other, all
cores inside its operations, its augmentation written for whole batches (crops by `grid_sample`, blur as a grouped
convolution), which is faster than transforms of single images and so the fairer peer. jdt trains all at once, a model a
core. Rounds alternate; medians of ratios within rounds.

Run  python benchmarks/simclr_peers.py            (PyTorch from the extra `bench`)
"""

# pyright: reportMissingImports=false

import argparse
import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Callable

import numpy as np
from machine import aligned, device_name, note, versions

import jdt

EXAMPLES, RATE, TEMPERATURE, DECAY = 2048, 1e-3, 0.2, 0.1


def main() -> None:
    """Time both in turn and print milliseconds a step and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[jdt.devices.usable_cores()])
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    jdt.devices.prepare()
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, arguments.side, arguments.side, 3), np.uint8)
    variants = {f"torch, threads {n}": torch_loop(images, arguments, n) for n in arguments.threads}
    variants["jdt"] = jdt_models(images, arguments)
    count = arguments.models * arguments.steps
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cores: dict[str, list[float]] = {name: [] for name in variants}
    for nth in range(arguments.rounds + 1):
        for name, run in variants.items():
            wall, core = time.perf_counter(), time.process_time()
            run()
            if nth == 0:  # Compilation, and PyTorch's own first calls.
                note(f"{name}: first call {time.perf_counter() - wall:.1f} s")
                continue
            walls[name].append((time.perf_counter() - wall) / count)
            cores[name].append((time.process_time() - core) / count)
    found = {
        "device": device_name(),
        "versions": versions("jax", "torch"),
        "settings": {key: value for key, value in vars(arguments).items() if key != "out"},
        "ms_a_step": {name: [1e3 * value for value in values] for name, values in walls.items()},
        "processor_ms_a_step": {name: [1e3 * value for value in values] for name, values in cores.items()},
        "ratio": {name: _ratio(walls, name) for name in variants},
        "processor_ratio": {name: _ratio(cores, name) for name in variants},
    }
    rows = [["variant", "ms a step", "processor ms a step", "jdt is faster, clock", "processor"]]
    rows += [
        [
            name,
            f"{1e3 * statistics.median(walls[name]):.2f}",
            f"{1e3 * statistics.median(cores[name]):.2f}",
            f"{found['ratio'][name]:.2f}",
            f"{found['processor_ratio'][name]:.2f}",
        ]
        for name in variants
    ]
    print(aligned(rows))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _ratio(seconds: dict[str, list[float]], name: str) -> float:
    """How many times as long as jdt something takes, within rounds."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds["jdt"], strict=True))


def jdt_models(images: np.ndarray, arguments: argparse.Namespace) -> Callable[[], None]:
    """All models at once, by the plan for CPUs or the one for accelerators."""
    import jax
    import jax.numpy as jnp

    plan = jdt.train.PLANS["winograd" if jax.default_backend() == "cpu" else "vmapped"]
    size = arguments.steps * arguments.batch
    ensemble = jdt.train.Ensemble(
        network=jdt.models.make("small_cnn", 10, arguments={"width": arguments.width}),
        recipe=jdt.train.Recipe(
            epochs=1, batch_size=arguments.batch, learning_rate=RATE, warmup_epochs=0, decay="cosine",
            algorithm="adamw", weight_decay=DECAY,
        ),
        plan=dataclasses.replace(plan, steps_per_call=min(plan.steps_per_call, arguments.steps)),
        image_shape=(arguments.side, arguments.side, 3),
        mean_subset_size=float(size),
        smallest_subset=min(size, EXAMPLES),
        num_devices=min(arguments.models, len(jax.local_devices())),
        objective=jdt.train.SimCLR(temperature=TEMPERATURE),
    )  # fmt: skip
    data: object = jdt.train.SourceData(jnp.asarray(images), jnp.zeros(EXAMPLES, jnp.int32))
    members = np.ones((arguments.models, EXAMPLES), bool)

    def run() -> None:
        jax.block_until_ready(jdt.train.train(ensemble, data, members, np.arange(arguments.models), seed=0).variables)

    return run


def torch_loop(images: np.ndarray, arguments: argparse.Namespace, threads: int) -> Callable[[], None]:
    """One model after the other, with so many threads inside operations."""
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import nn

    pixels, width, batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), arguments.width, arguments.batch
    settings = jdt.data.Augmentation()
    reach = jdt.data.augmentation.blur_reach(arguments.side)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (3, width, 2 * width, 4 * width, 4 * width)
            self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False) for i in range(4))
            self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
            self.projection = nn.Sequential(
                nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 128, bias=False)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
                x = F.relu(norm(conv(x)))
                x = F.max_pool2d(x, 2, ceil_mode=True) if i < 3 else x
            return self.projection(x.mean(dim=(2, 3)))

    def grey(x: torch.Tensor) -> torch.Tensor:
        return 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]

    def some(share: float, changed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.rand(len(x), 1, 1, 1) < share, changed, x)

    def cropped(x: torch.Tensor) -> torch.Tensor:
        low, high = settings.crop_scale
        area = low + (high - low) * torch.rand(len(x))
        ratio = torch.exp((2 * torch.rand(len(x)) - 1) * float(np.log(4 / 3)))
        down, across = (torch.sqrt(area / ratio).clamp(max=1), torch.sqrt(area * ratio).clamp(max=1))
        sign = torch.where(torch.rand(len(x)) < 0.5, -1.0, 1.0)
        theta = torch.zeros(len(x), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = sign * across, down
        theta[:, 0, 2] = (1 - across) * (2 * torch.rand(len(x)) - 1)
        theta[:, 1, 2] = (1 - down) * (2 * torch.rand(len(x)) - 1)
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border",
                             align_corners=False)  # fmt: skip

    def turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        red, green, blue = x.unbind(1)
        value, chroma = x.amax(1), x.amax(1) - x.amin(1)
        safe = torch.where(chroma > 0, chroma, torch.ones(()))
        sixths = torch.where(
            value == red,
            (green - blue) / safe,
            torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
        )
        places = torch.stack([(offset + sixths + 6 * turns) % 6 for offset in (5, 3, 1)], 1)
        return value[:, None] - chroma[:, None] * torch.minimum(places, 4 - places).clamp(0, 1)

    def jittered(x: torch.Tensor) -> torch.Tensor:
        change = [(2 * torch.rand(len(x), 1, 1, 1) - 1) * most for most in settings.jitter]
        x = (x * (1 + change[0])).clamp(0, 1)
        level = grey(x).mean(dim=(1, 2, 3), keepdim=True)
        x = (level + (1 + change[1]) * (x - level)).clamp(0, 1)
        level = grey(x)
        return turned((level + (1 + change[2]) * (x - level)).clamp(0, 1), change[3][:, 0])

    def blurred(x: torch.Tensor) -> torch.Tensor:
        low, high = settings.blur_sigma
        sigma = low + (high - low) * torch.rand(len(x), 1)
        kernel = torch.softmax(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2, dim=1).repeat_interleave(3, 0)
        flat = F.pad(x.reshape(1, -1, *x.shape[2:]), (reach,) * 4, mode="reflect")
        flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
        return F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel)).reshape(x.shape)

    def view(x: torch.Tensor) -> torch.Tensor:
        x = cropped(x.float() / 255)
        x = some(settings.jitter_probability, jittered(x), x)
        x = some(settings.grey_probability, grey(x).expand_as(x), x)
        x = some(settings.blur_probability, blurred(x), x)
        return (x - 0.5) / 0.25

    def nt_xent(z: torch.Tensor) -> torch.Tensor:
        z = F.normalize(z)
        similar = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        return F.cross_entropy(similar, torch.arange(len(z)).roll(len(z) // 2))

    def run() -> None:
        torch.set_num_threads(threads)
        for _ in range(arguments.models):
            net, order = Encoder(), torch.randperm(EXAMPLES)
            optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)
            for step in range(arguments.steps):
                chosen = pixels[order[torch.arange(step * batch, (step + 1) * batch) % EXAMPLES]]
                with torch.no_grad():
                    views = view(torch.cat([chosen, chosen]))
                loss = nt_xent(net(views))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    return run


if __name__ == "__main__":
    main()
