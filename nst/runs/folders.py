"""Run folders on disk: where they lie, in which order, and what each says of its run. Only reads; knows no torch."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst import trust
from nst.files import sha256

SWEEP_FILE = "sweep.json"
RUN_FILES = ("status.json", "run.json", "metrics.csv")  # the folder that holds one of them is a run's
NO_RUNS_IN = {"previews", "frames", "inputs", "config_folders"}


@dataclass
class RunFolder:
    """What a run's folder says of it."""

    path: Path  # of the folder
    record: dict[str, Any]  # ``run.json``, without what is damaged; empty if there is none
    status: dict[str, Any]  # ``status.json``, likewise
    notes: list[str]  # what is wrong with the two files, one sentence each

    @property
    def is_done(self) -> bool:
        """Whether the run has come to its end; a bundle may lack ``status.json``."""
        return self.status.get("status", "done") == "done" and "result" in self.record


def read(path: Path) -> RunFolder:
    """Read what a run's folder says of it; see ``trust.record`` for what damaged files give."""
    (record, wrong), (status, also) = (trust.record(path / name) for name in ("run.json", "status.json"))
    return RunFolder(path, record, status, [note for note in (also, wrong) if note])


def find(top: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of runs that were begun, and those of sweeps, at and below a folder, in natural order.

    Links are not followed, and hidden folders and those within a run not looked into.
    """
    runs, sweeps = [], []
    for name, folders, files in os.walk(top):
        if any(file in files for file in RUN_FILES) or (".hydra" in folders and SWEEP_FILE not in files):
            runs.append(Path(name))
            folders.clear()
            continue
        folders[:] = [folder for folder in folders if not folder.startswith(".") and folder not in NO_RUNS_IN]
        if SWEEP_FILE in files:
            sweeps.append(Path(name))
    return sorted(runs, key=in_order), sorted(sweeps, key=in_order)


def in_order(name: object) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key that counts the numbers in a name as numbers: 2_b comes before 10_a."""
    parts = re.split(r"([0-9]+)", str(name))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], str(name)


def is_unchanged(path: Path, digest: str) -> bool:
    """Tell whether there is a file at a path, with a SHA-256; a path that cannot be one counts as none."""
    try:
        return path.is_file() and sha256(path) == digest
    except (OSError, ValueError):
        return False
