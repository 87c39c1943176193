"""Time a step of the founding notebook's loop and of the engines, side by side and interleaved in one process.

    python scripts/benchmark.py                                  # VGG-19 at 224 and 512, SqueezeNet at 512
    python scripts/benchmark.py --backbones vgg19 --sizes 224 --batch 1 4 --csv steps.csv --plot steps.png
    python scripts/benchmark.py --device cuda --sizes 512 1024 2048 --precisions float32 tf32 bfloat16
    python scripts/benchmark.py --backbones squeezenet --to-loss 0.1    # steps and seconds to a tenth of the loss
    python scripts/benchmark.py --scaling --csv scaling.csv --plot scaling.png

A step is the losses, their gradient and an update of the pixels by the recipe's Adam, without jitter. In every round
each contestant takes its turn, and who begins changes. Seconds are medians over the rounds, a ratio is the median of
the rounds' ratios to a reference. The roofline is the time that the step's convolutions (forward, and back to the data)
would take at the rate of a measured matrix product of the same type. The notebook's loop, float32 and VGG-19 only,
forwards three images a step with parameters that are not frozen; of a batch it makes one picture after the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_steps as steps
import torch
from benchmark_steps import Case
from benchmark_tables import PRECISIONS, Row, growth, plot, table, title, write_csv

from nst import runtime
from nst.configuration import LARGEST_SIZE, SMALLEST_SIZE
from nst.errors import UserError
from nst.runs import provenance

ENGINES = ("notebook", "plain", "fused", "compiled", "graph")
BACKBONES = ("squeezenet", "vgg16", "vgg19", "vgg16_bn", "vgg19_bn")
SIZES = {"squeezenet": [512]}  # by default; of the others:
VGG_SIZES = [224, 512]


def measure(study: str, case: Case, options: argparse.Namespace) -> list[Row]:
    """Measure all contestants of a case, and the matrix products beside them."""
    device: torch.device = options.device
    names = steps.contestants(case, options.engines, options.precisions)
    reference = options.reference if options.reference in names else names[0]
    warm = {name: steps.warmed_up(case, name, device, options.warmup) for name in names}
    field = [contestant for contestant, _ in warm.values()]
    seconds = steps.interleave(field, options.rounds, options.steps, device)
    ratios = steps.median_ratios(seconds, reference)
    reached: dict[str, tuple[int, float] | None] = {}
    if options.to_loss:
        judge = steps.build(case, "plain/float32", device)
        reached = steps.race(field, judge, options.to_loss, options.max_steps, device)
    flops = steps.step_flops(case)
    layers = len({layer for kind in steps.layers(case, steps.settings(case)).values() for layer in kind})
    rates = {p: steps.product_rate(p, device) for p in dict.fromkeys(map(steps.precision_of, names))}
    rows = []
    for name in names:
        peak = warm[name][1]
        if options.memory and device.type == "cpu":
            peak = steps.peak_alone(case, name, options.warmup + 1)
        precision, median = steps.precision_of(name), statistics.median(seconds[name])
        roofline = steps.roofline_seconds(flops, rates[precision])
        reached_steps, reached_seconds = reached.get(name) or (None, None)
        rows.append(
            Row(
                study=study,
                backbone=case.backbone,
                recipe=case.recipe,
                size=case.size,
                layers=layers,
                batch=case.batch,
                engine=name.partition("/")[0],
                precision=precision,
                seconds=median,
                seconds_min=min(seconds[name]),
                reference=reference,
                ratio=ratios[name],
                flops=flops,
                flops_per_second=rates[precision],
                roofline_seconds=roofline,
                times_roofline=median / roofline,
                peak_bytes=peak,
                to_loss=options.to_loss,
                to_loss_steps=reached_steps,
                to_loss_seconds=reached_seconds,
                device=device_name(device),
                torch=torch.__version__,
                threads=torch.get_num_threads(),
            )
        )
    return rows


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's model."""
    return provenance.cpu_name() if device.type == "cpu" else runtime.device_name(device)


def header(device: torch.device) -> str:
    """Return where this is measured, in one line."""
    if device.type == "cuda":
        ability = "compute capability {}.{}".format(*torch.cuda.get_device_capability(device))
    else:
        able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        units = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"} if device.type == "cpu" else {}
        ability = next((f"with {name}" for key, name in units.items() if able.get(key)), "not in hardware")
    about = f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{about}, bfloat16 {ability}"


def cases(options: argparse.Namespace) -> list[tuple[str, Case]]:
    """Return what to measure, each with its study."""
    found = []
    for backbone in options.backbones:
        recipe = options.recipe or ("notebook" if backbone == "vgg19" else "default")
        if options.scaling:
            large = options.device.type != "cpu"
            sizes = sorted(options.sizes or ([256, 512, 1024, 2048] if large else [128, 256, 512]))
            batches = sorted(options.batch or [1, 2, 4, 8])
            size = sizes[len(sizes) // 2]
            weights = steps.layers(whole := Case(backbone, recipe, size), steps.settings(whole))
            deepest = len({layer for kind in weights.values() for layer in kind})
            found += [("pixels", Case(backbone, recipe, side)) for side in sizes]
            found += [("layers", Case(backbone, recipe, size, 1, depth)) for depth in range(1, deepest + 1)]
            found += [("batch", Case(backbone, recipe, size, batch)) for batch in batches]
        else:
            sizes = options.sizes or SIZES.get(backbone, VGG_SIZES)
            found += [
                ("table", Case(backbone, recipe, size, batch)) for batch in options.batch or [1] for size in sizes
            ]
    return found


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers in a range, whose message argparse shows."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
            raise argparse.ArgumentTypeError(
                f"{text} is no whole number from {low}" + (f" to {high}" if high else " up")
            )
        return int(text)

    return parse


def fraction(text: str) -> float:
    """Parse a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number between 0 and 1")
    return value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; a mistake ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    size = whole(SMALLEST_SIZE, LARGEST_SIZE)
    # fmt: off
    add("--backbones", nargs="+", choices=BACKBONES, default=["vgg19", "squeezenet"], metavar="NAME",
        help=f"of {', '.join(BACKBONES)}; VGG with random weights, which take the same time")
    add("--sizes", nargs="+", type=size, metavar="PIXELS",
        help="of the square picture's side; 224 512, and 512 for SqueezeNet")
    add("--batch", nargs="+", type=whole(1), metavar="B", help="pictures at once; 1")
    add("--engines", nargs="+", choices=ENGINES, metavar="NAME",
        help="of notebook, plain, fused, compiled (plain under torch.compile), graph (fused as a CUDA graph); "
             "notebook plain fused, on CUDA also graph")
    add("--precisions", nargs="+", choices=PRECISIONS, metavar="NAME",
        help=f"of {', '.join(PRECISIONS)} (tf32 on NVIDIA only); float32, and the others where the hardware has them")
    add("--recipe", choices=("notebook", "default"),
        help="notebook: its five layers and raw losses; default: conf/layers/BACKBONE.yaml and relative losses; "
             "notebook for VGG-19, default for the others")
    add("--reference", metavar="CONTESTANT", type=lambda name: name.replace("-", "/"),
        help="that ratios are to: notebook or ENGINE/PRECISION; where there is none, the first of the table")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add("--rounds", type=whole(1), metavar="N", help="turns of each contestant; 5, on a GPU 30")
    add("--steps", type=whole(1), metavar="N", default=1, help="steps of a turn, timed together; 1")
    add("--warmup", type=whole(1), metavar="N", default=2, help="steps before the first round, not counted; 2")
    add("--memory", action="store_true",
        help="on a CPU: peak memory of a step, by one more process for each contestant: the most it held, less what it "
             "held before the contestant was built (on CUDA the peak of its tensors is always shown)")
    add("--to-loss", type=fraction, metavar="FRACTION",
        help="steps and seconds until the loss, told by the plain engine in float32 outside the clock, has fallen to "
             "so much of its start")
    add("--max-steps", type=whole(1), metavar="N", default=500, help="of --to-loss; 500")
    add("--scaling", action="store_true",
        help="cost against pixels, layers and batch instead, without the notebook; layers and batch at the middle size")
    add("--csv", type=Path, metavar="FILE", help="one row for each contestant and case")
    add("--plot", type=Path, metavar="FILE.png", help="seconds a step against pixels; needs matplotlib")
    # fmt: on
    options = parser.parse_args(arguments)

    if problem := runtime.device_problem(options.device):
        parser.error(problem)
    device = runtime.choose_device(options.device)
    if options.precisions is None:
        native = ["bfloat16"] if runtime.has_native_bfloat16(device) else []
        options.precisions = ["float32", *(["tf32"] if device.type == "cuda" else []), *native]
    for precision in options.precisions:
        if problem := runtime.precision_problem(precision, device):
            parser.error(problem)
    if options.recipe == "notebook" and "squeezenet" in options.backbones:
        parser.error("--recipe notebook names layers of VGG: leave squeezenet out, or use --recipe default")
    if options.engines is None:
        options.engines = ["plain", "fused"] if options.scaling else ["notebook", "plain", "fused"]
        options.engines += ["graph"] if device.type == "cuda" else []
    if "graph" in options.engines and device.type != "cuda":
        parser.error("the engine graph needs an NVIDIA GPU: --device cuda")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install -e '.[benchmark]'")
    for path in (options.csv, options.plot):
        if path and not path.parent.is_dir():
            parser.error(f"the folder of {path} does not exist")
    options.rounds = options.rounds or (5 if device.type == "cpu" else 30)
    options.device = device
    names = {
        name for _, case in cases(options) for name in steps.contestants(case, options.engines, options.precisions)
    }
    if not names:
        parser.error("nobody is left to measure: the notebook knows VGG-19 with --recipe notebook only")
    if options.reference and options.reference not in names:
        parser.error(f"--reference {options.reference} is not measured here; there are {', '.join(sorted(names))}")
    return options


def main() -> None:
    """Measure case by case; print a table of each as soon as it is there."""
    options = parse()
    device = options.device = steps.prepare(str(options.device))
    runtime.keep_freed_memory()
    print(header(device), flush=True)
    rows: list[Row] = []
    studies = cases(options)
    for i, (study, case) in enumerate(studies):
        if not steps.contestants(case, options.engines, options.precisions):
            continue
        try:
            new = measure(study, case, options)
        except UserError as error:
            raise SystemExit(f"Error: {error}") from None
        rows += new
        print(f"\n{title(new)}\n\n{table(new, options.max_steps)}", flush=True)
        last = i + 1 == len(studies) or (studies[i + 1][0], studies[i + 1][1].backbone) != (study, case.backbone)
        if study in ("pixels", "batch") and last:
            print("\n" + growth([row for row in rows if (row.study, row.backbone) == (study, case.backbone)], study))
        if options.csv:
            write_csv(rows, options.csv)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
