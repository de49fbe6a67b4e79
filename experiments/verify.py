"""Is everything in a run as it was written?

Question  Disks fail, transfers break off, files get edited: which blocks of a run can still be trusted, and which have
          to be trained again?
Run       python -m experiments.verify --run runs/demo
Repair    python -m experiments.verify --run runs/demo --repair
"""

import dataclasses
import pathlib
import sys

from rich.markup import escape
from rich.table import Table

import jdt


@dataclasses.dataclass(frozen=True)
class Config:
    """What to verify."""

    run: jdt.cli.RunPath
    """A run directory, or gs://bucket/folder."""
    repair: bool = False
    """Drop damaged blocks, so that the command that made the run trains them again, and mend what can be mended."""
    count: int = 20
    """Faults shown."""


PRESETS = {name: Config(run=pathlib.Path(f"runs/{name}")) for name in ("demo", "smoke", "paper")}


def main(config: Config) -> None:
    """Read everything, say what is wrong, and repair it if asked."""
    say = jdt.cli.console.print
    with jdt.cli.item_progress("verifying blocks") as progress:
        found = jdt.store.check_run(config.run, repair=config.repair, progress=progress)
    if found.faults:
        say(table(found, config))
    for name in found.abandoned:
        say(f"removed {name}, which a killed process left half-written.", markup=False)
    say(
        f"{config.run}: {found.complete:,} of {found.num_models:,} models in {found.blocks:,} sound blocks, "
        f"{len(found.faults)} faults.",
        markup=False,
    )
    if found.is_sound:
        say(
            "everything that is there is as it was written."
            + ("" if found.complete == found.num_models else " The command that made the run trains what is missing.")
        )
    elif config.repair:
        say("repaired: run the command that made it once more.")
    else:
        raise jdt.UserError(
            f"{config.run} is damaged in {len(found.faults)} places: the same command with --repair drops what cannot "
            "be trusted, and nothing else."
        )


def table(found: jdt.store.Checkup, config: Config) -> Table:
    """Every fault, and what is done about it."""
    made = Table("file", "what is wrong", "remedy" if config.repair else "with --repair")
    for fault in found.faults[: config.count]:
        made.add_row(escape(fault.file), escape(fault.reason), escape(fault.remedy))
    if (more := len(found.faults) - config.count) > 0:
        made.caption = f"and {more} more"
    return made


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
