"""The command line's manners: one message for a user's mistake, a non-zero exit, and no traceback."""

import contextlib
import inspect
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from nst.configuration import Config
from nst.configuration.recipes import ADDED
from nst.errors import UserError, nearest
from nst.files import exists

# By name, since none can be imported without its extra.
DEAD_WORKERS = (
    *("BrokenProcessPool", "FailedJobError", "TerminatedWorkerError", "UncompletedJobError", "WorkerCrashedError"),
)
SENTENCES = ("title", "question")
PATHS = (
    *("pairs", "content", "style", "style_masks", "content_mask", "photos", "model", "init.path", "resume"),
    *("backbone.weights", "evaluator.weights", "hydra.run.dir", "hydra.sweep.dir"),
)
FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)  # those of Hydra's parser
GRAMMAR = {  # what Hydra and OmegaConf say of a command line, and what is said instead
    r"Multiple values for tracking\.|tracking appears more than once": (
        "tracking is typed twice. Name all in one list: 'tracking=[...]', or to add '+tracking=[...]'."
    ),
    r"(?:Sweep parameters|Ambiguous value for argument) '([^\n]*, )?zip=": (
        "zip is for sweeps, whose axes it lets go together: put -m in front."
    ),
    r"Multiple values for (\S+?)\. To override a value use 'override \S+: (\S+)'": (
        r"\1 has a value already, which is replaced without a +: \1=\2."
    ),
    r"Sweep parameters '([^\n]*)' requires --multirun": r"\1 names several values, which is a sweep: put -m in front.",
    r"Ambiguous value for argument '((\S+?)=([^\n]*?))'\s": (
        r"\1 names several values. A sweep over them has -m in front; a list has brackets: \2=[\3]; a text with a "
        "comma has quotes within quotes."
    ),
    r"override \+*(\S+?)=.*Cannot convert '(?:list|dict)' to string": (
        r"\1 takes one value, no list. A sweep tries several, one a run: -m \1=FIRST,SECOND."
    ),
    r"Could not delete 'tracking=(\S+?)'": r"A tracker is left out by its name: '~tracking.\1'.",
    r"override pair=.* is not a ListConfig|Interpolation key 'pair\[\d\]' not found": (
        "pair takes two images: pair=[CONTENT,STYLE]. Two axes of a sweep go together with zip=content,style."
    ),
}
HELP_HINT = "See python run.py --help."
_typed: list[str] = []


def launch(
    main: Callable[[], Any], complete: Callable[[list[str]], list[list[str]]], finish: Callable[[bool], bool]
) -> NoReturn:
    """Run a Hydra program and exit: 0 when done, 1 after a mistake, 130 or 143 after Ctrl-C or a termination signal.

    Args:
        main: the program.
        complete: returns the arguments of each call of the program, given those typed.
        finish: is called at the end, whatever happened, told whether by an interruption; False: not all went well.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        call(main, complete, sys.argv[1:])
    except KeyboardInterrupt as stop:
        finish(True)
        number = getattr(stop, "signal_number", 2)
        print(f"Stopped by {signal.Signals(number).name}.", file=sys.stderr)
        sys.exit(128 + number)
    except BrokenPipeError:  # whoever read what is printed has seen enough: python run.py --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        finish(False)
        if wants_traceback:
            raise
        reject(error)
    sys.exit(0 if finish(False) else 1)


def call(main: Callable[[], Any], complete: Callable[[list[str]], list[list[str]]], arguments: list[str]) -> None:
    """Call a Hydra program with arguments as they were typed; see ``launch``. What it sets in the process stays set."""
    threading.excepthook = _thread_error
    logging.raiseExceptions = False  # a full disk is told once, not with a traceback for each line of the log
    _typed[:] = arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on instead of printing them its own way
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # like Ctrl-C, so that the workers of a launcher are ended, too
    for completed in complete(arguments):
        words = [as_typed(argument) for argument in _known_flags(completed)]
        sys.argv[1:] = sorted(words, key=is_override)  # Hydra's parser stumbles over size=64 -m beta=1,2
        main()


def _terminate(number: int, frame: Any) -> NoReturn:
    stop = KeyboardInterrupt(f"interrupted by {signal.Signals(number).name}")
    stop.signal_number = number  # type: ignore[attr-defined]
    raise stop


def typed() -> list[str]:
    """Return the arguments of this process as they were typed."""
    return list(_typed) if _typed else sys.argv[1:]


def command() -> str:
    """Return what was typed, quoted for the shell, with the script's path relative to the current folder if within."""
    path = Path(sys.argv[0])
    with contextlib.suppress(OSError):  # the current folder may be gone
        if path.is_absolute() and path.is_relative_to(Path.cwd()):
            path = path.relative_to(Path.cwd())
    words = ["python", str(path), *typed()]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def reject(error: Exception) -> NoReturn:
    """Exit with 1 and a message of what is wrong, from where an exception would not get through."""
    raise SystemExit(describe(error)) from error


def describe(error: BaseException) -> str:
    """Return one message for an error, that says what to do."""
    if isinstance(error, UserError):
        return f"Error: {error}"
    if isinstance(error, MissingConfigException):
        return f"Error: {_missing_option(error)}"
    if isinstance(error, OverrideParseException):
        return (
            f"Error: {error.override!r} cannot be read as NAME=VALUE ({_first_line(error)}). "
            f"Quote values with spaces, commas or brackets: \"content='my photo.jpg'\". {HELP_HINT}"
        )
    if isinstance(error, OmegaConfBaseException) and (mistake := _of_a_resolver(error)):
        return describe(mistake)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return f"Error: {_composition(error)}"
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        return f"Error: {_unreadable_yaml(error)}"
    if "Config group override" in str(error):
        return f"Error: {_first_line(error)} A group needs the name of one of its options. {HELP_HINT}"
    if type(error).__name__ in DEAD_WORKERS:
        return "Error: a worker process of the launcher died: by hand, or by the system if memory ran out."
    if isinstance(error, ConnectionError):
        return f"Error: no connection: {_first_line(error)}"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"Error: {error.strerror or error}{where}. Check the path, its permissions and the free space."
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error):
        return "Error: out of memory. Lower size, or choose a smaller backbone."
    if isinstance(cause := error.__cause__ or error.__context__, OSError):
        return describe(cause)
    return f"Error: {type(error).__name__}: {_first_line(error)}{_where(error)}"


def _where(error: BaseException) -> str:
    """Return the line of the traceback that matters, the last that is no library's, and where all of it is."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    ours = [frame for frame in frames if not frame.filename.startswith((*libraries, "<"))]
    line = f"\n  at {ours[-1].filename}, line {ours[-1].lineno}: {ours[-1].line}" if ours else ""
    log = Path(HydraConfig.get().runtime.output_dir) / "run.log" if HydraConfig.initialized() else None
    rest = f"is in {log}." if log is not None and log.is_file() else "is shown with HYDRA_FULL_ERROR=1 in front."
    return f"{line}\nIf no code of your own is at fault, this program is: please report it. The whole traceback {rest}"


def _unreadable_yaml(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """Name the file that is no YAML, and the place in it."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        problem = getattr(error, "problem", None) or getattr(error, "context", None)
        return f"{mark.name} is no YAML: {problem} (line {mark.line + 1}, column {mark.column + 1})."
    words = pairwise([*sys.argv, ""])
    folders = [Path(a.partition("=")[2] or b) for a, b in words if a.startswith(("--config-d", "-cd"))]
    for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as found:
            line = path.read_bytes()[: found.start].count(b"\n") + 1
            return f"{path} is not in UTF-8: {found.reason} in line {line}. Save it in that encoding."
    return _first_line(error)


def _of_a_resolver(error: BaseException) -> UserError | None:
    """Return what a resolver of ours found wrong, out of what OmegaConf wraps it in."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, UserError):
        inner = inner.__cause__ or inner.__context__
    return inner


def _missing_option(error: MissingConfigException) -> str:
    """Tell which option of a group does not exist, and the nearest that does."""
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not error.options:
        of_a_list = f"{_first_line(error).rstrip('.')}."
        return f"{f'There is no {group}={option}.' if group else of_a_list} {HELP_HINT}"
    known = error.options
    option = next((one for one in option.split("+") if one not in known), option)  # of a sum
    return f"There is no {group}={option}.{nearest(option, known)} Known: {', '.join(known)}."


def _composition(error: BaseException) -> str:
    """Tell what Hydra or OmegaConf found while composing, with the nearest valid name."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and OmegaConf.is_dict(parent := cause.parent_node):
        name, key = str(cause.full_key or cause.key), str(cause.key)
        known = [str(one) for one in parent if one not in ("hydra", "_target_", "_partial_")]
        if known:
            prefix = name.rpartition(".")[0]
            takes_more = prefix and _takes(parent.get("_target_"), key)
            new = f" To pass a new argument, put a + in front: +{name}=VALUE." if takes_more else ""
            within = f" in {prefix}" if prefix else ""
            return f"There is no knob '{name}'.{nearest(key, known)} Known{within}: {', '.join(known)}.{new}"
    if isinstance(cause, ValidationError) and cause.full_key:
        value = quote[0] if (quote := re.search(r"'[^']*'", str(cause))) else "that"
        wanted = {
            "Float": f"a number, not {value}",
            "Integer": f"a whole number, not {value}",
            "Boolean": f"true or false, not {value}",
            "DictConfig with ListConfig": "a list, such as [conv1:2,fire2]",
            "not Optional": "a value, not null",
        }
        needed = [words for theirs, words in wanted.items() if theirs in str(cause)]
        if needed:
            return f"{cause.full_key} needs {needed[-1]}. {HELP_HINT}"
    if found := re.search(r"Key '(\w+)' not in 'Config'", f"{error} {cause}"):  # in somebody's recipe
        knobs = [one.name for one in fields(Config)]
        return f"There is no knob '{found[1]}'.{nearest(found[1], knobs)} {HELP_HINT}"
    for theirs, ours in GRAMMAR.items():
        if found := re.search(theirs, f"{error} {cause}", re.DOTALL):
            return f"{found.expand(ours)} {HELP_HINT}"
    lines = [line for line in f"{error}\n{cause if cause is not error else ''}".splitlines() if line.strip()]
    text = " ".join(line.strip() for line in dict.fromkeys(lines) if not line.strip().startswith("object_type"))
    return f"{text}{'' if text.endswith(('.', '!', '?')) else '.'} {HELP_HINT}"


def _takes(target: Any, argument: str) -> bool:
    """Tell whether a component's class or function has such an argument, as far as that can be told."""
    if target is None:  # a mapping of names, such as weights
        return False
    logging.disable()  # Hydra logs what cannot be imported, such as a module beside somebody's options
    try:
        parameters = inspect.signature(hydra.utils.get_object(str(target))).parameters.values()
    except Exception:
        return True
    finally:
        logging.disable(logging.NOTSET)
    return any(one.name == argument or one.kind is one.VAR_KEYWORD for one in parameters)


def is_override(argument: str) -> bool:
    """Tell whether a word of a command line sets a knob or leaves it out; else it is a flag, or belongs to one."""
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _known_flags(arguments: list[str]) -> list[str]:
    """Return the arguments, or raise a UserError if one begins with a dash and is no flag."""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        known = [flag for flag in FLAGS if flag.startswith(name) or (len(flag) == 2 and name.startswith(flag))]
        if not name.startswith("-") or known:  # argparse knows beginnings, and -cjob
            continue
        if equals:
            raise UserError(f"{argument} is no flag. Knobs have no dashes: {name.lstrip('-')}={value}. {HELP_HINT}")
        raise UserError(f"There is no flag {argument}.{nearest(argument, FLAGS)} {HELP_HINT}")
    shows = any(word.split("=")[0] in ("--cfg", "-c") for word in arguments)
    if "--resolve" in arguments and not shows:
        raise UserError("--resolve goes with --cfg, which shows the configuration: --cfg job --resolve.")
    is_of_job = shows and not {"hydra", "--cfg=hydra", "all", "--cfg=all", "--resolve"} & {*arguments}
    return [*arguments, "--resolve"] if is_of_job else arguments  # content, not what it is taken from


def as_typed(argument: str) -> str:
    """Quote what Hydra's grammar would misread: sentences, and paths with its own characters or none that it knows."""
    name, equals, text = argument.partition("=")
    knob = name.lstrip("+")
    if not equals or text in ("", "null") or text[:1] in ("'", '"'):
        return argument
    # Hydra would take the arguments of one loss after the other, and the last loss
    if knob in ADDED and re.search(r"\[\s*\w", text):
        added = re.sub(r"\[(.*?)]", lambda found: re.sub(r"\s*,\s*", "+", found[1].strip()), text)
        raise UserError(f"{argument}: losses are added with a +, not listed: {name}={added}. {HELP_HINT}")
    if knob in SENTENCES:
        return f"{name}={quoted(text)}"
    return f"{name}={_quoted_paths(text)}" if knob in PATHS else argument


def _quoted_paths(text: str) -> str:
    """Return a value of a knob that takes paths, one, several or a list of them, with those quoted that need it."""
    if exists(text):
        return text if _is_read_as(text, text) else quoted(text)
    if re.search("[\"']", text) and _is_read_as(text):
        return text  # what needs quotes has them
    if len(parts := _files_in(text)) > 1:
        return ",".join(map(_quoted_paths, parts))
    if text.startswith("[") and text.endswith("]") and text != "[]":
        return f"[{','.join(map(_quoted_paths, _files_in(text[1:-1])))}]"
    return text if _is_read_as(text) else quoted(text)


def _files_in(text: str) -> list[str]:
    """Return the parts of a text between commas, but for a comma in brackets or in the name of a file."""
    parts: list[str] = []
    words = text.split(",")
    while words:
        beginnings = [",".join(words[:count]) for count in range(1, len(words) + 1)]
        files = [one for one in beginnings if exists(one)]
        closed = [one for one in beginnings if all(one.count(a) == one.count(b) for a, b in ("()", "[]", "{}"))]
        parts.append(files[-1] if files else closed[0] if closed else text)
        words = words[parts[-1].count(",") + 1 :]
    return parts


def _is_read_as(text: str, meant: str | None = None) -> bool:
    """Tell whether Hydra's grammar can read a value, and as the text that is meant, if there is one."""
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return False
    return meant is None or (value == meant and "${" not in meant)


def quoted(text: str) -> str:
    """Return a text as a value that Hydra's grammar reads back, whatever it holds."""
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    escaped = re.sub(r"(\\+)(?=\"|$)", r"\1\1", escaped).replace('"', '\\"')
    return f'"{escaped}"'


def as_value(value: Any) -> str:
    """Return a value of Python as the command line has it: a text that Hydra's grammar reads back as that value.

    Numbers, texts, paths, truth values, None, and lists, tuples or mappings of them; NumPy's and torch's numbers, too.

    Raises:
        UserError: it is something else.
    """
    if hasattr(value, "tolist") and getattr(value, "ndim", 2) < 2:
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        text = str(os.fspath(value))
        is_plain = text and "\\" not in text and _is_read_as(text, text)
        return text if is_plain else quoted(text)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{as_value(key)}:{as_value(item)}' for key, item in value.items())}}}"
    raise UserError(
        f"A {type(value).__name__} cannot be typed. Give a number, a text, a list or a mapping; a picture by its path."
    )


def _thread_error(failure: threading.ExceptHookArgs) -> None:
    """Keep quiet when TensorBoard's writing thread cannot write: the run itself hears of it and tells."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class ConsoleFormatter(logging.Formatter):
    """Messages only: a traceback belongs in run.log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message without its traceback."""
        return record.getMessage()


class ConsoleHandler(logging.Handler):
    """Writes to standard error without tearing a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record above the bar, if there is one; if nobody reads any more (``| head``), the run goes on."""
        from tqdm import tqdm

        with contextlib.suppress(BrokenPipeError):
            tqdm.write(self.format(record), file=sys.stderr)
