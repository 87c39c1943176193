"""The photographs that a network is trained on: a folder of any size, streamed, in seeded crops."""

import functools
import hashlib
import itertools
import logging
import math
import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from nst.errors import UserError
from nst.files import SUFFIXES, pictures_below, typed_path
from nst.images import decoding
from nst.samples import FOLDER, samples

log = logging.getLogger(__name__)
# What decoders have to say of malformed metadata; once and for all, since switching filters is not for several threads.
warnings.filterwarnings("ignore", module=r"PIL\b")
FITS = ("crop", "natural", "squeeze")  # how a photograph becomes as large as a crop
CACHE_BYTES = 2**28  # of decoded photographs that are kept
WARNED = 3  # broken files that are told of by name
MOST_RECORDED = 10  # of them in run.json
PERMUTATION, CROP = 0, 1  # what is drawn, beside the seed
Item = TypeVar("Item")
Pictures = tuple[Image.Image, ...]  # one, or several of one size that belong together


@dataclass
class ImageDataset(ABC):
    """Pictures from files in an endless order, in random crops: each item is a function of files, seed and its number.

    An epoch is a seeded permutation. The next file of it stands in for one that cannot be read, so that the same number
    always gets the same file. No file is read before it is needed. Several threads may draw at once.

    Args:
        folder: of photographs, searched through with the folders below it; hidden files and folders are left out.
            None: the bundled samples that are photographs.
        crop: pixels of a side of what comes out.
        seed: of all that is drawn.
        flip: whether to flip half of them left to right.
        background: what shows through transparent pixels: a colour name or ``#rrggbb``.
        cache_bytes: of decoded pictures to keep; those met first are.

    Attributes:
        names: of the items, sorted; ``what`` they are and ``where``, in words.
        digest: SHA-256 of the names and sizes of all files, which tells other files from these.
        broken: why an item cannot be read, by name, of those met so far.

    Raises:
        UserError: there is no such folder, or no photograph in it.
    """

    folder: str | None
    crop: int
    seed: int
    flip: bool = True
    background: str = "white"
    cache_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        Image.init()  # before threads do
        self.color = decoding.parse_color(self.background)
        self.root, self.sizes = find_images(self.folder)
        self.names = list(self.sizes)
        self.broken: dict[str, str] = {}
        self.cache: dict[str, Pictures] = {}
        self.lock = threading.Lock()
        self.what, self.where = f"photographs in {self.root}", self.folder or "bundled samples"
        self.digest = digest(self.sizes)

    @abstractmethod
    def read(self, name: str) -> Pictures:
        """Return the pictures of a name; raise UserError if it is broken."""

    def draw(self, index: int) -> Pictures:
        """Return the pictures of a number; raise UserError if none of the files can be read."""
        epoch, place = divmod(index, len(self.names))
        order = _permutation(self.seed, epoch, len(self.names))
        for following in range(len(order)):
            pictures = self._pictures(self.names[order[(place + following) % len(order)]])
            if pictures is not None:
                return pictures
        raise UserError(f"None of the {len(order)} {self.what} can be read. {next(iter(self.broken.values()))}")

    def crops(self, pictures: Pictures, index: int, least: float, most: float = math.inf) -> list[Tensor]:
        """Cut the same square out of pictures of one size, scale it, and flip it or not, as seed and number decide.

        Args:
            pictures: RGB.
            index: of the item.
            least: pixels of the square's side at least, if there are so many; ``most`` at most.

        Returns:
            ``(3, crop, crop)`` float32 RGB in [0, 1] each.
        """
        across, down, share, coin = np.random.default_rng((self.seed, CROP, index)).random(4).tolist()
        size = pictures[0].size
        largest = min(*size, most)
        smallest = min(least, largest)
        side = round(smallest + share * (largest - smallest))
        left, top = (int(at * (whole - side + 1)) for at, whole in zip((across, down), size, strict=True))
        box = (left, top, left + side, top + side)
        cuts = [picture.resize((self.crop, self.crop), Image.Resampling.LANCZOS, box) for picture in pictures]
        if self.flip and coin < 0.5:
            cuts = [cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for cut in cuts]
        return [to_tensor(cut) for cut in cuts]

    def about(self) -> dict[str, Any]:
        """Return what to record: where the files are, how many, their digest, and which could not be read so far."""
        some = dict(sorted(self.broken.items())[:MOST_RECORDED])
        facts = {"folder": self.where, "count": len(self.names), "digest": self.digest}
        return facts | {"broken": len(self.broken), "broken_files": some}

    def refuse_changes(self, recorded: Mapping[str, Any]) -> None:
        """Raise UserError if names or sizes are not those recorded by ``about``, which would give other pictures."""
        if recorded.get("digest") in (None, self.digest):
            return
        then, here = recorded.get("count"), len(self.names)
        others = f"{then} then, {here} now" if then != here else f"{here} as before"
        raise UserError(
            f"The pictures in {self.where} are not those that the run was begun with: their names or sizes have "
            f"changed ({others}). Put the old files back, or start a new run in another folder."
        )

    def _pictures(self, name: str) -> Pictures | None:
        """Return the pictures of a name; None if it is broken, of which the first few are told."""
        if name in self.broken:
            return None
        if (kept := self.cache.get(name)) is not None:
            return kept
        try:
            pictures = self.read(name)
        except UserError as error:
            with self.lock:
                if name not in self.broken:
                    self.broken[name] = str(error)
                    if len(self.broken) <= WARNED:
                        log.warning("Skipped one of the %d %s: %s", len(self.names), self.what, error)
                    elif len(self.broken) == WARNED + 1:
                        log.warning("Further ones that cannot be read are skipped and counted in run.json")
            return None
        size = sum(4 * picture.width * picture.height for picture in pictures)  # Pillow has four bytes for a pixel
        with self.lock:
            if size <= self.cache_bytes and name not in self.cache:
                self.cache_bytes -= size
                self.cache[name] = pictures
        return pictures


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, PERMUTATION, epoch)).permutation(count)


@dataclass
class Photos(ImageDataset):
    """Photographs in random crops.

    Of each photograph a square is cut out, whose side is drawn between ``scale`` times the short side and the whole of
    it, but has at least ``crop`` pixels if there are as many; it is scaled to ``crop`` x ``crop``, and flipped left to
    right half of the time: ``fit=crop``. With ``natural`` it has ``crop`` pixels from the start, so that nothing
    is scaled but what is smaller; with ``squeeze`` the whole photograph is scaled to ``crop`` x ``crop``, whatever its
    shape.

    Args:
        scale: the smallest side that is cut out, as a share of the short side; 1 takes always as much as there is.
        fit: ``crop``, ``natural`` or ``squeeze``. The others: see ``ImageDataset``.
    """

    scale: float = 0.5
    fit: str = "crop"

    def read(self, name: str) -> Pictures:
        """Return a photograph, at its own size or a JPEG at a part of it that is large enough."""
        least = 0 if self.fit == "natural" else math.ceil(self.crop / self.scale)
        return (decoding.read(self.root / name, self.color, least),)

    def item(self, index: int) -> Tensor:
        """Return the crop of a number, ``(3, crop, crop)`` float32 RGB in [0, 1]; see ``draw``."""
        (photo,) = self.draw(index)
        if self.fit == "squeeze":
            photo = photo.resize((self.crop, self.crop), Image.Resampling.LANCZOS)
        if self.fit == "natural":
            return self.crops((photo,), index, self.crop, self.crop)[0]
        return self.crops((photo,), index, max(self.crop, self.scale * min(photo.size)))[0]


def find_images(folder: str | None) -> tuple[Path, dict[str, int]]:
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


def digest(sizes: Mapping[str, int]) -> str:
    """Return the SHA-256 of files' names and sizes, in their order."""
    text = "".join(f"{name}\0{size}\n" for name, size in sizes.items())
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def load_batches(
    item: Callable[[int], Item], begin_step: int, batch: int, *, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Iterator[list[Item]]:
    """Yield the items of a step and of all that follow; the bytes are the same whoever makes them.

    Step n has the items n * batch to n * batch + batch - 1, of which a rank gets its share in turn. Items are made
    ahead by threads, not processes: decoding and scaling run beside each other in these too, one cache serves all, and
    a killed run leaves nobody behind who still holds its folder. Without ``workers`` each is made when it is asked for.

    Raises:
        UserError: the batch cannot be divided among the processes.
    """
    if batch % world_size:
        raise UserError(
            f"training.batch={batch} cannot be divided among {world_size} processes. Use a multiple of {world_size}."
        )
    share = batch // world_size
    firsts = itertools.count(begin_step * batch + rank * share, batch)
    steps = (range(first, first + share) for first in firsts)
    if workers == 0:
        yield from ([item(number) for number in numbers] for numbers in steps)
    pool = ThreadPoolExecutor(workers, "photos")
    ahead: deque[list[Future[Item]]] = deque()
    try:
        for numbers in steps:
            ahead.append([pool.submit(item, number) for number in numbers])
            if len(ahead) * share > 2 * workers and len(ahead) > 1:
                yield [future.result() for future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
