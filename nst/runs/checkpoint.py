"""Checkpoints: what a run needs to carry on to the same bytes, in one file that is never half-written.

That of an unfinished run is ``checkpoint.pt``. A finished one keeps its last as ``state.pt``, for more steps later.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.utils._pytree import tree_leaves

from nst.files import write_atomic
from nst.runs import resume
from nst.runs.resume import CHECKPOINT_FILE as FILE
from nst.runs.resume import STATE_FILE as STATE

log = logging.getLogger(__name__)
Say = Callable[..., None]
FORMAT = 2
OLD_FORMAT = 1  # without a checksum
CHECKSUM = b"SHA-256 "  # what the last bytes of the file begin with, before 64 hexadecimal digits
LARGEST_SHARE = 0.05  # of a run's time that may go into checkpoints that are due by the clock


class Checkpoints:
    """Tells when checkpoints are due: every so many steps or seconds.

    Where saving takes long (L-BFGS at a large size keeps hundreds of pictures), the seconds between two are stretched
    so that saving takes no more than a share of the time.
    """

    def __init__(self, every_steps: int, every_seconds: float, share: float = LARGEST_SHARE) -> None:
        self.every_steps, self.every_seconds, self.share = every_steps, every_seconds, share  # 0 is off
        self.saved_at, self.saved_step, self.took = time.monotonic(), 0, 0.0

    def is_due(self, step: int) -> bool:
        """Tell whether one is to be saved after ``step`` updates."""
        if self.every_steps and step - self.saved_step >= self.every_steps:
            return True
        pause = max(self.every_seconds, self.took / self.share)
        return bool(self.every_seconds) and time.monotonic() - self.saved_at >= pause

    @contextlib.contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Note how long the block takes, in which the checkpoint after ``step`` updates is saved."""
        began = time.monotonic()
        yield
        self.saved_at, self.saved_step = time.monotonic(), step
        self.took = self.saved_at - began


def save(folder: Path, content: dict[str, Any], name: str = FILE) -> None:
    """Write a run's checkpoint, or its ``STATE``, over the last one, atomically.

    It holds tensors and plain values; further kinds could not be read back safely.

    Raises:
        UserError: it cannot be written; the last one is untouched.
    """
    files = {name: _sha256(folder / name, size) for name, size in _lengths(content).items()}

    def write(file: BinaryIO) -> None:
        summed = _Summed(file)
        torch.save({"format": FORMAT, **content, "files": files}, summed)  # type: ignore[arg-type]
        if summed.error is not None:
            raise summed.error
        file.write(CHECKSUM + summed.digest.hexdigest().encode())

    write_atomic(folder / name, write)


class _Summed:
    """A file to write to whose checksum is known in the end; an error is kept, since ``torch.save`` has its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, part: bytes) -> int:
        self.digest.update(part)
        try:
            if self.error is None:
                self.file.write(part)
        except OSError as error:
            self.error = error
        return len(part)

    def flush(self) -> None:
        """Leave that to whoever opened the file."""


def size(content: Any) -> int:
    """Return how many bytes the tensors take that something to be saved holds."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(content) if isinstance(leaf, torch.Tensor))


def step(folder: Path, *names: str) -> int:
    """Return after how many updates a run's checkpoint was saved; 0 if there is none, or none that can be read."""
    for name in names or (FILE, STATE):
        with contextlib.suppress(Exception):  # told by load, when it comes to that
            content: dict[str, Any] = torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
            return int(content["step"])
    return 0


def load(folder: Path, say: Say = log.warning) -> dict[str, Any] | None:
    """Return a run's checkpoint, its tensors on the CPU; None if there is none, or none that can be read."""
    there = [path for path in (folder / FILE, folder / STATE) if path.exists()]
    return next((content for path in there if (content := _read(path, say)) is not None), None)


def _read(path: Path, say: Say) -> dict[str, Any] | None:
    try:
        summed = _has_its_checksum(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] not in (FORMAT, OLD_FORMAT):
            say("The checkpoint %s is of another version: the run starts again from its beginning.", path)
            return None
        if summed is False or (summed is None and content["format"] != OLD_FORMAT):
            raise ValueError("the checksum does not fit")
    except Exception as error:  # a damaged file drives the unpickler to whatever it raises
        log.debug("The checkpoint cannot be read.", exc_info=error)
        say("The checkpoint %s is damaged: the run starts again from its beginning.", path)
        return None
    return content


def load_usable(folder: Path, say: Say = log.warning) -> dict[str, Any] | None:
    """Return a run's checkpoint, if there is one, and a record, and the files that the trackers go on with.

    What is wrong with them is handed to ``say``.
    """
    if "machine" not in resume.read(folder / "run.json"):
        return None  # a checkpoint of what, if not of a record?
    saved = load(folder, say)
    return saved if saved and _can_take_back(folder, saved, say) else None


def remove(folder: Path, name: str = FILE) -> None:
    """Remove a run's checkpoint, or its ``STATE``, if there is one."""
    with contextlib.suppress(OSError):
        (folder / name).unlink()


def random_state() -> dict[str, Any]:
    """Return the state of torch's global generators, from which a loss of one's own may draw."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def restore_random_state(state: dict[str, Any]) -> None:
    """Set torch's global generators to a state."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _has_its_checksum(path: Path) -> bool | None:
    """Tell whether a checkpoint fits the checksum at its end; None if there is none."""
    length = len(CHECKSUM) + 64
    size = path.stat().st_size - length
    with path.open("rb") as file:
        file.seek(max(size, 0))
        kind, expected = file.read(len(CHECKSUM)), file.read()
    return _sha256(path, size) == expected.decode(errors="replace") if kind == CHECKSUM else None


def _sha256(path: Path, size: int) -> str:
    """Return the SHA-256 of the first ``size`` bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (part := file.read(min(size, 2**20))):
            digest.update(part)
            size -= len(part)
    return digest.hexdigest()


def _lengths(content: dict[str, Any]) -> dict[str, int]:
    """Return how long the files were that the trackers go on with, by name."""
    positions = content.get("trackers", {})
    lengths = {"metrics.csv": positions["metrics"]} if "metrics" in positions else {}
    return lengths | positions.get("tensorboard", {}).get("files", {})


def _can_take_back(folder: Path, saved: dict[str, Any], say: Say) -> bool:
    """Tell whether the files that the trackers go on with begin as they did when the checkpoint was saved."""
    lengths, sums = _lengths(saved), dict(saved.get("files", {}))
    for pictures in (saved["trackers"].get(name) for name in ("frames", "previews")):
        sums |= pictures or {}  # whole files
        lengths |= {name: max(_size(folder / name), 0) for name in pictures or {}}
    short = [name for name, size in lengths.items() if _size(folder / name) < size]
    changed = [
        n for n, size in lengths.items() if n in sums and n not in short and _sha256(folder / n, size) != sums[n]
    ]
    for names, what in ((short, "cut short or gone"), (changed, "changed")):
        if names:
            say("%s of %s: %s, so the run starts again from its beginning.", " and ".join(names), folder, what)
    return not short and not changed


def _size(path: Path) -> int:
    """Return how long a file is; one that is gone has at least a byte too few."""
    return path.stat().st_size if path.is_file() else -1
