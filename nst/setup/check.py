"""The check of a whole configuration before anything is loaded: every mistake there is, in one message."""

import glob
import importlib.util
import inspect
import math
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from nst import configuration, runtime, transformers
from nst.configuration import LARGEST_SIZE, LINE_SEARCH, SMALLEST_SIZE, build, images_named, styles, tasks
from nst.engines.tiles import SMALLEST_TILE
from nst.errors import ConfigError, UserError, unknown
from nst.evaluation import evaluator
from nst.evaluation.evaluator import Evaluator
from nst.files import is_folder
from nst.images import decoding, pixels, rgb
from nst.losses import is_guidable, is_summed
from nst.losses.objective import COMBINATIONS
from nst.losses.protocols import MatchingLoss, traits
from nst.networks import backbones, traced
from nst.optimization import schedule
from nst.optimization.parameterization import Fourier, Pixels
from nst.setup.layers import TRACED, inspected_layers, layer_weights

# What the framework itself passes to a component, beside the arguments in the configuration.
PASSED = {
    **{"backbone": ("layers", "pooling"), "init": ("content", "style", "space", "seed"), "optimizer": ("params",)},
    **{"lr_schedule": ("optimizer",), "transformer": ("styles",)},
    **dict.fromkeys(("content_loss", "style_loss", "evaluator", "training", "parameterization"), ()),
}
OF_TRACKER = ("run", "position")  # likewise, to each tracker
SCIPY = LINE_SEARCH[1]
STEPS_TRIED = 1000  # of a schedule of learning rates


def check(config: DictConfig, of_task: Callable[[DictConfig], list[str]] = lambda config: []) -> None:
    """Find every mistake of a job that can be found without loading weights or decoding images, with those of its task.

    Raises:
        ConfigError: all of them, in one message.
    """
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError([f"{name} has no value. Give it one: {name}=VALUE." for name in missing])
    if len(config.pair) != 2:
        raise ConfigError([f"pair={config.pair} must be a content and a style image: pair=[CONTENT,STYLE]."])
    if config.task not in tasks.TASKS:
        raise ConfigError([unknown("task", config.task, tasks.TASKS)])
    problems = tasks.problems(config) + configuration.problems(config) + _check_knobs(config) + _check_images(config)
    made: dict[str, Any] = {}
    for group in PASSED:
        if tasks.uses(config.task, group):
            problems += _check_component(group, config[group], made)
    if tasks.uses(config.task, "tracking"):
        problems += _check_trackers(config.tracking or {})
    if config.task != "apply":
        problems += _check_losses(config, made)
        problems += _check_backbone_and_layers(config, made)
    if config.task == "optimize":
        problems += schedule.problems(config, SMALLEST_SIZE, LARGEST_SIZE)
        if all(isinstance(config[group], Mapping) for group in ("optimizer", "schedule", "lr_schedule")):
            problems += _check_descent(config)
            problems += _check_coefficients(config, made.get("parameterization", Pixels()))
    elif config.task == "train":
        problems += _check_training(config)
    problems += of_task(config)
    if not problems and config.task != "apply":
        problems = _try_lr_schedule(config)
    if not problems and config.task == "optimize":
        problems = _check_scales(config) or _check_shapes(config)
    if problems:
        raise ConfigError(problems)


def _check_knobs(config: DictConfig) -> list[str]:
    """Check top-level knobs that are more than a number in a range or a word among others."""
    found = schedule.problems_of_steps(config.steps)
    if config.style_fit == "content" and config.style_size is not None:
        found.append("style_fit=content gives the style the content's size, so that style_size has no meaning.")
    if config.tile not in ("auto", "none") and not (config.tile.isdecimal() and int(config.tile) >= SMALLEST_TILE):
        found.append(f"tile={config.tile} is neither auto, none nor a number of pixels from {SMALLEST_TILE} up.")
    if config.compile and config.engine == "fused":
        found.append("compile=true goes with engine=plain or auto: the fused engine is not made for torch.compile.")
    problem = runtime.device_problem(config.device)
    if problem or (problem := runtime.precision_problem(config.precision, runtime.choose_device(config.device))):
        found.append(problem)
    try:
        decoding.parse_color(config.background)
    except ValueError:
        found.append(f"background={config.background} is no colour. Use a name such as white, or '#rrggbb' in quotes.")
    return found


def _check_images(config: DictConfig) -> list[str]:
    """Check that the styles go together, and that every image, folder and network named exists."""
    found = []
    try:
        sides = [style.size for style in styles(config)] if tasks.uses(config.task, "style") else []
        for side in sides if config.style_size is not None else []:
            if not SMALLEST_SIZE <= side <= LARGEST_SIZE:
                found.append(f"style_size={side} is out of range: it must be from {SMALLEST_SIZE} to {LARGEST_SIZE}.")
    except ConfigError as error:
        found += error.problems
    for knob, name in images_named(config).items():
        try:
            rgb.locate(name)
        except UserError as error:
            if not (config.task == "apply" and knob == "content" and is_folder(name)):
                found.append(f"{knob}={name}: {error}")
                if knob in ("content", "style") and (is_folder(name) or glob.has_magic(name)):
                    found[-1] += f" One run a picture is a sweep: python run.py -m {shlex.quote(f'{knob}={name}')}"
    if config.photos is not None and tasks.uses(config.task, "photos") and not is_folder(config.photos):
        found.append(f"photos={config.photos}: there is no such folder. Name one that holds photographs.")
    return found


def _check_component(group: str, node: Any, made: dict[str, Any]) -> list[str]:
    """Bind a component's arguments to its signature, and make it if that is cheap; a loss is kept in ``made``."""
    if not isinstance(node, Mapping) or not node.get("_target_"):
        return [f"{group} has no _target_, so nothing can be built. Choose an option: {group}=NAME (see --help)."]
    configuration.import_from_config_folders()
    try:
        target = hydra.utils.get_object(node["_target_"])
    except Exception as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        return [f"{group}._target_={node['_target_']} cannot be imported: {reason}"]
    arguments = {name: value for name, value in node.items() if not str(name).startswith("_")}
    if problem := _bind(group, target, arguments):
        return [problem]
    try:
        if group in ("content_loss", "style_loss", "training", "parameterization"):
            made[group] = build(node)
        elif group == "init" and node.get("path") is None:  # which would read a file
            space = pixels.PixelSpace("unit", pixels.PREPROCESSINGS["none"])
            build(node)(content=torch.zeros(1, 3, 2, 2), style=torch.zeros(1, 3, 2, 2), space=space, seed=0)
        elif group == "optimizer":
            _try_optimizer(node)
        elif target in (transformers.ResidualTransformer, transformers.PyramidTransformer):  # the rest load an encoder
            with torch.device("meta"):
                build(node, styles=1)
        elif target is Evaluator:
            return evaluator.problems(**arguments)
    except ConfigError as error:
        return error.problems
    except UserError as error:
        return [f"{group}: {error}"]
    except Exception as error:
        return [f"{group}: {node['_target_']} refuses its arguments: {str(error) or type(error).__name__}"]
    return []


def _check_trackers(nodes: Any) -> list[str]:
    """Check that each tracker has a name of its own, its arguments, and the package that it needs."""
    if not isinstance(nodes, Mapping) or "_target_" in nodes:
        return ["tracking: the file of a tracker begins with a name for it, and _target_ stands below that, indented."]
    found = []
    for name, node in nodes.items():
        if not (problems := _check_component(f"tracking.{name}", node, {})):
            needs = getattr(hydra.utils.get_object(node["_target_"]), "needs", None)
            if needs and importlib.util.find_spec(needs) is None:
                problems = [f"tracking={name} needs the package {needs}: pip install -e '.[{needs}]'."]
        found += problems
    return found


def _bind(group: str, target: Any, arguments: dict[str, Any]) -> str | None:
    """Return which argument a component does not take, needs, or wants to be a number; None if all is well."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # a built-in without a signature: its own message comes when it is made
        return None
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if group == "backbone" and not takes_any and (lacking := [n for n in PASSED[group] if n not in parameters]):
        return (
            f"backbone: {target.__qualname__} takes no argument {lacking[0]}. A network is made with the names of the "
            "layers that are wanted, and with pooling=max or avg: def __init__(self, layers, pooling)."
        )
    named = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = [name for name in named if name not in (*PASSED.get(group, OF_TRACKER), "self")]
    strange = [name for name in arguments if name not in names]
    if strange and not takes_any:
        what = unknown(f"argument of {target.__qualname__}", strange[0], names)
        return f"{group}: {what} ~{group}.{strange[0]} on the command line leaves it out."
    needed = [name for name in names if parameters[name].default is inspect.Parameter.empty and name not in arguments]
    if needed:
        return f"{group}: {target.__qualname__} needs the argument {needed[0]}: {group}.{needed[0]}=VALUE."
    for name, value in arguments.items() if group != "backbone" else ():  # which has its own words for that
        default = parameters[name].default if name in parameters else None
        is_number = isinstance(default, int | float) and not isinstance(default, bool)
        if is_number and isinstance(value, str) and "str" not in str(parameters[name].annotation):
            return f"{group}.{name}={value}: a number is needed, such as {default:g}."
    return None


def _try_optimizer(node: Any) -> None:
    """Make the optimiser for a single number and take one step with it."""
    made = build(node)
    if not callable(made):
        return
    if node["_target_"] == "torch.optim.LBFGS" and "max_iter" in node:
        raise ValueError("max_iter has no meaning here, since one step is one iteration; steps says how many there are")
    number = torch.ones(1, requires_grad=True)
    optimizer = made([number])

    @torch.enable_grad()
    def closure() -> float:
        optimizer.zero_grad()
        loss = number.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    if number.grad is None:
        raise ValueError(
            "its step(closure) never calls closure, which computes the loss and its gradient. Begin step with "
            "loss = closure(), and return loss."
        )


def _check_losses(config: DictConfig, made: Mapping[str, Any]) -> list[str]:
    """Check that the losses can be tiled, or confined to a region, where that is asked for."""
    found = []
    is_tiled = config.task == "optimize" and config.tile not in ("auto", "none")
    for group in ("content_loss", "style_loss"):
        if is_tiled and group in made and not is_summed(made[group]):
            what = f"{group}: {type(made[group]).__name__}"
            found.append(f"{what} is no function of sums over positions, so that it cannot be tiled: tile=none.")
        if not isinstance(made.get(group), MatchingLoss):
            continue
        name = type(made[group]).__name__
        if config.task != "optimize" or group == "content_loss":
            found.append(f"{group}: {name} looks for neighbours of one picture: it is a style loss of task=optimize.")
        elif config.jitter:
            found.append(f"jitter={config.jitter} would move the picture away from the neighbours of {name}: jitter=0.")
    if config.style_masks is None and config.content_mask is None:
        return found
    if config.tile not in ("auto", "none"):
        found.append(f"tile={config.tile} does not go with masks, whose regions are no sums over tiles. Use tile=none.")
    elif config.style_masks is not None and "style_loss" in made and not is_guidable(made["style_loss"]):
        found.append(
            f"style_masks: {type(made['style_loss']).__name__} cannot be confined to a region. These can: "
            "style_loss=gram, moments, gaussian_wasserstein, mmd_linear and mmd_polynomial, and sums of these."
        )
    return found


def _check_backbone_and_layers(config: DictConfig, made: Mapping[str, Any]) -> list[str]:
    """Check weights, preprocessing and layer names without loading the network."""
    found = []
    backbone = config.backbone
    if isinstance(backbone, Mapping) and backbone.get("_target_") == "nst.networks.backbones.load":
        checked = ("preprocessing", "avg_scale", "seed", "padding", "padding_layers", "rescale")
        arguments = {key: backbone[key] for key in checked if key in backbone}
        found += backbones.problems(str(backbone.get("architecture")), str(backbone.get("weights")), **arguments)
    if not isinstance(config.layers, Mapping):
        return [*found, "layers must hold content and style, each a list of layers. Choose layers=NAME (see --help)."]
    if isinstance(backbone, Mapping) and backbone.get("_target_") == TRACED and (problems := _check_traced(config)):
        return problems
    if strange := [key for key in config.layers if key not in ("content", "style", "combine")]:
        found.append(unknown("setting of layers", strange[0], ("content", "style", "combine")))
    if config.layers.get("combine", "mean") not in COMBINATIONS:
        found.append(f"layers.combine={config.layers.get('combine')} is not one of {', '.join(COMBINATIONS)}.")
    listed = {"content": 2, "style": 2}
    for kind in listed:
        try:
            listed[kind] = len(layer_weights(config, kind))
        except ConfigError as error:
            found += error.problems
    try:
        inspected_layers(config)
    except ConfigError as error:
        found += error.problems
    if listed["style"] < 2 and traits(made.get("style_loss")).couples_layers:
        found.append(
            "style_loss.cross_layers=adjacent needs two style layers or more: each is taken with the next one."
        )
    for kind in listed:
        found += _check_joined(config, kind, made.get(f"{kind}_loss"))
    if not any(listed.values()):
        found.append("layers.content and layers.style are both empty, so the network has nothing to say.")
    elif not (config.tv or (config.alpha and listed["content"]) or (config.beta and listed["style"])):
        found.append("Every term that has layers has the weight 0, so nothing would change. Raise alpha, beta or tv.")
    return found


def _check_traced(config: DictConfig) -> list[str]:
    """Check the arguments of a network of torchvision that is cut by the names of its nodes, and that layers are named.

    They have no default, since each network has names of its own.
    """
    architecture, weights = str(config.backbone.get("architecture")), str(config.backbone.get("weights"))
    checked = ("preprocessing", "avg_scale", "seed")
    arguments = {key: config.backbone[key] for key in checked if key in config.backbone}
    try:
        if found := traced.problems(architecture, weights, **arguments):
            return found
        some = traced.some_layers(architecture)
        layers = [name for kind in ("content", "style") for name in layer_weights(config, kind)]
    except ConfigError:  # of layers, which are told by themselves
        return []
    except UserError as error:
        return [str(error)]
    if not layers:
        return [f"layers: name them, since {architecture} has none by default: 'layers.style=[NAME,NAME]'. {some}"]
    return traced.problems(architecture, weights, **arguments, pooling=config.pooling, layers=layers)


def _check_joined(config: DictConfig, kind: str, loss: Any) -> list[str]:
    """Check the layers of a loss that may join them."""
    try:
        weights = layer_weights(config, kind)
        if traits(loss).joins_layers and weights:
            loss.for_layers(weights)
    except ConfigError:
        pass  # told with the layers
    except ValueError as error:
        return [f"{kind}_loss: {error}."]
    return []


def _check_scales(config: DictConfig) -> list[str]:
    """Check what changes scale by scale as the rest is checked, with each scale's numbers."""
    found: dict[str, None] = {}
    for number in range(len(schedule.scales(config))) if config.schedule.get("factors") else ():
        one = schedule.at(config, number)
        problems = configuration.problems(one) + _check_knobs(one) + _check_descent(one)
        for group in ("content_loss", "style_loss", "optimizer", "parameterization"):
            problems += _check_component(group, one[group], {})
        found |= dict.fromkeys(f"At scale {number + 1}, by schedule.factors: {problem}" for problem in problems)
    return list(found)


def _check_shapes(config: DictConfig) -> list[str]:
    """Check that something is left of each image, at the smallest scale, at the deepest layer that is looked at."""
    architecture = config.backbone.get("architecture")
    if architecture not in backbones.ARCHITECTURES:
        return []
    smallest = schedule.at(config, 0)
    sizes = {"content": (config.content, smallest.size, config.fit)}
    for one in styles(smallest) if config.style_fit != "content" else ():
        sizes["style"] = (one.image, one.size, config.style_fit or config.fit)
    found = []
    for kind, (name, size, fit) in sizes.items():
        shape = decoding.upright_size(rgb.locate(name))
        seen = ("style",) if kind == "style" else ("content", "style")  # the picture, which all layers see
        layers = tuple(dict.fromkeys(layer for one in seen for layer in layer_weights(config, one)))
        if shape is None or not layers:
            continue  # what cannot be read is told when it is
        try:
            width, height = rgb.fitted(*shape, size, fit, Path(name))
        except UserError as error:
            found.append(str(error))
            continue
        framed = [side + 2 * min(config.margin, side - 1) for side in (height, width)]
        if not backbones.fits(architecture, layers, *framed):
            found.append(
                f"{kind}={name} becomes {width} x {height} pixels, too small for the layers {', '.join(layers)}. "
                "Raise size, or choose shallower layers."
            )
    return found


def _check_descent(config: DictConfig) -> list[str]:
    """Check what is to be done at every step: combinations that mean nothing."""
    target, clamp = config.optimizer.get("_target_"), config.clamp
    is_scipy, has_line_search = target == SCIPY, target in LINE_SEARCH
    limits, until = config.clamp_range, config.clamp_until
    found = []
    if config.jitter and has_line_search:
        found.append(
            f"jitter={config.jitter} changes the loss at every step, which L-BFGS cannot bear. Use jitter=0, or "
            "optimizer=adam."
        )
    if config.average == 1:
        found.append("average=1 would never leave the start; a decay below 1 is needed, such as 0.99.")
    if is_scipy and config.average:
        found.append("average goes with an optimiser of torch: SciPy's has no use for it. Use average=0.")
    if is_scipy and config.lr_schedule.get("_target_") != schedule.UNCHANGED:
        found.append("lr_schedule: SciPy's L-BFGS-B has no learning rate. Use lr_schedule=none.")
    if has_line_search and config.clip_gradient:
        found.append(
            "clip_gradient: L-BFGS learns the shape of the loss from its gradients, which must be whole. Use "
            "clip_gradient=0, or optimizer=adam."
        )
    if has_line_search and schedule.carries(config):
        found.append(
            "schedule.optimizer=carry: what L-BFGS remembers, steps and changes of the gradient, means nothing at "
            "another size. Use schedule.optimizer=restart."
        )
    if is_scipy and clamp == "evaluation":
        found.append("clamp=evaluation would change pixels behind SciPy's back. Use clamp=step or clamp=block.")
    if not is_scipy and clamp == "block":
        found.append("clamp=block goes with optimizer=lbfgsb, which works in blocks. Use clamp=step.")
    if limits is not None and not (len(limits) == 2 and all(map(math.isfinite, limits)) and limits[0] < limits[1]):
        found.append(f"clamp_range={limits} must be [low,high] with low below high, or null.")
    if limits is not None and clamp == "never":
        found.append("clamp_range says what to clamp to, but clamp=never. Use clamp=step, or clamp_range=null.")
    if until is not None and (clamp not in ("step", "evaluation") or is_scipy):
        text = "clamp_until goes with clamp=step or clamp=evaluation and an optimiser of torch. Use clamp_until=null."
        found.append(text)
    return found


def _check_coefficients(config: DictConfig, made: Any) -> list[str]:
    """Check what goes with coefficients that are not the pixels."""
    found: list[str] = []
    if isinstance(made, Pixels):
        return found
    name = type(made).__name__
    if config.optimizer.get("_target_") == SCIPY and config.clamp == "step":
        found.append(f"clamp=step bounds pixels, and {name} has other coefficients. Use clamp=end or clamp=block.")
    if schedule.carries(config):
        found.append(
            f"schedule.optimizer=carry: what is remembered of the coefficients of {name} means nothing at another "
            "size. Use schedule.optimizer=restart."
        )
    if isinstance(made, Fourier) and config.pixel_space == "network":
        found.append("parameterization=fourier takes colours apart, which must be RGB: use pixel_space=unit.")
    return found


def _check_training(config: DictConfig) -> list[str]:
    """Check what is to be done at every step of a training."""
    found = []
    if isinstance(config.optimizer, Mapping) and config.optimizer.get("_target_") in LINE_SEARCH:
        found.append(
            "optimizer: L-BFGS needs one and the same loss at every step, and each batch has another. Use "
            "optimizer=weights, which is Adam."
        )
    if schedule.problems(config, SMALLEST_SIZE, LARGEST_SIZE) or len(schedule.scales(config)) > 1:
        found.append("schedule: a network is trained at one size, that of training.crop. Use schedule=single.")
    if not isinstance(config.steps, int):
        found.append(f"steps={config.steps}: a network is trained at one scale, so that one number is needed.")
    if config.tile not in ("auto", "none"):
        found.append(f"tile={config.tile} does not go with task=train: lower training.crop or training.batch instead.")
    return found


def _try_lr_schedule(config: DictConfig) -> list[str]:
    """Make the scheduler for the optimiser of a single number and go through its steps, or many of them."""
    if config.lr_schedule._target_ == schedule.UNCHANGED or config.optimizer.get("_target_") == SCIPY:
        return []
    number = torch.ones(1, requires_grad=True)
    number.grad = torch.zeros(1)
    steps = config.steps
    if config.task == "optimize":
        each = [scale.steps for scale in schedule.scales(config)]
        steps = schedule.total_steps(config) if schedule.carries(config) else max(each)
    try:
        optimizer = build(config.optimizer)([number])
        rates = build(schedule.with_length(config.lr_schedule, steps))(optimizer)
        optimizer.step(lambda: torch.zeros(()))
        for _ in range(min(steps, STEPS_TRIED)):
            rates.step()
            if not math.isfinite(rates.get_last_lr()[0]):
                raise ValueError("the learning rate becomes infinite")
    except Exception as error:
        reason = error if isinstance(error, UserError) else str(error) or type(error).__name__
        return [f"lr_schedule: {config.lr_schedule._target_} cannot be used: {reason}"]
    return []
