"""The photographs that a network is trained on: a folder of any size, streamed, in seeded crops."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nst.errors import UserError, unknown
from nst.files import SUFFIXES, pictures_below, typed_path
from nst.images import decoding
from nst.samples import FOLDER, samples

log = logging.getLogger(__name__)
# What decoders have to say of malformed metadata; once and for all, since switching filters is not for several threads.
warnings.filterwarnings("ignore", module=r"PIL\b")
SMALLEST_CROP, LARGEST_CROP = 16, 2048
FITS = ("crop", "natural", "squeeze")  # how a photograph becomes as large as a crop
CACHE_BYTES = 2**28  # of decoded photographs that are kept
TOLD = 3  # broken files that are told of by name
MOST_RECORDED = 10  # of them in run.json
PERMUTATION, CROP = 0, 1  # what is drawn, beside the seed
Made = TypeVar("Made")
Pictures = tuple[Image.Image, ...]  # one, or several of one size that belong together


class Cut(NamedTuple):
    """A crop of each picture that belongs together.

    Attributes:
        pixels: ``(3, crop, crop)`` bytes each.
        skipped: the files that could not be read on the way to it.
    """

    pixels: list[Tensor]
    skipped: list[str]


class Deck:
    """Files in an endless order, dealt out by number: an epoch is a seeded permutation, and what is broken is skipped.

    The next file of the permutation stands in for one that cannot be read, so that the same number always gets the
    same file. No file is read before it is needed. Several threads may draw at once.

    Args:
        names: of the files.
        seed: of the permutations.
        read: returns the pictures of a name, or raises ``UserError`` if it is broken.
        what: the files are, for messages.
        cache_bytes: of pictures to keep; those met first are.

    Attributes:
        broken: why a file cannot be read, by name, of those met so far.
    """

    def __init__(
        self, names: Sequence[str], seed: int, read: Callable[[str], Pictures], what: str, cache_bytes: int
    ) -> None:
        Image.init()  # before threads do
        self.names, self.seed, self.read, self.what = names, seed, read, what
        self.broken: dict[str, str] = {}
        self.told: set[str] = set()
        self.epochs: dict[int, np.ndarray] = {}
        self.cache: dict[str, Pictures] = {}
        self.room = cache_bytes
        self.lock = threading.Lock()

    def draw(self, number: int) -> tuple[Pictures, list[str]]:
        """Return the pictures of a number, and the names that were skipped on the way to them.

        Raises:
            UserError: none of the files can be read.
        """
        epoch, place = divmod(number, len(self.names))
        order, skipped = self._order(epoch), list[str]()
        for following in range(len(order)):
            name = self.names[order[(place + following) % len(order)]]
            if (pictures := self._pictures(name)) is not None:
                return pictures, skipped
            skipped.append(name)
        raise UserError(f"None of the {len(order)} {self.what} can be read. {next(iter(self.broken.values()))}")

    def tell(self, skipped: Iterable[str]) -> None:
        """Warn of files that were skipped, of the first few by name."""
        for name in skipped:
            if name not in self.told:
                self.told.add(name)
                if len(self.told) <= TOLD:
                    log.warning("Skipped one of the %d %s: %s", len(self.names), self.what, self.broken[name])
                elif len(self.told) == TOLD + 1:
                    log.warning("Further ones that cannot be read are skipped and counted in run.json")

    def about_broken(self) -> dict[str, Any]:
        """Return what to record of files that could not be read so far: how many, and the first few."""
        some = sorted(self.broken.items())[:MOST_RECORDED]
        return {"broken": len(self.broken), "broken_files": dict(some)}

    def _order(self, epoch: int) -> np.ndarray:
        """Return the permutation of an epoch; those of the last few are kept."""
        with self.lock:
            if epoch not in self.epochs:
                while len(self.epochs) > 2:
                    del self.epochs[next(iter(self.epochs))]
                self.epochs[epoch] = np.random.default_rng((self.seed, PERMUTATION, epoch)).permutation(len(self.names))
            return self.epochs[epoch]

    def _pictures(self, name: str) -> Pictures | None:
        if name in self.broken:
            return None
        if (kept := self.cache.get(name)) is not None:
            return kept
        try:
            pictures = self.read(name)
        except UserError as error:
            with self.lock:
                self.broken[name] = str(error)
            return None
        size = sum(4 * picture.width * picture.height for picture in pictures)  # Pillow has four bytes for a pixel
        with self.lock:
            if size <= self.room and name not in self.cache:
                self.room -= size
                self.cache[name] = pictures
        return pictures


class Photos:
    """Photographs in random crops: an endless sequence, every item of which can be made by itself.

    Of each photograph a square is cut out, whose side is drawn between ``scale`` times the short side and the whole of
    it, but has at least ``crop`` pixels if there are as many; it is scaled to ``crop`` x ``crop``, and flipped left to
    right half of the time: ``fit=crop``. With ``natural`` it has ``crop`` pixels from the start, so that nothing
    is scaled but what is smaller; with ``squeeze`` the whole photograph is scaled to ``crop`` x ``crop``, whatever its
    shape. In which order, and what becomes of broken files: see ``Deck``.

    Args:
        folder: searched through with the folders below it; hidden files and folders are left out. None: the bundled
            samples that are photographs.
        crop: pixels of a side of what comes out.
        seed: of all that is drawn.
        flip: whether to flip.
        scale: the smallest side that is cut out, as a share of the short side; 1 takes always as much as there is.
        background: what shows through transparent pixels: a colour name or ``#rrggbb``.
        fit: ``crop``, ``natural`` or ``squeeze``.
        cache_bytes: of decoded photographs to keep.

    Attributes:
        names: of the files, relative to the folder, sorted.
        digest: SHA-256 of their names and sizes, which tells another folder from this one.

    Raises:
        UserError: there is no such folder, or no photograph in it, or ``crop`` or ``scale`` is out of its range.
    """

    def __init__(
        self,
        folder: str | None,
        crop: int,
        seed: int,
        flip: bool = True,
        scale: float = 0.5,
        background: str = "white",
        fit: str = "crop",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        check_crop(crop)
        if not 0 < scale <= 1:
            raise UserError(f"training.scale={scale} is out of range: it must be above 0, and 1 at most.")
        if fit not in FITS:
            raise UserError(unknown("training.fit", fit, FITS))
        self.crop, self.seed, self.flip, self.scale, self.fit = crop, seed, flip, scale, fit
        self.background = decoding.parse_color(background)
        self.given = folder
        self.folder, found = listed(folder)
        self.names = list(found)
        self.digest = digest(found)
        self.deck = Deck(self.names, seed, self._read, f"photographs in {self.folder}", cache_bytes)

    def item(self, index: int) -> Tensor:
        """Return the crop of a number, ``(3, crop, crop)`` float32 RGB in [0, 1]: a function of files and seed alone.

        Raises:
            UserError: none of the files can be read.
        """
        cut = self._cut(index)
        self.deck.tell(cut.skipped)
        return cut.pixels[0].float() / 255

    def loader(
        self, begin_step: int = 0, batch: int = 4, rank: int = 0, world: int = 1, workers: int = 0
    ) -> Iterator[Tensor]:
        """Return the batches of a step and all that follow, ``(batch / world, 3, crop, crop)`` float32 RGB in [0, 1].

        The batch of step n has the items n * batch to n * batch + batch - 1, of which a rank gets its share in turn.

        Args:
            begin_step: n of the first one.
            batch: images of a step, those of all ranks together.
            rank: of this process, from 0.
            world: how many processes there are.
            workers: threads that make batches in advance; 0 makes each when it is asked for. The bytes are the same.

        Raises:
            UserError: the batch cannot be divided among the processes; or none of the files can be read.
        """
        for cuts in stream(self._cut, begin_step, batch, rank, world, workers):
            self.deck.tell(name for cut in cuts for name in cut.skipped)
            yield torch.stack([cut.pixels[0] for cut in cuts]).float() / 255

    def about(self) -> dict[str, Any]:
        """Return what to record: where the files are, how many, their digest, and which could not be read so far."""
        return about_files(self.given or "bundled samples", self.names, self.digest) | self.deck.about_broken()

    def refuse_changes(self, recorded: Mapping[str, Any]) -> None:
        """Refuse to go on where the files are not those recorded by ``about``, which would give other pictures.

        Raises:
            UserError: they are others.
        """
        refuse_changes(recorded, self.about())

    def _read(self, name: str) -> Pictures:
        """Return a photograph, at its own size or a JPEG at a part of it that is large enough."""
        least = 0 if self.fit == "natural" else math.ceil(self.crop / self.scale)
        return (decoding.read(self.folder / name, self.background, least),)

    def _cut(self, index: int) -> Cut:
        (photo,), skipped = self.deck.draw(index)
        if self.fit == "squeeze":
            photo = photo.resize((self.crop, self.crop), Image.Resampling.LANCZOS)
        least, most = max(self.crop, self.scale * min(photo.size)), math.inf
        if self.fit == "natural":
            least = most = self.crop
        return Cut(random_crops((photo,), self.crop, least, self.flip, self.seed, index, most), skipped)


def random_crops(
    pictures: Pictures, crop: int, least: float, flip: bool, seed: int, index: int, most: float = math.inf
) -> list[Tensor]:
    """Cut the same square out of pictures of one size, scale it, and flip it or not, as seed and index decide.

    Args:
        pictures: RGB.
        crop: pixels of a side that it is scaled to.
        least: pixels of its side at least, if there are so many.
        flip: left to right, half of the time.
        seed: of the training.
        index: of the item.
        most: pixels of its side at most.

    Returns:
        ``(3, crop, crop)`` bytes each.
    """
    across, down, share, coin = np.random.default_rng((seed, CROP, index)).random(4).tolist()
    size = pictures[0].size
    largest = min(*size, most)
    smallest = min(least, largest)
    side = round(smallest + share * (largest - smallest))
    left, top = (int(at * (whole - side + 1)) for at, whole in zip((across, down), size, strict=True))
    cuts = [
        picture.resize((crop, crop), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        for picture in pictures
    ]
    if flip and coin < 0.5:
        cuts = [cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for cut in cuts]
    return [as_bytes(cut) for cut in cuts]


def check_crop(crop: int) -> None:
    """Refuse a crop of absurd size.

    Raises:
        UserError: it is.
    """
    if not SMALLEST_CROP <= crop <= LARGEST_CROP:
        raise UserError(f"training.crop={crop} is out of range: it must be from {SMALLEST_CROP} to {LARGEST_CROP}.")


def about_files(folder: str, names: Sequence[str], digest: str) -> dict[str, Any]:
    """Return what to record of a folder: where it is, how many files there are, and their digest."""
    return {"folder": folder, "count": len(names), "digest": digest}


def refuse_changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other files than those recorded by ``about_files``, which would give other pictures.

    Raises:
        UserError: their names or sizes are others.
    """
    if recorded.get("digest") in (None, now["digest"]):
        return
    then, here = recorded.get("count"), now["count"]
    others = f"{then} then, {here} now" if then != here else f"{here} as before"
    raise UserError(
        f"The pictures in {now['folder']} are not those that the run was begun with: their names or sizes have changed "
        f"({others}). Put the old files back, or start a new run in another folder."
    )


def listed(folder: str | None) -> tuple[Path, dict[str, int]]:
    """Return a folder and the size in bytes of each image file in it or below, by its relative name, sorted.

    None stands for the folder of the bundled samples and those of them that are photographs.

    Raises:
        UserError: there is no such folder, or no image file in it.
    """
    if folder is None:
        found = [FOLDER / about["file"] for about in samples().values() if about["kind"] == "content"]
        return FOLDER, {path.name: path.stat().st_size for path in sorted(found)}
    try:
        root = typed_path(folder)
        if root.is_file():
            raise UserError(f"{folder} is a file; a folder of photographs is needed here.")
        if not root.is_dir():
            raise UserError(f"There is no folder '{folder}' (looked in {Path.cwd()}).")
        below, left_out = pictures_below(root)
        sizes = dict(sorted(below.items()))
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"The folder '{folder}' cannot be read: {error}") from error
    if not sizes:
        raise UserError(
            f"There is no photograph in {folder} or the folders below it. Files that end in "
            f"{', '.join(sorted(SUFFIXES))} are looked for."
        )
    if left_out:
        log.info("%d files in %s have not the suffix of a picture, and are left out", left_out, folder)
    return root, sizes


def as_bytes(picture: Image.Image) -> Tensor:
    """Return an RGB picture as ``(3, H, W)`` bytes."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def digest(sizes: dict[str, int]) -> str:
    """Return the SHA-256 of files' names and sizes, in their order."""
    sha = hashlib.sha256()
    for name, size in sizes.items():
        sha.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return sha.hexdigest()


def stream(
    make: Callable[[int], Made], begin_step: int, batch: int, rank: int, world: int, workers: int
) -> Iterator[list[Made]]:
    """Return what ``make`` makes of the numbers of each step's items, with threads that run ahead; see ``loader``.

    They are threads, not processes: decoding and scaling run beside each other in these too, one cache serves all, and
    a killed run leaves nobody behind who still holds its folder.

    Raises:
        UserError: the batch cannot be divided among the processes.
    """
    if batch % world:
        raise UserError(f"training.batch={batch} cannot be divided among {world} processes. Use a multiple of {world}.")
    share = batch // world

    def numbers(step: int) -> range:
        return range(step * batch + rank * share, step * batch + (rank + 1) * share)

    if workers == 0:
        for step in itertools.count(begin_step):
            yield [make(number) for number in numbers(step)]
    pool = ThreadPoolExecutor(workers, "photos")
    ahead: deque[list[Future[Made]]] = deque()
    try:
        for step in itertools.count(begin_step):
            ahead.append([pool.submit(make, number) for number in numbers(step)])
            if len(ahead) * share > 2 * workers and len(ahead) > 1:
                yield [future.result() for future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
