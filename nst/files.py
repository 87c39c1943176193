"""Writing files so that a crash, a full disk or a killed process never leaves half of one under its final name."""

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig

from nst.errors import UserError

LOCK = ".lock"
SUFFIXES = frozenset((".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
ATTEMPTS, PAUSE = (20, 0.05) if sys.platform == "win32" else (0, 0.0)  # seconds


class CannotWrite(UserError):
    """A file could not be written: the disk is full, or the folder is read-only."""


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write ``path`` through a temporary file beside it: written, fsynced, then renamed over the old one.

    Raises:
        CannotWrite: the file cannot be written (disk full, folder read-only); what stood under ``path`` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            _replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _replace(temporary: Path, path: Path) -> None:
    """Give a file its final name; on Windows whoever reads the old one at this moment holds that up."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(PAUSE)
    temporary.replace(path)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder or one below, which the caller has claimed."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        with contextlib.suppress(OSError):
            path.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically; NaN and infinity become strings, since JSON has neither."""
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, lambda file: file.write(text.encode()))


def claim(folder: Path) -> FileLock:
    """Take hold of a folder, so that no other process works in it; the system lets go when this process ends.

    Raises:
        UserError: another process has it.
        CannotWrite: the lock file cannot be made.
    """
    lock = FileLock(folder / LOCK, is_singleton=True)  # who has it may take it again
    with writing(folder / LOCK):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{folder} is in use by another process. Wait for it, or stop it first.") from error
    return lock


def is_claimed(folder: Path) -> bool:
    """Tell whether a process works in a folder at this moment."""
    if not (folder / LOCK).exists():
        return False
    with contextlib.suppress(Timeout), FileLock(folder / LOCK).acquire(timeout=0):  # another than we may hold
        return False
    return True


def typed_path(name: str) -> Path:
    """Return the path that a name means where the command was typed, even if Hydra has gone elsewhere since."""
    path = Path(name).expanduser()
    moved = HydraConfig.initialized() and HydraConfig.get().job.chdir and not path.is_absolute()
    return Path(HydraConfig.get().runtime.cwd) / path if moved else path


def existing_file(name: str) -> Path | None:
    """Return the path of a file if there is one of that name; a name that cannot be one counts as none."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        if (path := typed_path(name)).is_file():
            return path
    return None


def is_folder(name: str) -> bool:
    """Tell whether there is a folder of that name; a name that cannot be one counts as none."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        return typed_path(name).is_dir()
    return False


def exists(name: str) -> bool:
    """Tell whether there is a file or a folder of that name; a name that cannot be one counts as none."""
    return existing_file(name) is not None or is_folder(name)


def pictures_below(root: Path, leave_out: Path | None = None) -> tuple[dict[str, int], int]:
    """Find the pictures in a folder and below it but for one to leave out, over links, but never in a circle.

    Returns:
        Size in bytes of each, by its path from the folder with forward slashes, and how many other files there are.
        Hidden files and folders do not count, nor does whatever has not the suffix of a picture.

    Raises:
        OSError: a folder cannot be read.
    """
    found: dict[str, int] = {}
    others, left = 0, [("", root)]
    seen = {_identity(leave_out)} if leave_out is not None and leave_out.is_dir() else set()
    while left:
        prefix, folder = left.pop()
        if (identity := _identity(folder)) in seen:
            continue
        seen.add(identity)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                is_picture = os.path.splitext(entry.name)[1].lower() in SUFFIXES  # noqa: PTH122 - of 100,000s
                try:
                    if entry.is_dir():
                        left.append((f"{prefix}{entry.name}/", Path(entry.path)))
                    elif is_picture and entry.is_file():
                        found[f"{prefix}{entry.name}"] = entry.stat().st_size
                    else:
                        others += 1
                except OSError:  # a link to itself
                    others += 1
    return found, others


def _identity(folder: Path) -> tuple[int, int]:
    return folder.stat().st_dev, folder.stat().st_ino


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a ``CannotWrite`` that names ``path`` and says what to do."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(
            f"Cannot write {path}: {error.strerror or error}. "
            "Free some space or choose another folder with hydra.run.dir=FOLDER (a sweep: hydra.sweep.dir=FOLDER)."
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """Return a value in what JSON knows: mappings, lists, text, numbers, truth values; anything else as text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
