"""What must be recorded to repeat a run: what was typed, the source, versions, machine, flags and files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import nst
from nst import cli, configuration, runtime
from nst.files import sha256, typed_path, write_atomic
from nst.images import rgb
from nst.trust import VARIABLES

PACKAGES = (
    *("torch", "torchvision", "hydra-core", "omegaconf", "pillow", "numpy", "scipy", "tensorboard", "scikit-image"),
)
DIFF_FILE = "uncommitted.diff"
LARGEST_DIFF = 2 * 2**20  # bytes; a sweep keeps one for each run
PATIENCE = 10.0  # seconds for all of git; a repository on a slow disk must not hold up a run
SOURCES = ("nst", "conf", "scripts", "run.py")  # where a file that git does not know yet counts as source


def environment(device: torch.device, folder: Path) -> dict[str, Any]:
    """Return what surrounds a run, and leave the source's uncommitted changes as ``uncommitted.diff`` in its folder.

    To be called once the device is prepared and the components are imported, so that flags and own code are seen.

    Raises:
        UserError: the diff cannot be written.
    """
    source, note = _recorded_source(folder)
    folders = [str(folder.resolve()) for folder in configuration.config_folders()]
    return {
        "command": cli.command(),
        "arguments": cli.typed(),
        "cwd": str(typed_path(".").absolute()),
        "config_folders": folders,
        "own_code": own_code(folders),
        "git": source,
        "git_note": note,  # why ``git`` is null or its diff incomplete
        "versions": versions(),
        "machine": machine(device),
        "determinism": determinism(),
    }


def own_code(folders: list[str]) -> dict[str, str]:
    """Return ``{file: SHA-256}`` of what the given folders have of one's own: the modules loaded, and the options."""
    prefixes = tuple(str(Path(folder)) + os.sep for folder in folders)
    modules = list(sys.modules.values()) if prefixes else []
    files = {str(getattr(module, "__file__", None) or "") for module in modules}
    files |= {str(path) for folder in folders for path in Path(folder).rglob("*.yaml")}
    found = (Path(file) for file in sorted(files) if str(Path(file).resolve()).startswith(prefixes))
    return {str(path): sha256(path) for path in found if path.is_file()}


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those that can change a result."""
    found = {"python": platform.python_version(), "nst": nst.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"torch": torch.__version__}  # which also names the build: for a CPU, or for which CUDA


def machine(device: torch.device) -> dict[str, Any]:
    """Return where a run is made: system, device, processor, threads; on an NVIDIA GPU its driver and CUDA as well."""
    found = {
        "platform": platform.platform(),
        "device": str(device),
        "device_name": runtime.device_name(device),
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found |= {
            "compute_capability": "{}.{}".format(*torch.cuda.get_device_capability(device)),
            "driver": _nvidia_driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


@functools.cache
def cpu_name() -> str:
    """Return the processor's model name."""
    told = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "linux":
            told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        elif sys.platform == "darwin":
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            told = "cpu: " + subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout
    found = re.search(r"^(?:model name|Hardware|cpu model|cpu)\s*:\s*(\S.*)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def determinism() -> dict[str, Any]:
    """Return the flags that decide which kernels run and in which order they add, and the variables that do so."""
    flags: dict[str, Callable[[], Any]] = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled,
        "fill_uninitialized_memory": lambda: torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "cudnn_enabled": lambda: torch.backends.cudnn.enabled,
        "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
        "cudnn_deterministic": lambda: torch.backends.cudnn.deterministic,
        "cudnn_allow_tf32": lambda: torch.backends.cudnn.allow_tf32,
        "matmul_allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision,
        "mkldnn_enabled": lambda: torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        "mkl": torch.backends.mkl.is_available,
    }
    found: dict[str, Any] = {}
    for name, read in flags.items():
        try:
            found[name] = read()
        except (AttributeError, RuntimeError):  # a flag that this torch does not have, or that was set in two ways
            found[name] = "unknown"
    return {**found, "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ}}


def image_file(name: str) -> dict[str, Any]:
    """Return an input image's name, file, size in bytes and SHA-256."""
    return {"name": name, **file(rgb.locate(name))}


def file(path: Path) -> dict[str, Any]:
    """Return a file's path, size in bytes and SHA-256."""
    return {"file": str(path.resolve()), "bytes": path.stat().st_size, "sha256": sha256(path)}


def output_file(path: Path) -> dict[str, str]:
    """Return an output's file name and SHA-256."""
    return {"file": path.name, "sha256": sha256(path)}


@dataclass(frozen=True)
class Source:
    """The state of a source tree under git."""

    commit: str  # that is checked out, 40 digits
    diff: bytes  # from the commit to the files as they are, for ``git apply``; empty if they are the commit's
    dirty: bool | None  # whether they differ, also where the diff leaves that out; None if it is not known
    note: str = ""  # what the diff leaves out


class NoGit(Exception):
    """Git cannot tell about the source; the text says why."""


class GitRefused(NoGit):
    """Git was asked, and answered with an error."""


def _recorded_source(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Return what ``run.json`` says of the source, and a note; leave the diff in the run's folder."""
    source = _own_source()
    if isinstance(source, str):
        return None, source
    record: dict[str, Any] = {"commit": source.commit, "dirty": source.dirty, "diff": None}
    if source.diff:
        digest = hashlib.sha256(source.diff).hexdigest()
        path = folder / DIFF_FILE
        if path.exists() and sha256(path) != digest:  # the run is resumed with a changed source: keep both
            path = path.with_stem(f"{path.stem}-{digest[:8]}")
        write_atomic(path, lambda file: file.write(source.diff))
        record |= {"diff": path.name, "diff_sha256": digest}
    return record, source.note or None


@functools.cache
def _own_source() -> Source | str:
    """Return the state of the tree that this package was imported from, or why it is not known.

    It is asked for once: that is the state that the code in memory has, and a sweep need not wait for git again.
    """
    try:
        return read_source(Path(nst.__file__).resolve().parent.parent)
    except Exception as error:  # whatever it is, no run shall fail for it
        return str(error) or type(error).__name__


def read_source(root: Path) -> Source:
    """Ask git for the commit of a source tree and for everything in it that is not committed.

    New files count under ``SOURCES`` only, and where git does not ignore them. Nothing in the repository is changed:
    git works on a copy of its index and writes objects elsewhere. ``root`` is the folder that holds the package.

    Raises:
        NoGit: there is no git, no repository, no commit, or the repository does not track this package.
    """
    git = _Git(root)
    where = git(*["rev-parse", "--show-toplevel", "--git-path", "index", "--git-path", "objects"])
    top, index, objects = where.decode(errors="surrogateescape").splitlines()
    if not git("ls-files", "--", "nst/__init__.py"):
        raise NoGit(f"the repository {top} does not track this package")
    try:
        commit = git("rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    except GitRefused as error:
        raise NoGit(f"the repository {top} has no commit yet") from error
    try:
        with tempfile.TemporaryDirectory() as folder:
            own_index, own_objects = Path(folder) / "index", Path(folder) / "objects"
            shutil.copyfile(root / index, own_index)
            own_objects.mkdir()
            git.variables |= {
                "GIT_INDEX_FILE": str(own_index),
                "GIT_OBJECT_DIRECTORY": str(own_objects),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((root / objects).resolve()),
            }
            diff, note = _diff(git)
    except (NoGit, OSError) as error:
        return Source(commit, b"", None, f"It is not known whether there are uncommitted changes: {error}.")
    return Source(commit, diff, bool(diff or note), note)


def _diff(git: _Git) -> tuple[bytes, str]:
    """Return the patch from the commit to the files as they are, new ones included, and what it leaves out."""
    changed = _names(git("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--relative", "HEAD", "--", "."))
    fresh = _names(git("ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES))
    large = sorted(name for name in {*changed, *fresh} if _size(git.root / name) > LARGEST_DIFF)
    if added := sorted(set(fresh) - set(large)):
        listed = b"\0".join(os.fsencode(f":(literal){name}") for name in added)
        git("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul", given=listed)
    form = ["--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-relative"]
    form += ["--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"]
    diff = git("diff", *form, "HEAD", "--", ".", *(f":(exclude,literal){name}" for name in large))
    notes = [f"The diff leaves out {name}, which has more than {LARGEST_DIFF:,} bytes." for name in large]
    if len(diff) > LARGEST_DIFF:
        diff = diff[: diff.rfind(b"\ndiff --git ", 0, LARGEST_DIFF) + 1]
        notes.append(f"The diff was cut off between two files, since it has more than {LARGEST_DIFF:,} bytes.")
    return diff, " ".join(notes)


class _Git:
    """Runs git in a folder, all calls together for ``PATIENCE`` seconds at most, whatever the user's settings are."""

    def __init__(self, root: Path) -> None:
        self.root, self.until = root, time.monotonic() + PATIENCE
        harmless = ("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM")
        kept = {n: v for n, v in os.environ.items() if not n.startswith("GIT_") or n.startswith(harmless)}
        self.variables = {**kept, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}

    def __call__(self, *arguments: str, given: bytes = b"") -> bytes:
        """Return what a command prints; GitRefused if it answers with an error, NoGit if there is none in time."""
        words = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=true", *arguments]
        left = max(self.until - time.monotonic(), 0)
        how: Any = {"cwd": self.root, "env": self.variables, "input": given, "capture_output": True, "timeout": left}
        try:
            done = subprocess.run(words, **how)
        except FileNotFoundError as error:
            raise NoGit("git is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise NoGit(f"git took longer than {PATIENCE:g} seconds") from error
        except OSError as error:
            raise NoGit(f"git cannot be run: {error}") from error
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"git {arguments[0]} failed"]
            raise GitRefused(lines[0].removeprefix("fatal: "))
        return bytes(done.stdout)


def _names(printed: bytes) -> list[str]:
    return [os.fsdecode(name) for name in printed.split(b"\0") if name]


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _nvidia_driver() -> str | None:
    """Return the NVIDIA driver's version, where the system tells it without a further library."""
    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    return found[1] if (found := re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)) else None
