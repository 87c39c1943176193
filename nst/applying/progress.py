"""How far the painting is: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)
PAUSE = 2.0  # seconds at least between two lines


class Progress:
    """Counts what has been painted.

    Args:
        total: how many there are, None if that is not known.
        done: how many are painted already.
        unit: what they are.
        alone: no other run writes to the same terminal.
    """

    def __init__(self, total: int | None, done: int, unit: str, alone: bool = True) -> None:
        self.total, self.begin, self.done, self.unit = total, done, done, unit
        self.began = time.perf_counter()
        self.next, self.told = float(done), self.began
        self.bar = None
        if alone and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, unit=unit, file=sys.stderr, dynamic_ncols=True)

    def step(self) -> None:
        """Count one more, and tell of it if its turn has come."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
            return
        now, is_last = time.perf_counter(), self.done == self.total
        if self.total == 1 or self.done < self.next or (now - self.told < PAUSE and not is_last):
            return
        self.next, self.told = self.done + (self.total / 10 if self.total else 100), now
        pace = (now - self.began) / (self.done - self.begin)
        of, left = "", ""
        if self.total:
            of = f"/{self.total}"
            left = f", about {pace * (self.total - self.done):.0f} s left" if self.total > self.done else ""
        log.info("%s %d%s  %.3f s each%s", self.unit, self.done, of, pace, left)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()
