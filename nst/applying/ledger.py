"""``pictures.csv``: what has become of each picture of a folder, a line for each as soon as it is known."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from nst.files import write_atomic, writing

FILE = "pictures.csv"


@dataclass(frozen=True)
class Line:
    """What has become of a picture.

    Attributes:
        picture: its path within the folder.
        painting: its painting's, within the run's folder; empty if there is none.
        width: of the painting, in pixels; likewise ``height``.
        seconds: that the network took.
        sha256: of the picture's file; empty if it could not be read.
        problem: why it was not painted; empty if it was.
    """

    picture: str
    painting: str = ""
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    sha256: str = ""
    problem: str = ""


class Ledger:
    """The lines of a run, in memory and on disk.

    Args:
        folder: of the run. Lines of an earlier attempt are read, but for one that was cut off.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.lines: dict[str, Line] = {line.picture: line for line in _read(self.path)}
        self._rewrite()

    def add(self, line: Line) -> None:
        """Add a line, or replace the one of the same picture."""
        again = line.picture in self.lines
        self.lines[line.picture] = line
        if again:
            self._rewrite()
            return
        with writing(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_text([line]))

    def in_order(self, pictures: list[str]) -> None:
        """Sort the lines, and leave out those of other pictures."""
        self.lines = {name: self.lines[name] for name in pictures if name in self.lines}
        self._rewrite()

    def _rewrite(self) -> None:
        header = ",".join(field.name for field in fields(Line)) + "\n"
        data = (header + _text(list(self.lines.values()))).encode()
        write_atomic(self.path, lambda file: file.write(data))


def _text(lines: list[Line]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for line in lines:
        writer.writerow([_one_line(value) for value in asdict(line).values()])
    return buffer.getvalue()


def _one_line(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else " ".join(str(value).splitlines())


def _read(path: Path) -> list[Line]:
    """Return the whole lines of a file; none if there is no file, or none of this kind."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for row in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])):
        try:
            numbers = {"width": int(row["width"]), "height": int(row["height"]), "seconds": float(row["seconds"])}
            words = {name: str(row[name]) for name in ("picture", "painting", "sha256", "problem")}
        except (KeyError, TypeError, ValueError):
            continue
        found.append(Line(**words, **numbers))  # type: ignore[arg-type]
    return found
