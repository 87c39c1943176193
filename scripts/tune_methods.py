"""Find the weight at which each method of study=methods is as far from the content as gram is at its own.

    python scripts/tune_methods.py                                      # every method of conf/method
    python scripts/tune_methods.py moments mrf
    python scripts/tune_methods.py strotss nnst --knob alpha
    python scripts/tune_methods.py fast adain steps=500                 # with further settings

The distance is content_distance by the default evaluator, the mean over the pairs of scripts/calibrate.py, which are
not those of the study. Prints the line to put into each conf/method/NAME.yaml.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from calibrate import PAIRS, ROOT

from nst.errors import UserError, ending_a_script, unknown
from nst.runs import folders

METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
CLOSE = 0.02  # a distance may differ so much, as a share of the one wanted: three seeds differ as much
MOST = 6  # weights tried
SLOPE = {"beta": 0.2, "alpha": -0.2}  # of log distance by log weight, for the second try
FARTHEST = 30.0  # factor from one weight to the next


def tune(
    measure: Callable[[float], float], weight: float, wanted: float, slope: float, most: int = MOST
) -> tuple[float, float]:
    """Return the weight whose distance comes nearest to the one wanted, and that distance.

    Secants of log distance by log weight, within what is known to lie on either side.
    """
    tried: dict[float, float] = {}
    point = math.log(weight)
    while len(tried) < most:
        tried[point] = measure(float(f"{math.exp(point):.3g}")) / wanted
        if abs(tried[point] - 1) < CLOSE:
            break
        beside = sorted(tried, key=lambda one: abs(tried[one] - 1))[:2]
        if len(beside) == 2 and tried[beside[0]] != tried[beside[1]]:
            slope = math.log(tried[beside[0]] / tried[beside[1]]) / (beside[0] - beside[1])
        step = -math.log(tried[beside[0]]) / slope
        point = beside[0] + max(-math.log(FARTHEST), min(math.log(FARTHEST), step))
        below, above = ([one for one in tried if (tried[one] < 1) == is_below] for is_below in (True, False))
        if below and above:
            ends = sorted((max(below, key=tried.__getitem__), min(above, key=tried.__getitem__)))
            if not ends[0] < point < ends[1]:
                point = sum(ends) / 2
    best = min(tried, key=lambda one: abs(tried[one] - 1))
    return float(f"{math.exp(best):.3g}"), tried[best] * wanted


def distance(method: str, overrides: list[str], count: int = len(PAIRS)) -> float:
    """Run a method on so many pairs; return the mean content distance.

    Raises:
        UserError: a run failed.
    """
    pairs = ",".join(f"[{content},{style}]" for content, style in PAIRS[:count])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run.py"), "-m", f"method={method}", f"pair={pairs}", *overrides]
        done = subprocess.run(
            [*command, "report=false", f"hydra.sweep.dir={folder}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UserError(f"method={method} failed:\n{(done.stderr or done.stdout)[-2000:]}")
        records = [folders.read(run).record for run in folders.find(Path(folder))[0]]
        return statistics.fmean(record["scores"]["content_distance"] for record in records)


def weight_of(method: str, knob: str) -> float:
    """Return the weight that a method has now."""
    from hydra import compose, initialize_config_dir

    from nst import configuration

    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        return float(compose("config", [f"method={method}"])[knob])


def main() -> None:
    """Tune the methods named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="of conf/method; further settings NAME=VALUE")
    parser.add_argument("--knob", choices=SLOPE, default="beta")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="how many of the pairs (%(default)s)")
    parser.add_argument("--tries", type=int, default=MOST, help="weights tried of each method (%(default)s)")
    arguments = parser.parse_intermixed_args()
    overrides = [f"size={arguments.size}", *(word for word in arguments.methods if "=" in word)]
    methods = [word for word in arguments.methods if "=" not in word] or [name for name in METHODS if name != "gram"]
    if strange := [name for name in methods if name not in METHODS]:
        raise UserError(unknown("method", strange[0], METHODS))
    wanted = distance("gram", [f"size={arguments.size}"], arguments.pairs)
    print(f"gram: {wanted:.4f}", flush=True)
    for method in methods:

        def measure(weight: float, method: str = method) -> float:
            found = distance(method, [*overrides, f"{arguments.knob}={weight}"], arguments.pairs)
            print(f"  {method} {arguments.knob}={weight:g}: {found:.4f}", flush=True)
            return found

        begin, slope = weight_of(method, arguments.knob), SLOPE[arguments.knob]
        weight, found = tune(measure, begin, wanted, slope, arguments.tries)
        print(
            f"conf/method/{method}.yaml    {arguments.knob}: {weight:g}    # {found:.3f}, gram {wanted:.3f}", flush=True
        )


if __name__ == "__main__":
    with ending_a_script():
        main()
