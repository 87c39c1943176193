"""The input images of runs: which they are, where they are now, and whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst.report.citations import sample_file, sample_of
from nst.report.runs import Run
from nst.runs.folders import is_unchanged
from nst.samples import samples

KINDS = ("content", "style", "init")  # of which a run has one at least


@dataclass(frozen=True)
class Input:
    """An input image as runs recorded it."""

    kind: str  # ``content``, ``style``, ``init`` or ``mask``
    name: str  # as configured
    file: str | None  # its path when the run was made, if known
    digest: str | None  # its SHA-256, if known

    @property
    def sample(self) -> str | None:
        """The bundled sample that it is, or None."""
        return sample_of(self.name, self.file, self.digest)

    @property
    def short(self) -> str:
        """The name of the sample, or of the file without its folder."""
        return self.sample or self.name.replace("\\", "/").rstrip("/").rpartition("/")[2]

    def find(self, folder: Path) -> Path | None:
        """Return where the image is now, with the bytes that were used, or None; a bundle has it beside its runs."""
        if self.digest:
            places = [*([Path(self.file)] if self.file else []), *sorted(folder.glob(f"inputs/{self.digest}.*"))]
            if found := next((path for path in places if is_unchanged(path, self.digest)), None):
                return found
        return sample_file(self.sample, self.digest) if self.sample else None

    def is_same(self, other: Input) -> bool:
        """Tell whether two records are of one image: of the same bytes, or name where bytes are not known."""
        both_known = self.digest is not None and other.digest is not None
        same = self.digest == other.digest if both_known else self.name == other.name
        return same and self.kind == other.kind

    def view(self, number: str, thumb: str | None) -> dict[str, Any]:
        """Return what a report shows of it, under an id and with a small picture."""
        about = samples()[self.sample] if self.sample else {}
        facts = {key: about.get(key) for key in ("title", "author", "licence", "source")}
        return {"id": number, "kind": self.kind, "name": self.short, **facts, "sha256": self.digest, "thumb": thumb}

    def licence(self) -> str:
        """Return one line on it: title, author, licence, source."""
        if not self.sample:
            return f"{self.kind} {self.short}: not one of the bundled samples; name its author and licence yourself"
        about = samples()[self.sample]
        return f"{self.kind} {self.sample}: {about['title']}, {about['author']}, {about['licence']} ({about['source']})"


def inputs_of(run: Run) -> list[Input]:
    """Return the images of a run, as recorded or at least as configured: the first of each kind, then further ones."""
    found = []
    for kind in KINDS:
        about = run.record.get(kind) or {}
        name = about.get("name") or run.config.get("init.path" if kind == "init" else kind)
        if isinstance(name, str):  # a recorded one is, a configured one may be a list
            found.append(Input(kind, name, about.get("file"), about.get("sha256")))
    for knob, about in run.record.get("further_images", {}).items():
        kind = "style" if knob.startswith("style[") else "mask"
        found.append(Input(kind, about["name"], about["file"], about["sha256"]))
    return [image for image in found if image.name]


def find_inputs(runs: Sequence[Run]) -> dict[str, Input]:
    """Return the input images of all runs, each once, as id to image: content0, content1, style0, ..."""
    found: dict[str, Input] = {}
    for kind in (*KINDS, "mask"):
        ours: list[Input] = []
        for run in sorted(runs, key=lambda run: kind not in run.record):  # those with a SHA-256 first
            images = [image for image in inputs_of(run) if image.kind == kind]
            ours += [image for image in images if not any(image.is_same(other) for other in ours)]
        found |= {f"{kind}{number}": image for number, image in enumerate(ours)}
    return found
