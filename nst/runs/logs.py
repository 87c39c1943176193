"""Whose log a message belongs to, while several jobs run as one batch: one job's, or everybody's."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

CONSOLE_ONLY = Path()  # the folder of no job
_folder: ContextVar[Path | None] = ContextVar("folder", default=None)
_aloud: ContextVar[bool] = ContextVar("aloud", default=True)


@contextlib.contextmanager
def speaking_for(folder: Path, aloud: bool = True) -> Iterator[None]:
    """Write the messages of the block to the log of one job only, and if ``aloud`` to the console."""
    spoke_for, was_aloud = _folder.set(folder), _aloud.set(aloud)
    try:
        yield
    finally:
        _folder.reset(spoke_for)
        _aloud.reset(was_aloud)


def own_files() -> list[logging.Handler]:
    """Return what of the logging that Hydra has just set up for a job writes to files."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


@contextlib.contextmanager
def shared(files: Sequence[tuple[Path, logging.Handler]]) -> Iterator[None]:
    """Log to the files of several jobs at once, to each what concerns its job, and to the console once.

    Args:
        files: folder of a job, and what writes a log of it.
    """
    root = logging.getLogger()
    before = root.handlers[:]
    console = [handler for handler in before if not isinstance(handler, logging.FileHandler)]
    for handler in console:
        handler.addFilter(_is_aloud)
    for folder, handler in files:
        handler.addFilter(_Concerns(folder))
    root.handlers[:] = [*console, *(handler for _, handler in files)]
    try:
        yield
    finally:
        root.handlers[:] = before
        for handler in console:
            handler.removeFilter(_is_aloud)
        for _, handler in files:
            handler.close()


def _is_aloud(record: logging.LogRecord) -> bool:
    return _aloud.get()


class _Concerns(logging.Filter):
    """Passes what concerns a job: messages for everybody, and its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the message is for this job."""
        return _folder.get() in (None, self.folder)
