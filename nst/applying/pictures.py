"""``pictures.csv``: what has become of each picture of a folder, a row for each as soon as it is known."""

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import get_type_hints

from nst.files import write_atomic, writing

FILE = "pictures.csv"


@dataclass(frozen=True)
class PictureRow:
    """What has become of a picture; what there is not is empty."""

    picture: str  # its path within the folder
    painting: str = ""  # its painting's, within the run's folder
    width: int = 0  # of the painting, in pixels
    height: int = 0
    seconds: float = 0.0  # that the network took
    sha256: str = ""  # of the picture's file
    problem: str = ""  # why it was not painted


COLUMNS = get_type_hints(PictureRow)


class PicturesFile:
    """The rows of a run, in memory and on disk.

    Args:
        folder: of the run. Rows of an earlier attempt are read, but for one that was cut off.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.rows = {row.picture: row for row in _read(self.path)}
        self._rewrite()

    def add(self, row: PictureRow) -> None:
        """Add a row, or replace the one of the same picture."""
        is_new = row.picture not in self.rows
        self.rows[row.picture] = row
        if not is_new:
            self._rewrite()
            return
        with writing(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_text([row]))

    def in_order(self, pictures: list[str]) -> None:
        """Sort the rows, and leave out those of other pictures."""
        self.rows = {name: self.rows[name] for name in pictures if name in self.rows}
        self._rewrite()

    def _rewrite(self) -> None:
        data = (",".join(COLUMNS) + "\n" + _text(self.rows.values())).encode()
        write_atomic(self.path, lambda file: file.write(data))


def _text(rows: Iterable[PictureRow]) -> str:
    buffer = io.StringIO()
    for row in rows:
        cells = (
            f"{cell:.4f}" if isinstance(cell, float) else " ".join(str(cell).splitlines()) for cell in astuple(row)
        )
        csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _read(path: Path) -> Iterator[PictureRow]:
    """Yield the whole rows of a file; none if there is no file, or none of this kind."""
    text = ""
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace")
    for cells in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            yield PictureRow(**{name: kind(cells[name]) for name, kind in COLUMNS.items()})
