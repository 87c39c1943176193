"""Kill runs or sweeps at moments spread over their life, resume each, and compare with one that was left alone.

    python scripts/kill_and_resume.py --kills 30                          a single run
    python scripts/kill_and_resume.py --kills 30 --sweep                  a sweep of three jobs
    python scripts/kill_and_resume.py --kills 30 --sweep --launcher joblib
    python scripts/kill_and_resume.py --flips 200                         single bits flipped in what a killed run left

Each time the whole family of processes gets SIGKILL. After the resume the picture must have the same bytes, metrics.csv
the same rows (but for the seconds), TensorBoard the same curves, and every job must be done, once.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUN = str(Path(__file__).parent.parent / "run.py")
KNOBS = (
    "experiment=sketch",
    "size=48",
    "steps=60",
    "log_every=5",
    "save_every=20",
    "checkpoint_steps=7",
    "device=cpu",
    "jitter=4",
)


def begin(arguments: Sequence[str], cwd: Path) -> subprocess.Popen[bytes]:
    """Start the program, with one thread, since two would wait for each other on a busy machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (cwd / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, RUN, *arguments], cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT
        )


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill a process and all it has begun; return False if it had ended by itself."""
    if process.poll() is not None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()
    return True


def picture(run: Path) -> bytes:
    """Return the bytes of a run's result."""
    return b"".join(path.read_bytes() for path in run.glob("result.*"))


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without the seconds, which differ each time."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return every TensorBoard curve but those of time, as (step, value)."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "seconds" not in tag]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def shown(run: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Return every picture in TensorBoard, as (step, bytes)."""
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    return {
        tag: [(picture.step, picture.encoded_image_string) for picture in events.Images(tag)]
        for tag in events.Tags()["images"]
    }


def frames(run: Path) -> dict[str, bytes]:
    """Return every intermediate picture."""
    return {path.name: path.read_bytes() for folder in ("frames", "previews") for path in (run / folder).glob("*")}


def differences(one: Path, other: Path) -> list[str]:
    """Return in what two runs differ, nothing if they are the same."""
    found = [name for name, read in READERS.items() if read(one) != read(other)]  # type: ignore[operator]
    left = [path.name for path in other.rglob("*") if path.name.endswith(".tmp") or path.name == "checkpoint.pt"]
    return found + left


READERS = {"picture": picture, "metrics.csv": rows, "curves": curves, "TensorBoard pictures": shown, "frames": frames}


def jobs(folder: Path, sweep: bool) -> dict[str, Path]:
    """Return the runs in a folder by name."""
    return {path.parent.name: path.parent for path in folder.glob("*/status.json")} if sweep else {"": folder}


def main() -> None:
    """Kill, resume, compare; exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description="Kill runs or sweeps, resume them, compare with one left alone.")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--flips", type=int, default=0, help="flip single bits in a killed run's files instead")
    parser.add_argument("--sweep", action="store_true", help="three jobs instead of one")
    parser.add_argument("--launcher", help="hydra/launcher of the sweep, such as joblib")
    parser.add_argument("knobs", nargs="*", help="further overrides, such as optimizer=lbfgs")
    chosen = parser.parse_args()
    if chosen.flips:
        with tempfile.TemporaryDirectory() as name:
            silent = flips(Path(name), chosen.flips, chosen.knobs)
        print(f"{chosen.flips} flips: {len(silent)} silently wrong")
        sys.exit(1 if silent else 0)
    with tempfile.TemporaryDirectory() as name:
        wrong = trial(Path(name), chosen.kills, chosen.sweep, chosen.launcher, chosen.knobs)
    print(f"{chosen.kills} kills: {len(wrong)} with differences")
    sys.exit(1 if wrong else 0)


def flips(where: Path, count: int, knobs: Sequence[str]) -> list[str]:
    """Flip single bits in the files of a killed run, each file alike, and resume; return those that nobody was told of.

    A run may come out the same, be refused, or be begun anew with a word; it may not come out otherwise in silence.
    """
    arguments = [*KNOBS, *knobs]
    assert begin([*arguments, "hydra.run.dir=whole"], where).wait() == 0, (where / "output.txt").read_text()
    process = begin([*arguments, "hydra.run.dir=killed"], where)
    while not (where / "killed" / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.05)
    kill(process)
    files = sorted(path.relative_to(where / "killed") for path in (where / "killed").rglob("*") if path.is_file())
    files = [name for name in files if (where / "killed" / name).stat().st_size]
    chance, silent = random.Random(0), []
    for number in range(count):
        folder, name = where / f"flipped{number}", chance.choice(files)
        shutil.copytree(where / "killed", folder)
        data = bytearray((folder / name).read_bytes())
        bit = chance.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        (folder / name).write_bytes(data)
        (where / "output.txt").write_text("")
        code = begin([f"resume={folder.name}"], where).wait()
        text = (where / "output.txt").read_text(errors="replace")
        found = differences(where / "whole", folder) if (folder / "status.json").exists() and not code else ["refused"]
        told = code != 0 or "starts again" in text or "damaged" in text or "the bytes may differ" in text
        outcome = "identical" if not found else "told" if told else "SILENT"
        print(f"flip {number}, bit {bit} of {name}: {outcome} {'' if outcome == 'identical' else found}", flush=True)
        silent += [str(name)] if outcome == "SILENT" else []
        if "Traceback" in text:
            silent.append(f"{name}: traceback")
            print(text[-1500:])
        shutil.rmtree(folder)
    return silent


def trial(where: Path, kills: int, sweep: bool, launcher: str | None, knobs: Sequence[str]) -> list[str]:
    """Kill so many times, at moments spread evenly over a whole life; return what went wrong."""
    arguments = [*(["-m", "seed=0,1,2"] if sweep else []), *KNOBS, *knobs]
    arguments += [f"hydra/launcher={launcher}"] if launcher else []
    knob = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    began = time.monotonic()
    assert begin([*arguments, f"{knob}=whole"], where).wait() == 0, (where / "output.txt").read_text()
    life = time.monotonic() - began
    print(f"one life takes {life:.1f} s", flush=True)
    wrong = []
    for number in range(kills):
        folder = where / f"killed{number}"
        process = begin([*arguments, f"{knob}={folder.name}"], where)
        moment = life * (number + 0.5) / kills
        time.sleep(moment)
        was_alive = kill(process)
        had = jobs(folder, sweep) if folder.exists() else {}
        is_recorded = (folder / ("sweep.json" if sweep else ".hydra/overrides.yaml")).exists()
        again = [f"resume={folder.name}"] if is_recorded else [*arguments, f"{knob}={folder.name}"]
        code = begin(again, where).wait()
        found = [f"exit code {code}"] if code else []
        expected, got = jobs(where / "whole", sweep), jobs(folder, sweep)
        found += [] if expected.keys() == got.keys() else [f"jobs {sorted(got)}"]
        for job in expected.keys() & got.keys():
            found += [f"{job}: {what}" for what in differences(expected[job], got[job])]
        if sweep and not (folder / "report.html").exists():
            found.append("no report")
        state = f"{len(had)} begun" if was_alive else "had ended"
        print(f"kill {number} at {moment:5.1f} s ({state}): {'; '.join(found) or 'identical'}", flush=True)
        if found:
            wrong.append(f"kill {number}: {found}")
            print((where / "output.txt").read_text()[-3000:])
    return wrong


if __name__ == "__main__":
    main()
