"""Several jobs as one batch, in this process; and stops as a signal makes them."""

import csv
from pathlib import Path
from typing import Any

from problems import job

from nst import runtime
from nst.job import _batch
from nst.runs import resume


def done_together(folder: Path, *jobs: tuple[str, ...]) -> list[dict[str, Any]]:
    """Do jobs as one batch, in folders named by their numbers, as a sweep does; return how each stands."""
    with runtime.PoliteStop() as stop:
        _batch([job(folder / str(number), *overrides) for number, overrides in enumerate(jobs)], stop)
    return [resume.read(folder / str(number) / "status.json") for number in range(len(jobs))]


def rows(folder: Path) -> list[dict[str, float]]:
    """Return metrics.csv as numbers, without the seconds."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


class DiesAt(runtime.PoliteStop):
    """A stop that comes between two steps, without a last checkpoint."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def poll(self) -> None:
        self.left -= 1
        if not self.left:
            raise runtime.Interrupted(15)
