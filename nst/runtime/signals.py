"""A way to stop a run politely."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

# Ctrl-C, a termination, and what schedulers of clusters send before a job's time is over.
POLITE_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a termination signal, ``signal_number``; a KeyboardInterrupt, so that a sweep stops with it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class PoliteStop:
    """Turns Ctrl-C and its like into ``Interrupted``, raised between two steps while a picture is being optimised.

    Used as a context manager around a run. ``hold()`` begins and ``release()`` ends the part in which a first signal
    only asks; ``poll()`` answers by raising. A second signal is never held back.
    """

    def __init__(self) -> None:
        self.holding = 0  # runs that are in that part
        self.asked: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> PoliteStop:
        """Take over the signals, where this is the main thread."""
        for number in POLITE_SIGNALS:
            try:
                self.previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: whoever owns it owns the signals
                break
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From here on a first signal waits for ``poll``."""
        self.holding += 1

    def release(self) -> None:
        """From here on every signal is raised at once."""
        self.holding -= 1

    def poll(self) -> None:
        """Raise ``Interrupted`` if a signal has asked for it."""
        if self.asked is not None:
            raise Interrupted(self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.holding and self.asked is None:
            self.asked = number
        else:
            raise Interrupted(number)
