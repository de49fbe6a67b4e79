"""Workers of one run killed at random moments, joined and removed at random: is the store that of an undisturbed run?

Starts 2 to 4 workers of `experiments.class_influence` on one run directory and kills them with SIGKILL until there were
`--kills` kills; others join in their place, as other shares of another number. A run that is complete before grows.
After every kill, every block recorded before must still be recorded, in the same bytes. In the end one worker finishes
the run, and another run of the same configuration is made by a single worker without disturbance: both stores must be
equal, file by file, and nothing half-written may be left.

    python benchmarks/chaos.py --kills 100 --json benchmarks/chaos.json
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter

from machine import device_name, versions

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = ["--preset", "smoke", "--recipe.epochs", "0.2", "--plan", "winograd", "--block-size", "2"]
GROWTH = 40


class Worker:
    """One process that trains its share of the run, to be killed at a time of its own."""

    def __init__(self, out: pathlib.Path, num_models: int, shard: str, log: pathlib.Path) -> None:
        command = [sys.executable, "-m", "experiments.class_influence", *FLAGS, "--out", str(out)]
        command += ["--num-models", str(num_models), "--shard", shard, "--distributed", "off"]
        self.log = open(log, "ab")  # noqa: SIM115  Open as long as the process lives.
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=self.log)
        self.begun = time.monotonic()

    def kill(self) -> int | None:
        """Kill it; its exit code where it had ended before."""
        code = self.process.poll()
        self.process.kill()
        self.process.wait()
        self.log.close()
        return code


def records(out: pathlib.Path) -> dict[str, bytes]:
    """The block records that there are."""
    folder = out / "blocks"
    return {path.name: path.read_bytes() for path in folder.glob("*.json")} if folder.is_dir() else {}


def require_kept(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Every block that was complete is complete; only a block that was partial when the run grew gets a new record."""
    for name, content in before.items():
        kept = after.get(name)
        old, new = json.loads(content), json.loads(kept or b"{}")
        grown = bool(new) and old["models"][0] == new["models"][0] and old["models"][1] < new["models"][1]
        if kept != content and not grown:
            sys.exit(f"block {name} was recorded and is not any more, or not as it was")


def tree(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def alone(out: pathlib.Path, num_models: int) -> None:
    """Make or finish a run with a single worker."""
    command = [sys.executable, "-m", "experiments.class_influence", *FLAGS, "--out", str(out)]
    subprocess.run([*command, "--num-models", str(num_models)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def torment(out: pathlib.Path, kills: int, longest: float, draw: random.Random, log: pathlib.Path) -> dict:
    """Kill workers until there were enough kills; how the run fared."""
    num_models, done, workers, seen = GROWTH, 0, [], {}
    phases: Counter[str] = Counter()
    joined = 0
    while done < kills:
        while len(workers) < draw.randint(2, 4):
            count = draw.randint(2, 4)
            workers.append(Worker(out, num_models, f"{draw.randrange(count)}/{count}", log))
            joined += 1
        time.sleep(draw.expovariate(len(workers) / longest))
        victim = workers.pop(draw.randrange(len(workers)))
        there = records(out)
        code = victim.kill()
        if code is None:
            done += 1
            phases["training" if there and time.monotonic() - victim.begun > 5 else "start"] += 1
        elif code != 0:
            sys.exit(f"a worker ended with exit code {code}:\n{log.read_text()[-2000:]}")
        after = records(out)
        require_kept({**seen, **there}, after)
        seen = after
        if len(seen) * 2 >= num_models:
            num_models += GROWTH
        print(f"{done} kills, {len(seen)} blocks of {num_models // 2}", flush=True)
    for worker in workers:
        worker.kill()
    return {"kills": done, "workers": joined, "num_models": num_models, "killed_in": dict(phases)}


def main() -> None:
    """Torment a run, finish it, and compare it with an undisturbed one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=9.0, help="mean seconds that a worker lives")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        calm, killed = root / "calm", root / "killed"
        begun = time.monotonic()
        found = torment(killed, options.kills, options.longest, random.Random(options.seed), root / "log")
        at_once = len(records(killed))
        alone(killed, found["num_models"])
        found["seconds"] = round(time.monotonic() - begun, 1)
        require_kept({}, records(killed))
        alone(calm, found["num_models"])
        stray = [str(p.relative_to(killed)) for p in killed.rglob("*") if p.name.endswith((".__lock", ".tmp"))]
        mine, theirs = tree(killed / "store.zarr"), tree(calm / "store.zarr")
        different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        names = {p.name for p in killed.iterdir()} - {p.name for p in calm.iterdir()}
        found |= {
            "blocks_before_the_last_start": at_once, "files_compared": len(theirs), "files_that_differ": different,
            "stray_files": stray, "other_entries": sorted(names), "seed": options.seed, "device": device_name(),
            "versions": versions("jax", "jaxlib", "tensorstore"),
        }  # fmt: skip
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if different or stray or names:
        sys.exit("the store is not that of an undisturbed run")
    print("bit-identical to an undisturbed run; no block lost, no stray file")


if __name__ == "__main__":
    os.environ.setdefault("JDT_CACHE", tempfile.mkdtemp(prefix="jdt-chaos-"))
    main()
