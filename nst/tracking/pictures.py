"""Pictures along the way as files: frames at full size, and small previews for the report's step slider."""

import hashlib
import io

from PIL import Image

from nst.files import writing
from nst.images import rgb
from nst.tracking import RunInfo, Snapshot, Tracker, picture_steps

PICTURES = 10  # small ones, beside the start
LONGEST_SIDE = 256  # of a preview
QUALITY = 85


class Frames(Tracker):
    """Saves the picture every ``save_every`` steps, and the last, as ``frames/<step>.png``; 0 saves none.

    Args:
        run: that is watched.
        position: what ``position`` returned, of a run that is carried on.
    """

    name, suffix = "frames", ".png"

    def __init__(self, run: RunInfo, position: dict[str, str] | None = None) -> None:
        self.run, self.folder, self.every = run, run.folder / self.name, run.config["save_every"]
        self.written = dict(position or {})
        if position is not None:  # what came after that is done again, or not at all where more steps follow
            with writing(self.folder):
                for path in self.folder.glob(f"*{self.suffix}"):
                    if f"{self.folder.name}/{path.name}" not in self.written:
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
        self.written[f"{self.name}/{path.name}"] = hashlib.sha256(data).hexdigest()

    def is_due(self, index: int, last: bool) -> bool:
        """Tell whether the picture of a step is saved."""
        return bool(self.every) and (index % self.every == 0 or last)

    def encoded(self, snapshot: Snapshot) -> bytes:
        """Return the picture as a file."""
        return rgb.encode(snapshot.image, shape=self.run.shape)

    def position(self) -> dict[str, str]:
        """Return the SHA-256 of each picture saved so far, by its path in the run's folder."""
        return dict(self.written)


class Previews(Frames):
    """Saves the start, log-spaced steps and the last as ``previews/<step>.jpg``, small and the same bytes each time.

    Failed and killed runs keep theirs as well. The arguments are those of ``Frames``.
    """

    name, suffix = "previews", ".jpg"

    def __init__(self, run: RunInfo, position: dict[str, str] | None = None) -> None:
        super().__init__(run, position)
        self.turns = {0} | picture_steps(run.steps, PICTURES)

    def is_due(self, index: int, last: bool) -> bool:
        """Tell whether the picture of a step is saved."""
        return index in self.turns or last

    def encoded(self, snapshot: Snapshot) -> bytes:
        """Return the picture as a file."""
        return encode(self.run.picture(snapshot.image))


def encode(picture: Image.Image) -> bytes:
    """Return an RGB picture as a JPEG file whose long side has at most ``LONGEST_SIDE`` pixels; none is enlarged."""
    scale = LONGEST_SIDE / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()
