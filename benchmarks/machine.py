"""What every benchmark says about where it ran, and how it prints a table."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import sys

import jax


def device_name() -> str:
    """The accelerator's name, or the processor's with its number of usable cores."""
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def note(text: str) -> None:
    """Say what happens, beside the table."""
    print(text, file=sys.stderr, flush=True)


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as lines of text, columns padded to one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
