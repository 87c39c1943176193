"""The program from Python: ``nst.run``, ``nst.sweep`` and ``nst.load``, with the words of the command line.

What they do is what ``python run.py`` does, by the same code; only that the process is somebody else's, which is left
as it was. It needs no torch until there is something to run.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import html
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

import nst
from nst import callbacks, cli, configuration, trust
from nst.errors import UserError
from nst.report.runs import read_run
from nst.runs import folders, launchers, resume
from nst.runs.sweep import job_folders

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

ROOT = Path(nst.__file__).resolve().parent.parent
CONF = ROOT / "conf"
OF_A_PROGRAM = (ConfigStore, GlobalHydra, HydraConfig, JobRuntime, VersionBase)  # of which Hydra has one a process
OF_HYDRA = ("hydra", "_dummy_empty_config_.yaml")  # what it has stored itself
Words = Sequence[str] | Mapping[str, Any]


def task(config: DictConfig) -> object:
    """Do what a configuration says; a sampler is told the scores."""
    from nst import job  # here, so that --help and a typo need not wait for torch

    return job.run_job(config)


def main() -> None:
    """Do what ``sys.argv`` says: the program, which ``cli`` calls.

    Raises:
        UserError: the package is not where its configuration is.
    """
    if not CONF.is_dir():
        raise UserError(f"There is no {CONF}: install the package from its source, by pip install -e FOLDER.")
    configuration.register()
    launchers.close_groups()
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run as its folder tells of it. A notebook shows its picture."""

    folder: Path
    status: str  # done, running, interrupted, failed, out_of_memory, skipped, not started, unknown
    reason: str  # why it is not done; else empty
    config: dict[str, Any]  # every knob, resolved
    overrides: list[str]  # what was typed for it, as NAME=VALUE
    scores: dict[str, Any]  # of the result, by the evaluator; empty if there are none
    losses: dict[str, float]  # those of the last step; likewise
    metrics: dict[str, list[float | None]]  # metrics.csv by column: pandas.DataFrame(run.metrics)
    file: Path | None  # the picture's: the result, or what an unfinished run left
    files: list[Path]  # whatever it was to make: beside the result a network, a clip, paintings

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read what a run's folder holds; one that was never begun may have none."""
        found = read_run(folder, folder.name)
        metrics: dict[str, Any] = dict(found.metrics)
        for name in metrics.keys() & {"step", "evaluations"}:
            metrics[name] = [None if number is None else int(number) for number in metrics[name]]
        results = [found.fact("result", "file"), found.fact("network", "file"), found.fact("applied", "clip")]
        named = [folder / str(name) for name in results if name]
        painted = sorted((folder / "results").rglob("*.*"), key=folders.in_order)
        return cls(
            folder=folder,
            status=found.status,
            reason=found.reason,
            config=found.record.get("config") or {},
            overrides=found.overrides,
            scores=found.record.get("scores") or {},
            losses=found.record.get("final") or {},
            metrics=metrics,
            file=found.picture,
            files=[path for path in (*named, *painted) if trust.is_inside(folder, path)],
        )

    @cached_property
    def image(self) -> Image.Image | None:
        """The picture as PIL has it, RGB; None if there is none."""
        if self.file is None:
            return None
        from nst.images import rgb  # here, since it needs torch

        return rgb.opened(str(self.file))

    @cached_property
    def tensor(self) -> Tensor | None:
        """The picture ``(3, H, W)``, RGB in [0, 1], float32; None if there is none."""
        if self.image is None:
            return None
        import numpy as np
        import torch

        return torch.from_numpy(np.array(self.image)).permute(2, 0, 1).float() / 255

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self.status}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture, and below it the status, what was typed and the folder."""
        about = " · ".join([self.status, *self.overrides, str(self.folder), *([self.reason] if self.reason else [])])
        picture = ""
        if self.file is not None:
            kind = "png" if self.file.suffix == ".png" else "jpeg"
            data = base64.b64encode(self.file.read_bytes()).decode()
            picture = f'<img style="max-width: 100%" src="data:image/{kind};base64,{data}"><br>'
        return f"{picture}<small>{html.escape(about)}</small>"


def run(words: Words = ()) -> Run:
    """Do what ``python run.py WORDS`` does, and return the finished run.

    Args:
        words: those of the command line, ``["beta=0.1", "content=photo.jpg"]``, or a dictionary: ``{"beta": 0.1,
            "content": "photo.jpg"}``, where texts need no quotes and ``{"optimizer": {"lr": 0.1}}`` is
            ``optimizer.lr=0.1``. ``--config-dir`` is the only flag.

    Raises:
        UserError: what the command line says of a mistake; or the run failed, and lies in the folder that is named.
        KeyboardInterrupt: the picture as it stands has been saved, and ``resume=FOLDER`` carries on.
    """
    typed = _words(words, axes=False)
    kinds = ("study", "hydra.mode")
    if several := [word for word in typed if word in ("-m", "--multirun") or resume.key_of(word) in kinds]:
        raise UserError(f"{several[0]} makes a sweep: nst.sweep([...]).")
    try:
        found = Run.read(_carry_out(typed))
    except UserError as error:
        if re.search(r"needs .* not '\[|takes one value, no list", str(error)):
            raise UserError(f"{error} Several values, one a run: nst.sweep([...]).") from error.__cause__
        raise
    if found.status != "done":
        raise UserError(f"{found.reason} The run is in {found.folder}.")
    return found


def sweep(words: Words = ()) -> list[Run]:
    """Do what ``python run.py -m WORDS`` does, and return the runs; those that failed say so by their ``status``.

    Args:
        words: as ``run`` has them. In a dictionary a list (or a range, or an array of one dimension) has the values to
            be tried, ``{"beta": [0.01, 0.1]}``, and a tuple is one value that is a list.

    Raises:
        UserError: what the command line says of a mistake; no run was begun.
        KeyboardInterrupt: as for ``run``.
    """
    typed = [word for word in _words(words, axes=True) if word not in ("-m", "--multirun")]
    return _of_sweep(_carry_out(["-m", *typed]))


def load(folder: str | Path) -> Any:
    """Return the run in a folder, finished or not; of a sweep's folder the list of its runs.

    Raises:
        UserError: there is neither in it.
    """
    path = Path(folder).expanduser().absolute()
    if (path / folders.SWEEP_FILE).is_file():
        return _of_sweep(path)
    if resume.past(path) is None:
        raise UserError(f"There is neither a run (run.json) nor a sweep ({folders.SWEEP_FILE}) in {path}.")
    return Run.read(path)


def _of_sweep(folder: Path) -> list[Run]:
    return [Run.read(folder / name) for name in job_folders(folder)]


def _carry_out(typed: list[str]) -> Path:
    """Do what the command line does with these words; return the folder that was worked in."""
    from nst.runtime.guest import as_a_guest  # here, since they need torch
    from nst.setup import fitting

    interrupted, begun = False, None
    with as_a_guest(), _own_hydra():
        sys.argv[0] = str(ROOT / "run.py")
        try:
            cli.call(main, _command_lines, typed)
        except KeyboardInterrupt:
            interrupted = True
            raise
        except (Exception, SystemExit) as stop:
            error = stop.__cause__ if isinstance(stop, SystemExit) else stop  # Hydra lets nothing else through
            if error is not None:
                is_plain = isinstance(error, UserError | HydraException | OmegaConfBaseException)
                message = cli.describe(error).removeprefix("Error: ")
                raise UserError(message) from (None if is_plain else error)
        finally:
            callbacks.finish(interrupted)
            begun = callbacks.let_go()
            fitting.forget()
    if begun is None:
        raise UserError("These words are no command; what is wrong with them has been printed.")
    return begun.absolute()


def _command_lines(typed: list[str]) -> list[list[str]]:
    """Complete a command line; a run must not turn out to be a sweep."""
    calls = callbacks.command_lines(typed)
    if "-m" not in typed and any("--multirun" in call for call in calls):
        raise UserError("resume= names the folder of a sweep: nst.sweep(['resume=FOLDER']).")
    return calls


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Give Hydra a state of its own: the caller may be using it as well, and finds it as it was."""
    Plugins.instance()  # found before, since they store options when they are first imported
    theirs, resolvers = Singleton._instances, BaseContainer._resolvers
    stored = ConfigStore.instance().repo
    Singleton._instances = {cls: one for cls, one in theirs.items() if cls not in OF_A_PROGRAM}
    BaseContainer._resolvers = dict(resolvers)
    ConfigStore.instance().repo = {name: copy.deepcopy(stored[name]) for name in OF_HYDRA}
    try:
        yield
    finally:
        Singleton._instances, BaseContainer._resolvers = theirs, resolvers


def _words(given: Words, axes: bool) -> list[str]:
    """Return what would be typed.

    Raises:
        UserError: it is no list of texts or dictionary, or has a flag that is for the command line.
    """
    words = [*_typed(given, axes)] if isinstance(given, Mapping) else given
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise UserError("Words are a list of texts, ['beta=0.1', 'content=photo.jpg'], or one dictionary.")
    for word in trust.apart_from_config_dirs([*words])[0]:
        if word.startswith("-") and word not in ("-m", "--multirun"):
            raise UserError(
                f"{word} is for the command line, python run.py {word}. Here the only flag is --config-dir."
            )
    return [*words]


def _typed(given: Mapping[str, Any], axes: bool, prefix: str = "") -> Iterator[str]:
    """Yield the words for a dictionary, names of nested ones joined by dots."""
    for key, value in given.items():
        name = f"{prefix}{key}"
        values = value.tolist() if getattr(value, "ndim", 0) == 1 else value
        if isinstance(value, Mapping) and value:
            yield from _typed(value, axes, f"{name}.")
        elif axes and isinstance(values, list | range):
            if not values:
                raise UserError(f"{name} has no values, so there would be no run.")
            yield f"{name}={','.join(map(cli.as_value, values))}"
        elif name.startswith("--"):
            yield f"{name}={value}"
        else:
            yield name if name.startswith("~") and value is None else f"{name}={cli.as_value(value)}"
