"""What ``scripts/benchmark.py`` times: contestants that make one step each, and the least that a step can cost.

A step is the losses of a picture, their gradient, and an update of the pixels by the recipe's optimiser.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
import torchvision
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from nst import configuration, engines, runtime
from nst.engines import graphs
from nst.errors import UserError
from nst.images import rgb
from nst.images.pixels import PixelSpace, with_margin
from nst.losses import TotalVariation
from nst.losses.objective import LayerTerm, Objective
from nst.networks import backbones
from nst.networks.backbones import Backbone
from nst.samples import samples
from nst.setup.layers import layer_weights

CONF = Path(__file__).resolve().parent.parent / "conf"
NOTEBOOK_LAYERS = (0, 5, 10, 19, 28)
KINDS = ("content", "style")
Loss = Callable[[Tensor], Tensor]  # pixels (B, 3, H, W) to their total losses (B,)


@dataclass(frozen=True)
class Case:
    """What is computed, whoever does it.

    Attributes:
        backbone: an option of ``conf/backbone``.
        recipe: ``notebook`` (its five layers and raw losses) or ``default`` (the backbone's layers, relative losses; as
            ``experiment=sketch``: one scale, Adam).
        size: pixels of both sides.
        batch: pictures at once, each with a content and a style image of its own.
        depth: the recipe's so many shallowest layers, or None for all.
    """

    backbone: str
    recipe: str
    size: int
    batch: int = 1
    depth: int | None = None


@dataclass
class Part:
    """Pixels that descend together: ``(B, 3, H, W)``, or one picture of several."""

    pixels: Tensor
    start: Tensor
    loss: Loss
    optimizer: torch.optim.Optimizer


class Contestant:
    """One way to compute a case.

    Args:
        name: ``notebook``, or ``engine/precision``.
        parts: what a step goes through, one after the other.
        bounds: of the pixels, ``(1, 3, 1, 1)`` each, if the recipe clamps them at each step.
    """

    def __init__(self, name: str, parts: list[Part], bounds: tuple[Tensor, Tensor] | None) -> None:
        self.name, self.parts, self.bounds = name, parts, bounds
        self.precision = precision_of(name)

    def step(self) -> None:
        """Make one step."""
        for part in self.parts:
            part.optimizer.zero_grad()
            part.loss(part.pixels).sum().backward()
            part.optimizer.step()
            if self.bounds is not None:
                with torch.no_grad():
                    part.pixels.clamp_(*self.bounds)

    def picture(self) -> Tensor:
        """Return the pixels as they stand, ``(B, 3, H, W)``."""
        return torch.cat([part.pixels.detach() for part in self.parts])

    @torch.no_grad()
    def losses(self, picture: Tensor) -> Tensor:
        """Return the total losses ``(B,)`` of a picture ``(B, 3, H, W)``."""
        pieces = picture.split([part.pixels.shape[0] for part in self.parts])
        return torch.cat([part.loss(piece) for part, piece in zip(self.parts, pieces, strict=True)])

    @torch.no_grad()
    def restart(self) -> None:
        """Go back to the start."""
        for part in self.parts:
            part.pixels.copy_(part.start)
            part.optimizer.state.clear()


def precision_of(name: str) -> str:
    """Return a contestant's precision; the notebook's is float32."""
    return name.partition("/")[2] or "float32"


def prepare(device: str) -> torch.device:
    """Set the device up as a run does, without the warnings about it, which would interrupt the tables."""
    warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
    return runtime.prepare(device, "float32")


def contestants(case: Case, names: Sequence[str], precisions: Sequence[str]) -> list[str]:
    """Return who can compute a case, of ``notebook`` and the engines; the notebook knows its own recipe only."""
    knows = case.recipe == "notebook" and case.backbone == "vgg19" and case.depth is None
    first = ["notebook"] if "notebook" in names and knows else []
    return first + [f"{name}/{precision}" for name in names if name != "notebook" for precision in precisions]


def settings(case: Case) -> DictConfig:
    """Return the case's recipe, as a run would be configured; VGG with random weights, whose values change no time."""
    configuration.register()
    chosen = ["experiment=notebook" if case.recipe == "notebook" else "experiment=sketch"]
    chosen.append(f"backbone={case.backbone}")
    if case.backbone != "squeezenet":
        chosen.append("backbone.weights=random")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", [*chosen, f"size={case.size}"])


def layers(case: Case, recipe: DictConfig) -> dict[str, dict[str, float]]:
    """Return ``{layer: weight}`` of the content and of the style term."""
    weights = {kind: layer_weights(recipe, kind) for kind in KINDS}
    depths = {
        layer: backbones.resolve(layer, recipe.backbone.architecture).index for kind in KINDS for layer in weights[kind]
    }
    kept = sorted(depths, key=lambda layer: depths[layer])[: case.depth]
    return {kind: {layer: weight for layer, weight in weights[kind].items() if layer in kept} for kind in KINDS}


def network(recipe: DictConfig, weights: Mapping[str, Mapping[str, float]]) -> Backbone:
    """Return the backbone, cut after the deepest layer."""
    wanted = list(dict.fromkeys(layer for kind in KINDS for layer in weights[kind]))
    built: Backbone = configuration.build(recipe.backbone, layers=wanted, pooling=recipe.pooling)
    return built


def pictures(case: Case, kind: str) -> Tensor:
    """Return the bundled samples of a kind, in turn, squeezed to a square: ``(B, 3, size, size)`` RGB in [0, 1]."""
    names = [name for name, about in samples().items() if about["kind"] == kind]
    return torch.cat([rgb.load(names[i % len(names)], case.size, "square") for i in range(case.batch)])


def build(case: Case, name: str, device: torch.device) -> Contestant:
    """Return a contestant with a network of its own, its targets taken, at the start: the content image."""
    recipe = settings(case)
    weights = layers(case, recipe)
    backbone = network(recipe, weights).to(device)
    space = PixelSpace(recipe.pixel_space, backbone.preprocessing)
    content, style = (space.encode(pictures(case, kind).to(device)) for kind in KINDS)
    make_optimizer = configuration.build(recipe.optimizer)

    def part(start: Tensor, loss: Loss) -> Part:
        pixels = start.clone().requires_grad_(True)
        return Part(pixels, start, loss, make_optimizer([pixels]))

    if name == "notebook":
        with torch.device("meta"):
            features = torchvision.models.vgg19(weights=None).features[:29]
        features = features.to_empty(device=device).eval()
        features.load_state_dict(backbone.stack.state_dict())
        pairs = zip(content.split(1), style.split(1), strict=True)
        return Contestant(name, [part(c, notebook_loss(features, c, s)) for c, s in pairs], None)
    with allowing(precision_of(name)):
        loss = engine_loss(recipe, weights, backbone, name, content, style)
    bounds = space.bounds(content) if recipe.clamp == "step" else None
    return Contestant(name, [part(content, loss)], bounds)


def notebook_loss(features: nn.Module, content: Tensor, style: Tensor) -> Loss:
    """Return the founding notebook's loss as written: it forwards all three images, ``(1, 3, H, W)`` each, every time.

    The parameters of its network are not frozen, so that every step computes their gradients too.
    """

    def maps_of(image: Tensor) -> list[Tensor]:
        maps = []
        for place, layer in enumerate(features.children()):
            image = layer(image)
            if place in NOTEBOOK_LAYERS:
                maps.append(image)
        return maps

    def loss(generated: Tensor) -> Tensor:
        content_loss = style_loss = torch.zeros((), device=content.device)
        for new, old, target in zip(maps_of(generated), maps_of(content), maps_of(style), strict=True):
            _, channels, height, width = new.shape
            content_loss = content_loss + torch.mean((new - old) ** 2)
            gram = new.view(channels, height * width).mm(new.view(channels, height * width).t())
            wanted = target.view(channels, height * width).mm(target.view(channels, height * width).t())
            style_loss = style_loss + torch.mean((gram - wanted) ** 2)
        return (content_loss + 0.01 * style_loss)[None]

    return loss


def engine_loss(
    recipe: DictConfig,
    weights: Mapping[str, Mapping[str, float]],
    backbone: Backbone,
    name: str,
    content: Tensor,
    style: Tensor,
) -> Loss:
    """Return the loss of a run with an engine, ``engine/precision``, whose targets are taken here; without jitter.

    Beside the engines' own names there are ``compiled``, the plain engine with its network under torch.compile, and
    ``graph``, the fused engine recorded as a CUDA graph.

    Raises:
        UserError: it cannot be recorded.
    """
    way, _, precision = name.partition("/")
    engine_name = {"compiled": "plain", "graph": "fused"}.get(way, way)
    dtype = runtime.network_dtype(precision, content.device)
    engine = engines.make(engine_name, backbone, dtype, compiled=way == "compiled")
    space = PixelSpace(recipe.pixel_space, backbone.preprocessing)
    combine = recipe.layers.get("combine", "mean")
    content_term, style_term = (
        LayerTerm(kind, configuration.build(recipe[f"{kind}_loss"]), weights[kind], combine) for kind in KINDS
    )

    def seen(pixels: Tensor) -> Tensor:
        return space.to_network(with_margin(pixels, recipe.margin))

    requests: dict[str, engines.LossRequest] = {}
    with torch.no_grad():
        for term, image in ((content_term, content), (style_term, style)):
            requests |= term.loss_requests(engine.targets(seen(image), term.target_requests()))
    variation = TotalVariation(recipe.tv_kind, recipe.tv_reduction)
    objective = Objective(content_term, style_term, variation, recipe.alpha, recipe.beta, recipe.tv)

    def loss(pixels: Tensor) -> Tensor:
        return objective(engine.values(seen(pixels), requests), pixels).total

    if way != "graph":
        return loss
    recorded = graphs.record(lambda pixels: (loss(pixels),), (content.clone().requires_grad_(True),))
    if recorded is None:
        raise UserError(f"{name} with {recipe.backbone.architecture} cannot be recorded as a CUDA graph.")
    return lambda pixels: recorded(pixels)[0]


@contextlib.contextmanager
def allowing(precision: str) -> Iterator[None]:
    """Let float32 products be computed in TF32 within the block if the precision is ``tf32``, and not otherwise."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def seconds_of(work: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Return the seconds that work takes, the mean of so many times in a row; the device is waited for at both ends."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronize(device)
    return (time.perf_counter() - began) / times


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def interleave(field: Sequence[Contestant], rounds: int, steps: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds a step of each contestant in each round; who begins a round changes from round to round."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in field}
    for turn in range(rounds):
        first = turn % len(field)
        for contestant in (*field[first:], *field[:first]):
            with allowing(contestant.precision):
                seconds[contestant.name].append(seconds_of(contestant.step, device, steps))
    return seconds


def median_ratios(seconds: Mapping[str, Sequence[float]], reference: str) -> dict[str, float]:
    """Return the median over the rounds of each contestant's seconds over the reference's in the same round."""
    return {
        name: statistics.median(a / b for a, b in zip(own, seconds[reference], strict=True))
        for name, own in seconds.items()
    }


def race(
    field: Sequence[Contestant], judge: Contestant, fraction: float, limit: int, device: torch.device
) -> dict[str, tuple[int, float] | None]:
    """Let all descend from the start, a step each in turn, until the loss has fallen to a fraction of the start's.

    Args:
        field: the contestants.
        judge: whose losses count; they are computed after each step, outside the clock.
        fraction: of the sum of the pictures' losses at the start.
        limit: of the steps.
        device: of all of them.

    Returns:
        By name, steps and seconds; None if the limit came first.
    """

    def loss_of(picture: Tensor) -> float:
        with allowing("float32"):
            return float(judge.losses(picture).sum())

    found: dict[str, tuple[int, float] | None] = dict.fromkeys(contestant.name for contestant in field)
    spent = dict.fromkeys(found, 0.0)
    for contestant in field:
        contestant.restart()
    goal = fraction * loss_of(field[0].picture())
    for step in range(1, limit + 1):
        for contestant in field:
            if found[contestant.name] is None:
                with allowing(contestant.precision):
                    spent[contestant.name] += seconds_of(contestant.step, device)
                if loss_of(contestant.picture()) <= goal:
                    found[contestant.name] = step, spent[contestant.name]
        if None not in found.values():
            break
    return found


def warmed_up(case: Case, name: str, device: torch.device, steps: int) -> tuple[Contestant, int | None]:
    """Build a contestant and make steps that do not count; on CUDA also return the peak of its own memory in bytes."""
    before = 0
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
    contestant = build(case, name, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with allowing(contestant.precision):
        seconds_of(contestant.step, device, steps)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None
    return contestant, peak


def peak_alone(case: Case, name: str, steps: int) -> int | None:
    """Return the bytes by which a new process on the CPU grows, at its most, as it builds a contestant and steps."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_grown, case, name, steps, torch.get_num_threads()).result()


def _grown(case: Case, name: str, steps: int, threads: int) -> int | None:
    torch.set_num_threads(threads)
    device = prepare("cpu")
    before = runtime.peak_memory_bytes(device)
    contestant = build(case, name, device)
    runtime.keep_freed_memory()
    runtime.prepare("cpu", "float32")  # the peak begins anew, without what loading the network needed
    for _ in range(steps):
        contestant.step()
    after = runtime.peak_memory_bytes(device)
    return None if before is None or after is None else after - before


def step_flops(case: Case) -> int:
    """Return the floating-point operations of a step's convolutions: forward, and back to the data, as many again."""
    recipe = settings(case)
    side = case.size + 2 * min(recipe.margin, case.size - 1)
    return 2 * convolution_flops(network(recipe, layers(case, recipe)), (case.batch, 3, side, side))


def convolution_flops(modules: nn.Module, shape: tuple[int, ...]) -> int:
    """Return what a network's convolutions cost forward: 2 C_in C_out k k h w each, without computing them."""
    counted = 0

    def count(module: nn.Conv2d, _: object, result: Tensor) -> None:
        nonlocal counted
        counted += 2 * result.numel() * module.weight[0].numel()

    shapes_only = copy.deepcopy(modules).to("meta")
    for module in shapes_only.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        shapes_only(torch.empty(shape, device="meta"))
    return counted


def product_rate(precision: str, device: torch.device, repeats: int = 5) -> float:
    """Return the operations a second of a product of two large square matrices, the median of several.

    On a CPU float32 is multiplied by torch's own product and by oneDNN's, which also convolves, and the faster one
    counts: on AMD's processors the former can be less than half as fast.
    """
    side = 2048 if device.type == "cpu" else 8192
    dtype = runtime.network_dtype(precision, device)
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    products: list[Callable[[], Tensor]] = [lambda: left @ right]
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        rows = left.to_mkldnn()
        products.append(lambda: torch._C._nn.mkldnn_linear(rows, right, None))
    seconds = []
    with allowing(precision):
        for product in products:
            seconds_of(product, device)
            seconds.append(statistics.median(seconds_of(product, device) for _ in range(repeats)))
    return 2 * side**3 / min(seconds)


def roofline_seconds(flops: int, rate: float) -> float:
    """Return the seconds of a step if its convolutions ran as fast as the matrix product, and nothing else ran."""
    return flops / rate
