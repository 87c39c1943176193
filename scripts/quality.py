"""Which settings paint best in a given time: the search behind the default recipe (docs/quality.md).

    python scripts/quality.py OUT                                     # every variant on three pairs of samples
    python scripts/quality.py OUT --only default steps=20 --pairs photo.jpg,painting.jpg
    python scripts/quality.py OUT --plot quality.png                  # and draw them: pip install matplotlib

Each variant is the default recipe at 256 pixels, on one thread, but for the settings named. What is in OUT already is
not run again. Distances are by the bundled VGG-16, from the saved picture:

* style: the mean over relu1_1 ... relu5_1 of |G - A| / |G_c - A|, with G, A and G_c the Gram matrices (over positions)
  of the result, the style and the content image: 1 for the untouched content, 0 for the style itself;
* content: |F - P| / |P| at relu4_2, with F and P the maps of the result and of the content image: 0 for the content.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nst.files import write_atomic
from nst.images import rgb
from nst.losses import functional
from nst.networks import backbones

ROOT = Path(__file__).resolve().parent.parent
PAIRS = ("coffee,wave", "astronaut,swirls", "chelsea,mosaic")
STYLE_LAYERS = [f"relu{block}_1" for block in range(1, 6)]
CONTENT_LAYER = "relu4_2"
SIZE = 256
SLACK = 1.5  # a variant that takes no longer than so many times the default counts as equally fast


def _weights(*weights: float) -> str:
    return f"layers.style=[{','.join(f'{layer}:{w}' for layer, w in zip(STYLE_LAYERS, weights, strict=True))}]"


ADAM = ["optimizer=adam", "optimizer.lr=0.02", "lr_schedule=cosine"]
VARIANTS: dict[str, list[str]] = {
    "default": [],
    "beta=0.003": ["beta=0.003"],
    "beta=0.03": ["beta=0.03"],
    "steps=20": ["steps=20"],
    "steps=80": ["steps=80"],
    "one scale": ["schedule=single", "steps=85"],
    "from 64 by 2": ["schedule.from=64", "schedule.factor=2"],
    "init=content": ["init=content"],
    "margin=8": ["margin=8"],
    "pooling=avg": ["pooling=avg"],
    "tv=1": ["tv=1"],
    "equal weights": [_weights(1, 1, 1, 1, 1)],
    "deeper weights": [_weights(0.3, 0.6, 1, 3, 1)],
    "more layers": [
        "layers.style=[relu1_1:0.15,relu1_2:0.15,relu2_1:0.3,relu2_2:0.3,relu3_1:0.5,relu3_3:0.5,relu4_1:1,relu4_3:1,"
        "relu5_1:0.5]"
    ],
    "content relu3_1": ["layers.content=[relu3_1]"],
    "adam": [*ADAM, "jitter=0"],
    "adam jitter": ADAM,
    "moments": ["style_loss=moments"],
    "gaussian_wasserstein": ["style_loss=gaussian_wasserstein"],
    "sliced_wasserstein": ["style_loss=sliced_wasserstein"],
    "gram_histogram": ["style_loss=gram_histogram"],
    "squeezenet": ["backbone=squeezenet", "steps=60"],
    "sketch": ["experiment=sketch"],
    "jcjohnson": [
        *("experiment=jcjohnson", "backbone=vgg16", "backbone.weights=bundled", "init=content", "steps=200", "size=256")
    ],
}


@dataclass(frozen=True)
class Row:
    """What became of a variant on a pair: the distances, and the seconds of the optimisation."""

    variant: str
    pair: str
    style: float
    content: float
    seconds: float


class Judge:
    """The bundled VGG-16, which measures both distances; the maps of a pair are taken once."""

    def __init__(self) -> None:
        self.network = backbones.load("vgg16", "bundled", [*STYLE_LAYERS, CONTENT_LAYER])
        self.known: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def maps(self, name: str) -> dict[str, Tensor]:
        """Return the maps of an image."""
        found: dict[str, Tensor] = self.network(self.network.preprocessing(rgb.load(name, SIZE)))
        return found

    def __call__(self, result: Path, pair: str) -> tuple[float, float]:
        """Return (style distance, content distance) of a picture."""
        content, style = (self.known.setdefault(name, self.maps(name)) for name in pair.split(","))
        painted = self.maps(str(result))
        distances = []
        for layer in STYLE_LAYERS:
            ours, wanted, start = (functional.gram_matrix(of[layer]) for of in (painted, style, content))
            distances.append(float((ours - wanted).norm() / (start - wanted).norm()))
        change = (painted[CONTENT_LAYER] - content[CONTENT_LAYER]).norm() / content[CONTENT_LAYER].norm()
        return sum(distances) / len(distances), float(change)


def run(folder: Path, variant: str, pair: str) -> None:
    """Paint a pair as a variant says, unless that has been done."""
    if (folder / "result.png").is_file():
        return
    content, style = pair.split(",")
    common = ["threads=1", "evaluator=none", f"content='{content}'", f"style='{style}'", f"hydra.run.dir='{folder}'"]
    command = [sys.executable, str(ROOT / "run.py"), *VARIANTS[variant], *common]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{variant}, {pair}: {made.stderr}")


def table(rows: Sequence[Row], pairs: Sequence[str]) -> str:
    """Return the rows as Markdown: style, content and seconds of each variant on each pair."""
    heads = [" and ".join(Path(name).stem for name in pair.split(",")) for pair in pairs]
    lines = [f"| variant | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for variant in dict.fromkeys(row.variant for row in rows):
        found = {row.pair: row for row in rows if row.variant == variant}
        cells = (found.get(pair) for pair in pairs)
        texts = (f"{row.style:.3f}, {row.content:.3f}, {row.seconds:.0f} s" if row else "" for row in cells)
        lines.append(f"| {variant} | {' | '.join(texts)} |")
    return "\n".join(lines)


def plot(rows: Sequence[Row], pairs: Sequence[str], path: Path) -> None:
    """Draw style against content distance, a panel a pair, variants by number; hollow: much longer than the default."""
    import io

    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.variant for row in rows))
    figure = Figure(figsize=(5.4 * len(pairs) + 2.2, 5.6), layout="constrained")
    *panels, legend = figure.subplots(1, len(pairs) + 1, squeeze=False, width_ratios=[5.4] * len(pairs) + [2.2])[0]
    for axes, pair in zip(panels, pairs, strict=True):
        of_pair = [row for row in rows if row.pair == pair]
        limit = SLACK * next(row.seconds for row in of_pair if row.variant == "default")
        for row in of_pair:
            color = {"default": "#b3261e", "jcjohnson": "#1f4e9c", "sketch": "#1f4e9c"}.get(row.variant, "#555555")
            filled = row.seconds <= limit
            face, ink = (color, "white") if filled else ("white", color)
            axes.scatter(row.content, row.style, s=170, facecolor=face, edgecolor=color, alpha=0.9)
            number = str(names.index(row.variant))
            axes.text(row.content, row.style, number, color=ink, fontsize=8, ha="center", va="center")
        axes.set(title=" in the style of ".join(Path(name).stem for name in pair.split(",")))
        axes.set(xlabel="content distance", ylabel="style distance")
        axes.spines[["top", "right"]].set_visible(False)
    legend.axis("off")
    lines = "\n".join(f"{number:2d}  {name}" for number, name in enumerate(names))
    legend.text(0, 1, f"{lines}\n\nhollow: takes longer\nthan {SLACK:g} x the default", va="top", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    write_atomic(path, lambda file: file.write(buffer.getvalue()))


def main() -> None:
    """Run what is not there yet, measure all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), metavar="CONTENT,STYLE")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, a thread each")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    arguments = parser.parse_args()
    wanted = [
        (arguments.out.resolve() / f"{number}_{'_'.join(Path(name).stem for name in pair.split(','))}", variant, pair)
        for variant in arguments.only
        for number, pair in enumerate(arguments.pairs)
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda one: run(one[0] / one[1].replace(" ", "_"), one[1], one[2]), wanted))
    judge, rows = Judge(), []
    for parent, variant, pair in wanted:
        folder = parent / variant.replace(" ", "_")
        seconds = json.loads((folder / "run.json").read_text(encoding="utf-8"))["seconds"]["optimisation"]
        rows.append(Row(variant, pair, *judge(folder / "result.png", pair), seconds))
    print(table(rows, arguments.pairs))
    if arguments.plot:
        plot(rows, arguments.pairs, arguments.plot)


if __name__ == "__main__":
    main()
