"""The run's numbers as ``metrics.csv``."""

import csv
import io
import os

from nst.files import writing
from nst.tracking import RunInfo, Snapshot, Tracker


class MetricsFile(Tracker):
    """Writes one line of numbers per logged step, each on disk before the run goes on.

    Args:
        run: that is watched; the file must not exist unless there is a position.
        position: the bytes of the file that are to be kept, the rest being done again.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, run: RunInfo, position: int | None = None) -> None:
        self.path = run.folder / "metrics.csv"
        with writing(self.path):
            if position is not None:
                os.truncate(self.path, position)
            self.file = self.path.open("x" if position is None else "a", newline="", encoding="utf-8")
        self.has_header = bool(position)

    def step(self, snapshot: Snapshot) -> None:
        """Append a line: step, evaluations, seconds, and every loss by its tag."""
        if not snapshot.logged:
            return
        step = snapshot.step
        row = {"step": step.index, "evaluations": step.evaluations, "seconds": round(step.seconds, 6)}
        text = io.StringIO()
        writer = csv.DictWriter(text, [*row, *snapshot.values], lineterminator="\n")
        if not self.has_header:
            writer.writeheader()
            self.has_header = True
        writer.writerow(row | snapshot.values)
        with writing(self.path):
            self.file.write(text.getvalue())
            self.file.flush()

    def position(self) -> int:
        """Return the file's length in bytes."""
        with writing(self.path):
            os.fsync(self.file.fileno())
        return self.path.stat().st_size

    def close(self, status: str, reason: str) -> None:
        """Close the file."""
        with writing(self.path):
            self.file.close()
