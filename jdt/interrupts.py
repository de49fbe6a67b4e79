"""Ctrl-C and SIGTERM: the process is gone within seconds and has said what is saved, whatever it was busy with.

Python runs signal handlers between two of its own instructions, and a compilation or a training program can take
minutes. So a thread that waits for the same signals ends the process where the main thread does not come round. That is
safe at any moment, since every file of a run is written whole or not at all.
"""

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

GRACE_SECONDS = 3.0
"""How long the main thread has to leave what it does by itself."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread by Ctrl-C or SIGTERM.

    Attributes:
      signal: Which of them.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that ended so: 130 after Ctrl-C, 143 after SIGTERM."""
        return exit_code(self.signal)


def exit_code(number: int) -> int:
    """128 and the signal's number."""
    return 128 + number


@contextlib.contextmanager
def interruptible(goodbye: Callable[[signal.Signals], str], *, grace: float = GRACE_SECONDS) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `Interrupted`, and end the process if that does not get through in time.

    A second signal ends it at once. Signals that the process was started to ignore (`nohup`) stay ignored; outside of
    the main thread, where Python has no signals, nothing changes.

    Args:
      goodbye: What to print when the process has to be ended from outside its main thread; it must not wait for
        anything.
      grace: Seconds that the main thread has.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watched = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    seen: list[int] = []

    def raise_interrupted(number: int, _frame: FrameType | None) -> None:
        if not seen:
            seen.append(number)
            raise Interrupted(number)

    def watch() -> None:
        number, deadline = 0, math.inf
        while True:
            seconds = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            came = os.read(reading, 1)[0] if select.select([reading], [], [], seconds)[0] else number
            if came == 0:
                return
            if came in watched and number:  # A second signal, or no time left.
                print(f"\n{goodbye(signal.Signals(number))}", file=sys.stderr, flush=True)
                os._exit(exit_code(number))
            if came in watched:
                number, deadline = came, time.monotonic() + grace

    before = {number: signal.signal(number, raise_interrupted) for number in watched}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="jdt-interrupts", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writing, b"\0")
        watcher.join()
        os.close(reading)
        os.close(writing)
