"""Ctrl-C and SIGTERM end a process within seconds, with a word on what is saved, whatever it is doing."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jdt.interrupts import Interrupted, interruptible

ROOT = Path(__file__).parents[1]
# Waiting for a lock that is never free lets no handler of Python run, as a long compilation does.
LOCKED = "c, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64); [c.pthread_mutex_lock(lock) for _ in range(2)]"
BUSY = {"python": "time.sleep(60)", "native": LOCKED}
PROGRAM = """
import ctypes, dataclasses, sys, time
import jdt

@dataclasses.dataclass(frozen=True)
class Config:
    out: str = "x"
    overwrite: bool = False

def run(config):
    with jdt.cli.saving(lambda: "12 of 96 models are saved in runs/demo"):
        print("busy", flush=True)
        BUSY

sys.exit(jdt.cli.main(run, {"demo": Config()}, default="demo", description=""))
"""


def start(busy, interrupts="default_int_handler"):
    """A process that is busy; a shell may have left Ctrl-C ignored for all of its children."""
    first = f"import signal; signal.signal(signal.SIGINT, signal.{interrupts})"
    process = subprocess.Popen(
        [sys.executable, "-c", first + PROGRAM.replace("BUSY", BUSY[busy]), "--out", "y", "--overwrite"], cwd=ROOT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "busy\n", process.stderr.read()
    return process


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_signal_ends_the_process_within_five_seconds(busy, number, name, code):
    process = start(busy)
    begun = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert process.returncode == code
    (line,) = [line for line in errors.splitlines() if line]
    assert re.fullmatch(
        rf"interrupted \({name}\): 12 of 96 models are saved in runs/demo; go on with: -c --out y", line
    )


def test_a_second_signal_ends_it_at_once():
    process = start("native")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - begun < 1.5
    assert process.returncode == 143


def test_an_ignored_signal_stays_ignored():
    process = start("python", "SIG_IGN")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_handlers_threads_and_files_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    with interruptible(str), pytest.raises(Interrupted) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert (caught.value.signal, caught.value.exit_code) == (signal.SIGTERM, 143)
    with interruptible(str):
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (descriptors, threads)


def test_outside_of_the_main_thread_nothing_changes():
    found = []

    def inside():
        with interruptible(str):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
