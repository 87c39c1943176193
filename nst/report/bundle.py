"""The bundle: one zip file to hand in, with the report, the full pictures and all that repeats the runs elsewhere."""

import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import yaml

from nst import trust
from nst.report.inputs import find_inputs
from nst.report.runs import Collection, Run
from nst.runs import notes as said
from nst.runs.folders import SWEEP_FILE, is_unchanged

WHEN = (1980, 1, 1, 0, 0, 0)  # the first moment a zip file knows; every file gets it, so that the bytes are the same
RUN_FILES = ("run.json", "status.json", "metrics.csv", said.FILE)
DIFFS = "uncommitted*.diff"
HYDRA_FILES = (".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml")
PACKED = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4"}  # are compressed already
OWN_CODE = {".py", ".yaml"}
LARGEST_INPUT = 200_000_000  # bytes of a network, or of a clip that was painted
MOST_OWN_CODE = 5_000_000  # bytes of one --config-dir folder; a larger one holds more than options
README = Path(__file__).with_name("bundle.txt")  # a template


def write_bundle(file: BinaryIO, collection: Collection, made: dict[str, bytes], title: str) -> list[str]:
    """Write the zip file to a seekable one; the same runs give the same bytes.

    ``made`` is name to content of what was made for the bundle: report.html, report.md, summary.csv, figures. Returns
    what is missing, one sentence each; it stands in the bundle's README as well.
    """
    notes: list[str] = []
    content: dict[str, bytes | Path] = {**made}
    sweep = collection.sweep_folder
    if sweep is not None and trust.is_inside(sweep, sweep / SWEEP_FILE):
        content[SWEEP_FILE] = sweep / SWEEP_FILE
    for run in collection.runs:
        content |= {f"{run.name}/{name}": found for name, found in _run_files(run)}
    content |= _inputs(collection, notes) | _painted_with(collection.runs, notes)
    content |= _own_code(collection.runs, notes)
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(content):
            found = content[name]
            try:
                data = found if isinstance(found, bytes) else found.read_bytes()
            except OSError as error:
                notes.append(f"{name} is missing: {error.strerror or error}.")
                continue
            _add(archive, name, data)
        example = collection.runs[0].name
        text = README.read_text(encoding="utf-8")
        text = text.format(title=title, underline="=" * len(title), example=f"{example}/")
        missing = "\nWhat is missing:\n\n" + "".join(f"  * {note}\n" for note in notes) if notes else ""
        _add(archive, "README.txt", (text + missing).encode("utf-8", "replace"))
    return notes


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    about = zipfile.ZipInfo(name, WHEN)
    about.create_system = 3  # whatever system it is made on
    about.external_attr = 0o644 << 16
    about.compress_type = zipfile.ZIP_STORED if Path(name).suffix.lower() in PACKED else zipfile.ZIP_DEFLATED
    archive.writestr(about, data, compresslevel=6)


def _run_files(run: Run) -> Iterator[tuple[str, bytes | Path]]:
    """Yield name and content of what a run has to hand in."""
    names = [*RUN_FILES, *(() if (run.folder / "run.json").is_file() else HYDRA_FILES)]
    paths = [*(run.folder / name for name in names), *run.folder.glob(DIFFS)]
    yield from ((p.relative_to(run.folder).as_posix(), p) for p in paths if trust.is_inside(run.folder, p))
    if run.picture is not None:
        yield run.picture.name, run.picture
    if isinstance(config := run.record.get("config"), dict):
        yield "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()


def _inputs(collection: Collection, notes: list[str]) -> dict[str, bytes | Path]:
    """Return the input images, named by their SHA-256, and note those that are gone."""
    found: dict[str, bytes | Path] = {}
    for image in find_inputs(collection.runs).values():
        path = image.find(collection.base)
        if path is None or image.digest is None:
            why = "is not there any more, or has changed" if image.digest else "was never read"
            notes.append(f"The {image.kind} image {image.name} {why}.")
        else:
            found[f"inputs/{image.digest}{path.suffix.lower()}"] = path
    return found


def _painted_with(runs: Iterable[Run], notes: list[str]) -> dict[str, bytes | Path]:
    """Return the networks that runs painted with and the clips that they painted, named by their SHA-256."""
    found: dict[str, bytes | Path] = {}
    whats = (("model", "network"), ("source", "clip"))
    used = [(what, run.fact(key, "file"), run.fact(key, "sha256")) for run in runs for key, what in whats]
    for what, name, digest in dict.fromkeys(one for one in used if one[1] is not None):
        path = Path(name)
        if not is_unchanged(path, digest):
            notes.append(f"The {what} {name} is not there any more, or has changed.")
        elif path.stat().st_size > LARGEST_INPUT:
            notes.append(f"The {what} {name} has more than {LARGEST_INPUT:,} bytes, and is left out.")
        else:
            found[f"inputs/{digest}{path.suffix.lower()}"] = path
    return found


def _own_code(runs: Iterable[Run], notes: list[str]) -> dict[str, bytes | Path]:
    """Return the files of the folders given with ``--config-dir`` whose SHA-256 a run has recorded."""
    found: dict[str, bytes | Path] = {}
    folders: dict[str, dict[str, str]] = {}
    for run in runs:
        for name in run.config_folders:
            folders.setdefault(name, {}).update(run.record.get("own_code", {}))
    for place, (name, digests) in enumerate(folders.items()):
        folder = Path(name)
        known = [(Path(file), digest) for file, digest in digests.items()]
        known = [(path, digest) for path, digest in known if path.is_relative_to(folder) and path.suffix in OWN_CODE]
        files = [path for path, digest in known if is_unchanged(path, digest)]
        if not files:
            notes.append(f"The code in the folder of own options {name} is not there any more, or has changed.")
        elif sum(path.stat().st_size for path in files) > MOST_OWN_CODE:
            notes.append(f"The folder of own options {name} is too large to be one, and is left out.")
        else:
            top = f"config_folders/{place}_{slug(folder.name)}"
            found |= {f"{top}/{path.relative_to(folder).as_posix()}": path for path in files}
    return found


def slug(name: str) -> str:
    """Return the name of a folder of own options as it is in a bundle."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
