"""Processes that share one run: which one this is, and whether they have to know each other at all.

Models need nothing from one another, so a process needs two numbers, its own and how many there are. They are given
(`--shard 3/8`: no coordinator, nobody waits for anybody) or learned from a `jax.distributed` job, which is then left at
once: in JAX a process that dies takes the others of its job along, and here it must not.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from typing import Literal

import jax

from jdt import checks

Distributed = Literal["auto", "on", "off"]
"""Whether to join a `jax.distributed` job: `auto` where the environment says that this process is one of several."""


@dataclasses.dataclass(frozen=True)
class Hosts:
    """This process among those that share a run.

    Attributes:
      index: Number of this process, from 0.
      count: Processes in all.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise checks.UserError(
                f"shard is {self.index}/{self.count}, but with {self.count} of them they are numbered from 0: "
                f"pass for example --shard 0/{max(self.count, 2)}."
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


ALONE = Hosts()


def parse_shard(text: str) -> Hosts:
    """Read `i/n`, i from 0.

    >>> parse_shard("3/8")
    Hosts(index=3, count=8)

    Raises:
      UserError: If it has another form, or i is not one of n.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if found is None:
        raise checks.UserError(f"shard is {text!r}, but must be i/n, i from 0: pass for example --shard 0/4.")
    return Hosts(int(found[1]), int(found[2]))


def join(shard: str | None = None, distributed: Distributed = "auto", *, together: bool = False) -> Hosts:
    """Find out which of the processes of a run this is; call it before anything is computed.

    Args:
      shard: `i/n` where the user says; nobody is asked then.
      distributed: Whether to join a `jax.distributed` job.
      together: Stay in the job, for sums over processes; all of them then live and die together. Otherwise the job is
        left as soon as every process knows its number.

    Returns:
      This process and the number of processes; `Hosts(0, 1)` where it is alone.

    Raises:
      UserError: If the shard is malformed, or the job cannot be joined.
    """
    if shard is not None:
        if distributed == "on":
            raise checks.UserError("--shard and --distributed on both say which process this is: pass one of them.")
        return parse_shard(shard)
    if not jax.distributed.is_initialized():
        if distributed == "off" or (distributed == "auto" and not one_of_several()):
            return Hosts()
        # JAX would take SIGTERM for a notice that the machine goes soon; here it means to stop now.
        jax.config.update("jax_enable_preemption_service", False)
        with _explained():
            jax.distributed.initialize(num_processes=_given("JAX_NUM_PROCESSES"), process_id=_given("JAX_PROCESS_ID"))
    hosts = Hosts(jax.process_index(), jax.process_count())  # Starts the devices, which need the job's coordinator.
    if not together:
        jax.distributed.shutdown()
    return hosts


def one_of_several() -> bool:
    """Whether the environment says that this process is one of several that were started together.

    True under `JAX_COORDINATOR_ADDRESS`, in a SLURM step of several tasks, and on a TPU slice of several hosts as GKE
    describes it. A Cloud TPU VM says nothing in its environment: there, pass `--distributed on`.
    """
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return True
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    return (tasks.isdigit() and int(tasks) > 1) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _given(name: str) -> int | None:
    """A number that `jax.distributed.initialize` does not read from the environment by itself."""
    value = os.environ.get(name)
    return None if value is None else int(value)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    # What JAX raises for a coordinator that does not answer, missing numbers, and an address without a port.
    except (RuntimeError, ValueError, IndexError) as error:
        raise checks.UserError(
            f"cannot join the other processes of this job ({(str(error).splitlines() or ['no reason given'])[0]}): "
            "check the coordinator's address, or pass --shard i/n, which needs none."
        ) from error


def next_block(missing: Sequence[int], hosts: Hosts) -> int | None:
    """Which of the missing blocks this process trains next, or None where there is nothing left for it.

    A process trains the blocks whose number falls to it, in order. Then it takes over what others have not begun, from
    the far end; the first missing block of a share is taken to be in its owner's hands.

    Args:
      missing: Numbers of the blocks that are missing now, ascending.
      hosts: This process.

    >>> [next_block([0, 1, 2, 3], Hosts(i, 2)) for i in range(2)], next_block([1, 3, 5], Hosts(0, 2))
    ([0, 1], 5)
    >>> next_block([1], Hosts(0, 2)) is None, next_block([1], Hosts(0, 1))
    (True, 1)
    """
    shares: dict[int, list[int]] = {}
    for block in missing:
        shares.setdefault(block % hosts.count, []).append(block)
    if own := shares.pop(hosts.index, []):
        return own[0]
    spare = sorted((block for share in shares.values() for block in share[1:]), reverse=True)
    # Processes that come to help at the same moment begin at different places.
    return spare[hosts.index % len(spare)] if spare else None
