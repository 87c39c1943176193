"""What of a stranger's files is believed, by reproduce, resume, report and apply alike; docs/security.md has the rules.

Runs, bundles and networks are passed on. Nothing that they say makes this machine run anything, and nothing outside of
their folder is read but a file whose SHA-256 they know.
"""

import json
import os
import re
import shlex
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, BinaryIO

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from nst.errors import UserError

LARGEST_RECORD = 64 * 2**20  # bytes of a JSON file
DEEPEST = 40  # mappings and lists in one another
LARGEST_BUNDLE = 16 * 2**30  # bytes unpacked
HARMLESS = re.compile(
    r"nst\.(networks\.(backbones|traced)\.load|losses\.\w+|optimization\.initial\.from_\w+"
    r"|optimization\.(optimizers\.(ScipyLBFGSB|KerasAdam)|schedule\.(unchanged|Restart)"
    r"|parameterization\.(Pixels|Laplacian|Fourier))"
    r"|evaluation\.evaluator\.(Evaluator|nothing)"
    r"|tracking\.(metrics\.MetricsFile|pictures\.(Frames|Previews)|tensorboard\.TensorBoard|progress\.watch)"
    r"|transformers\.\w+Transformer|training\.(perceptual\.Perceptual|supervised\.Supervised))"
    r"|torch\.optim\.(lr_scheduler\.)?\w+"
)  # what may be built because a record names it; anything else could be any code
MOVED = {
    "backbones": "networks.backbones",
    "evaluator": "evaluation.evaluator",
    "initial": "optimization.initial",
    "optimize": "optimization.optimizers",
    "schedule": "optimization.schedule",
}  # modules of ours that older records name
OLD_TARGET = re.compile(rf'(_target_(?:": "|=)nst\.)({"|".join(MOVED)})(?=\.)')
HYDRAS_OWN = re.compile(
    r"hydra/(launcher|sweeper)="
    r"|hydra\.(run\.dir|sweep\.(dir|subdir)|job\.(name|chdir)|mode|verbose|sweeper\.(n_trials|n_jobs|direction"
    r"|max_batch_size|sampler\.seed)|launcher\.(n_jobs|images|timeout_min|cpus_per_task|gpus_per_node|tasks_per_node"
    r"|mem_gb|nodes|partition|qos|array_parallelism))\b"
)  # of Hydra's own settings those that run nothing
INTERPOLATION = re.compile(  # one that is not escaped, of anything but a knob or what Hydra knows of the job
    r"(?<!\\)(?:\\\\)*\$\{(?!(?:content|style|backbone|\.+\w+|hydra[.:][\w.]+|now:[^{}']*)\})"
)
LOCAL = "(metrics|previews|frames|tensorboard|progress)"  # trackers that write into the run's folder, or to the console
SENDS = re.compile(rf"\+*tracking\b(?!=\[?({LOCAL},?)*\]?$)")  # words that choose another
CONFIG_DIR = ("--config-dir", "-cd")
VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_DYNAMIC", "OMP_THREAD_LIMIT", "MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_CBWR"),
    *("MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("DNNL_DEFAULT_FPMATH_MODE", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUDA_LAUNCH_BLOCKING", "PYTORCH_ENABLE_MPS_FALLBACK", "PYTHONHASHSEED"),
)  # what can change the order or the kind of additions, and so the last bits
WORDS = re.compile(r"[A-Za-z0-9_.,:+-]{0,64}")  # what such a variable's value may be
FORMULA = re.compile(r"[=+\-@\t\r|]")  # what a spreadsheet's cell that computes begins with
# Control characters, and those that turn the direction of what follows: a text may look like another one.
UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


# Files


def opened(path: Path) -> BinaryIO:
    """Open a file for reading that is a file: no link, no pipe, no device, which could hang or lead elsewhere.

    Raises:
        OSError: it is something else, or cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError("it is no plain file")
    return os.fdopen(number, "rb")


def is_inside(folder: Path, path: Path) -> bool:
    """Tell whether a path leads to a plain file in a folder or below it, over no link."""
    try:
        return path.is_file() and not path.is_symlink() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def record(path: Path) -> tuple[dict[str, Any], str | None]:
    """Return what a JSON file of a run or of a sweep holds, and what is wrong with it, if anything is.

    Entries of another form than a run leaves are left out. A file that is missing is empty, and nothing is wrong.
    """
    try:
        with opened(path) as file:
            text = file.read(LARGEST_RECORD + 1)
        if len(text) > LARGEST_RECORD:
            return {}, f"{path.name} is damaged: it has more than {LARGEST_RECORD:,} bytes."
        current = OLD_TARGET.sub(lambda found: found[1] + MOVED[found[2]], text.decode("utf-8"))
        content = json.loads(current)
    except (FileNotFoundError, NotADirectoryError):
        return {}, None
    except OSError as error:
        return {}, f"{path.name} cannot be read: {error.strerror or error}."
    except (ValueError, RecursionError):
        return {}, f"{path.name} is damaged: it is not complete JSON."
    if not isinstance(content, dict):
        return {}, f"{path.name} is damaged: it holds no mapping."
    forms = FORMS.get(path.name, {})
    wrong = [k for k, value in content.items() if _is_deep(value) or not _has_form(value, forms.get(k, object))]
    kept = {key: value for key, value in content.items() if key not in wrong}
    return kept, f"{path.name} is damaged in {', '.join(map(repr, wrong))}, left out." if wrong else None


def _has_form(value: Any, form: Any) -> bool:
    """Tell whether a value of JSON is as a form says.

    A form is a type; a predicate; ``[form]``, a list of such; ``{...: form}``, a mapping to such; ``{key: form}``, a
    mapping that has at least these entries; or a tuple of which one is to do.
    """
    if isinstance(form, tuple):
        return any(_has_form(value, one) for one in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(_has_form(one, form[0]) for one in value)
    if isinstance(form, dict):
        forms = dict.fromkeys(value, form[...]) if ... in form and isinstance(value, dict) else form
        return isinstance(value, dict) and all(key in value and _has_form(value[key], forms[key]) for key in forms)
    return isinstance(value, form) if isinstance(form, type | UnionType) else bool(form(value))


def _is_deep(value: Any) -> bool:
    """Tell whether mappings and lists lie in one another deeper than any of a run's."""
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for node in level for _, inner in _entries(node)]
    return bool(level)


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_name(value: Any) -> bool:
    """Tell whether a value is the name of something in the same folder."""
    return isinstance(value, str) and value not in ("", ".", "..") and not re.search(r"[/\\\0]", value)


def _is_below(value: Any) -> bool:
    """Tell whether a value is a path that leads to the folder itself or below it."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    windows, posix = PureWindowsPath(value), PurePosixPath(value.replace("\\", "/"))
    return not (windows.drive or windows.root or posix.is_absolute() or ".." in posix.parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_NOTHING, _TEXT, _MAPPING = type(None), str | None, dict | None
_FILE = {"name": str, "file": str, "sha256": str}
_OUTPUT = {"file": _is_name, "sha256": str}
_BEGUN = {"command": _TEXT, "arguments": [str], "cwd": _TEXT}
FORMS: dict[str, dict[str, Any]] = {
    "status.json": {
        **{"status": str, "started": _is_time, "ended": _is_time, "pid": _is_number, "host": str},
        **{"reason": _TEXT, "error": _TEXT},
    },
    "run.json": {
        **_BEGUN,
        **{"config": dict, "choices": dict, "overrides": [str], "config_folders": [str], "own_code": {...: str}},
        **dict.fromkeys(("git", "scores", "memory", "evaluator", "batch", "size"), _MAPPING),
        **dict.fromkeys(("versions", "machine", "determinism", "final"), dict),
        **dict.fromkeys(("content", "style", "init"), (_NOTHING, _FILE)),
        **dict.fromkeys(("source", "model"), (_NOTHING, {"file": str, "sha256": str})),
        **{"further_images": {...: _FILE}, "weights": (_NOTHING, {"name": str})},
        **{"result": _OUTPUT, "network": _OUTPUT, "outputs": {...: str}},
        **{"seconds": {...: _is_number}, "scales": [dict], "resumed": [dict], "computation": {...: str}},
        **{"further_scores": {...: dict}, "seed": _is_number, "git_note": _TEXT, "stopped_because": _TEXT},
    },
    "sweep.json": {
        **_BEGUN,
        **{"started": _is_time, "launcher": _TEXT, "sweeper": _TEXT, "title": _TEXT, "question": _TEXT},
        **{"swept": {...: [str]}, "grids": [[str]], "zip": [[str]], "resumed": [dict]},
        **{"jobs": [{"folder": _is_below, "overrides": [str]}]},
    },
    "stopped.json": {"after": str},
    "notes.json": {"tags": [str], "note": str},
}


# Code


def refuse_foreign_code(
    config: Mapping[str, Any], origin: str, brought: list[Path], own: list[Path], is_trusted: bool = False
) -> None:
    """Refuse a record that would have code run, which nobody has looked at.

    Args:
        config: as recorded.
        origin: what to call it.
        brought: folders of code that came with it.
        own: folders of the user's own code, which may be built beside what this package and torch have.
        is_trusted: the user has looked at it.

    Raises:
        UserError: it brings code, names something that could be any code, or hides what it names.
    """
    if hidden := next((text for text in _texts(config) if "${" in text), None):
        raise UserError(
            f"{origin}: the record has an interpolation, {hidden[:80]!r}, where a run records plain values. "
            "Somebody has changed it, so that it is not run."
        )
    foreign = [name for name in _targets(config) if not HARMLESS.fullmatch(name) and not _is_module_of(own, name)]
    if (foreign or brought) and not is_trusted:
        named = ", ".join(dict.fromkeys([*foreign, *map(str, brought)]))
        raise UserError(
            f"{origin} uses code of its own, which would be run on this machine: {named}. If that is yours, name its "
            "folder: --config-dir FOLDER. Else read it first; if you trust it, add --trust."
        )


def refuse_foreign_words(arguments: list[str], folder: Path, is_at_home: bool = True) -> None:
    """Refuse words of a command line recorded in a folder that would have code run, or something looked up.

    What is typed anew is not among them. A run or sweep that was begun where it is resumed ``is_at_home``, so that its
    folders of own code are the user's.

    Raises:
        UserError: the first of them.
    """
    words, folders = apart_from_config_dirs(arguments)
    for own in map(Path, folders):
        if not is_at_home or own.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{folder} uses code of its own, in {own}. If that is yours, or you trust it, type --config-dir "
                "again beside resume=."
            )
    parser = OverridesParser.create()
    for word in words:
        if not is_at_home and SENDS.match(word):
            raise UserError(
                f"{folder} was begun with {word!r}, which may send it elsewhere. If you want that, type it again "
                "beside resume=; if not, tracking=[metrics,previews,tensorboard]."
            )
        if word not in ("-m", "--multirun") and (word.startswith("-") or not _is_harmless(parser, word)):
            raise UserError(
                f"{folder} was begun with {word!r}, which can have any code run, so that it does not count only "
                "because a file says so. If you trust it, type it again beside resume=."
            )


def apart_from_config_dirs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of a command line without ``--config-dir``, and the folders of own code that it names."""
    kept, folders, words = [], [], iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in CONFIG_DIR:
            folders.append(value if equals else next(words, ""))
        else:
            kept.append(word)
    return kept, folders


def _is_harmless(parser: OverridesParser, word: str) -> bool:
    """Tell whether an override sets plain values of knobs, or one of Hydra's own settings that run nothing."""
    try:
        override = parser.parse_override(word)
        texts = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
        values = [parser.parse_override(f"key={text}").value() for text in texts] or [override.value()]
    except (HydraException, OmegaConfBaseException, ValueError):
        return False
    key = str(override.get_key_element()).lstrip("+~")
    is_hydras = re.match(r"hydra($|[./@:])", key) or "@" in key
    leads_out = key.endswith("subdir") and not _is_below(str(values[0]))
    if is_hydras and (leads_out or not HYDRAS_OWN.match(word.lstrip("+~"))):
        return False
    named = [str(value) for value in values] if key.endswith("_target_") else []
    targets = [*named, *(target for value in values for target in _targets(value))]
    hidden = any(INTERPOLATION.search(text) or "_target_" in text for value in values for text in _texts(value))
    return not hidden and not INTERPOLATION.search(word) and all(HARMLESS.fullmatch(target) for target in targets)


def _is_module_of(folders: list[Path], target: str) -> bool:
    """Tell whether something to be built comes from one of these folders, and is none of Python's own modules."""
    module = target.partition(".")[0]
    own = module and module not in sys.stdlib_module_names
    return bool(own) and any((one / f"{module}.py").is_file() or (one / module).is_dir() for one in folders)


def _walk(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of whatever there is in a configuration."""
    yield name, node
    for key, value in _entries(node):
        yield from _walk(value, key)


def _entries(node: Any) -> list[tuple[str, Any]]:
    """Return (name, value) of what is in a mapping or list, whose entries have no name; nothing of another value."""
    if isinstance(node, Mapping):
        return [(str(key), value) for key, value in node.items()]
    return [("", value) for value in node] if isinstance(node, list) else []


def _targets(node: Any) -> list[str]:
    """Return whatever a configuration names to be built."""
    return [str(value) for name, value in _walk(node) if name == "_target_"]


def _texts(node: Any) -> list[str]:
    """Return every text in a configuration, names included."""
    return [text for pair in _walk(node) for text in pair if isinstance(text, str)]


def is_plain(value: Any) -> bool:
    """Tell whether a value is a number, a text, or a list of such: nothing that could be built or looked up."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or (isinstance(value, str | int | float) and "${" not in str(value))


def safe_variables(recorded: Any) -> tuple[dict[str, str] | None, list[str]]:
    """Return those recorded environment variables that a new process may be given, and a note of each other one.

    They are the ones that a run records, with values as such variables have them: numbers and words.
    """
    if not isinstance(recorded, Mapping):
        return None, []
    safe = {str(k): str(value) for k, value in recorded.items() if k in VARIABLES and WORDS.fullmatch(str(value))}
    others = [name for name in recorded if name not in safe]
    return safe, [f"The recorded variable {name} is not set: a run records none like it." for name in others]


# Texts


def seen(value: Any) -> Any:
    """Return a value with the characters in its texts that nobody sees, or that turn others round, written out."""
    if isinstance(value, str):
        return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    if isinstance(value, dict):
        return {seen(key): seen(item) for key, item in value.items()}
    return [seen(item) for item in value] if isinstance(value, list) else value


def is_one_command(text: str) -> bool:
    """Tell whether a shell takes a text as one call of Python with arguments, and nothing beside it."""
    try:
        words = shlex.split(text)
    except ValueError:
        return False
    return words[:1] == ["python"] and shlex.join(words) == text and not re.search(r"[\n\r]", text)


def cell(text: str) -> str:
    """Return a cell of a table that no spreadsheet takes for a formula."""
    try:
        float(text)
    except ValueError:
        return f"'{text}" if FORMULA.match(text) else text
    return text


# Bundles


def unpack(bundle: Path, folder: Path) -> None:
    """Unpack a bundle: nothing is written outside of ``folder``.

    Raises:
        UserError: it is damaged, too large, encrypted, or holds a link or a path that leads elsewhere.
    """
    try:
        with zipfile.ZipFile(bundle) as archive:
            for member in archive.infolist():
                _refuse_unsafe(bundle, member)
            size = sum(member.file_size for member in archive.infolist())
            room = shutil.disk_usage(folder).free
            if size > min(LARGEST_BUNDLE, room):
                raise UserError(
                    f"{bundle} would unpack to {size:,} bytes; {LARGEST_BUNDLE:,} are allowed and {room:,} are free. "
                    "Unpack it yourself if you trust it, and name the folder."
                )
            archive.extractall(folder, archive.infolist())
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, OSError) as error:
        raise UserError(f"{bundle} cannot be unpacked as a bundle (.zip): {error}") from error


def _refuse_unsafe(bundle: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member that would be written elsewhere, or that is no plain file or folder."""
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    if not _is_below(name):
        raise UserError(f"{bundle} is not unpacked: its member {name!r} would be written outside of the folder.")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{bundle} is not unpacked: its member {name!r} is a link or a device.")
    if member.flag_bits & 1:
        raise UserError(f"{bundle} is encrypted. Unpack it yourself, and name the folder.")
