"""Time a step of ours beside the founding notebook's loop as written, interleaved in one process.

    python scripts/benchmark.py                    # VGG-19, 224 and 512 pixels
    python scripts/benchmark.py --sizes 224 --device cuda

Both optimise the founding recipe (experiment=notebook) on the same seeded random weights, whose values do not change
the work. The notebook's loop forwards the content, the style and the generated image each step, through torchvision's
network with its parameters not frozen. Ours is ``nst.optimize`` with targets taken once. Each round times both; the
figures are medians over the rounds of the median step, and the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from hydra import compose, initialize_config_dir
from torch import Tensor

from nst import config, posing, runtime
from nst.optimize import Step, optimize

CONF = Path(__file__).resolve().parent.parent / "conf"
NOTEBOOK_LAYERS = (0, 5, 10, 19, 28)


def notebook_loop(content: Tensor, style: Tensor, steps: int, synchronize: Callable[[], None]) -> list[float]:
    """Run the founding notebook's loop and return the seconds of each step."""
    features = torchvision.models.vgg19(weights=None).features[:29].to(content.device).eval()

    def maps_of(image: Tensor) -> list[Tensor]:
        maps = []
        for place, layer in enumerate(features):
            image = layer(image)
            if place in NOTEBOOK_LAYERS:
                maps.append(image)
        return maps

    generated = content.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([generated], lr=3e-4)
    seconds = []
    for _ in range(steps):
        synchronize()
        started = time.perf_counter()
        content_loss = style_loss = torch.zeros((), device=content.device)
        for new, old, target in zip(maps_of(generated), maps_of(content), maps_of(style), strict=True):
            _, channels, height, width = new.shape
            content_loss = content_loss + torch.mean((new - old) ** 2)
            gram = new.view(channels, height * width).mm(new.view(channels, height * width).t())
            wanted = target.view(channels, height * width).mm(target.view(channels, height * width).t())
            style_loss = style_loss + torch.mean((gram - wanted) ** 2)
        total = content_loss + 0.01 * style_loss
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def our_loop(problem: posing.Problem, steps: int, synchronize: Callable[[], None]) -> list[float]:
    """Run our loop and return the seconds of each step, without those of the last picture's evaluation."""
    ends: list[float] = []

    def watch(step: Step) -> None:
        synchronize()
        ends.append(time.perf_counter())

    adam = lambda pixels: torch.optim.Adam(pixels, lr=3e-4)  # noqa: E731
    started = time.perf_counter()
    optimize(problem.start, problem.evaluate, adam, steps, watch, lambda index: False)
    return [end - begin for begin, end in zip([started, *ends], ends[:-1], strict=False)]


def measure(size: int, device: torch.device, rounds: int, steps: int) -> dict[str, float]:
    """Return the median seconds of both loops' steps at one size, and the ratio."""
    overrides = ["experiment=notebook", "backbone.weights=random", f"size={size}", f"device={device}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        problem = posing.pose(compose("config", overrides), device)
    synchronize = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(statistics.median(notebook_loop(problem.content, problem.style, steps, synchronize)[1:]))
        ours.append(statistics.median(our_loop(problem, steps, synchronize)[1:]))
    ratio = statistics.median(b / a for a, b in zip(theirs, ours, strict=True))
    return {"notebook_s": statistics.median(theirs), "ours_s": statistics.median(ours), "ratio": ratio}


def main() -> None:
    """Measure and print a table; ``--json FILE`` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--rounds", type=int, default=3, help="how often both loops take turns")
    parser.add_argument("--steps", type=int, default=4, help="steps a turn; the first warms up and is not counted")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config.register()
    device = runtime.prepare(arguments.device, "float32")
    about = f"{runtime.device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"VGG-19, experiment=notebook, float32, {about} ({platform.system()})")
    print(f"{'size':>6} {'notebook':>12} {'ours':>12} {'ratio':>8}")
    figures = {}
    for size in arguments.sizes:
        row = figures[size] = measure(size, device, arguments.rounds, arguments.steps)
        print(f"{size:>6} {row['notebook_s']:>10.4f} s {row['ours_s']:>10.4f} s {row['ratio']:>8.3f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "sizes": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
