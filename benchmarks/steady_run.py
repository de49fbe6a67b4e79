"""Does a long run hold steady memory, and what does it cost besides training?

Runs `experiments.class_influence` on the embedded digits with the smallest network and very many small blocks, and
reads the resident memory of the process with every block that is recorded. Overhead is the time between the first
record and the last that is in no record's `seconds` (training, transfer and outputs of a block): writing, bookkeeping.

    python benchmarks/steady_run.py --models 2000 --json benchmarks/steady_run.json
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from machine import device_name, versions

ROOT = pathlib.Path(__file__).parents[1]
SETTLED = 100
"""Blocks after which memory must not grow any more."""


def resident_mib(process: int) -> float:
    """Resident memory of a process, MiB."""
    status = pathlib.Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def watch(command: list[str], out: pathlib.Path, num_blocks: int) -> list[tuple[int, float, float]]:
    """Run a command; (blocks recorded, seconds, resident MiB) whenever there are more blocks, until all are there."""
    seen: list[tuple[int, float, float]] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        blocks, begun = out / "blocks", time.monotonic()
        while process.poll() is None and (not seen or seen[-1][0] < num_blocks):
            count = sum(1 for _ in blocks.glob("*.json")) if blocks.is_dir() else 0
            if count > (seen[-1][0] if seen else 0):
                seen.append((count, time.monotonic() - begun, resident_mib(process.pid)))
            time.sleep(0.05)
        printed, _ = process.communicate()
        if process.returncode:
            sys.exit(printed)
    return seen


def main() -> None:
    """Run, and print what memory and overhead were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--block-size", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        command = [sys.executable, "-m", "experiments.class_influence", "--preset", "smoke"]
        command += ["--block-size", str(options.block_size)]
        command += ["--out", str(out), "--num-models", str(options.models), "--recipe.epochs", str(options.epochs)]
        seen = watch(command, out, -(-options.models // options.block_size))
        records = [json.loads(path.read_text()) for path in sorted((out / "blocks").iterdir())]
    counts, seconds, memory = (np.array(column) for column in zip(*seen, strict=True))
    first, last = int(counts[0]), int(counts[-1])
    wall = seconds[-1] - seconds[0]
    inside = sum(record["seconds"] for record in records[first:last])
    settled = memory[counts > SETTLED]
    slope = np.polyfit(counts[counts > SETTLED], settled, 1)[0] if len(settled) > 1 else float("nan")
    found = {
        "models": options.models,
        "blocks": last,
        "block_size": options.block_size,
        "wall_seconds": round(float(wall), 1),
        "seconds_in_blocks": round(float(inside), 1),
        "overhead_share": round(float(1 - inside / wall), 4),
        "resident_mib_at_100_blocks": round(float(settled[0]), 1),
        "resident_mib_largest_after": round(float(settled.max()), 1),
        "resident_mib_at_the_end": round(float(settled[-1]), 1),
        "resident_mib_a_thousand_blocks": round(float(1000 * slope), 2),
        "device": device_name(),
        "versions": versions("jax", "jaxlib", "tensorstore"),
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
