"""Pictures along the way as files: frames at full size, and small previews for the report's step slider."""

import hashlib
import io
from pathlib import Path

from PIL import Image

from nst.files import writing
from nst.images import rgb
from nst.tracking import Snapshot, Tracker
from nst.tracking.tensorboard import picture_steps

LONGEST_SIDE = 256  # of a preview
QUALITY = 85


class Frames(Tracker):
    """Saves the picture every so many steps, and the last, as ``<folder>/<step>.png``.

    Args:
        folder: made when the first picture comes.
        every: steps between two pictures; 0 saves none.
        shape: (width, height) to save at, if not the picture's own.
        written: what ``position`` returned, of a run that is carried on.
    """

    suffix = ".png"

    def __init__(
        self, folder: Path, every: int, shape: tuple[int, int] | None = None, written: dict[str, str] | None = None
    ) -> None:
        self.folder, self.every, self.shape, self.written = folder, every, shape, dict(written or {})
        if written is not None:  # what came after that is done again, or not at all where more steps follow
            with writing(folder):
                for path in folder.glob(f"*{self.suffix}"):
                    if f"{folder.name}/{path.name}" not in self.written:
                        path.unlink()

    def step(self, snapshot: Snapshot) -> None:
        """Save the picture if its turn has come, or if it is the last.

        Raises:
            UserError: the picture cannot be written.
        """
        index = snapshot.step.index
        if not self.is_due(index, snapshot.step.last):
            return
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
        rgb.save(path := self.folder / f"{index:06d}{self.suffix}", data := self.encoded(snapshot))
        self.written[f"{self.folder.name}/{path.name}"] = hashlib.sha256(data).hexdigest()

    def is_due(self, index: int, last: bool) -> bool:
        """Tell whether the picture of a step is saved."""
        return bool(self.every) and (index % self.every == 0 or last)

    def encoded(self, snapshot: Snapshot) -> bytes:
        """Return the picture as a file."""
        return rgb.encode(snapshot.image, shape=self.shape)

    def position(self) -> dict[str, str]:
        """Return the SHA-256 of each picture saved so far, by its path in the run's folder."""
        return dict(self.written)


class Previews(Frames):
    """Saves the start, log-spaced steps and the last as ``<folder>/<step>.jpg``, small and the same bytes each time.

    Failed and killed runs keep theirs as well.

    Args:
        folder: see ``Frames``, as for ``shape`` and ``written``.
        steps: how many there will be, to spread the pictures over.
    """

    suffix = ".jpg"

    def __init__(
        self, folder: Path, steps: int, shape: tuple[int, int] | None = None, written: dict[str, str] | None = None
    ) -> None:
        super().__init__(folder, steps, shape, written)
        self.turns = {0} | picture_steps(steps)

    def is_due(self, index: int, last: bool) -> bool:
        """Tell whether the picture of a step is saved."""
        return index in self.turns or last

    def encoded(self, snapshot: Snapshot) -> bytes:
        """Return the picture as a file."""
        return encode(Image.fromarray(rgb.to_bytes(snapshot.image, self.shape)))


def encode(picture: Image.Image) -> bytes:
    """Return an RGB picture as a JPEG file whose long side has at most ``LONGEST_SIDE`` pixels; none is enlarged."""
    scale = LONGEST_SIDE / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()
