"""Running the program as a user types it, in a process of its own."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
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
    if not options:
        return script(ROOT / "run.py", *sketch(*arguments), cwd=cwd, timeout=timeout)
    process = start(*arguments, cwd=cwd, **options)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def script(path: Path, *arguments: object, cwd: Path = ROOT, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a Python program: in a fork of a process that has torch imported, where the system can fork."""
    command = [str(path), *map(str, arguments)]
    if not hasattr(os, "fork"):
        words = [sys.executable, *command]
        return subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("stdout", "stderr")}
        for file in files.values():
            file.touch()
        request = {"arguments": command, "cwd": str(cwd), "environment": environment(), "timeout": timeout}
        code = _ask(request | {name: str(file) for name, file in files.items()})
        out, err = (file.read_text(encoding="utf-8", errors="replace") for file in files.values())
    if code is None:
        raise subprocess.TimeoutExpired(command, timeout, out, err)
    return subprocess.CompletedProcess(command, code, out, err)


@functools.cache
def _preloaded() -> subprocess.Popen[str]:
    words = [sys.executable, str(Path(__file__).parent / "preloaded.py")]
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.kill)
    return process


def _ask(request: dict[str, Any]) -> int | None:
    process = _preloaded()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    answer: int | None = json.loads(process.stdout.readline())
    return answer


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Assert one message, a non-zero exit and no traceback; return the message."""
    text = result.stdout + result.stderr
    assert result.returncode == 1, text
    assert "Traceback" not in text
    assert text.count("Error:") == 1, text
    return text


def limit_files(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def wait_for_steps(folder: Path) -> None:
    for _ in range(600):
        metrics = folder / "metrics.csv"
        if metrics.exists() and metrics.read_text().count("\n") > 3:
            return
        time.sleep(0.1)
    raise AssertionError("the run did not get going")


def own_loss(folder: Path, code: str) -> tuple[str, ...]:
    """Write a style loss of one's own, class ``Own``; returns what chooses it."""
    (folder / "style_loss").mkdir()
    (folder / "style_loss" / "own.yaml").write_text("_target_: own.Own\n", encoding="utf-8")
    (folder / "own.py").write_text(code, encoding="utf-8")
    return ("--config-dir", str(folder), "style_loss=own", "layers.style=[conv1]", *TINY)
