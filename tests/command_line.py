"""Running the program as a user types it, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TINY = ("size=32", "steps=3", "log_every=1")
SKETCH = "experiment=sketch"  # the small network, one scale and Adam, so that tests are quick
_OTHERWISE = ("experiment=", "+experiment=", "study=", "task=", "resume=", "-h", "--help", "--version")


def sketch(*arguments: str) -> list[str]:
    """Return what is typed, with ``experiment=sketch`` in front unless it chooses an experiment or a task itself."""
    return [*arguments] if any(a.startswith(_OTHERWISE) for a in arguments) else [SKETCH, *arguments]


def environment() -> dict[str, str]:
    # one thread: two would wait for each other on a busy machine, and bytes are compared between runs
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(*arguments: str, cwd: Path = ROOT, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run.py"), *sketch(*arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def run(*arguments: str, cwd: Path = ROOT, timeout: float = 240, **options: Any) -> subprocess.CompletedProcess[str]:
    process = start(*arguments, cwd=cwd, **options)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Assert one message, a non-zero exit and no traceback; return the message."""
    text = result.stdout + result.stderr
    assert result.returncode == 1, text
    assert "Traceback" not in text
    assert text.count("Error:") == 1, text
    return text
