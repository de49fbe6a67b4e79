"""How long a run takes and what it needs, from times of its stages; and how true that was once it is done.

A host trains whole blocks and hosts know nothing of each other, so with B blocks on h hosts the last one is done after
`ceil(B / h)` of them. Every host starts by itself (loads data, compiles); influences are estimated once, at the end.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdt import checks, store
from jdt.config import fingerprint, to_plain
from jdt.devices import BYTES_A_GIB
from jdt.pipeline.findings import mean_figure
from jdt.report.content import Figure
from jdt.store.files import read_json

WRITING = "writing"
"""Name of the one stage that the seconds in a block's record do not cover: they end before the block is written."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the work.

    Attributes:
      name: What is done.
      seconds: What it takes: of one model, or in all for what is done once.
      how: What was measured for it, in a few words.
    """

    name: str
    seconds: float
    how: str


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What was measured on one host of a kind, and what follows for a run on any number of them.

    Attributes:
      num_models: Models of the run.
      block_size: Models of a block.
      missing_blocks: Blocks that are still to be trained.
      num_devices: Devices of a host that share each block.
      device: What kind of device.
      stages: What is done for every model; seconds a model, all devices of the host together.
      rounds: Seconds of one model, all stages, in every round of the measurement: their mean is what stages add up to.
      start: What every host does once before its first block.
      once: What is done once a run, on one host, when all models are there.
      memory: Bytes that a device needs at the same time, by stage.
      memory_limit: Bytes that a device has; None where nobody knows.
      shared_memory: Whether that is this device's part of one memory (CPUs) and not its own.
      block_bytes: Bytes of the outputs of a full block, not compressed.
      stored_share: Bytes on disk for each byte of outputs.
      once_bytes: Bytes of the saved influences.
      config_fingerprint: Of the configuration that it is about; empty where nobody said.
    """

    num_models: int
    block_size: int
    missing_blocks: int
    num_devices: int
    device: str
    stages: tuple[Stage, ...]
    rounds: tuple[float, ...]
    start: tuple[Stage, ...]
    once: tuple[Stage, ...]
    memory: Mapping[str, int]
    memory_limit: int | None
    shared_memory: bool
    block_bytes: int
    stored_share: float
    once_bytes: int
    config_fingerprint: str = ""

    @property
    def seconds_per_model(self) -> float:
        """Wall time of one model on one host."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def recorded_seconds_per_model(self) -> float:
        """The part of it that block records hold: all but writing."""
        return sum(stage.seconds for stage in self.stages if stage.name != WRITING)

    @property
    def seconds_per_block(self) -> float:
        """Wall time of a full block on one host."""
        return self.seconds_per_model * self.block_size

    @property
    def models_per_hour(self) -> float:
        """Models that one host trains in an hour."""
        return 3600 / self.seconds_per_model

    @property
    def start_seconds(self) -> float:
        """What every host takes before its first block."""
        return sum(stage.seconds for stage in self.start)

    @property
    def once_seconds(self) -> float:
        """What is done once a run."""
        return sum(stage.seconds for stage in self.once)

    @property
    def device_hours(self) -> float:
        """Hours of devices that a single host is busy for; every further host adds its own start."""
        return self.num_devices * self.hours(1)

    @property
    def run_bytes(self) -> int:
        """Bytes of the whole run on disk: outputs of all models and influences."""
        outputs = self.block_bytes / self.block_size * self.num_models
        return round(self.stored_share * outputs) + self.once_bytes

    @property
    def peak_memory(self) -> tuple[str, int]:
        """The stage that needs most memory on a device, and how many bytes."""
        return max(self.memory.items(), key=lambda item: item[1])

    def hours(self, num_hosts: int = 1) -> float:
        """Wall time on hosts of this kind that start together, up to the end of the last one and the estimation.

        Raises:
          UserError: If there is no host.
        """
        checks.require_at_least("hosts", num_hosts, 1)
        longest = math.ceil(self.missing_blocks / num_hosts)
        return (self.start_seconds + longest * self.seconds_per_block + self.once_seconds) / 3600

    @property
    def least_hours(self) -> float:
        """Wall time with a host for every block; no number of hosts is faster."""
        return self.hours(max(1, self.missing_blocks))

    def hosts_for(self, deadline: float) -> int | None:
        """The fewest hosts that are done in time, or None where no number of them is.

        Args:
          deadline: Hours.
        """
        if self.least_hours > deadline:
            return None
        spare = deadline * 3600 - self.start_seconds - self.once_seconds
        blocks_each = max(1, math.floor(spare / self.seconds_per_block))
        hosts = max(1, math.ceil(self.missing_blocks / blocks_each))
        # Rounding may leave the division one off.
        while self.hours(hosts) > deadline:
            hosts += 1
        while hosts > 1 and self.hours(hosts - 1) <= deadline:
            hosts -= 1
        return hosts

    def verdict(self, deadline: float) -> str:
        """One sentence on the hosts for a deadline.

        Raises:
          UserError: If the deadline is not positive, or no number of hosts meets it: what the least is, and what takes
            it.
        """
        if not deadline > 0:
            raise checks.UserError(f"deadline is {deadline} hours, but it must be positive: pass for example 24.")
        hosts = self.hosts_for(deadline)
        if hosts is not None:
            noun, took = "host" if hosts == 1 else "hosts", span(self.hours(hosts) * 3600)
            return f"{hosts} {noun} for a deadline of {span(deadline * 3600)}: done after {took}."
        block = f"one block of {self.block_size} models takes {span(self.seconds_per_block)}, "
        raise checks.UserError(
            f"no number of hosts is done in {span(deadline * 3600)}: {block if self.missing_blocks else ''}"
            f"a start {span(self.start_seconds)} and the estimation {span(self.once_seconds)}; allow "
            f"{span(self.least_hours * 3600)} or more (--deadline {_at_least(self.least_hours)}), or make models "
            f"{'or blocks ' if self.missing_blocks else ''}smaller."
        )

    def record(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return to_plain(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Forecast":
        """Make a forecast from its record.

        Raises:
          UserError: If it is not the record of one.
        """
        try:
            stages = {name: tuple(Stage(**stage) for stage in record[name]) for name in ("stages", "start", "once")}
            return cls(**{**record, **stages, "rounds": tuple(record["rounds"])})
        except (KeyError, TypeError) as error:
            raise checks.UserError(f"this is not the record of a forecast ({error}): plan again.") from error


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A forecast beside what its run took, in seconds a model on one host.

    What is measured are the records of all blocks but each host's first, which pays for compilation. A host that was
    started again paid a second time, and that counts.

    Attributes:
      predicted: What was said, without writing, as records do not hold it.
      seconds: Measured, of every block, in the order of the blocks.
    """

    predicted: float
    seconds: tuple[float, ...]

    @property
    def measured(self) -> float:
        """Mean over blocks: the hours of a run are their sum."""
        return float(np.mean(self.seconds))

    @property
    def error(self) -> float:
        """By how much it took longer than predicted, as a share of the prediction; negative where it took less."""
        return self.measured / self.predicted - 1

    def __str__(self) -> str:
        took = f"predicted {self.predicted:.3g} s a model, took {self.measured:.3g} ({100 * self.error:+.0f} %)"
        if len(self.seconds) == 1:
            return f"{took}; one block."
        low, median, high = np.quantile(self.seconds, [0.1, 0.5, 0.9])
        return f"{took}; {len(self.seconds)} blocks, median {median:.3g}, most from {low:.3g} to {high:.3g}."

    def figures(self) -> dict[str, Figure]:
        """Key figures for `summary.json`: the error of the forecast, and the spread of what blocks took."""
        mean, count = mean_figure(np.array(self.seconds), "seconds", ""), len(self.seconds)
        low, high = (None if end is None else end / self.predicted - 1 for end in (mean.low, mean.high))
        median, least, most = (float(q) for q in np.quantile(self.seconds, [0.5, 0.1, 0.9]))
        return {
            "forecast_error": Figure(
                self.error, low, high, count, "share",
                f"wall time of one model over the predicted {self.predicted:.3g} s, less 1; with the 95 % interval of "
                "the mean over blocks, without each host's first",
            ),
            "block_seconds_per_model": Figure(
                median, least, most, count, "seconds",
                "wall time of one model in the median block, with the range of the middle 80 % of blocks, without each "
                "host's first",
            ),
        }  # fmt: skip


def compare(forecast: Forecast, run: store.Run) -> Comparison | None:
    """Set a forecast beside what the blocks of its run took; None where no host has finished two of them."""
    seconds = measured_seconds(run.records())
    return Comparison(forecast.recorded_seconds_per_model, seconds) if seconds else None


def measured_seconds(records: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Seconds a model of every block but each host's first, from the block records of a run."""
    in_time = sorted(records, key=lambda record: (record["written"], record["block"]))
    first = {record["host"]: record["block"] for record in reversed(in_time)}
    return tuple(
        record["seconds"] / len(range(*record["models"]))
        for record in sorted(records, key=lambda record: record["block"])
        if record["block"] != first[record["host"]]
    )


def compared(run: store.Run) -> Comparison | None:
    """Set the forecast that is kept in a run directory, if there is one for this run, beside what its blocks took."""
    forecast = saved_forecast(run.path)
    if forecast is None or forecast.config_fingerprint != fingerprint(run.config):
        return None
    return compare(forecast, run)


def save_forecast(forecast: Forecast, path: str | os.PathLike[str]) -> None:
    """Keep a forecast as `plan.json` in a run directory, which need not be there yet."""
    store.write_json(store.run_path(path) / store.PLAN_FILE, forecast.record())


def saved_forecast(path: str | os.PathLike[str]) -> Forecast | None:
    """The forecast that is kept in a run directory, or None where there is none.

    Raises:
      UserError: If the file is damaged.
    """
    try:
        return Forecast.from_record(read_json(store.run_path(path) / store.PLAN_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return None


def host_table(forecast: Forecast, hosts: Sequence[int]) -> list[tuple[int, float, float]]:
    """Hours and device-hours by number of hosts, from the fewest on, none twice and none beyond one a block.

    Returns:
      (hosts, hours, hours of all devices), where hosts that are done early count until they are done.
    """
    most = max(1, forecast.missing_blocks)
    busy = forecast.missing_blocks * forecast.seconds_per_block + forecast.once_seconds
    return [
        (count, forecast.hours(count), forecast.num_devices * (count * forecast.start_seconds + busy) / 3600)
        for count in sorted({min(count, most) for count in hosts})
    ]


def span(seconds: float) -> str:
    """A time span in the unit that suits it.

    >>> span(0.25), span(75), span(5400), span(250000)
    ('0.25 s', '75 s', '1.5 h', '69 h')
    """
    for limit, unit, size in ((120, "s", 1), (5400, "min", 60)):
        if seconds < limit:
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds / 3600)} h"


def size(num_bytes: float) -> str:
    """A number of bytes in the unit that suits it.

    >>> size(600), size(2**20), size(3.5 * 2**30)
    ('0.59 KiB', '1 MiB', '3.5 GiB')
    """
    for unit, bytes_each in (("GiB", BYTES_A_GIB), ("MiB", 2**20)):
        if num_bytes >= bytes_each:
            return f"{_short(num_bytes / bytes_each)} {unit}"
    return f"{_short(num_bytes / 1024)} KiB"


def _short(value: float) -> str:
    """Two or three digits, no exponent."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _at_least(hours: float) -> float:
    """Round up to three digits."""
    step = 10 ** (math.floor(math.log10(hours)) - 2)
    return float(f"{math.ceil(hours / step) * step:.3g}")
