"""Make the bundled sample images: photographs from scikit-image's wheel, and style pictures drawn from scratch.

    python scripts/make_samples.py [--out DIR] [NAME ...]

Without names, everything is made. The drawings are seeded: the same versions of the libraries give the same bytes.
``sources.yaml``, which lists every picture with its author and licence, is always written in full.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import skimage
import yaml
from PIL import Image
from samples import geometry, hatching, mosaic, swirls, wave
from samples.common import Floats, Rng, shrink

SEED = 7
PHOTO_QUALITY = 92
DRAWING_QUALITY = 90
DEFAULT_OUT = Path(__file__).resolve().parent.parent / "nst" / "samples"


@dataclass(frozen=True)
class Source:
    """One entry of ``sources.yaml``."""

    file: str
    kind: str
    title: str
    author: str
    licence: str
    source: str


@dataclass(frozen=True)
class Photo:
    """A photograph that scikit-image bundles; ``origin`` is its file in ``skimage/data``."""

    origin: str
    title: str
    author: str
    licence: str
    credit: str

    def render(self) -> Image.Image:
        """The photograph at its native size."""
        return Image.open(Path(skimage.__file__).parent / "data" / self.origin).convert("RGB")

    def source(self, name: str) -> Source:
        """Its entry in the listing."""
        origin = f"scikit-image, skimage/data/{self.origin}; {self.credit}"
        return Source(f"{name}.jpg", "content", self.title, self.author, self.licence, origin)


@dataclass(frozen=True)
class Drawing:
    """A style picture that one of the modules in ``samples`` draws."""

    draw: Callable[[Rng], Floats]
    title: str

    def render(self) -> Image.Image:
        """The drawing, always from the same seed."""
        return shrink(self.draw(np.random.default_rng(SEED)))

    def source(self, name: str) -> Source:
        """Its entry in the listing."""
        author, module = "drawn by scripts/make_samples.py", f"scripts/samples/{name}.py"
        return Source(f"{name}.jpg", "style", self.title, author, "MIT", module)


PHOTOS = {
    "astronaut": Photo(
        "astronaut.png",
        "The astronaut Eileen Collins",
        "NASA",
        "public domain (no known copyright restrictions)",
        "NASA Great Images, https://flic.kr/p/r9qvLn",
    ),
    "chelsea": Photo("chelsea.png", "Chelsea the cat", "Stéfan van der Walt", "CC0", "given by the photographer"),
    "coffee": Photo("coffee.png", "A cup of coffee", "Rachel Michetti", "CC0", "courtesy of Pikolo Espresso Bar"),
    "rocket": Photo(
        "rocket.jpg",
        "Launch of DSCOVR on a Falcon 9",
        "SpaceX",
        "public domain (released by SpaceX)",
        "https://www.flickr.com/photos/spacexphotos/16511594820",
    ),
}
DRAWINGS = {
    "swirls": Drawing(swirls.draw, "Starry night in thick brush strokes"),
    "mosaic": Drawing(mosaic.draw, "Stained glass with sun, lake and poppies"),
    "wave": Drawing(wave.draw, "Great wave, woodblock print"),
    "hatching": Drawing(hatching.draw, "Mountain lake, engraving"),
    "geometry": Drawing(geometry.draw, "Circles and triangles, watercolour and ink"),
}
PICTURES: dict[str, Photo | Drawing] = {**PHOTOS, **DRAWINGS}


def main() -> None:
    """Make the pictures named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(PICTURES)} (default: all)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="default: nst/samples")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PICTURES):
        parser.error(f"no such picture: {', '.join(sorted(unknown))}")

    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or PICTURES:
        began = time.perf_counter()
        picture = PICTURES[name]
        image = picture.render()
        path = options.out / f"{name}.jpg"
        quality = PHOTO_QUALITY if isinstance(picture, Photo) else DRAWING_QUALITY
        image.save(path, quality=quality, optimize=True)
        size, seconds = path.stat().st_size / 1024, time.perf_counter() - began
        print(f"{path}  {image.width} x {image.height}  {size:.0f} KB  {seconds:.1f} s")

    sources = {name: asdict(picture.source(name)) for name, picture in PICTURES.items()}
    listing = yaml.safe_dump(sources, sort_keys=False, allow_unicode=True, width=120)
    (options.out / "sources.yaml").write_text(listing, encoding="utf-8")


if __name__ == "__main__":
    main()
