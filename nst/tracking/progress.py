"""How far a run is: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm

from nst.tracking import Snapshot

log = logging.getLogger(__name__)


class ProgressBar:
    """A tqdm bar with the loss, the rate and the time left.

    Args:
        steps: how many there will be.
        begin: how many are done already.
    """

    def __init__(self, steps: int, begin: int = 0) -> None:
        self.bar = tqdm(total=steps, initial=begin, unit="step", file=sys.stderr, dynamic_ncols=True, leave=True)

    def step(self, snapshot: Snapshot) -> None:
        """Move the bar on; the loss is renewed at logged steps."""
        self.bar.update(snapshot.step.index - self.bar.n)
        if snapshot.logged:
            self.bar.set_postfix(loss=f"{snapshot.values['loss/total']:.4g}")

    def position(self) -> None:
        """Return nothing: what is shown is not kept."""

    def close(self, status: str) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


class ProgressLines:
    """A line in the log at about every tenth of the run, for output that is no terminal.

    Args:
        steps: how many there will be.
        begin: how many are done already.
    """

    def __init__(self, steps: int, begin: int = 0) -> None:
        self.steps = steps
        self.next = float(begin)

    def step(self, snapshot: Snapshot) -> None:
        """Write a line if a tenth of the run has gone by."""
        step = snapshot.step
        if not (snapshot.logged and (step.index >= self.next or step.last)):
            return
        self.next = step.index + self.steps / 10
        pace = step.seconds / max(step.index, 1)
        left = f", about {pace * (self.steps - step.index):.0f} s left" if step.index and not step.last else ""
        loss = snapshot.values["loss/total"]
        log.info("step %d/%d  loss %.4g  %.3f s a step%s", step.index, self.steps, loss, pace, left)

    def position(self) -> None:
        """Return nothing: what is shown is not kept."""

    def close(self, status: str) -> None:
        """Do nothing: every line is written."""


def progress(steps: int, begin: int = 0, alone: bool = True) -> ProgressBar | ProgressLines:
    """Return what suits standard error: a bar for a terminal, lines for a file, a pipe, or among parallel workers.

    Args:
        steps: how many there will be.
        begin: how many are done already.
        alone: no other run writes to the same terminal.
    """
    return ProgressBar(steps, begin) if alone and sys.stderr.isatty() else ProgressLines(steps, begin)
