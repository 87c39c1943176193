"""Pairs for supervised training: a photograph and what is to become of it, from two folders or painted on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from nst.errors import UserError
from nst.files import remove_leftovers, write_json, writing
from nst.images import decoding, rgb
from nst.runs import resume
from nst.setup import fitting
from nst.training import Context, reference
from nst.training.photos import (
    CACHE_BYTES,
    Deck,
    Photos,
    Pictures,
    about_files,
    check_crop,
    digest,
    listed,
    random_crops,
    refuse_changes,
)

log = logging.getLogger(__name__)
NAMED = 3  # files that a message names
STRETCHED = 0.01  # by which the aspect ratios of a pair may differ, beside a pixel of rounding
FOLDER, ORIGINALS, STYLISED, ABOUT = "pairs", "originals", "stylised", "about.json"
WAIT = 0.5  # seconds between two looks at whether the first process has painted a pair


class Pairs:
    """Pairs of files with the same name in two folders, but for the suffix, in random crops that are the same for both.

    The picture of a pair is as large as the stylised one: an original of another size is scaled to it. A square of
    ``crop`` pixels is cut out and not scaled, since strokes have a size; only pictures smaller than that are enlarged.
    In which order, and what becomes of broken files: see ``Deck``; a pair is broken if one of its files is.

    Args:
        originals: folder of the photographs, searched through with the folders below it; None: the bundled ones.
        stylised: folder of what they are to become.
        crop: pixels of a side of what comes out.
        seed: of all that is drawn.
        flip: whether to flip half of the pairs left to right.
        background: what shows through transparent pixels: a colour name or ``#rrggbb``.
        cache_bytes: of decoded pairs to keep.

    Attributes:
        names: of the original and the stylised file of each pair, by the name they share.
        alone: files that have no counterpart.

    Raises:
        UserError: a folder cannot be read, no names match, some match several files, or the shapes of a pair differ.
    """

    def __init__(
        self,
        originals: str | None,
        stylised: str,
        crop: int,
        seed: int,
        flip: bool = True,
        background: str = "white",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        check_crop(crop)
        self.crop, self.seed, self.flip = crop, seed, flip
        self.background = decoding.parse_color(background)
        self.originals, photographs = listed(originals)
        self.stylised, paintings = listed(stylised)
        first, second = (_by_name(*one) for one in ((self.originals, photographs), (self.stylised, paintings)))
        self.names = {name: (first[name], second[name]) for name in sorted(first.keys() & second.keys())}
        self.alone = [str(self.originals / first[name]) for name in sorted(first.keys() - second.keys())]
        self.alone += [str(self.stylised / second[name]) for name in sorted(second.keys() - first.keys())]
        if not self.names:
            raise UserError(
                f"No file in {self.originals} has the name of one in {self.stylised}, suffix aside, so that there are "
                f"no pairs; for example {_some(self.alone)}."
            )
        sizes = [{f"0/{a}": photographs[a], f"1/{b}": paintings[b]} for a, b in self.names.values()]
        self.digest = digest({name: size for pair in sizes for name, size in pair.items()})
        self._refuse_shapes()
        what = f"pairs of pictures in {self.stylised}"
        self.deck = Deck(list(self.names), seed, self._read, what, cache_bytes)

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Return crop and stylised crop of a number, ``(3, crop, crop)`` float32 RGB in [0, 1] each.

        Raises:
            UserError: none of the pairs can be read.
        """
        pair, skipped = self.deck.draw(index)
        self.deck.tell(skipped)
        cuts = random_crops(pair, self.crop, self.crop, self.flip, self.seed, index, self.crop)
        original, stylised = (cut.float() / 255 for cut in cuts)
        return original, stylised

    def about(self) -> dict[str, Any]:
        """Return what to record: where the pairs are, how many, their digest, and what could not be used so far."""
        where = about_files(f"{self.originals} and {self.stylised}", list(self.names), self.digest)
        return where | {"unmatched": len(self.alone)} | self.deck.about_broken()

    def tell_unmatched(self) -> None:
        """Warn of the files that have no counterpart."""
        if self.alone:
            count = len(self.alone)
            files = "file has" if count == 1 else "files have"
            log.warning("%d %s no counterpart and are left out: %s", count, files, _some(self.alone))

    def refuse_changes(self, recorded: Mapping[str, Any]) -> None:
        """Refuse to go on where the files are not those recorded by ``about``.

        Raises:
            UserError: they are others.
        """
        refuse_changes(recorded, self.about())

    def _read(self, name: str) -> Pictures:
        first, second = self.names[name]
        stylised = decoding.read(self.stylised / second, self.background)
        original = decoding.read(self.originals / first, self.background, min(stylised.size))
        if original.size != stylised.size:
            original = original.resize(stylised.size, Image.Resampling.LANCZOS)
        return original, stylised

    def _refuse_shapes(self) -> None:
        """Refuse pairs whose shapes are not alike, by what the files say; what cannot be read is skipped later."""
        wrong = []
        for name, (first, second) in self.names.items():
            one, other = decoding.upright_size(self.originals / first), decoding.upright_size(self.stylised / second)
            if one is not None and other is not None and not _are_alike(one, other):
                wrong.append(f"{name} ({one[0]} x {one[1]} and {other[0]} x {other[1]} pixels)")
        if wrong:
            raise UserError(
                f"The pictures of {len(wrong)} of {len(self.names)} pairs differ in shape, not only in size: "
                f"{_some(wrong)}. Crop them alike, or take them out of {self.originals}."
            )


def _by_name(folder: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the files by their names without suffix.

    Raises:
        UserError: two have the same.
    """
    found: dict[str, str] = {}
    for name in sizes:
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


def generate(context: Context, photos: Photos, count: int) -> tuple[Path, Path, float]:
    """Have the optimiser paint the first items of photographs, into ``pairs/`` of the run's folder.

    What an earlier attempt has painted is kept, if it was of the same settings, style and photographs. Pictures are
    painted in the same company whoever paints them, so that a killed run ends with the same bytes. Only the first
    process paints; others wait until it has.

    Args:
        context: of the training.
        photos: their items are the originals.
        count: of pairs.

    Returns:
        The folders of originals and stylised, whose files have the same names; and the seconds spent, those of earlier
        attempts included.

    Raises:
        UserError: a photograph cannot be had, or painted.
        Interrupted: a signal came.
    """
    folder = context.folder / FOLDER
    originals, stylised, about = folder / ORIGINALS, folder / STYLISED, folder / ABOUT
    files = {f"{number:05d}.png": number for number in range(count)}
    identity = _identity(context, photos)

    def is_ours() -> bool:
        return resume.read(about).get("identity") == identity

    def missing() -> list[str]:
        return [name for name in files if not (stylised / name).exists() or not (originals / name).exists()]

    if not context.writes:
        while not is_ours() or missing():
            context.stop.poll()
            time.sleep(WAIT)
        return originals, stylised, float(resume.read(about).get("seconds", 0))
    if not is_ours():
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            originals.mkdir(parents=True, exist_ok=True)
            stylised.mkdir(exist_ok=True)
        write_json(about, {"identity": identity, "seconds": 0.0})
    remove_leftovers(folder)
    seconds = float(resume.read(about).get("seconds", 0))
    size = reference.at_once(context.config)
    todo = missing()
    if not todo:
        return originals, stylised, seconds
    names = list(files)
    batches = [names[begin : begin + size] for begin in range(0, count, size)]
    batches = [batch for batch in batches if any(name in todo for name in batch)]
    steps = int(context.config.training.painter.steps)
    log.info(
        "The optimiser paints %d pairs of %d x %d pixels first, in %d steps each: %s",
        *(sum(map(len, batches)), photos.crop, photos.crop, steps, folder),
    )
    progress = _Progress(len(batches), steps)
    try:
        for batch in batches:
            contents = {name: photos.item(files[name])[None] for name in batch}
            for name, content in contents.items():
                rgb.save(originals / name, rgb.encode(content))
            ready = {name: content.to(context.device, context.dtype) for name, content in contents.items()}
            painted = reference.paint(
                context.config, context.inputs, ready, context.backbone, context.stop, progress.step
            )
            for name, picture in painted.pictures.items():
                rgb.save(stylised / name, rgb.encode(picture))
            seconds += painted.seconds
            write_json(about, {"identity": identity, "seconds": seconds})
            progress.next_batch(painted.seconds)
            context.stop.poll()
    finally:
        progress.close()
    fitting.forget()  # targets of pictures that are painted
    return originals, stylised, seconds


class _Progress:
    """How far the painting of pairs is: a bar in a terminal, else a line after each batch.

    Args:
        batches: how many are to be painted.
        steps: of the optimiser for each.
    """

    def __init__(self, batches: int, steps: int) -> None:
        self.batches, self.steps, self.done, self.seconds = batches, steps, 0, 0.0
        is_terminal = sys.stderr.isatty()
        self.bar = tqdm(total=batches * steps, unit="step", desc="pairs", file=sys.stderr, disable=not is_terminal)

    def step(self, step: int) -> None:
        """See how many steps of the batch are done."""
        self.bar.update(self.done * self.steps + step - self.bar.n)

    def next_batch(self, seconds: float) -> None:
        """See a batch painted in so many seconds."""
        self.done += 1
        self.seconds += seconds
        left = self.seconds / self.done * (self.batches - self.done)
        if self.bar.disable:
            log.info("painted batch %d/%d of pairs, about %.0f s left", self.done, self.batches, left)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


def _identity(context: Context, photos: Photos) -> str:
    """Return what tells pairs from those of other settings, photographs, weights or style pictures, as a digest."""
    source = getattr(context.backbone, "source", None)
    settings = {k: v for k, v in resume.settings(context.config).items() if k not in resume.HOUSEKEEPING}
    styles = [hashlib.sha256(style.cpu().numpy().tobytes()).hexdigest() for style in context.inputs.styles]
    about = [settings, styles, photos.digest, getattr(source, "sha256", None)]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
