"""Runs the program again and again in processes that have all imports behind them: each is a fork of this one.

    python tests/preloaded.py

It reads a request a line, as JSON: ``arguments`` (the script first), ``cwd``, ``environment``, ``stdout``, ``stderr``
(files), ``timeout``; and answers each by the exit code, or ``null`` if the time was over. What a process does is what
``python SCRIPT ...`` does, but for two or three seconds of importing torch.
"""

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Import what takes long, and answer requests until there are no more."""
    import hydra  # noqa: F401
    import torchvision  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        print(json.dumps(wait(child, request["timeout"])), flush=True)


def wait(child: int, seconds: float) -> int | None:
    """Return the exit code of a process, as ``subprocess`` counts it; end it if it takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run(request: dict[str, Any]) -> None:
    """Become the program, and exit as it does."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(request[name], os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    script = request["arguments"][0]
    sys.argv[:] = request["arguments"]
    sys.path[0] = str(Path(script).parent)
    code: object = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
