"""A command as a guest in somebody else's process: whatever it sets there is put back when it ends."""

import contextlib
import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nst.errors import UserError

_busy = threading.Lock()


@contextlib.contextmanager
def as_a_guest() -> Iterator[None]:
    """Put back at the end of a block: arguments, environment, imports, hooks, signals, logging, what torch is set to.

    Modules of one's own that the block imported from folders it added to ``sys.path`` are forgotten, so that the next
    block reads them anew, as a new process does.

    Raises:
        UserError: another thread, or a block around this one, is a guest already.
    """
    if not _busy.acquire(blocking=False):
        raise UserError("This process is busy with another run. Wait for its end; several runs at once are a sweep.")
    try:
        with _python(), _logging(), _torch():
            yield
    finally:
        _busy.release()


@contextlib.contextmanager
def _python() -> Iterator[None]:
    argv, path, modules, variables = sys.argv[:], sys.path[:], {*sys.modules}, dict(os.environ)
    hook, terminated = threading.excepthook, signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        own = {*sys.path} - {*path}
        for name in sys.modules.keys() - modules if own else ():
            file = Path(str(getattr(sys.modules.get(name), "__file__", None) or ""))
            homes = [folder for folder in sys.path if file.is_relative_to(folder)]
            if max(homes, key=len, default="") in own:  # and not in an environment that lies in there
                sys.modules.pop(name, None)
        sys.argv[:], sys.path[:], threading.excepthook = argv, path, hook
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        if threading.current_thread() is threading.main_thread() and terminated is not None:  # else not Python's
            signal.signal(signal.SIGTERM, terminated)


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    root, module = logging.getLogger(), vars(logging)
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    # whoever configures logging closes every handler that it knows of, such as a log file of the host's
    known = {name: module[name] for name in ("_handlers", "_handlerList")}
    module.update(_handlers=weakref.WeakValueDictionary(), _handlerList=[])
    try:
        yield
    finally:
        module.update(known)
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raises


@contextlib.contextmanager
def _torch() -> Iterator[None]:
    owners: dict[Any, tuple[str, ...]] = {
        torch.backends.cudnn: ("benchmark", "allow_tf32"),
        torch.backends.cuda.matmul: ("allow_tf32",),
        torch.utils.deterministic: ("fill_uninitialized_memory",),
    }
    flags = [(owner, name, getattr(owner, name)) for owner, names in owners.items() for name in names]
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    try:
        torch.set_default_dtype(torch.float32)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for owner, name, value in flags:
            setattr(owner, name, value)
        torch.use_deterministic_algorithms(is_deterministic, warn_only=warns_only)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        if torch.cuda.is_initialized():
            torch.cuda.set_device(device)
