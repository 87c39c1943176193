"""Compose the pictures of the README from run folders; the commands stand in docs/images/README.md.

    python scripts/make_docs_images.py sweep docs/images/sweep.jpg RUN...       content and style, then each run
    python scripts/make_docs_images.py gallery docs/images/gallery.jpg RUN...   a grid, each style as an inset

    python scripts/make_docs_images.py methods docs/images/methods.jpg RUN...   pairs by methods
    python scripts/make_docs_images.py row docs/images/blend.jpg RUN|IMAGE...   side by side, all of one height

A RUN is the folder of a finished run: its result.png is shown, its run.json tells the images and the knobs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from nst.images import rgb
from nst.runs.folders import in_order

GAP = 12
CAPTION = 44
CELL = (384, 256)


def read(folder: Path) -> tuple[Image.Image, dict[str, Any]]:
    """Return a run's result and its configuration."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return Image.open(folder / record["result"]["file"]).convert("RGB"), record["config"]


def open_input(name: str) -> Image.Image:
    """Open a content or style image by its path or the name of a sample."""
    return Image.open(rgb.locate(name)).convert("RGB")


def with_inset(picture: Image.Image, style: Image.Image) -> Image.Image:
    """Lay the style, with a white border, over the lower right corner."""
    picture = picture.copy()
    side = round(0.27 * min(picture.size))
    small = ImageOps.expand(ImageOps.fit(style, (side, side), Image.Resampling.LANCZOS), 3, "white")
    margin = round(0.03 * min(picture.size))
    picture.paste(small, (picture.width - small.width - margin, picture.height - small.height - margin))
    return picture


def compose_sweep(folders: list[Path]) -> Image.Image:
    """Put the content (with the style as an inset) and each run's result side by side, captions below."""
    runs = sorted((read(folder) for folder in folders), key=lambda run: run[1]["beta"])
    result, config = runs[0]
    content = open_input(config["content"]).resize(result.size, Image.Resampling.LANCZOS)
    tiles = [(with_inset(content, open_input(config["style"])), "content and style")]
    tiles += [(picture, f"beta = {config['beta']:g}") for picture, config in runs]
    width, height = result.size
    sheet = Image.new("RGB", (len(tiles) * (width + GAP) - GAP, height + CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=24)
    for number, (tile, caption) in enumerate(tiles):
        left = number * (width + GAP)
        sheet.paste(tile, (left, 0))
        draw.text((left + width / 2, height + CAPTION / 2 + 4), caption, fill="#333333", font=font, anchor="mm")
    return sheet


def compose_gallery(folders: list[Path], columns: int = 3) -> Image.Image:
    """Put the results into a grid of equal cells, each cropped to fit, with its style as an inset."""
    width, height = CELL
    rows = -(-len(folders) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for number, folder in enumerate(folders):
        picture, config = read(folder)
        cell = ImageOps.fit(picture, CELL, Image.Resampling.LANCZOS, centering=(0.5, 0.0))
        row, column = divmod(number, columns)
        place = (column * (width + GAP), row * (height + GAP))
        sheet.paste(with_inset(cell, open_input(config["style"])), place)
    return sheet


def compose_row(names: list[Path], height: int = 300) -> Image.Image:
    """Put results of runs, images and samples side by side."""
    pictures = [read(name)[0] if name.is_dir() else open_input(str(name)) for name in names]
    sized = [
        picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.LANCZOS)
        for picture in pictures
    ]
    sheet = Image.new("RGB", (sum(picture.width + GAP for picture in sized) - GAP, height), "white")
    left = 0
    for picture in sized:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    return sheet


def compose_methods(folders: list[Path]) -> Image.Image:
    """Put the runs of study=methods into a grid: a row for each pair, a column for each method, with its name."""
    runs: dict[tuple[str, str], dict[str, Image.Image]] = {}
    for folder in sorted(folders, key=lambda one: in_order(one.name)):
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        pair = record["config"]["content"], record["config"]["style"]
        runs.setdefault(pair, {})[record["choices"]["method"]] = read(folder)[0]
    methods = list(dict.fromkeys(name for of_pair in runs.values() for name in of_pair))
    width, height, gap, font = 150, 112, 4, ImageFont.load_default(size=13)
    sheet = Image.new("RGB", ((len(methods) + 1) * (width + gap), CAPTION // 2 + len(runs) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(["content and style", *methods]):
        draw.text((column * (width + gap) + width / 2, 11), name, fill="#333333", font=font, anchor="mm")
        for row, ((content, style), of_pair) in enumerate(runs.items()):
            picture = of_pair.get(name) or with_inset(open_input(content), open_input(style))
            cell = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (column * (width + gap), CAPTION // 2 + row * (height + gap)))
    return sheet


def main() -> None:
    """Compose one picture and save it as a JPEG without metadata."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("sweep", "gallery", "methods", "row"))
    parser.add_argument("file", type=Path, help="the JPEG to write")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs; of a row images as well")
    parser.add_argument("--height", type=int, default=300, help="of a row, in pixels")
    arguments = parser.parse_args()
    if arguments.kind == "row":
        picture = compose_row(arguments.runs, arguments.height)
    else:
        kinds = {"sweep": compose_sweep, "gallery": compose_gallery, "methods": compose_methods}
        picture = kinds[arguments.kind](arguments.runs)
    picture.save(arguments.file, "JPEG", quality=88, optimize=True)
    print(f"{arguments.file}: {picture.width} x {picture.height}, {arguments.file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
