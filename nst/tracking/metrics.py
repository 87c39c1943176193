"""The run's numbers as ``metrics.csv``."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from nst.files import writing
from nst.tracking import Snapshot


class MetricsFile:
    """Writes one line of numbers per logged step, each on disk before the run goes on.

    Args:
        path: the file, which must not exist.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self.file = path.open("x", newline="", encoding="utf-8")
        self.has_header = False

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

    def close(self, status: str) -> None:
        """Close the file."""
        with writing(self.path):
            self.file.close()
