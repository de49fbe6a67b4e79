"""Does anything that a run directory may hold make jdt crash, hang, answer with a stack trace or leave the directory?

Run       python benchmarks/fuzz_store.py --cases 10000 --seed 0
One case  python benchmarks/fuzz_store.py --seed 0 --case 1234 --keep /tmp/case

Each case harms the files of a small sound run (`store_mutations.py`), then reads it by every reader, checks it, repairs
it, resumes it and lets it grow. A case fails where

  * a call raises anything but `UserError`, or a message of several lines, with control characters, or naming no file;
  * a call takes more than `--limit` seconds or 2 GB of memory, or ends the process;
  * Python opens, lists, writes or removes a path outside the run, imports or executes code, or starts a process; a path
    outside is given to TensorStore; or a byte of the files beside the run has changed;
  * a run that could be resumed is afterwards not, byte for byte, what an undisturbed one is.

Cases run in child processes, so that a crash or a hang names its case and the rest go on. Prints the kinds of answers,
and exits with 1 if a case failed.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import queue
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any

import store_mutations as mutations
from machine import aligned

import jdt
from jdt.checks import UserError
from jdt.estimators.saved import Level
from jdt.store import arrays, check_run, files, open_run

MEMORY = 2 << 30
"""Bytes of address space a child may take beyond what the libraries have."""
GROWN = 13
_NAMES_A_FILE = re.compile(r"run\.json|blocks|block \d+|store\.zarr|influences|summary\.json|/run\b")
_PATH_EVENTS = {
    "open", "os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.listdir",
    "os.scandir", "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile",
}  # fmt: skip
_NEVER_EVENTS = {
    "exec", "compile", "import", "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
    "socket.connect", "ctypes.dlopen", "marshal.loads",
}  # fmt: skip
_ENCODINGS = "unicode_escape utf_16 utf_16_le utf_16_be utf_32 utf_32_le utf_32_be utf_8_sig utf_7"
Call = Callable[[pathlib.Path], Any]


class Guard:
    """Notes what Python and TensorStore are asked to do outside a folder, while a call runs."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self.armed, self.found = str(root), False, []
        sys.addaudithook(self._hear)
        place, spec = files._place, files.store_spec

        def guarded_place(path: Any) -> Any:
            self._require_inside("TensorStore", os.path.abspath(path))
            return place(path)

        def guarded_spec(folder: Any) -> Any:
            self._require_inside("TensorStore", os.path.abspath(folder))
            return spec(folder)

        files._place = guarded_place
        files.store_spec = arrays.store_spec = guarded_spec

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in _NEVER_EVENTS:
            self.found.append(f"{event} {str(arguments)[:200]}")
        if event in _PATH_EVENTS:
            folder = next((f"/proc/self/fd/{a}" for a in arguments[1:] if type(a) is int and 2 < a < 1000), None)
            for path in arguments[:2] if event in {"os.rename", "os.link"} else arguments[:1]:
                if isinstance(path, (str, bytes)) and path:
                    text = os.fsdecode(path)
                    if not os.path.isabs(text):  # shutil.rmtree goes from folder to folder by open descriptors.
                        if folder is None:
                            continue
                        text = os.path.join(os.readlink(folder), text)
                    self._require_inside(event, os.path.abspath(text))

    def _require_inside(self, event: str, path: str) -> None:
        if path != self.root and not path.startswith(f"{self.root}/") and self.armed:
            self.found.append(f"{event} {path[:200]}")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Listen inside the block."""
        self.armed = True
        try:
            yield
        finally:
            self.armed = False


def read_everything(root: pathlib.Path) -> None:
    """All that a `Run` gives."""
    run = open_run(root)
    for ask in (lambda: run.unit_names, lambda: run.targets, lambda: run.summary, run.records, run.mask):
        _settled(ask)
    _ = run.complete, run.num_models, run.modes
    for target in run.layout.num_examples:
        for mode in run.modes:
            for output in run.layout.example_outputs:
                _settled(lambda t=target, m=mode, o=output: run.outputs(t, m, o))
    for name in list(run.layout.columns())[:40]:
        _settled(lambda n=name: run.column(n))


def _settled(ask: Callable[[], Any]) -> Any:
    """Ask; a clear refusal is an answer and the next question can be asked."""
    try:
        return ask()
    except UserError as error:
        _require_clear(str(error))
        REFUSED.append(kind_of(error))
        return None


def load_all_influences(root: pathlib.Path) -> None:
    """Influences found through the run, and at every level by their own path."""
    where = root / "influences" / mutations.TARGETS[0] / "fixed" / "confidence" / "ridge.zarr"
    asked: tuple[tuple[pathlib.Path, Level], ...] = (
        (root, "class"), (where, "example"), (where, "class"), (where, "task"),
    )  # fmt: skip
    for path, level in asked:
        found = _settled(lambda p=path, v=level: jdt.load_influences(p, target=mutations.TARGETS[0], level=v))
        if found is not None:
            found.top(0 if found.target_names else None)
            found.predict([[True] * len(found.unit_names)])
            if found.degrees_of_freedom is not None and found.standard_error is not None:
                found.interval()


def check(root: pathlib.Path) -> None:
    """Compare with the records."""
    found = check_run(root)
    for fault in found.faults:
        _require_clear(f"{fault.file}: {fault.reason}; {fault.remedy}")
        REFUSED.append(kind_of(UserError(f"fault: {fault.reason}")))


def repair_and_resume(root: pathlib.Path) -> None:
    """Repair, then train what is missing: the store is what it would have been, and sound."""
    found = check_run(root, repair=True)
    for fault in found.faults:
        _require_clear(f"{fault.file}: {fault.reason}; {fault.remedy}")
        REFUSED.append(kind_of(UserError(f"fault: {fault.reason}")))
    resume(root)


def resume(root: pathlib.Path, num_models: int = 10) -> None:
    """Train what is missing."""
    mutations.write_missing(root, mutations.schema(num_models))
    _require_same_store(root, SOUND[num_models])


def grow(root: pathlib.Path) -> None:
    """Resume with more models than there were."""
    resume(root, GROWN)


READERS: dict[str, Call] = {"read": read_everything, "influences": load_all_influences, "check": check}
"""Calls that change nothing."""
MENDERS: dict[str, Call] = {"repair": repair_and_resume, "resume": resume, "grow": grow}
"""Calls after which a run is whole; each case gets one of them."""
CALLS = READERS | MENDERS
SOUND: dict[int, mutations.Files] = {}
REFUSED: list[str] = []
"""Kinds of refusals that the call now running has met and gone on from."""


def _require_same_store(root: pathlib.Path, sound: mutations.Files) -> None:
    made = mutations.schema(GROWN if sound is SOUND[GROWN] else 10)
    columns = {f"store.zarr/{column.path}/zarr.json": column for column in made.columns().values()}
    for name, content in sound.items():
        if name.startswith("store.zarr/"):
            there = (root / name).read_bytes() if (root / name).is_file() else None
            # An array with more rows than there are models is left by a process that was killed while it grew.
            larger = name in columns and there is not None and columns[name].is_described_by(there)
            if there != content and not larger:
                raise AssertionError(f"{name} is not what an undisturbed run has")
    run = open_run(root)
    if len(run.complete) != run.num_models:
        raise AssertionError("the run is not complete after it was resumed")
    _ = run.mask(), run.unit_names, run.targets
    if sound is SOUND[10] and any(fault.file.startswith(("store.zarr", "blocks")) for fault in check_run(root).faults):
        raise AssertionError("the run is not sound after it was resumed")


def _require_clear(text: str) -> None:
    text.encode()  # Raises where no terminal could show it.
    odd = sorted({c for c in text if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029"})
    if odd or len(text) > 3000:
        raise AssertionError(f"unclear message of {len(text)} characters with {odd}: {text[:300]!r}")
    if not _NAMES_A_FILE.search(text):
        raise AssertionError(f"message names no file: {text[:300]!r}")


def _tree(root: pathlib.Path) -> dict[str, tuple[int, int, int]]:
    """Every file, link and folder below a folder: its type, size and time of change."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def lay_out(root: pathlib.Path, content: mutations.Files) -> None:
    """Make a folder hold these files and nothing else."""
    if root.is_symlink() or root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    links = tuple(f"{name}/" for name, value in content.items() if isinstance(value, mutations.Link))
    for name, value in content.items():
        with contextlib.suppress(FileExistsError, NotADirectoryError):  # Below what another harm made a file.
            if not (links and name.startswith(links)):
                mutations.put(root / name, value)


def kind_of(error: BaseException) -> str:
    """A `UserError` without what differs from case to case."""
    text = re.sub(r"/\S*/(run\b)", r"\1", str(error))
    text = re.sub(r"\(.*?\)|'[^']*'|\"[^\"]*\"|\d+", "_", text)
    return re.sub(r"(run/)?(store\.zarr|influences|blocks)/[^:]*?(?=[ :;,]|$)", "FILE", text)[:70]


def run_case(seed: int, case: int, root: pathlib.Path, guard: Guard, tell: Callable[..., None]) -> None:
    """One case, told about call by call."""
    harms, content = mutations.harmed(seed, case, SOUND[10])
    mender = list(MENDERS)[case % len(MENDERS)]
    lay_out(root, content)
    before = _tree(root)
    for name in (*READERS, mender):
        tell("begin", case=case, call=name, harms=harms)
        answer, wrong, begun = "fine", "", time.perf_counter()
        REFUSED.clear()
        try:
            with guard.watching():
                CALLS[name](root)
                if name == "check" and _tree(root) != before:
                    raise AssertionError("reading or checking changed the run")
            answer = REFUSED[0] if REFUSED else "fine"
        except UserError as error:
            answer = kind_of(error)
            try:
                _require_clear(str(error))
            except Exception as unclear:
                wrong = f"{type(unclear).__name__}: {str(unclear)[:400]!r}"
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            last = next((f for f in reversed(frames) if "/jdt/" in f.filename), frames[-1])
            wrong = f"{type(error).__name__}: {str(error)[:300]!r} at {last.filename.rsplit('/', 1)[-1]}:{last.lineno}"
        seconds = time.perf_counter() - begun
        if guard.found:
            wrong, guard.found = f"{wrong} left the run: {guard.found[:3]}", []
        tell("end", case=case, call=name, harms=harms, answer=answer, wrong=wrong, seconds=seconds)


def serve(arguments: argparse.Namespace, folder: pathlib.Path) -> None:
    """Run cases in this process and write a line of JSON before and after each call."""
    SOUND.update({10: mutations.sound_files(10), GROWN: mutations.sound_files(GROWN)})
    root, beside = folder / "run", folder / "beside"
    lay_out(beside, SOUND[10] | {"notes.txt": b"mine"})
    untouched = _tree(beside)
    for call in CALLS.values():  # What is imported late is imported here.
        lay_out(root, SOUND[10])
        call(root)
    for encoding in _ENCODINGS.split():
        "".encode(encoding).decode(encoding)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    guard = Guard(root)

    def tell(event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), flush=True)

    for case in range(arguments.first, arguments.last):
        run_case(arguments.seed, case, root, guard, tell)
        if _tree(beside) != untouched:
            tell("end", case=case, call="?", harms="?", answer="", wrong="files beside the run changed", seconds=0.0)
            lay_out(beside, SOUND[10] | {"notes.txt": b"mine"})
            untouched = _tree(beside)
    tell("done", peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def answers(arguments: argparse.Namespace, first: int, last: int) -> Iterator[dict[str, Any]]:
    """Every call of the cases, in child processes that are replaced where they crash or hang."""
    while first < last:
        with tempfile.TemporaryDirectory(dir=mutations.QUICK_DISK) as folder:
            command = [sys.executable, __file__, "--seed", str(arguments.seed), "--serve", folder]
            command += ["--first", str(first), "--last", str(last)]
            complaint = (pathlib.Path(folder) / "stderr").open("w")
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaint, text=True)
            current, ended = {"case": first, "call": "start", "harms": ""}, False
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
            while True:
                waited = 60.0 if current["call"] == "start" else arguments.limit + 1.0
                try:
                    line, cause = lines.get(timeout=waited), "died"
                except queue.Empty:
                    line, cause = "", "hangs"
                if not line:
                    process.kill()
                    process.wait()
                    cause += f" ({process.returncode}): {(pathlib.Path(folder) / 'stderr').read_text()[-300:]!r}"
                    waited = waited if cause.startswith("hangs") else 0.0
                    yield {**current, "event": "end", "answer": "", "wrong": f"the process {cause}", "seconds": waited}
                    break
                current = json.loads(line)
                if current["event"] == "done":
                    ended = True
                    yield current
                    process.wait()
                    break
                if current["event"] == "end":
                    yield current
            first = last if ended else current["case"] + 1


def _read_lines(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def summarise(told: list[dict[str, Any]], seconds: float, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Print a table of answers; return what went wrong."""
    calls = [one for one in told if one["event"] == "end"]
    failures = [one for one in calls if one["wrong"] or one["seconds"] > arguments.limit]
    counts = collections.Counter((one["call"], one["answer"]) for one in calls if not one["wrong"])
    rows = [["calls", "call", "answer"]]
    rows += [[f"{count:,}", *kind] for kind, count in counts.most_common(arguments.rows)]
    print(aligned(rows))
    if len(counts) > arguments.rows:
        print(f"and {len(counts) - arguments.rows} rarer answers")
    slowest = max(calls, key=lambda one: one["seconds"])
    peak = max((one["peak"] for one in told if one["event"] == "done"), default=0.0)
    refused = sum(one["answer"] != "fine" for one in calls)
    print(
        f"\n{len({one['case'] for one in calls}):,} cases, {len(calls):,} calls ({refused:,} refused) in "
        f"{seconds:.0f} s: {len(calls) / seconds:.0f} calls/s; slowest {slowest['seconds']:.2f} s "
        f"(case {slowest['case']}, {slowest['call']}); peak memory {peak:.0f} MB; {len(failures)} failures."
    )
    for one in failures[: arguments.rows]:
        where = f"seed {arguments.seed} case {one['case']} ({one['harms']}), {one['call']}"
        print(f"FAILED {where}, {one['seconds']:.1f} s: {one['wrong']}")
    return failures


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--keep", type=pathlib.Path, help="with --case: only write the harmed run there")
    parser.add_argument("--limit", type=float, default=5.0, help="seconds a call may take")
    parser.add_argument("--rows", type=int, default=40, help="kinds of answers and failures to print")
    parser.add_argument("--serve", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help="where to begin")
    parser.add_argument("--last", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments, arguments.serve.resolve())
        return 0
    first = arguments.first if arguments.case is None else arguments.case
    if arguments.keep is not None:
        harms, content = mutations.harmed(arguments.seed, first, mutations.sound_files(10))
        lay_out(arguments.keep, content)
        print(f"{harms}: {arguments.keep}")
        return 0
    begun = time.perf_counter()
    last = first + (arguments.cases if arguments.case is None else 1)
    told = list(answers(arguments, first, last))
    return 1 if summarise(told, time.perf_counter() - begun, arguments) else 0


if __name__ == "__main__":
    sys.exit(main())
