"""Whose log a message belongs to, while several jobs run as one batch: one job's, or everybody's."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)
_on_console: ContextVar[bool] = ContextVar("on_console", default=True)


@contextlib.contextmanager
def logging_for(folder: Path, on_console: bool = True) -> Iterator[None]:
    """Write the messages of the block to the log of one job only, and if ``on_console`` to the console."""
    was_for, was_on_console = _folder.set(folder), _on_console.set(on_console)
    try:
        yield
    finally:
        _folder.reset(was_for)
        _on_console.reset(was_on_console)


def file_handlers() -> list[logging.Handler]:
    """Return what of the logging that Hydra has just set up for a job writes to files."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


@contextlib.contextmanager
def shared(files: Sequence[tuple[Path, logging.Handler]]) -> Iterator[None]:
    """Log to the files of several jobs at once, to each what concerns its job, and to the console once.

    ``files`` are pairs of the folder of a job, and what writes a log of it.
    """
    root = logging.getLogger()
    before = root.handlers[:]
    console = [handler for handler in before if not isinstance(handler, logging.FileHandler)]
    for handler in console:
        handler.addFilter(_is_for_console)
    for folder, handler in files:
        handler.addFilter(functools.partial(_concerns, folder))
    root.handlers[:] = [*console, *(handler for _, handler in files)]
    try:
        yield
    finally:
        root.handlers[:] = before
        for handler in console:
            handler.removeFilter(_is_for_console)
        for _, handler in files:
            handler.close()


def _is_for_console(record: logging.LogRecord) -> bool:
    return _on_console.get()


def _concerns(folder: Path, record: logging.LogRecord) -> bool:
    """Tell whether a message is for everybody, or for this job."""
    return _folder.get() in (None, folder)
