"""The pictures that a sweep goes through: of a folder or a pattern, and pairs of content and style, as one axis."""

import csv
import fnmatch
import glob
import sys
import textwrap
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, open_dict, read_write

from nst.cli import quoted
from nst.errors import UserError
from nst.files import SUFFIXES, exists, is_folder
from nst.runs import resume, sweep
from nst.runs.folders import in_order
from nst.samples import samples

KINDS = ("content", "style")
LONGEST_LIST = 100  # characters of names


def list_pictures(config: DictConfig) -> None:
    """Put its pictures in the place of each folder and pattern that ``content`` or ``style`` of a sweep names.

    Files that are no pictures are told on standard error. A network takes a folder as it is.

    Raises:
        UserError: there is no picture in one of them.
    """
    for override in sweep.sweep_overrides(config):
        kind, lines = sweep.key_of(override), config.hydra.overrides.task
        if kind not in KINDS or (texts := _listed(override, config.task)) is None:
            continue
        with read_write(config), open_dict(config):
            kept = [line for line in lines if resume.key_of(str(line)) != kind]
            config.hydra.overrides.task = [*kept, f"{kind}={','.join(texts)}"]


def _listed(override: Override, task: str) -> list[str] | None:
    """Return the values of an override with pictures in the place of folders and patterns; None if there are none."""
    kind, value = sweep.key_of(override), override.value()
    if isinstance(value, Glob):
        found = dict.fromkeys(one for pattern in value.include for one in _pictures(kind, pattern))
        left = [one for one in found if not any(fnmatch.fnmatch(one, pattern) for pattern in value.exclude)]
        return [quoted(one) for one in left] or None
    if not override.is_sweep_override():
        values: dict[str, Any] = {override.get_value_element_as_str(): value}
    elif override.is_choice_sweep() and not getattr(value, "shuffle", False):
        unquoted = [getattr(one, "text", one) for one in override.sweep_iterator()]
        values = dict(zip(override.sweep_string_iterator(), unquoted, strict=True))
    else:
        return None
    if "" in values.values():
        raise UserError(f"{kind}= is empty. Name pictures, a folder or a pattern: {kind}=FIRST,SECOND.")
    many = {t: _pictures(kind, one) for t, one in values.items() if isinstance(one, str) and _is_several(one, task)}
    return [new for text in values for new in (map(quoted, many[text]) if text in many else [text])] if many else None


def _is_several(name: str, task: str) -> bool:
    """Tell whether a name is that of a folder, which a network would take as it is, or a pattern."""
    if glob.has_magic(name) and not exists(name):
        return True
    return is_folder(name) and name not in samples() and task != "apply"


def make_axis(config: DictConfig) -> None:
    """Put the axis ``pair`` in the place of ``pairs`` and ``pairing`` in what a sweep is told, before it begins.

    Raises:
        UserError: the pairs cannot be read, or are given in two ways.
    """
    lines = config.hydra.overrides.task
    typed = [resume.key_of(str(line)) for line in lines]
    given = {*typed, *(config.hydra.sweeper.get("params") or {})}
    knob = "pairs" if config.pairs is not None else "pair" if "pair" in given else None
    twice = [key for key in KINDS if knob and key in given] + ["pair"] * (knob == "pairs" and "pair" in typed)
    if twice:
        raise UserError(
            f"{knob} says content and style of each run, and so does {twice[0]}. Give one of them, such as "
            "pair=[CONTENT,STYLE]."
        )
    if knob != "pairs":
        return
    axis = ",".join(f"[{quoted(content)},{quoted(style)}]" for content, style in read(config.pairs, config.pairing))
    with read_write(config), open_dict(config):
        kept = [line for line in lines if resume.key_of(str(line)) not in ("pairs", "pairing")]
        stated = [] if "pairs" in typed else ["pairs=null"]  # by a study
        config.hydra.overrides.task = [*kept, *stated, f"pair={axis}"]


def read(source: str, pairing: str = "every") -> list[tuple[str, str]]:
    """Return the pairs of a folder, numbers in names in their order, or of a CSV file, as paths or names of samples.

    Raises:
        UserError: what is not there, empty, or cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        for folder in (path / kind for kind in KINDS):
            if not folder.is_dir():
                what = "A folder of pairs holds two, content and style"
                raise UserError(f"pairs: there is no folder {folder}. {what}.")
        contents, styles = (_pictures("pairs", str(path / kind)) for kind in KINDS)
        if pairing == "every":
            return [(content, style) for content in contents for style in styles]
        if len(contents) != len(styles):
            counted = f"{len(contents)} in content/ and {len(styles)} in style/"
            raise UserError(f"pairing=order needs as many contents as styles, and {path} has {counted}.")
        return list(zip(contents, styles, strict=True))
    if not path.is_file():
        raise UserError(f"pairs={source}: there is no such folder or CSV file.")
    if pairing != "every":
        raise UserError(f"pairing={pairing} is of a folder; the lines of {path} are pairs already. Leave it out.")
    return _lines(path)


def _pictures(knob: str, source: str) -> list[str]:
    """Return the pictures of a folder, or that a pattern matches, numbers in their names in their order."""
    path = Path(source).expanduser()
    pattern = str(Path(glob.escape(str(path))) / "*") if path.is_dir() else str(path)
    matched = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob shows what is hidden, and refuses **.jpg
    if not matched and not path.is_dir():
        raise UserError(f"{knob}: nothing matches {path}. Check the folder and the pattern.")
    files = sorted(filter(Path.is_file, map(Path, matched)), key=in_order)
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"{knob}: there is no picture in {path}: no file that ends in {', '.join(sorted(SUFFIXES))}.")
    if others := [file.name for file in files if file not in found]:
        names = textwrap.shorten(", ".join(others), LONGEST_LIST, placeholder=" ...")
        print(f"{knob}={source}: left out, since it is no picture: {names}", file=sys.stderr)
    return list(map(str, found))


def _lines(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a CSV file, whose paths count from its own folder."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True, strict=True))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"pairs: {path} cannot be read as a CSV file: {error}") from error
    if not rows:
        raise UserError(f"pairs: {path} has no pairs: a first line content,style and a line for each pair are needed.")
    if missing := [kind for kind in KINDS if kind not in rows[0]]:
        raise UserError(f"pairs: {path} has no column {missing[0]}. Its first line must name content and style.")
    found = []
    for number, row in enumerate(rows, 2):
        pair = [(row[kind] or "").strip() for kind in KINDS]
        if not all(pair):
            raise UserError(f"pairs: line {number} of {path} does not name a content and a style.")
        found.append((_located(path, pair[0]), _located(path, pair[1])))
    return found


def _located(file: Path, name: str) -> str:
    path = file.parent / Path(name).expanduser()
    return name if name in samples() and not path.exists() else str(path)
