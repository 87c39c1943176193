"""The runs to be reproduced: in a folder, or in a bundle that somebody else may have made."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst import trust
from nst.errors import UserError, nearest
from nst.runs import folders


@dataclass
class Run:
    """A finished run."""

    name: str  # its folder's, relative to what was given; ``.`` for a single run
    folder: Path  # where it lies, for a bundle's run where it was unpacked
    record: dict[str, Any]  # its ``run.json``
    origin: str  # how to name it to a reader


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Give the folder of a run or sweep; a bundle is unpacked for the time being.

    Raises UserError if there is no such folder, or it is no bundle that can be unpacked safely.
    """
    if path.is_dir():
        yield path
    elif path.is_file():
        with tempfile.TemporaryDirectory(prefix="nst-bundle-") as folder:
            trust.unpack(path, Path(folder))
            yield Path(folder)
    else:
        raise UserError(f"There is no {path}. Name the folder of a run or of a sweep, or a bundle (.zip).")


def finished_runs(folder: Path, origin: Path) -> tuple[list[Run], dict[str, str]]:
    """Return the finished runs in a folder, unpacked from ``origin``, and ``{name: why not}`` of those not finished."""
    runs: list[Run] = []
    unfinished: dict[str, str] = {}
    for path in folders.find(folder)[0]:
        found, name = folders.read(path), path.relative_to(folder).as_posix()
        status = found.status.get("status", "done")
        if found.is_done and "config" in found.record:
            runs.append(Run(name, path, found.record, str(origin / name)))
        elif any((path / file).is_file() for file in ("run.json", "status.json")):
            unfinished[name] = "it has no complete run.json" if status == "done" else f"it is {status}"
    return runs, unfinished


def named(runs: list[Run], unfinished: dict[str, str], name: str) -> Run:
    """Return the run that was asked for, by its folder's name, its number, or the end of its path."""
    wanted = name.rstrip("/")
    found = [run for run in runs if wanted in (run.name, Path(run.name).name)]
    found = found or [run for run in runs if Path(run.name).name.partition("_")[0] == wanted]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        raise UserError(f"--run {name} means several: {', '.join(run.name for run in found)}. Give the whole path.")
    if wanted in unfinished:
        raise UserError(f"The run {wanted} cannot be reproduced: {unfinished[wanted]}.")
    names = [run.name for run in runs]
    if names == ["."]:
        raise UserError("This is a single run; leave out --run.")
    raise UserError(f"There is no finished run {name}.{nearest(name, names)} Finished: {', '.join(names) or 'none'}.")


def nothing_to_do(source: Path, unfinished: dict[str, str]) -> str:
    """Return why nothing in a folder can be reproduced, and what to do."""
    if not unfinished:
        return f"There is no run in {source}: no run.json was found."
    if list(unfinished) == ["."]:
        return f"The run in {source} is not done: {unfinished['.']}. Finish it first: python run.py resume={source}"
    named = "; ".join(f"{name}: {why}" for name, why in unfinished.items())
    return f"No run in {source} is done ({named}). Finish them first: python run.py resume={source}"
