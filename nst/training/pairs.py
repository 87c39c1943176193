"""Pairs for supervised training: a photograph and what is to become of it, from two folders or painted on the way."""

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from torch import Tensor

from nst.errors import UserError
from nst.files import remove_leftovers, write_json, writing
from nst.images import decoding, rgb
from nst.runs import resume
from nst.setup import fitting
from nst.tracking.progress import progress
from nst.training import reference
from nst.training.method import TrainingContext
from nst.training.photos import ImageDataset, Photos, Pictures, digest, find_images

log = logging.getLogger(__name__)
NAMED = 3  # files that a message names
STRETCHED = 0.01  # by which the aspect ratios of a pair may differ, beside a pixel of rounding
FOLDER, ORIGINALS, STYLISED, ABOUT = "pairs", "originals", "stylised", "about.json"
WAIT = 0.5  # seconds between two looks at whether the first process has painted a pair


@dataclass
class Pairs(ImageDataset):
    """Pairs of files with the same name in two folders, but for the suffix, in random crops that are the same for both.

    The picture of a pair is as large as the stylised one: an original of another size is scaled to it. A square of
    ``crop`` pixels is cut out and not scaled, since strokes have a size; only pictures smaller than that are enlarged.
    A pair is broken if one of its files is.

    Args:
        stylised: folder of what the photographs are to become. The others: see ``ImageDataset``.

    Attributes:
        files: the original and the stylised one of each pair, by the name they share.
        unmatched: files that have no counterpart.

    Raises:
        UserError: a folder cannot be read, no names match, some match several files, or the shapes of a pair differ.
    """

    stylised: str = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        paintings, sizes = find_images(self.stylised)
        first, second = _by_stem(self.root, self.sizes), _by_stem(paintings, sizes)
        self.names = sorted(first.keys() & second.keys())
        self.files = {name: (self.root / first[name], paintings / second[name]) for name in self.names}
        self.unmatched = [str(self.root / first[name]) for name in sorted(first.keys() - second.keys())]
        self.unmatched += [str(paintings / second[name]) for name in sorted(second.keys() - first.keys())]
        if not self.names:
            raise UserError(
                f"No file in {self.root} has the name of one in {paintings}, suffix aside, so that there are no pairs; "
                f"for example {_some(self.unmatched)}."
            )
        self._refuse_shapes()
        self.what, self.where = f"pairs of pictures in {paintings}", f"{self.root} and {paintings}"
        pairs = [(first[name], second[name]) for name in self.names]
        self.digest = digest({k: v for a, b in pairs for k, v in ((f"0/{a}", self.sizes[a]), (f"1/{b}", sizes[b]))})

    def read(self, name: str) -> Pictures:
        """Return original and stylised picture of a pair, of one size."""
        first, second = self.files[name]
        stylised = decoding.read(second, self.color)
        original = decoding.read(first, self.color, min(stylised.size))
        if original.size != stylised.size:
            original = original.resize(stylised.size, Image.Resampling.LANCZOS)
        return original, stylised

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Return crop and stylised crop of a number, ``(3, crop, crop)`` float32 RGB in [0, 1] each; see ``draw``."""
        original, stylised = self.crops(self.draw(index), index, self.crop, self.crop)
        return original, stylised

    def about(self) -> dict[str, Any]:
        """Return what to record; see ``ImageDataset``."""
        return super().about() | {"unmatched": len(self.unmatched)}

    def warn_of_unmatched(self) -> None:
        """Warn of the files that have no counterpart."""
        if count := len(self.unmatched):
            files = "file has" if count == 1 else "files have"
            log.warning("%d %s no counterpart and are left out: %s", count, files, _some(self.unmatched))

    def _refuse_shapes(self) -> None:
        """Refuse pairs whose shapes are not alike, by what the files say; what cannot be read is skipped later."""
        wrong = []
        for name, files in self.files.items():
            one, other = map(decoding.upright_size, files)
            if one and other and not _are_alike(one, other):
                wrong.append(f"{name} ({one[0]} x {one[1]} and {other[0]} x {other[1]} pixels)")
        if wrong:
            raise UserError(
                f"The pictures of {len(wrong)} of {len(self.files)} pairs differ in shape, not only in size: "
                f"{_some(wrong)}. Crop them alike, or take them out of {self.root}."
            )


def _by_stem(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the files by their names without suffix; two with the same one are refused."""
    found: dict[str, str] = {}
    for name in names:
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in found:
            raise UserError(
                f"{folder} has both {found[stem]} and {name}, so that it is not known which of them belongs to a pair. "
                "Take one of them out."
            )
        found[stem] = name
    return found


def _are_alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two sizes are the same but for scale and rounding."""
    small, large = sorted((one, other))
    shapes = [large[side] * small[1 - side] / large[1 - side] - small[side] for side in (0, 1)]
    return any(abs(gap) <= 1 + STRETCHED * side for gap, side in zip(shapes, small, strict=True))


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{rest}"


def generate(context: TrainingContext, photos: Photos, count: int) -> tuple[Path, Path, float]:
    """Have the optimiser paint the first ``count`` items of photographs, into ``pairs/`` of the run's folder.

    What an earlier attempt has painted is kept, if it was of the same settings, style and photographs. Pictures are
    painted in the same company whoever paints them, so that a killed run ends with the same bytes. Only the first
    process paints; others wait until it has.

    Returns:
        The folders of originals and stylised, whose files have the same names; and the seconds spent, those of earlier
        attempts included.

    Raises:
        UserError: a photograph cannot be had, or painted.
        Interrupted: a signal came.
    """
    folder, names = context.folder / FOLDER, [f"{number:05d}.png" for number in range(count)]
    identity = _identity(context, photos)
    if context.writes:
        _paint_missing(context, photos, folder, names, identity)
    while resume.read(folder / ABOUT).get("identity") != identity or _missing(folder, names):
        context.stop.poll()
        time.sleep(WAIT)
    return folder / ORIGINALS, folder / STYLISED, float(resume.read(folder / ABOUT).get("seconds", 0))


def _paint_missing(context: TrainingContext, photos: Photos, folder: Path, names: list[str], identity: str) -> None:
    """Have the optimiser paint the pairs that are not there, with those that they are painted in one batch with."""
    if resume.read(folder / ABOUT).get("identity") != identity:
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            (folder / ORIGINALS).mkdir(parents=True, exist_ok=True)
            (folder / STYLISED).mkdir(exist_ok=True)
        write_json(folder / ABOUT, {"identity": identity, "seconds": 0.0})
    remove_leftovers(folder)
    missing, size = _missing(folder, names), reference.at_once(context.config)
    batches = [range(begin, min(begin + size, len(names))) for begin in range(0, len(names), size)]
    batches = [batch for batch in batches if missing & {names[number] for number in batch}]
    if not batches:
        return
    seconds = float(resume.read(folder / ABOUT).get("seconds", 0))
    steps, crop = int(context.config.training.painter.steps), photos.crop
    told = "The optimiser paints %d pairs of %d x %d pixels first, in %d steps each: %s"
    log.info(told, *(sum(map(len, batches)), crop, crop, steps, folder))
    with contextlib.closing(progress(len(batches) * steps, unit="step of the pairs")) as bar:
        for place, batch in enumerate(batches):
            contents = {names[number]: photos.item(number)[None] for number in batch}
            for name, content in contents.items():
                rgb.save(folder / ORIGINALS / name, rgb.encode(content))
            painted = reference.paint(
                context.config,
                context.inputs,
                {name: content.to(context.inputs.content) for name, content in contents.items()},
                context.backbone,
                stop=context.stop,
                watch=lambda step, before=place * steps: bar.advance(before + step),  # type: ignore[misc]
            )
            for name, picture in painted.pictures.items():
                rgb.save(folder / STYLISED / name, rgb.encode(picture))
            seconds += painted.seconds
            write_json(folder / ABOUT, {"identity": identity, "seconds": seconds})
            context.stop.poll()
    fitting.forget()  # targets of pictures that are painted


def _missing(folder: Path, names: list[str]) -> set[str]:
    """Return the names of the pairs that are not there."""
    return {name for name in names if not all((folder / half / name).exists() for half in (ORIGINALS, STYLISED))}


def _identity(context: TrainingContext, photos: Photos) -> str:
    """Return what tells pairs from those of other settings, photographs, weights or style pictures, as a digest."""
    settings = {k: v for k, v in resume.settings(context.config).items() if k not in resume.HOUSEKEEPING}
    styles = [hashlib.sha256(style.cpu().numpy().tobytes()).hexdigest() for style in context.inputs.styles]
    about = [settings, styles, photos.digest, getattr(getattr(context.backbone, "source", None), "sha256", None)]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
