"""The configuration: its typed schema, the help page made of it, and building the components it names."""

import inspect
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from nst.configuration import tasks
from nst.errors import ConfigError, UserError, nearest
from nst.samples import samples


def _knob(
    text: str, default: Any = MISSING, choices: str = "", low: float | None = None, high: float = math.inf
) -> Any:
    """Declare a knob: what ``--help`` says of it, and the words or numbers that it may be; none: another check knows.

    Values stand in ``conf/``; a default here is what an option of another group, such as an optimiser, may change.
    Choices are ``one | two (what that means)``.
    """
    span = "" if low is None else f"{low} or more" if high == math.inf else f"from {low} to {high}"
    words = tuple(choice.partition(" ")[0] for choice in choices.split(" | ") if choice)
    about = {"help": f"{text}: {choices}" if choices else text, "choices": words, "low": low, "high": high}
    return field(default=default, metadata={**about, "range": span})


SMALLEST_SIZE, LARGEST_SIZE = 16, 8192
_FITS = "long | short | height | square (squeeze to size x size)"


@dataclass(kw_only=True)
class Config:
    """Every knob there is; values and group defaults stand in ``conf/config.yaml``."""

    task: str = _knob(
        "what to do",
        choices="optimize (the pixels of one picture) | train (a network that paints) | apply (such a network)",
    )
    pair: list[Any] = _knob("[content,style] at once, for a sweep over pairs: 'pair=[coffee,swirls],[photo.jpg,wave]'")
    content: str = _knob(
        "content image: a path, or the name of a sample; with task=apply also a folder, a GIF or a video; in a sweep "
        "also a folder or a pattern, one run a picture"
    )
    style: Any = _knob(
        "style image: a path, or the name of a sample; several: 'style=[swirls,mosaic]'; in a sweep as content"
    )
    pairs: str | None = _knob(
        "the pairs of a sweep: a folder with the folders content and style, or a CSV file with these two columns"
    )
    pairing: str = _knob(
        "of the folder of pairs", choices="every (content with every style) | order (the first with the first)"
    )
    zip: Any = _knob("axes of a sweep that go together, the third value with the third: zip=content,style")
    style_weights: Any = _knob("of several styles: how much each counts, such as [2,1]; null: alike")
    style_size: Any = _knob(
        "pixels of the style's side that `style_fit` names, one number or one for each; null: `size`"
    )
    style_fit: str | None = _knob(
        "as `fit`, for the style; null: as `fit`", choices=f"{_FITS} | content (stretched to the content's shape)"
    )
    style_masks: Any = _knob("greyscale image, or one for each style: where that style goes (white); null: everywhere")
    content_mask: str | None = _knob("greyscale image: where the content stays as it is (white); null: nowhere")
    color: str = _knob(
        "whose colours",
        choices="style | luminance (the content's, only the luminance is painted) | match_pca (the style image gets "
        "the content's first) | match_cholesky (likewise) | match_histogram (likewise) | recolored (the "
        "picture is shown and saved in the content's, brought to the style's)",
    )
    size: int = _knob(
        "pixels of the side that `fit` names, for content and (unless style_size says else) style",
        low=SMALLEST_SIZE,
        high=LARGEST_SIZE,
    )
    fit: str = _knob("keep the aspect ratio and set that side", choices=_FITS)
    resample: str = _knob("how images are scaled, each antialiased", choices="bilinear | bicubic | lanczos")
    background: str = _knob("colour behind transparent pixels: a name or '#rrggbb'")
    photos: str | None = _knob("task=train: folder of photographs to learn from; null: the bundled ones")
    model: str | None = _knob("task=apply: the trained network, a file network.safetensors")

    alpha: float = _knob("weight of the content loss", low=0)
    beta: float = _knob("weight of the style loss: 0.001 subtle, 0.01 balanced, 0.1 strong, 1 abstract", low=0)
    tv: float = _knob("weight of the total variation, which smooths", low=0)
    tv_kind: str = _knob(
        "which differences of neighbouring pixels", choices="squared | absolute | diagonal | keras | laplacian"
    )
    tv_reduction: str = _knob("over the differences", choices="mean | sum")

    steps: Any = _knob("iterations of the optimiser at each scale; or a list, [100,50], whose last entry repeats")
    clamp: str = _knob(
        "keep pixels between black and white",
        "step",
        choices="never | step (after each, and at the end) | end | evaluation (before each, and at the end) | "
        "block (after each of optimizer=lbfgsb, and at the end)",
    )
    clamp_range: list[float] | None = _knob("[low, high] to clamp to instead, in units of pixel_space", None)
    clamp_until: int | None = _knob("pictures from this step on are not clamped; null: all are", None, low=0)
    average: float = _knob(
        "decay of an exponential average of the iterates, shown and saved instead; 0 is off", low=0, high=1
    )
    clip_gradient: float = _knob(
        "an image's gradient norm is at most this for each of its numbers; 0 is off", 0.0, low=0
    )
    stop_change: float = _knob("stop when a step changes the picture by less than this share of it; 0 is off", low=0)
    jitter: int = _knob("roll the picture by 0 to jitter - 1 pixels, at random each step; 0 is off", 0, low=0, high=64)
    margin: int = _knob(
        "pixels of reflection around the picture, so that the network leaves no frame; 0 is off", low=0, high=256
    )
    pixel_space: str = _knob(
        "where the optimiser works",
        choices="unit (RGB in [0, 1]) | network (its own input; noise and limits are in its units)",
    )
    optimizer_units: str = _knob(
        "what the optimiser's rate counts",
        "range",
        "range (from black to white is 1, in every pixel_space) | pixels (units of pixel_space, as in published code)",
    )
    pooling: str = _knob("how the network shrinks its maps", choices="max | avg | l2")
    seed: int = _knob("of noise and jitter", low=0, high=2**63 - 1)

    title: str | None = _knob("title of the report")
    question: str | None = _knob("the question that the run or sweep is to answer, for the report")

    threads: int = _knob(
        "threads on a CPU; 0 leaves it to torch (all cores, shared among a launcher's workers)", low=0, high=1024
    )
    device: str = _knob("auto | cpu | cuda | cuda:<n> | mps")
    precision: str = _knob(
        "of the network; pixels, optimiser and losses stay float32",
        choices="auto (bfloat16 where the hardware multiplies it) | float32 | tf32 | bfloat16 | float64",
    )
    engine: str = _knob("what computes losses and gradient, the same picture", choices="auto | plain | fused")
    compile: bool = _knob("let torch.compile work on the network; engine=plain (slow to start)")
    cuda_graph: bool = _knob(
        "on an NVIDIA GPU, record the step once and replay it; slower to start, faster for small pictures"
    )
    tile: str = _knob(
        "auto (if memory is short) | none | pixels of a tile's side, 64 or more: the same gradient in parts"
    )

    log_every: int = _knob("steps between two rows of metrics.csv and two points in TensorBoard", low=1)
    save_every: int = _knob("steps between two pictures in frames/; 0 saves none", low=0)
    inspect: Any = _knob("layers whose feature maps and Gram matrices TensorBoard shows: [relu1_1,relu4_1]")
    output_format: str = _knob("format of the result", choices="png | jpeg")
    jpeg_quality: int = _knob("for output_format=jpeg", low=1, high=100)

    checkpoint_steps: int = _knob("steps between two checkpoints; 0 leaves it to the clock", low=0)
    checkpoint_seconds: float = _knob("seconds between two checkpoints; 0 leaves it to the steps", low=0)
    keep_state: float = _knob(
        "megabytes that a finished run may keep so that resume=RUN steps=MORE goes on from its end; 0 keeps none",
        low=0,
    )
    resume: str | None = _knob("folder of a run or a sweep to carry on with; alone, it needs nothing else")
    on_failure: str = _knob("when a job of a sweep fails", choices="continue | stop")
    report: bool = _knob("write report.html, report.md and summary.csv at the end of a sweep")

    backbone: Any = _knob("network: which one, its weights, its preprocessing")
    layers: Any = _knob("content and style layers, each with a weight; follows the backbone")
    content_loss: Any = _knob("how far a map is from the content image's; several: content_loss=mse+self_similarity")
    style_loss: Any = _knob(
        "how far a layer's statistics are from the style image's; several: style_loss=gram+histogram "
        "style_loss.weights.gram=2"
    )
    init: Any = _knob("the picture to start from")
    parameterization: Any = _knob("what the optimiser moves: the pixels, or coefficients that they are made of")
    optimizer: Any = _knob("how to descend; also sets clamp and jitter to what suits it")
    schedule: Any = _knob("one scale, or coarse to fine: the sizes")
    lr_schedule: Any = _knob("how the learning rate changes from step to step")
    evaluator: Any = _knob("what scores the finished picture, the same for every recipe")
    transformer: Any = _knob("task=train: the image-transformation network")
    training: Any = _knob("task=train: what the network learns from, and how")
    tracking: Any = _knob(
        "what watches a run; 'tracking=[metrics,tensorboard]' names all there is to be, +tracking=wandb adds one, "
        "'+tracking=[wandb,mlflow]' two",
        None,
    )


GROUPS = (
    *("backbone", "layers", "content_loss", "style_loss", "init", "parameterization", "optimizer", "schedule"),
    *("lr_schedule", "evaluator", "transformer", "training"),
)

PIXELS = "nst.optimization.parameterization.Pixels"
LATER = ("params", "optimizer", "content")  # what optimisers, schedules of rates and start images are given
LINE_SEARCH = ("torch.optim.LBFGS", "nst.optimization.optimizers.ScipyLBFGSB")  # what they remember belongs to one size

HELP = """\
Neural style transfer: paint a content image in the style of a style image.

  python run.py                                        one picture from the bundled samples
  python run.py content=photo.jpg style=painting.jpg   your own images
  python run.py -m beta=0.001,0.01,0.1                 a sweep: three runs, subtle to strong
  python run.py -m content=FOLDER 'style=art/*.jpg'    every picture with every style; the third with the third:
                                                       zip=content,style beside it
  python run.py experiment=notebook                    a published recipe
  python run.py study=layers_and_weights               a classic figure: a sweep, ready made
  python run.py task=train                             a network for the style, which then paints in one pass
  python run.py task=apply model=FILE content=FOLDER   paint with it: a file, a folder, a GIF or a video
  python run.py resume=FOLDER                          carry on with a run or a sweep
  tensorboard --logdir outputs                         watch and compare the runs

Outputs go to outputs/DATE/TIME_WHAT/, such as 10-00-00_coffee_swirls: result.png, metrics.csv, run.json, status.json,
run.log; a sweep's to outputs/multirun/DATE/TIME_WHAT/, with report.html. python scripts/runs.py lists them.

== Knobs (NAME=VALUE; the value in use stands in brackets) ==
{knobs}

== Groups (GROUP=OPTION, GROUP.ARGUMENT=VALUE; an argument that is not in the YAML with a + in front) ==
{groups}

Options:
$APP_CONFIG_GROUPS
== Samples ==
{samples}

== More ==
  --cfg job                 show the whole configuration and do nothing
  -m, --multirun            run every combination of comma-separated values
  --config-dir FOLDER       options (and Python files) of your own, in folders named like the groups
  hydra.run.dir=FOLDER      where to write; a sweep: hydra.sweep.dir=FOLDER
"""


def register() -> None:
    """Make the schema and the help page known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(
        group="hydra/help", name="nst", node={"app_name": "nst", "header": "", "footer": "", "template": _help()}
    )


def _help() -> str:
    """Return the help page, with an interpolation for each value."""
    about = {knob.name: knob.metadata for knob in fields(Config)}
    grouped = (*GROUPS, "tracking")  # of which there may be several
    knobs = [(k, f"{m['help']} [${{{k}}}] {m['range']}".rstrip()) for k, m in about.items() if k not in grouped]
    groups = [(name, m["help"]) for name, m in about.items() if name in grouped]
    groups.append(("experiment", "a whole recipe, published ones among them; what you type beside it wins"))
    groups.append(("study", "a whole sweep that redraws a classic figure; what you type beside it wins"))
    groups.append(("method", "one of the methods of study=methods, with the weight tuned for it"))
    known = samples()
    kinds = [(kind, ", ".join(n for n in known if known[n]["kind"] == kind)) for kind in ("content", "style")]
    return HELP.format(knobs=_table(knobs), groups=_table(groups), samples=_table(kinds, 9))


def _table(rows: Iterable[tuple[str, str]], width: int = 18) -> str:
    return "\n".join(f"  {name:<{width}} {text}" for name, text in rows)


def problems(config: Mapping[Any, Any]) -> list[str]:
    """Return, for each knob that is none of its choices or outside of its range, what it may be."""
    found = []
    for knob in fields(Config):
        name, value, about = knob.name, config[knob.name], knob.metadata
        if value is None or (name == "size" and value == 0 and config["task"] == "apply"):  # as large as the file
            continue
        if (choices := about["choices"]) and value not in choices:
            found.append(f"{name}={value} is not one of {', '.join(choices)}.{nearest(value, choices)}")
        if about["range"] and not (about["low"] <= value <= about["high"] and value != math.inf):
            or_null = ", or null" if "None" in str(knob.type) else ""
            found.append(f"{name}={value} is out of range: it must be {about['range']}{or_null}.")
    return found


def build(node: Any, **passed: Any) -> Any:
    """Make what a node with ``_target_`` describes; the only place where configuration becomes objects.

    What needs more than that, as an optimiser needs the pixels, comes as a function that takes the rest.

    Raises:
        UserError: the component refuses its arguments.
    """
    import_from_config_folders()
    try:
        if "_partial_" not in node and _is_completed_later(node):
            passed["_partial_"] = True
        return hydra.utils.instantiate(node, **passed, _convert_="all")
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error
        while isinstance(cause, hydra.errors.InstantiationException) and cause.__cause__:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{node.get('_target_')}: {cause}") from error


def _is_completed_later(node: Mapping[str, Any]) -> bool:
    """Tell whether a component needs what exists only once a run has begun, or what the images are."""
    try:
        parameters = inspect.signature(hydra.utils.get_object(str(node["_target_"]))).parameters
    except Exception:  # whatever is wrong with it is found when it is made
        return False
    return any(name in parameters and parameters[name].default is inspect.Parameter.empty for name in LATER)


@dataclass(frozen=True)
class Style:
    """One style of a run."""

    image: str  # a path, or the name of a sample
    weight: float  # how much it counts beside the others
    size: int  # pixels of the side that ``style_fit`` names
    mask: str | None  # a greyscale image of where it goes, or None for everywhere


def styles(config: DictConfig) -> list[Style]:
    """Return the styles of a run, one or several.

    Raises:
        ConfigError: the lists do not go together, or a weight or size is no number above 0.
    """
    images = [str(name) for name in _listed(config.style)]
    problems = [] if images else ["style=[] names no style image."]
    columns: dict[str, list[Any]] = {"style_weights": [1.0], "style_size": [config.size], "style_masks": [None]}
    for knob, default in columns.items():
        given = default if config[knob] is None else _listed(config[knob])
        alike = len(given) == 1 and (config[knob] is None or knob == "style_size")
        if len(given) != len(images) and not alike:
            have, wanted = ("1 entry" if len(c) == 1 else f"{len(c)} entries" for c in (given, images))
            problems.append(f"{knob} has {have} and style {wanted}: each style needs one of its own.")
        columns[knob] = list(given) * len(images) if alike else list(given)
    whats: dict[str, Any] = {"style_weights": float, "style_size": int}
    for knob, what in whats.items():
        for value in columns[knob] if config[knob] is not None else []:
            is_number = isinstance(value, int | what) and not isinstance(value, bool)
            if not is_number or not (math.isfinite(float(value)) and value > 0):
                problems.append(f"{knob}: {value} is no {'whole ' if what is int else ''}number above 0.")
    if problems:
        raise ConfigError(problems)
    masks = [None if mask is None else str(mask) for mask in columns["style_masks"]]
    weights = [float(weight) for weight in columns["style_weights"]]
    return [Style(*one) for one in zip(images, weights, columns["style_size"], masks, strict=True)]


def images_named(config: DictConfig) -> dict[str, str]:
    """Return every image that a run reads, by the knob that names it: ``style`` or, of several, ``style[1]``.

    With ``task=apply`` ``content`` may be a folder or a video instead.
    """
    task, found = tasks.of(config), {"content": str(config.content)}
    if task == "apply":
        return found
    named = {knob: config[knob] for knob in ("style", "style_masks", "content_mask")}
    if tasks.uses(task, "init") and isinstance(config.init, Mapping):
        named["init.path"] = config.init.get("path")
    for knob, given in named.items():
        each = {f"{knob}[{i}]": name for i, name in enumerate(given)} if OmegaConf.is_list(given) else {knob: given}
        found |= {place: str(name) for place, name in each.items() if name is not None}
    return found


def further_images(config: DictConfig) -> dict[str, str]:
    """Return the images beside content, first style and start, by the knob that names them: more styles, masks."""
    first = ("content", "style", "style[0]", "init.path")
    return {knob: name for knob, name in images_named(config).items() if knob not in first}


def between_scales(config: Mapping[str, Any]) -> str:
    """Return what ``schedule.optimizer`` means for a configuration: ``restart`` or ``carry``."""
    asked, optimizer = config["schedule"].get("optimizer", "restart"), config["optimizer"]
    if asked != "auto":
        return str(asked)
    of_pixels = config.get("parameterization", {}).get("_target_", PIXELS) == PIXELS
    return "carry" if of_pixels and optimizer.get("_target_") not in LINE_SEARCH else "restart"


def _listed(value: Any) -> list[Any]:
    return list(value) if OmegaConf.is_list(value) else [value]


_own_folders: list[Path] = []


def use_config_folders(folders: Iterable[Path]) -> None:
    """Take folders for those of ``--config-dir`` in a process that Hydra has not started."""
    _own_folders[:] = folders


def config_folders() -> list[Path]:
    """Return the folders of ``--config-dir``, whose Python files can be imported."""
    if not GlobalHydra.instance().is_initialized():
        return list(_own_folders)
    sources = GlobalHydra.instance().config_loader().get_sources()
    return [Path(source.path) for source in sources if source.provider == "command-line"]


def import_from_config_folders() -> None:
    """Let Python files beside one's own configuration be imported: the folders of ``--config-dir``."""
    sys.path[:0] = [str(folder) for folder in reversed(config_folders()) if str(folder) not in sys.path]
