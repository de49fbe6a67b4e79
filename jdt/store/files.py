"""Small files written whole or not at all, temporary names that tell who wrote them, and errors a user can act on."""

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdt.checks import UserError
from jdt.config import to_plain

_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
_PROCESS = secrets.token_hex(4)  # Tells this process from an earlier one with the same number (containers reuse 1).
_TEMPORARY = re.compile(r"\..+\.([A-Za-z0-9-]+)\.(\d+)\.([0-9a-f]{8})\.tmp")
_LOCK_SUFFIX = ".__lock"  # TensorStore writes a chunk under this name, locked, and renames it.
_FOREIGN_TEMPORARY_AGE = 3600.0  # Seconds: another host's temporary file is written within moments or never.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def error_number(error: Exception) -> int | None:
    """The operating system's error number behind an `OSError` or behind the text of a TensorStore error."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found.group(1)) if found else None


def disk_is_full(error: Exception) -> bool:
    """Whether an error says that the disk, a quota or a file size limit is exhausted."""
    text = str(error).lower()
    return error_number(error) in _FULL or "no space left" in text or "quota exceeded" in text


def access_is_denied(error: Exception) -> bool:
    """Whether an error says that the user may not read or write there."""
    return error_number(error) in _DENIED or "permission_denied" in str(error).lower()


def one_line(error: Exception) -> str:
    """The short form of an error: the system's words, or the first line of a TensorStore message."""
    code = error_number(error)
    return os.strerror(code) if code else (str(error).splitlines() or [type(error).__name__])[0][:300]


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


def temporary_path(path: Path) -> Path:
    """A hidden sibling of `path` whose name says which process on which host writes it."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{_PROCESS}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether the name of `path` is one that `temporary_path` gives."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sync_directory(path: Path) -> None:
    """Make the names inside a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes, *, exclusive: bool = False) -> None:
    """Write a file atomically: readers see the old file or the whole new one, also after a kill or a power cut.

    Raises:
      FileExistsError: With `exclusive`, where `path` exists already.
      OSError: As the system reports it; no temporary file is left.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            os.link(temporary, path)  # Unlike a rename, fails where another host was faster.
        else:
            os.replace(temporary, path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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
    path = Path(path)
    with explained(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json_bytes(value))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      FileNotFoundError: Where there is no such file.
      UserError: Where the file cannot be read or does not hold a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path} ({one_line(error)}).") from error
    except ValueError as error:  # Both JSON and UTF-8 errors.
        raise UserError(f"{path} is damaged: it is not valid JSON ({one_line(error)}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds a {type(value).__name__}, not a JSON object.")
    return value


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # Somebody else's, hence alive.
        return True
    return True


def _is_abandoned(path: Path) -> bool:
    """Whether the writer of a temporary file or directory is gone."""
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    host, process, token = match.group(1), int(match.group(2)), match.group(3)
    if host != _HOST:
        return time.time() - path.stat().st_mtime > _FOREIGN_TEMPORARY_AGE
    if process == os.getpid():
        return token != _PROCESS
    return not _is_alive(process)


def _remove_free_lock(path: Path) -> None:
    """Remove TensorStore's unfinished chunk unless a live process holds its lock."""
    with open(path, "rb+") as file:
        try:
            # TensorStore takes an open-file-description lock or, on other systems, flock: try both kinds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return  # Being written right now, by another host or process of the same run.
        path.unlink(missing_ok=True)  # While held: a writer that waits sees that its file is gone and starts afresh.


def remove_abandoned(root: Path, *, deep: bool) -> None:
    """Remove what killed processes left half-written in `root`, or also below it; files of live writers stay."""
    for folder, folders, files in os.walk(root):
        for name in list(folders):
            path = Path(folder, name)
            if is_temporary(path):
                folders.remove(name)
                if _is_abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)
        for name in files:
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # Finished, or removed by another host, in the meantime.
                if name.endswith(_LOCK_SUFFIX):
                    _remove_free_lock(path)
                elif _is_abandoned(path):
                    path.unlink()
        if not deep:
            return
