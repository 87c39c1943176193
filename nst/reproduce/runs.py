"""The runs to be reproduced: in a folder, or in a bundle that somebody else may have made."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst import trust
from nst.errors import UserError, nearest
from nst.runs import resume


@dataclass
class Run:
    """A finished run.

    Attributes:
        name: its folder's, relative to what was given; ``.`` for a single run.
        folder: where it lies, for a bundle's run where it was unpacked.
        record: its ``run.json``.
        origin: how to name it to a reader.
        unpacked: it comes from a bundle, which somebody else may have made.
    """

    name: str
    folder: Path
    record: dict[str, Any]
    origin: str
    unpacked: bool = False

    def picture(self) -> Path:
        """Return the path of the picture that the run left."""
        return self.folder / str(self.record["result"]["file"])


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Give the folder of a run or sweep; a bundle is unpacked for the time being.

    Raises:
        UserError: there is no such folder, or it is no bundle that can be unpacked safely.
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
    """Return the finished runs in a folder, unpacked from ``origin``, and ``{name: why not}`` of those not finished.

    A folder of a bundle may have no ``status.json``; the record of a finished run names its result.
    """
    runs: list[Run] = []
    unfinished: dict[str, str] = {}
    begun = {path.parent for name in ("run.json", "status.json") for path in _files(folder, name)}
    single = folder in begun
    for place in sorted([folder] if single else begun, key=_by_number):
        record, status = resume.read(place / "run.json"), resume.read(place / "status.json").get("status", "done")
        name = place.relative_to(folder).as_posix()
        if status != "done" or "result" not in record or "config" not in record:
            unfinished[name] = "it has no complete run.json" if status == "done" else f"it is {status}"
        else:
            runs.append(Run(name, place, record, str(origin / name), folder != origin))
    return runs, unfinished


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / name] if (folder / name).is_file() else list(folder.rglob(name))


def _by_number(folder: Path) -> tuple[Any, ...]:
    """Order job 10 after job 9."""
    return tuple((int(m[0]) if (m := re.match(r"\d+", part)) else -1, part) for part in folder.parts)


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
