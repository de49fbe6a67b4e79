"""The same networks and the same training loop in PyTorch, as its users write and tune them.

Every variant does what a step of jdt does: it draws a batch by index from uint8 images on the device, normalises it,
and takes one step of SGD with momentum and weight decay on the cross-entropy. Layers, kernel sizes, paddings and
BatchNorm constants are those of `jdt.models`; initial values differ, which no timing can see.

Run as a script this file is one of the processes of the variant `torch N processes`.
"""

# pyright: reportMissingImports=false

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # No pool of compilers beside what is timed.

import torch
import torch.nn as nn
import torch.nn.functional as F  # noqa: N812
from workload import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY, Run, Workload

NormMaker = Callable[[int], nn.BatchNorm2d]


def norm(channels: int, *, running: bool = True) -> nn.BatchNorm2d:
    """BatchNorm with Flax's constants at `momentum=0.9`; `running` keeps running statistics for inference."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1, track_running_stats=running)


class SmallCNN(nn.Module):
    """`jdt.models.SmallCNN`: images `[batch, 3, height, width]` to logits `[batch, classes]`."""

    def __init__(self, classes: int, make_norm: NormMaker = norm):
        super().__init__()
        widths = (3, 32, 64, 128, 128)
        self.convs = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False) for i in range(4))
        self.norms = nn.ModuleList(make_norm(width) for width in widths[1:])
        self.head = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        for i, (conv, norm_) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm_(conv(x)))
            x = F.max_pool2d(x, 2, ceil_mode=True) if i < 3 else x
        return self.head(x.mean(dim=(2, 3)))


class ResNet9(nn.Module):
    """`jdt.models.ResNet9`: images `[batch, 3, height, width]` to logits `[batch, classes]`."""

    def __init__(self, classes: int, make_norm: NormMaker = norm):
        super().__init__()

        def conv(before: int, after: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(before, after, kernel, stride, padding, bias=False), make_norm(after), nn.ReLU()
            )

        self.stem, self.down1 = conv(3, 64), conv(64, 128, kernel=5, stride=2, padding=2)
        self.pair1 = nn.Sequential(conv(128, 128), conv(128, 128))
        self.down2 = conv(128, 256)
        self.pair2 = nn.Sequential(conv(256, 256), conv(256, 256))
        self.last = conv(256, 128, padding=0)
        self.head = nn.Linear(128, classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.down1(self.stem(x))
        x = F.max_pool2d(self.down2(x + self.pair1(x)), 2)
        x = self.last(x + self.pair2(x))
        return 0.2 * self.head(x.amax(dim=(2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int, make_norm: NormMaker):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False), make_norm(after)
        self.conv2, self.norm2 = nn.Conv2d(after, after, 3, padding=1, bias=False), make_norm(after)
        self.shortcut = (
            nn.Identity()
            if before == after
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), make_norm(after))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return activations."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + y)


class ResNet18(nn.Module):
    """`jdt.models.ResNet18` with the small stem: images `[batch, 3, height, width]` to logits `[batch, classes]`."""

    def __init__(self, classes: int, make_norm: NormMaker = norm):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), make_norm(64), nn.ReLU())
        widths = (64, 64, 128, 256, 512)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    BasicBlock(before, after, 1 if before == after else 2, make_norm),
                    BasicBlock(after, after, 1, make_norm),
                )
                for before, after in itertools.pairwise(widths)
            )
        )
        self.head = nn.Linear(512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))


NETWORKS = {"small_cnn": SmallCNN, "resnet9": ResNet9, "resnet18": ResNet18}
MODES = {
    "torch eager": None,
    "torch compiled": "default",
    "torch reduce-overhead": "reduce-overhead",
    "torch max-autotune": "max-autotune",
}
"""Sequential variants: one model after another, with this mode of `torch.compile`. The last two use CUDA graphs."""


def process_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def names(device: str) -> list[str]:
    """Names of the variants that make sense on `cpu` or `cuda`."""
    if device == "cpu":
        count = process_count()
        return [
            "torch eager",
            "torch compiled",
            "torch vmap",
            f"torch {count} processes",
            f"torch {count} eager processes",
        ]
    return [*MODES, "torch vmap"]


def prepare(name: str, workload: Workload, resources: contextlib.ExitStack) -> tuple[Run, int]:
    """Build a variant and compile it.

    Args:
      name: One of `names(workload.device)`.
      workload: What it is to train.
      resources: Receives what has to be closed after the last run.

    Returns:
      The workload as a function to be timed, and how many models it trains at a time.
    """
    if workload.device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = workload.precision != "float32"
        torch.set_float32_matmul_precision("highest" if workload.precision == "float32" else "high")
    if name == "torch vmap":
        return vmapped(workload), workload.models
    if name in MODES:
        return sequential(workload, MODES[name]), 1
    processes = Processes(workload, process_count(), None if "eager" in name else "default")
    resources.callback(processes.close)
    return processes, process_count()


def sequential(workload: Workload, mode: str | None) -> Run:
    """Train one model after another.

    One module serves all models and is filled with fresh values between them, so that it is compiled, and its CUDA
    graphs are recorded, once.

    Args:
      workload: What to train.
      mode: Of `torch.compile`; None runs eagerly.

    Returns:
      A function that trains all models.
    """
    net = NETWORKS[workload.network](workload.classes).to(workload.device, memory_format=torch.channels_last)
    initial = {name: value.clone() for name, value in net.state_dict().items()}
    images, labels, members = tensors(workload, workload.models)

    def loss_of(pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with autocast(workload):
            return F.cross_entropy(net(normalise(pixels)), targets)

    compiled = loss_of if mode is None else torch.compile(loss_of, mode=mode)

    def train(model: int, steps: int) -> None:
        net.load_state_dict(initial)
        optimizer = sgd(net.parameters())
        scaler = torch.amp.GradScaler(workload.device, enabled=workload.precision == "float16")
        batches = batches_of(members[model], workload.batch_size)
        for _ in range(steps):
            if mode in ("reduce-overhead", "max-autotune"):
                torch.compiler.cudagraph_mark_step_begin()
            index = next(batches)
            scaler.scale(compiled(images[index], labels[index])).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

    train(0, 4)  # Compiles, and records CUDA graphs, in the first steps.
    return timed(workload, lambda: [train(model, workload.steps) for model in range(workload.models)], workload.models)


def vmapped(workload: Workload) -> Run:
    """Train all models at once with `torch.func`: one network, parameters with a leading models axis.

    BatchNorm keeps no running statistics here, since `vmap` refuses its in-place update of them. That is a little
    less work than in the other variants, and a model that still needs its statistics computed before inference.
    """
    make_norm = functools.partial(norm, running=False)
    nets = [NETWORKS[workload.network](workload.classes, make_norm).to(workload.device) for _ in range(workload.models)]
    params: dict[str, Any] = torch.func.stack_module_state(nets)[0]
    net = nets[0].to("meta")  # Its structure alone is needed.
    images, labels, members = tensors(workload, workload.models)
    scale = 1024.0 if workload.precision == "float16" else 1.0  # A constant loss scale: vmap cannot skip one model.

    def loss_of(mine: dict[str, Any], pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with autocast(workload):
            return scale * F.cross_entropy(torch.func.functional_call(net, mine, (normalise(pixels),)), targets)

    gradients = torch.func.vmap(torch.func.grad(loss_of))

    def train(steps: int) -> None:
        optimizer = sgd(params.values())  # Elementwise, so stacked parameters are stepped as one by one.
        batches = [batches_of(mine, workload.batch_size) for mine in members]
        for _ in range(steps):
            index = torch.stack([next(batch) for batch in batches])
            detached = {name: value.detach() for name, value in params.items()}
            for name, gradient in gradients(detached, images[index], labels[index]).items():
                params[name].grad = gradient / scale if scale != 1.0 else gradient
            optimizer.step()

    train(1)
    return timed(workload, lambda: train(workload.steps), workload.models)


def timed(workload: Workload, work: Callable[[], Any], models: int) -> Run:
    """Make `work`, which trains `models` models for `workload.steps` steps, report model steps and seconds."""

    def run() -> tuple[int, float]:
        synchronise(workload)
        begun = time.perf_counter()
        work()
        synchronise(workload)
        return models * workload.steps, time.perf_counter() - begun

    return run


def tensors(workload: Workload, models: int) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Images `[10000, height, width, 3]`, labels, and every model's own indices, on the device."""
    images, labels = (torch.from_numpy(array).to(workload.device) for array in workload.data())
    members = [torch.from_numpy(row.nonzero()[0]).to(workload.device) for row in workload.members(models)]
    return images, labels.long(), members


def batches_of(members: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
    """Indices of batch after batch, pass after pass, each pass in a fresh order without its incomplete batch."""
    while True:
        order = members[torch.randperm(len(members), device=members.device)]
        yield from order[: len(order) // batch_size * batch_size].split(batch_size)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Turn uint8 `[batch, height, width, 3]` into float32 `[batch, 3, height, width]`, channels last in memory."""
    return ((pixels.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def autocast(workload: Workload) -> torch.autocast:
    """Half precision, where the workload asks for it."""
    half = torch.float16 if workload.precision == "float16" else torch.bfloat16
    return torch.autocast(workload.device, dtype=half, enabled=workload.precision in ("float16", "bfloat16"))


def sgd(params: Any) -> torch.optim.SGD:
    """SGD in one fused kernel."""
    return torch.optim.SGD(params, LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True)


def synchronise(workload: Workload) -> None:
    """Wait for the device."""
    if workload.device == "cuda":
        torch.cuda.synchronize()


class Processes:
    """Single-threaded processes side by side, one a core, each training its share of the models after another.

    They start together at an agreed time; a run lasts until the last of them is done. `mode` is that of `sequential`.
    """

    def __init__(self, workload: Workload, count: int, mode: str | None):
        share = dataclasses.replace(workload, models=1, steps=workload.steps_of(count))
        self._workers = [
            subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for _ in range(count)
        ]  # fmt: skip
        for core, worker in enumerate(self._workers):
            self._tell(worker, {"core": core, "mode": mode, "workload": dataclasses.asdict(share)})
        for worker in self._workers:
            self._hear(worker)

    def __call__(self) -> tuple[int, float]:
        """Run once: model steps of all processes, and seconds from the common start to the last one's end."""
        start = time.time() + 0.05
        for worker in self._workers:
            self._tell(worker, {"start": start})
        reports = [self._hear(worker) for worker in self._workers]
        return sum(report["done"] for report in reports), max(report["end"] for report in reports) - start

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.close()
        for worker in self._workers:
            worker.wait(timeout=30)

    @staticmethod
    def _tell(worker: subprocess.Popen[str], message: dict[str, Any]) -> None:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(message) + "\n")

    @staticmethod
    def _hear(worker: subprocess.Popen[str]) -> dict[str, Any]:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended with exit code {worker.wait(timeout=30)}.")
        return json.loads(line)


def work() -> None:
    """Be one of `Processes`: read a workload, compile, then train it at each start time that comes in."""
    first = json.loads(sys.stdin.readline())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[first["core"]]})
    torch.set_num_threads(1)
    run = sequential(Workload(**first["workload"]), first["mode"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        time.sleep(max(0.0, json.loads(line)["start"] - time.time()))
        done, _ = run()
        print(json.dumps({"done": done, "end": time.time()}), flush=True)


if __name__ == "__main__":
    work()
