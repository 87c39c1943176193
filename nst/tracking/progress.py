"""How far a run is: a bar in a terminal or a notebook, now and then a line in the log elsewhere."""

import logging
import sys
import time

from tqdm.auto import tqdm

from nst.tracking import RunInfo, Snapshot, Tracker

log = logging.getLogger(__name__)
PAUSE = 2.0  # seconds at least between two lines that count


class ProgressBar(Tracker):
    """A tqdm bar with the rate, the time left and, of steps, the loss.

    Args:
        total: how many there will be; None if that is not known.
        begin: how many are done already.
        unit: what they are.
    """

    def __init__(self, total: int | None, begin: int = 0, unit: str = "step") -> None:
        self.bar = tqdm(total=total, initial=begin, unit=unit, file=sys.stderr, dynamic_ncols=True)

    def step(self, snapshot: Snapshot) -> None:
        """Move the bar on; the loss is renewed at logged steps."""
        self.advance(snapshot.step.index)
        if snapshot.logged:
            self.bar.set_postfix(loss=f"{snapshot.values['loss/total']:.4g}")

    def advance(self, done: int | None = None) -> None:
        """Move the bar on by one, or to how many are done."""
        self.bar.update(1 if done is None else done - self.bar.n)

    def close(self, status: str = "done", reason: str = "") -> None:
        """Leave the bar as it stands."""
        self.bar.close()


class ProgressLines(Tracker):
    """A line in the log at about every tenth of the run, for output that is no terminal; see ``ProgressBar``."""

    def __init__(self, total: int | None, begin: int = 0, unit: str = "step") -> None:
        self.total, self.begin, self.done, self.unit = total, begin, begin, unit
        self.next = float(begin)
        self.began = self.told = time.perf_counter()

    def step(self, snapshot: Snapshot) -> None:
        """Write a line if a tenth of the run has gone by."""
        step, self.done = snapshot.step, snapshot.step.index
        if snapshot.logged and (self.done >= self.next or step.last):
            loss = f"  loss {snapshot.values['loss/total']:.4g}"
            self._write(step.seconds / max(step.index, 1), "a step", loss, step.last)

    def advance(self, done: int | None = None) -> None:
        """Count one more, or up to how many are done; write a line if a tenth of all has gone by, and two seconds."""
        self.done = self.done + 1 if done is None else done
        now, last = time.perf_counter(), self.done == self.total
        if self.total != 1 and self.done >= self.next and (last or now - self.told >= PAUSE):
            self.told = now
            self._write((now - self.began) / max(self.done - self.begin, 1), "each")

    def _write(self, pace: float, each: str, loss: str = "", last: bool = False) -> None:
        self.next = self.done + (self.total / 10 if self.total else 100)
        of, left = f"/{self.total}" if self.total else "", (self.total or 0) - self.done
        time_left = f", about {pace * left:.0f} s left" if left > 0 and self.done and not last else ""
        log.info("%s", f"{self.unit} {self.done}{of}{loss}  {pace:.3f} s {each}{time_left}")

    def close(self, status: str = "done", reason: str = "") -> None:
        """Do nothing: every line is written."""


def progress(total: int | None, begin: int = 0, alone: bool = True, unit: str = "step") -> ProgressBar | ProgressLines:
    """Return what suits standard error: a bar where one can be seen, lines for a file, a pipe, or parallel workers.

    Args:
        total: see ``ProgressBar``; likewise ``begin`` and ``unit``.
        alone: no other run writes to the same terminal.
    """
    return (ProgressBar if alone and (sys.stderr.isatty() or in_notebook()) else ProgressLines)(total, begin, unit)


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook; tqdm asks the same."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


def watch(run: RunInfo, position: None = None) -> ProgressBar | ProgressLines:
    """Return what shows how far a run is."""
    return progress(run.steps, run.begin, alone=run.shows_progress)
