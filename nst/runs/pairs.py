"""The pairs of content and style that a sweep goes through: a folder's, or a CSV file's, as one axis."""

import csv
from pathlib import Path

from omegaconf import DictConfig, open_dict, read_write

from nst.cli import quoted
from nst.errors import UserError
from nst.files import SUFFIXES
from nst.runs import resume
from nst.runs.folders import in_order
from nst.samples import samples

KINDS = ("content", "style")


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
        contents, styles = (_pictures(path / kind) for kind in KINDS)
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


def _pictures(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"pairs: there is no folder {folder}. A folder of pairs holds two, content and style.")
    found = [one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and not one.name.startswith(".")]
    if not found:
        raise UserError(f"pairs: there is no picture in {folder}: no file that ends in {', '.join(sorted(SUFFIXES))}.")
    return [str(one) for one in sorted(found, key=lambda one: in_order(one.name))]


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
