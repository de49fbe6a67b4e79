"""Files of a run, on a local disk or in a bucket: written whole or not at all, and errors that a user can act on.

Every file goes through TensorStore's key-value stores, local ones included, so that both have one code path: atomic
replacement, and writing under the condition that a file is still the one that was read. `etils.epath` names those in
buckets.
"""

import contextlib
import errno
import fcntl
import functools
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epath

from jdt.checks import UserError
from jdt.config import to_plain

if TYPE_CHECKING:
    import tensorstore as ts

Place = Path | epath.Path
"""A local path, or one in a bucket (`gs://`); `run_path` makes them."""

_BUCKET = "gs://"
# Somewhat over a minute in all; TensorStore's own setting takes a quarter of an hour to say that there is no network.
_RETRIES = {"gcs_request_retries": {"max_retries": 10, "initial_delay": "1s", "max_delay": "10s"}}
LARGEST = 1 << 30
"""Bytes of a file that is read as a whole: descriptions, records, names and labels; not chunks of columns."""
_DEEPEST = 100  # Levels of JSON; functions that walk through it call themselves once a level.
_LOCK_SUFFIX = ".__lock"  # TensorStore writes a local file under this name, locked, and renames it.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
# What a storage error of TensorStore begins with, where the operating system gives no number: those of buckets.
_STATUS = re.compile(
    r"(NOT_FOUND|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|INTERNAL"
    r"|UNKNOWN)\b"
)
_NUMBER_OF = {
    "NOT_FOUND": errno.ENOENT, "PERMISSION_DENIED": errno.EACCES, "UNAUTHENTICATED": errno.EACCES,
    "RESOURCE_EXHAUSTED": errno.EDQUOT,
}  # fmt: skip


def run_path(path: str | os.PathLike[str]) -> Place:
    """The place that a path names: a local one, or `gs://bucket/folder`.

    >>> str(run_path("gs://bucket/runs") / "demo")
    'gs://bucket/runs/demo'

    Raises:
      UserError: If it is of another kind, or names a whole bucket.
    """
    # `pathlib` makes gs:/bucket of gs://bucket, and users have pathlib paths.
    text = re.sub(r"^gs:/(?!/)", _BUCKET, os.fspath(path))
    if "://" in text and not text.startswith(_BUCKET):
        raise UserError(f"{text} is neither a local path nor gs://: mount it and pass the folder, or use a bucket.")
    if text.startswith(_BUCKET) and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+[a-z0-9]/+[^/].*", text):
        raise UserError(f"{text} is not the folder of a bucket: pass for example gs://bucket/runs/demo.")
    return epath.Path(text) if text.startswith(_BUCKET) else Path(text).expanduser()


def is_local(path: Place) -> bool:
    """Whether a place is on a local disk."""
    return not str(path).startswith(_BUCKET)


def store_spec(folder: Place) -> dict[str, Any]:
    """TensorStore's description of a folder as a key-value store."""
    if is_local(folder):
        return {"driver": "file", "path": f"{os.path.abspath(folder)}/"}
    bucket, _, path = str(folder).removeprefix(_BUCKET).partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": f"{path.rstrip('/')}/", **_RETRIES}


def error_number(error: Exception) -> int | None:
    """The operating system's error number behind an `OSError` or behind the text of a TensorStore error."""
    if isinstance(error, OSError):
        return error.errno
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        return int(found.group(1))
    status = _STATUS.match(str(error))
    return None if status is None else _NUMBER_OF.get(status.group(1), errno.EIO)


def disk_is_full(error: Exception) -> bool:
    """Whether an error says that the disk, a quota or a file size limit is exhausted."""
    text = str(error).lower()
    return error_number(error) in _FULL or "no space left" in text or "quota exceeded" in text


def access_is_denied(error: Exception) -> bool:
    """Whether an error says that the user may not read or write there."""
    return error_number(error) in _DENIED or "permission_denied" in str(error).lower()


def is_passing(error: Exception) -> bool:
    """Whether a bucket could not be asked, which says nothing about what it holds."""
    return re.match(r"(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|RESOURCE_EXHAUSTED)\b", str(error)) is not None


def one_line(error: Exception) -> str:
    """The short form of an error: the system's words, or the first line of a TensorStore message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # Of a bucket: its own words.
    text = (str(error).splitlines() or [type(error).__name__])[0][:300]
    if _STATUS.match(text) and "os_error_code" not in str(error):
        return text  # A bucket's own words say more than the number they are given.
    code = error_number(error)
    return os.strerror(code) if code else text


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn storage errors inside the block into one-line `UserError`s that begin with what was being done.

    Args:
      doing: For example `"writing runs/demo/run.json"`.

    Raises:
      UserError: In place of any `OSError`, and of a `ValueError` (as TensorStore raises) about storage.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:
        if disk_is_full(error):
            raise UserError(f"disk full while {doing} ({one_line(error)}): free some space and try again.") from error
        if access_is_denied(error):
            raise UserError(f"no permission while {doing} ({one_line(error)}): choose a path you may write.") from error
        if isinstance(error, OSError) or error_number(error) is not None:
            raise UserError(f"failed while {doing} ({one_line(error)}).") from error
        raise


def jsonable(value: Any) -> Any:
    """Like `jdt.config.to_plain`, with NumPy scalars and arrays as numbers and lists, NaN and infinities as null.

    >>> jsonable({"lds": np.float32(0.5), "sizes": np.arange(2), "high": float("nan")})
    {'lds': 0.5, 'sizes': [0, 1], 'high': None}
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # Strict JSON has no NaN, and other programs read these files.
    plain = to_plain(value)
    return plain if plain is value else jsonable(plain)


class Content(NamedTuple):
    """A file as it was read: its bytes, None where there was none, and which version of it that was."""

    value: bytes | None
    version: bytes


@functools.lru_cache(maxsize=16)
def _opened(bucket: str) -> "ts.KvStore":
    import tensorstore as ts

    root = {"driver": "gcs", "bucket": bucket, **_RETRIES} if bucket else {"driver": "file", "path": "/"}
    return ts.KvStore.open(root).result()


def _place(path: Place) -> tuple["ts.KvStore", bytes]:
    """The key-value store that holds a path, and its key there."""
    if is_local(path):
        return _opened(""), os.fsencode(os.path.abspath(path)).lstrip(b"/")
    bucket, _, key = str(path).removeprefix(_BUCKET).partition("/")
    return _opened(bucket), key.encode()


def _done(future: Any) -> Any:
    """The result of a TensorStore future, with its storage errors as `OSError`."""
    try:
        return future.result()
    except ValueError as error:
        number = error_number(error)
        if number is None:
            raise
        raise OSError(number, one_line(error)) from error


def odd_file(path: Place, largest: int = LARGEST) -> str:
    """Why reading a local file would hang or kill this process: a pipe, a device, absurdly long; or an empty string."""
    if not is_local(path):
        return ""
    try:
        status = os.stat(path)
    except OSError:
        return ""  # Reading it says what is wrong.
    if stat.S_ISREG(status.st_mode):
        return f"has {status.st_size:,} bytes, more than {largest:,}" if status.st_size > largest else ""
    return "" if stat.S_ISDIR(status.st_mode) else "is not a plain file"


def read_content(path: Place) -> Content:
    """Read a file that may be missing, with the version to pass to `write_bytes`.

    Raises:
      OSError: As the system or the bucket reports it.
      UserError: Where it is nothing that could be read.
    """
    (content,) = read_contents([path])
    return content


def read_contents(paths: Sequence[Place]) -> list[Content]:
    """Read files at once, as `read_content` does."""
    for path in paths:
        if reason := odd_file(path):
            raise UserError(f"{path} {reason}, so it is not read: remove it, and run the command that made it again.")
    places = [_place(path) for path in paths]
    found = [_done(future) for future in [store.read(key) for store, key in places]]
    return [Content(one.value if one.state == "value" else None, one.stamp.generation) for one in found]


def read_bytes(path: Place) -> bytes:
    """Read a file.

    Raises:
      FileNotFoundError: Where there is none.
      OSError: As the system or the bucket reports it.
    """
    value = read_content(path).value
    if value is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return value


def write_bytes(path: str | os.PathLike[str], content: bytes, *, replacing: bytes | None = None) -> bool:
    """Write a file atomically: readers see the old file or the whole new one, also after a kill or a power cut.

    Args:
      path: Where to; missing parent directories are made.
      content: What to write.
      replacing: Write only if the file is still of this version (see `read_content`).

    Returns:
      Whether it was written; with `replacing`, False where somebody else was faster.

    Raises:
      OSError: As the system or the bucket reports it.
    """
    store, key = _place(run_path(path))
    return bool(_done(store.write(key, content, if_equal=replacing)).generation)


def exists(path: Place) -> bool:
    """Whether there is such a file (not: such a folder)."""
    return read_content(path).value is not None


def remove(path: Place) -> None:
    """Remove a file, if there is one."""
    store, key = _place(path)
    _done(store.write(key, None))


def remove_tree(path: Place) -> None:
    """Remove a folder, or a file, and all that is in it, if there is one."""
    if is_local(path):  # Keys know no folders, and empty ones would stay.
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return
    import tensorstore as ts

    store, key = _place(path)
    _done(store.write(key, None))
    _done(store.delete_range(ts.KvStore.KeyRange(key + b"/", key + b"0")))  # "0" follows "/".


def names_in(folder: Place) -> list[str]:
    """Names of the files and folders directly inside a folder, sorted, without unfinished ones; none if it is missing.

    Raises:
      OSError: As the system or the bucket reports it.
    """
    if is_local(folder):
        with contextlib.suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(folder) if not name.endswith(_LOCK_SUFFIX))
        return []
    import tensorstore as ts

    store, key = _place(folder)
    prefix = key.rstrip(b"/") + b"/"
    keys = _done(store.list(ts.KvStore.KeyRange(prefix, prefix[:-1] + b"0"), strip_prefix_length=len(prefix)))
    return sorted({name.partition(b"/")[0].decode() for name in keys})


def json_bytes(value: Any) -> bytes:
    """Encode as strict, indented JSON with a final newline."""
    return (json.dumps(jsonable(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically (used for `run.json`, block records and `summary.json`).

    Args:
      path: Where to; missing parent directories are made.
      value: Dataclasses, mappings, lists, numbers, strings, NumPy scalars and arrays; NaN becomes null.

    Raises:
      UserError: Where the disk is full or the path cannot be written.
    """
    with explained(f"writing {path}"):
        write_bytes(path, json_bytes(value))


def parse_json(content: bytes, path: Place) -> dict[str, Any]:
    """Decode a JSON object that was read from `path`.

    Raises:
      UserError: Where it is not a JSON object.
    """
    try:
        value = json.loads(content)
        fault = _unfit(value)
    except RecursionError as error:
        raise UserError(f"{path} is damaged: its JSON is nested too deeply.") from error
    except ValueError as error:  # Both JSON and UTF-8 errors.
        raise UserError(f"{path} is damaged: it is not valid JSON ({one_line(error)}).") from error
    if fault:
        raise UserError(f"{path} is damaged: {fault}.")
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds a {type(value).__name__}, not a JSON object.")
    return value


def _unfit(value: Any) -> str:
    """Why a JSON value, which Python can read, could not be written again or walked through; or an empty string."""
    waiting = [(value, 0)]
    while waiting:
        here, depth = waiting.pop()
        if depth > _DEEPEST:
            return "its JSON is nested too deeply"
        if isinstance(here, float) and not math.isfinite(here):
            return f"it holds {here}, which is no number in JSON"
        if isinstance(here, str):
            here.encode()  # A lone surrogate raises.
        elif isinstance(here, dict):
            waiting += [(item, depth + 1) for pair in here.items() for item in pair]
        elif isinstance(here, list):
            waiting += [(item, depth + 1) for item in here]
    return ""


def read_json(path: Place) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      FileNotFoundError: Where there is no such file.
      UserError: Where the file cannot be read or does not hold a JSON object.
    """
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"cannot read {path} ({one_line(error)}).") from error
    return parse_json(content, path)


def remove_abandoned(root: Place, folder: str = "", *, deep: bool = False) -> list[str]:
    """Remove what killed processes left half-written in a folder, or also below it; files of live writers stay.

    Nothing may be written to a folder before this was called: it refuses what would let a write leave the run.
    A bucket has no such files: an upload that broke off is not there.

    Args:
      root: The run.
      folder: Which folder of it; a missing one is fine.
      deep: Whether to look below it, too.

    Returns:
      Names of the removed files.

    Raises:
      UserError: Where a folder is a symbolic link that leads out of the run.
    """
    removed: list[str] = []
    if not is_local(root):
        return removed
    if folder:
        _require_inside(root, os.path.join(root, folder))
    for here, folders, files in os.walk(os.path.join(root, folder)):
        for name in folders if deep else ():
            _require_inside(root, os.path.join(here, name))
        for name in files:
            path = os.path.join(here, name)
            # Finished, or removed by another process, in the meantime: then it is not there.
            with contextlib.suppress(FileNotFoundError):
                if name.endswith(_LOCK_SUFFIX) and _remove_free_lock(path):
                    removed.append(os.path.relpath(path, root))
        if not deep:
            break
    return removed


def refuse_links(root: Place, folder: str) -> None:
    """Refuse a folder that is a symbolic link which leads out of the run.

    Raises:
      UserError: If it is.
    """
    if is_local(root):
        _require_inside(root, os.path.join(root, folder))


def _require_inside(root: Place, folder: str) -> None:
    if os.path.islink(folder):
        within, there = os.path.realpath(root), os.path.realpath(folder)
        if os.path.commonpath([within, there]) != within:
            raise UserError(
                f"{folder} is a symbolic link to {there}, outside the run, where nothing is written or removed: put a "
                "folder in its place (the run as a whole may be behind a link)."
            )


def _remove_free_lock(path: str) -> bool:
    """Remove TensorStore's unfinished file unless a live process holds its lock."""
    if os.path.islink(path):  # Never TensorStore's, which would write through it.
        os.unlink(path)
        return True
    with open(path, "rb+") as file:
        try:
            # TensorStore takes an open-file-description lock or, on other systems, flock: try both kinds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False  # Being written right now, by another host or process of the same run.
        os.unlink(path)  # While held: a writer that waits sees that its file is gone and starts afresh.
    return True
