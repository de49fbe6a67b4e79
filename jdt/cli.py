"""The command line every experiment shares: presets, one-line errors, progress, resumption after Ctrl-C."""

import collections
import contextlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from jdt import checks, devices, store
from jdt.interrupts import Interrupted, exit_code, interruptible

Config = TypeVar("Config")

USER_ERROR = 2
console = Console(highlight=False)

RunPath = Annotated[
    store.Place,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda arguments: store.run_path(arguments[0]),
        is_instance=lambda value: isinstance(value, get_args(store.Place)),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A flag that names a run: a local path, or one in a bucket (`gs://`), which `pathlib` would garble."""


def main(
    run: Callable[[Config], None],
    presets: Mapping[str, Config],
    *,
    default: str,
    description: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, run the experiment, and turn what goes wrong into an exit code.

    Args:
      run: The experiment.
      presets: Configurations by name, chosen by `--preset`; every other flag overrides a field of it.
      default: Preset when none is asked for.
      description: Shown by `--help`.
      argv: Arguments without the program's name; the process's own when None.

    Returns:
      0; 2 after a mistake of the user (one line on stderr); 130 after Ctrl-C, 143 after SIGTERM, within seconds.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    devices.prepare()
    try:
        preset, rest = take_preset(arguments, presets, default)
        config = tyro.cli(
            type(presets[preset]),
            default=presets[preset],
            args=rest,
            description=f"{description}\n\nPresets (--preset NAME, default {default}): {', '.join(presets)}.",
            config=(tyro.conf.AvoidSubcommands,),
        )
        with interruptible(_goodbye):
            run(config)
    except checks.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        number = interrupt.signal if isinstance(interrupt, Interrupted) else signal.SIGINT
        print(f"\n{_goodbye(number, getattr(interrupt, '__notes__', ()))}", file=sys.stderr, flush=True)
        if argv is None:  # A process of its own ends here and now: nothing that still runs in it is waited for.
            sys.stdout.flush()
            os._exit(exit_code(number))
        return exit_code(number)
    return 0


_ONCE = ("--overwrite", "--no-resume")
"""Flags that begin a run; whoever goes on with it must not pass them again."""
_saved: list[Callable[[], str]] = []


@contextlib.contextmanager
def saving(words: Callable[[], str]) -> Iterator[None]:
    """Say what is saved if the process is interrupted in this block, e.g. "12 of 96 models are saved in runs/demo".

    Args:
      words: Called in the event; it must not wait for anything.
    """
    _saved.append(words)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(words())
        raise
    finally:
        _saved.pop()


def _goodbye(number: signal.Signals, notes: Sequence[str] = ()) -> str:
    saved = notes[-1] if notes else _saved[-1]() if _saved else "every completed block is saved"
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    return f"interrupted ({name}): {saved}; go on with: {command(without=_ONCE)}"


def command(without: Sequence[str] = ()) -> str:
    """The command line of this process, as it can be typed again, without some of its flags."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", spec.name] if spec is not None else [sys.argv[0]]
    return shlex.join([*program, *(argument for argument in sys.argv[1:] if argument not in without)])


def take_preset(arguments: Sequence[str], presets: Mapping[str, Any], default: str) -> tuple[str, list[str]]:
    """Take `--preset NAME` (or `--preset=NAME`) out of the arguments.

    >>> take_preset(["--preset", "smoke", "--seed", "1"], {"smoke": 0, "demo": 1}, "demo")
    ('smoke', ['--seed', '1'])
    """
    preset, rest, remaining = default, [], iter(arguments)
    for argument in remaining:
        if argument == "--preset":
            preset = next(remaining, "")
        elif argument.startswith("--preset="):
            preset = argument.removeprefix("--preset=")
        else:
            rest.append(argument)
    checks.require_known("preset", preset, presets)
    return preset, rest


def provenance() -> dict[str, Any]:
    """What a result rests on besides its configuration: command, versions, device, commit."""
    import jax

    packages = ("jdt", "jax", "jaxlib", "flax", "optax", "numpy", "tensorstore", "tensorflow-datasets")
    return {
        "command": command(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "backend": jax.default_backend(),
        "host": platform.node(),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that jdt runs from, with `-dirty` for local changes; None for an installed package."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.fields.get("speed")
        return Text("-- models/s" if speed is None else f"{speed:.2f} models/s")


class ModelProgress:
    """A progress bar over models: done, models a second (of all processes, of late), time left.

    On a terminal it is a bar; elsewhere (a log file) it prints a line every `interval` seconds.
    """

    def __init__(self, total: int, done: int, *, interval: float = 30.0) -> None:
        self._total, self._interval = total, interval
        self._printed = time.monotonic()
        # The speed of the last few hundred calls: the first program's compilation is soon forgotten.
        self._recent: collections.deque[tuple[float, float]] = collections.deque(
            [(self._printed, float(done))], maxlen=300
        )
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} models"),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task("training", total=total, completed=done)

    def __enter__(self) -> "ModelProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: float) -> None:
        """Say how many models are done, those of other processes and fractions included."""
        now = time.monotonic()
        self._recent.append((now, done))
        then, before = self._recent[0]
        speed = (done - before) / (now - then) if now > then else None
        self._bar.update(self._task, completed=done, speed=speed)
        if speed and not console.is_terminal and now - self._printed >= self._interval:
            self._printed = now
            left = (self._total - done) / speed / 60
            console.print(f"{done:.0f}/{self._total} models, {speed:.2f} models/s, {left:.1f} min left")


@contextlib.contextmanager
def item_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over items whose total is known at the first call, e.g. images to decode."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=1)
        yield lambda done, total: bar.update(task, completed=done, total=total)
