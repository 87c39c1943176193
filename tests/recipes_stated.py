"""Published recipes, each stated a second time, plainly and in float64, from its row in the list of recipes.

Nothing here knows of ``nst``: networks are written out by convolutions, losses by matrix products, optimisers by
torch's and SciPy's own or by hand. Only the weights, the pictures and the numbers drawn at random are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor
from torch.nn import functional as F

Maps = dict[str, Tensor]
State = dict[str, Tensor]
Terms = tuple[Tensor, Tensor, Tensor]
Loss = Callable[[Tensor], Tensor]

FIVE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
STEPS = 3


@dataclass
class Given:
    """What a recipe is tried on.

    Attributes:
        vgg16, vgg19, squeezenet: random weights, by torchvision's keys.
        content, style: picture files.
        photographs: files, over which activations are rescaled.
        photograph_size: the long side at which that is done.
        drawn: returns the numbers that a loss draws at a step: for a layer of so many channels and positions, a number
            of places among so many, or for layers that are looked at with such strides.
    """

    vgg16: State
    vgg19: State
    squeezenet: State
    content: Path
    style: Path
    photographs: list[Path]
    photograph_size: int
    drawn: Callable[..., Any]


@dataclass
class Recipe:
    """A recipe at work.

    Attributes:
        encode: RGB in [0, 1] to the pixels that are optimised.
        content: the content image in [0, 1], at its size.
        style: the style image likewise.
        terms: content, style and total variation of a picture, each with its weight; the step counts where it draws.
        descend: the picture after ``STEPS`` steps from a start.
        start: the recipe's own start, for a seed, or None where that is the content image.
    """

    encode: Callable[[Tensor], Tensor]
    content: Tensor
    style: Tensor
    terms: Callable[..., Terms]
    descend: Callable[[Tensor, Callable[..., Tensor]], Tensor]
    start: Callable[[], Tensor] | None = None

    def total(self, pixels: Tensor, step: int = 0) -> Tensor:
        return torch.stack(self.terms(pixels, step)).sum()


# --- pictures -------------------------------------------------------------------------------------------------------


def picture(path: Path, width: int, height: int, resample: str) -> Tensor:
    with Image.open(path) as image:
        resized = image.convert("RGB")
        return unit(resized if image.size == (width, height) else resized.resize((width, height), FILTERS[resample]))


def unit(image: Image.Image) -> Tensor:
    """RGB in [0, 1], to the digits of float32, in which pictures are read."""
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255).double()


def shape(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def sized(path: Path, **side: int) -> tuple[int, int]:
    """Width and height when a side (long, short or height) gets so many pixels."""
    width, height = shape(path)
    ((kind, pixels),) = side.items()
    old = {"long": max(width, height), "short": min(width, height), "height": height}[kind]
    return round(width * pixels / old), round(height * pixels / old)


def per_channel(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)


def bgr(image: Tensor, white: float = 255.0) -> Tensor:
    """What the original VGG release expects: blue first, bytes less their mean."""
    return image[:, [2, 1, 0]] * white - per_channel(103.939, 116.779, 123.68)


def normalised(image: Tensor) -> Tensor:
    return (image - per_channel(0.485, 0.456, 0.406)) / per_channel(0.229, 0.224, 0.225)


def red_first(image: Tensor) -> Tensor:
    return image * 255 - per_channel(123.675, 116.28, 103.53)


def as_it_is(image: Tensor) -> Tensor:
    return image


# --- networks -------------------------------------------------------------------------------------------------------


def vgg(
    state: State, depth: int, x: Tensor, pool: str = "max", first: str = "constant", rest: str = "constant"
) -> Maps:
    """All maps that weights and size reach, with zeros ("constant"), "replicate" or "reflect" around maps."""
    maps = {}
    place = 0
    for block, count in enumerate(BLOCKS[depth], 1):
        for layer in range(1, count + 1):
            if f"features.{place}.weight" not in state:
                return maps
            framed = F.pad(x, (1, 1, 1, 1), mode=rest if place else first)
            x = F.conv2d(framed, state[f"features.{place}.weight"], state[f"features.{place}.bias"])
            maps[f"conv{block}_{layer}"] = x
            x = maps[f"relu{block}_{layer}"] = F.relu(x)
            place += 2
        if min(x.shape[2:]) == 1:
            return maps
        x = maps[f"pool{block}"] = F.max_pool2d(x, 2) if pool == "max" else F.avg_pool2d(x, 2)
        place += 1
    return maps


def squeezenet(state: State, x: Tensor) -> list[Tensor]:
    """Maps of torchvision's modules 0 to 7."""

    def fire(x: Tensor, place: int) -> Tensor:
        def conv(x: Tensor, name: str, padding: int) -> Tensor:
            weight, bias = (state[f"features.{place}.{name}.{kind}"] for kind in ("weight", "bias"))
            return F.relu(F.conv2d(x, weight, bias, padding=padding))

        x = conv(x, "squeeze", 0)
        return torch.cat([conv(x, "expand1x1", 0), conv(x, "expand3x3", 1)], 1)

    maps = [F.conv2d(x, state["features.0.weight"], state["features.0.bias"], stride=2)]
    maps.append(F.relu(maps[-1]))
    for place in range(2, 8):
        is_pool = place in (2, 5)
        maps.append(F.max_pool2d(maps[-1], 3, 2, ceil_mode=True) if is_pool else fire(maps[-1], place))
    return maps


def rescaled(given: Given, deepest: int, padding: str = "constant") -> State:
    """VGG-19's weights, as far as a place, with the mean of each filter's activation over the photographs at 1.

    A map that is larger by a factor is made up for where it is taken: the network computes what it did.
    """
    state = {key: value.clone() for key, value in given.vgg19.items() if int(key.split(".")[1]) <= deepest}
    photographs = [bgr(picture_of(path, given.photograph_size)) for path in given.photographs]
    found = [vgg(state, 19, image, "avg", padding, padding) for image in photographs]
    names = [name for name in found[0] if name.startswith("relu")]
    places = sorted({int(key.split(".")[1]) for key in state})
    before = torch.ones(3, dtype=torch.float64)
    for name, place in zip(names, places, strict=True):
        mean = torch.cat([maps[name].flatten(2) for maps in found], 2).mean((0, 2))
        factor = torch.where(mean > 0, 1 / mean, torch.ones_like(mean))
        state[f"features.{place}.weight"] *= factor.view(-1, 1, 1, 1) / before.view(1, -1, 1, 1)
        state[f"features.{place}.bias"] *= factor
        before = factor
    return {key: value.float().double() for key, value in state.items()}  # weights are kept in float32


def picture_of(path: Path, size: int) -> Tensor:
    with Image.open(path) as image:
        return unit(image.convert("RGB").resize(sized(path, long=size), Image.Resampling.LANCZOS))


# --- losses ---------------------------------------------------------------------------------------------------------


def rows(maps: Tensor) -> Tensor:
    """C x N."""
    return maps[0].flatten(1)


def gram(maps: Tensor) -> Tensor:
    return rows(maps) @ rows(maps).T


def gram_n(maps: Tensor) -> Tensor:
    return gram(maps) / rows(maps).shape[1]


def gram_cn(maps: Tensor) -> Tensor:
    return gram(maps) / maps.numel()


def mse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).mean()


def sse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum()


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]


def squares(x: Tensor) -> Tensor:
    return sum((d**2).sum() for d in differences(x))  # type: ignore[return-value]


def absolutes(x: Tensor) -> Tensor:
    return sum(d.abs().sum() for d in differences(x))  # type: ignore[return-value]


def added(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


NONE = torch.zeros((), dtype=torch.float64)


# --- optimisers -----------------------------------------------------------------------------------------------------


def gradient(loss: Callable[..., Tensor], x: Tensor, *step: int) -> Tensor:
    x = x.detach().requires_grad_(True)
    (found,) = torch.autograd.grad(loss(x, *step), x)
    return found


def lbfgs(x: Tensor, loss: Callable[..., Tensor], search: str | None = None, box: bool = False) -> Tensor:
    """All iterations in one call of torch's L-BFGS."""
    x = x.clone().requires_grad_(True)
    settings: dict[str, Any] = {"tolerance_grad": 0.0, "tolerance_change": 0.0, "line_search_fn": search}
    optimizer = torch.optim.LBFGS([x], max_iter=STEPS, max_eval=1000, **settings)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        if box:
            x.data.clamp_(0, 1)
        optimizer.zero_grad()
        total = loss(x, calls)
        total.backward()
        calls += 1
        return total

    optimizer.step(closure)
    if box:
        x.data.clamp_(0, 1)
    return x.detach()


def adam_step(
    g: Tensor,
    x: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam by hand (Kingma & Ba 2015, algorithm 1)."""
    first, second = betas[0] * first + (1 - betas[0]) * g, betas[1] * second + (1 - betas[1]) * g**2
    rooted = (second / (1 - betas[1] ** step)).sqrt()
    return x - rate * first / (1 - betas[0] ** step) / (rooted + eps), first, second


def adam(
    x: Tensor,
    loss: Loss,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    box: bool = False,
) -> Tensor:
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, STEPS + 1):
        x, first, second = adam_step(gradient(loss, x), x, first, second, step, rate, betas, eps)
        x = x.clamp(0, 1) if box else x
    return x


def scipy_blocks(x: Tensor, loss: Callable[..., Tensor], clip: float | None, block: int, **options: Any) -> Tensor:
    """SciPy's L-BFGS-B in restarted blocks of evaluations, the picture clipped after each."""

    def both(flat: np.ndarray) -> tuple[float, np.ndarray]:
        trial = torch.from_numpy(flat.copy()).view(x.shape).requires_grad_(True)
        total = loss(trial)
        (found,) = torch.autograd.grad(total, trial)
        return total.item(), found.numpy().ravel()

    flat, done = x.numpy().ravel(), 0
    while done < STEPS:
        flat, _, about = fmin_l_bfgs_b(both, flat, maxfun=block, maxiter=STEPS - done, **options)
        flat, done = flat if clip is None else np.clip(flat, -clip, clip), done + about["nit"]
    return torch.from_numpy(flat.copy()).view(x.shape)


# --- recipes, a row each --------------------------------------------------------------------------------------------


def gatys2016_paper(given: Given) -> Recipe:
    size = sized(given.content, long=SIZE)
    content, style = (picture(path, *size, "bicubic") for path in (given.content, given.style))
    state = rescaled(given, 28)

    def maps(x: Tensor) -> Maps:
        return vgg(state, 19, x, "avg")

    p, s = maps(bgr(content)), maps(bgr(style))

    def layer(f: Tensor, s: Tensor) -> Tensor:
        channels, positions = rows(f).shape
        return sse(gram(f), gram(s)) / (4 * channels**2 * positions**2)

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        return sse(f["relu4_2"], p["relu4_2"]) / 2, 1000 * added(layer(f[n], s[n]) / 5 for n in FIVE), NONE

    return Recipe(bgr, content, style, terms, lbfgs, lambda: torch.randn(content.shape, generator=seeded()).double())


def gatys2016_code(given: Given) -> Recipe:
    content = picture(given.content, *sized(given.content, short=SIZE), "bilinear")
    style = picture(given.style, *sized(given.style, short=SIZE), "bilinear")

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, x)

    p, s = maps(bgr(content)), maps(bgr(style))

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = added(1e3 / f[n].shape[1] ** 2 * mse(gram_n(f[n]), gram_n(s[n])) for n in FIVE)
        return mse(f["relu4_2"], p["relu4_2"]), of_style, NONE

    return Recipe(bgr, content, style, terms, lbfgs)


def texture_gatys2015(given: Given) -> Recipe:
    style = picture(given.style, *sized(given.style, long=SIZE), "bicubic")
    state = rescaled(given, 25)

    def maps(x: Tensor) -> Maps:
        return vgg(state, 19, x, "avg")

    s = maps(bgr(style))

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        names = ("relu1_1", "pool1", "pool2", "pool3", "pool4")
        return NONE, added(1e9 * sse(gram_n(f[n]), gram_n(s[n])) / (4 * f[n].shape[1] ** 2) for n in names), NONE

    black, white = (bgr(torch.full_like(style, value)).numpy().ravel() for value in (0.0, 1.0))
    bounds = np.stack([black, white], 1)

    def descend(x: Tensor, loss: Loss) -> Tensor:
        return scipy_blocks(x, loss, None, 15000, m=20, factr=0, pgtol=0, bounds=bounds)

    return Recipe(bgr, style, style, terms, descend, lambda: torch.randn(style.shape, generator=seeded()).double())


def jcjohnson(given: Given) -> Recipe:
    content = picture(given.content, *sized(given.content, long=SIZE), "bilinear")
    style = picture(given.style, *sized(given.style, long=SIZE), "bilinear")

    def encode(image: Tensor) -> Tensor:
        return bgr(image, 256.0)

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, x)

    p, s = maps(encode(content)), maps(encode(style))

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = added(100 * mse(gram_cn(f[n]), gram_cn(s[n])) for n in FIVE)
        return 5 * mse(f["relu4_2"], p["relu4_2"]), of_style, 1e-3 * squares(x) / 2

    def start() -> Tensor:
        return 0.001 * torch.randn(content.shape, generator=seeded()).double()

    return Recipe(encode, content, style, terms, lbfgs, start)


def johnson_slow(given: Given) -> Recipe:
    content = picture(given.content, *sized(given.content, long=SIZE), "bilinear")
    style = picture(given.style, *sized(given.style, long=SIZE), "bilinear")

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg16, 16, x)

    p, s = maps(bgr(content)), maps(bgr(style))

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        names = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
        of_style = added(5 * mse(gram_cn(f[n]), gram_cn(s[n])) for n in names)
        return mse(f["relu3_3"], p["relu3_3"]), of_style, 1e-6 * squares(x) / 2

    return Recipe(bgr, content, style, terms, lbfgs, lambda: torch.randn(content.shape, generator=seeded()).double())


def gordicaleksa(given: Given, beta: float = 3e4, tv: float = 1.0) -> Recipe:
    content = picture(given.content, *sized(given.content, height=SIZE), "bicubic")
    style = picture(given.style, *sized(given.style, height=SIZE), "bicubic")

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, x)

    p, s = maps(red_first(content)), maps(red_first(style))

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = beta * added(sse(gram_cn(f[n]), gram_cn(s[n])) for n in FIVE) / 5
        return 1e5 * mse(f["relu4_2"], p["relu4_2"]), of_style, tv * absolutes(x)

    return Recipe(red_first, content, style, terms, lambda x, loss: lbfgs(x, loss, "strong_wolfe"))


def gordicaleksa_adam(given: Given) -> Recipe:
    recipe = gordicaleksa(given, beta=1e5, tv=0.1)
    recipe.descend = lambda x, loss: adam(x, loss, 10.0)
    return recipe


def crowsonkb(given: Given) -> Recipe:
    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, normalised(x), first="replicate")

    def moments(maps: Tensor) -> tuple[Tensor, Tensor]:
        f = rows(maps)
        mean = f.mean(1)
        return mean, f @ f.T / f.shape[1] - torch.outer(mean, mean) + 1e-4 * torch.eye(len(f), dtype=f.dtype)

    def root(matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return vectors * values.sqrt() @ vectors.T

    def distance(f: Tensor, s: Tensor) -> Tensor:
        (mean, covariance), (its_mean, its_covariance) = moments(f), moments(s)
        side = root(its_covariance)
        # the trace of a root is the sum of the eigenvalues' roots
        both = torch.linalg.eigvalsh(side @ covariance @ side).sqrt().sum()
        return ((mean - its_mean) ** 2).mean() + (covariance.trace() + its_covariance.trace() - 2 * both) / len(mean)

    def variation(x: Tensor) -> Tensor:
        framed = F.pad(x, (1, 1, 1, 1), mode="replicate")
        middle = framed[:, :, 1:-1, 1:-1]
        straight = mse(framed[:, :, 1:-1, 2:], middle) / 3 + mse(framed[:, :, 2:, 1:-1], middle) / 3
        down = mse(framed[:, :, 1:, 1:], framed[:, :, :-1, :-1]) / 12
        return 2 * (straight + down + mse(framed[:, :, 1:, :-1], framed[:, :, :-1, 1:]) / 12)

    weights = dict(zip(FIVE, (256, 64, 16, 4, 1), strict=True))

    def at_scale(size: int) -> tuple[Tensor, Tensor, Callable[..., Terms]]:
        content, style = (picture(path, *sized(path, long=size), "bicubic") for path in (given.content, given.style))
        p, s = maps(content), maps(style)

        def terms(x: Tensor, step: int = 0) -> Terms:
            f = maps(x)
            of_style = added(w / 341 * distance(f[n], s[n]) for n, w in weights.items())
            return 0.015 * mse(f["relu4_2"], p["relu4_2"]), of_style, 2 * variation(x)

        return content, style, terms

    content, style, terms = at_scale(CROWSONKB_SCALES[0][0])

    def enlarged(x: Tensor, like: Tensor, mode: str) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode=mode)

    def descend(x: Tensor, loss: Loss) -> Tensor:
        first, second, step = torch.zeros_like(x), torch.zeros_like(x), 0
        for size, steps in CROWSONKB_SCALES:
            here, _, terms = at_scale(size)
            if x.shape != here.shape:
                x = enlarged(x, here, "bicubic").clamp(0, 1)
                first, second = enlarged(first, here, "bicubic"), enlarged(second, here, "bilinear").relu()
            average, missing = 0.01 * x, 0.99
            for _ in range(steps):
                step += 1
                x, first, second = adam_step(gradient(lambda x: added(terms(x)), x), x, first, second, step, 0.02)  # noqa: B023
                x = x.clamp(0, 1)
                average, missing = 0.99 * average + 0.01 * x, 0.99 * missing
            x = average / (1 - missing)
        return x

    return Recipe(as_it_is, content, style, terms, descend)


def udacity(given: Given) -> Recipe:
    size = sized(given.content, short=SIZE)
    content, style = (picture(path, *size, "bilinear") for path in (given.content, given.style))

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, x)

    p, s = maps(normalised(content)), maps(normalised(style))
    weights = dict(zip(FIVE, (1, 0.75, 0.2, 0.2, 0.2), strict=True))

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = 1e6 * added(w * mse(gram(f[n]), gram(s[n])) / f[n].numel() for n, w in weights.items())
        return mse(f["relu4_2"], p["relu4_2"]), of_style, NONE

    return Recipe(normalised, content, style, terms, lambda x, loss: adam(x, loss, 0.003))


def pytorch_tutorial(given: Given) -> Recipe:
    content = picture(given.content, *sized(given.content, short=SIZE), "bilinear")
    style = picture(given.style, *sized(given.style, short=SIZE), "bilinear")

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, normalised(x))

    p, s = maps(content), maps(style)

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        names = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")
        of_style = 1e6 * added(mse(gram_cn(f[n]), gram_cn(s[n])) for n in names)
        return mse(f["conv2_2"], p["conv2_2"]), of_style, NONE

    return Recipe(as_it_is, content, style, terms, lambda x, loss: lbfgs(x, loss, box=True))


def keras(given: Given) -> Recipe:
    size = sized(given.content, height=SIZE)
    content, style = (picture(path, *size, "bilinear") for path in (given.content, given.style))

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, x)

    p, s = maps(bgr(content)), maps(bgr(style))
    area = size[0] * size[1]

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = added(1e-6 / 5 * sse(gram(f[n]), gram(s[n])) / (4 * 3**2 * area**2) for n in FIVE)
        here = x[:, :, :-1, :-1]
        variation = (((here - x[:, :, 1:, :-1]) ** 2 + (here - x[:, :, :-1, 1:]) ** 2) ** 1.25).sum()
        return 2.5e-8 * sse(f["relu5_2"], p["relu5_2"]), of_style, 1e-6 * variation

    def descend(x: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        for step in range(STEPS):
            x = x - 100 * 0.96 ** (step / 100) * gradient(loss, x)
        return x

    return Recipe(bgr, content, style, terms, descend)


def tensorflow(given: Given, tv: float = 0.0) -> Recipe:
    content = picture(given.content, *sized(given.content, long=SIZE), "bilinear")
    style = picture(given.style, *sized(given.style, long=SIZE), "bilinear")

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, bgr(x))

    p, s = maps(content), maps(style)

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = 1e-2 / 5 * added(mse(gram_n(f[n]), gram_n(s[n])) for n in FIVE)
        return 1e4 * mse(f["relu5_2"], p["relu5_2"]), of_style, tv * absolutes(x)

    def descend(x: Tensor, loss: Loss) -> Tensor:
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(1, STEPS + 1):  # as Keras documents it: epsilon beside the moment that is not corrected
            g = gradient(loss, x)
            first, second = 0.99 * first + 0.01 * g, 0.999 * second + 0.001 * g**2
            rate = 0.02 * (1 - 0.999**step) ** 0.5 / (1 - 0.99**step)
            x = (x - rate * first / (second.sqrt() + 0.1)).clamp(0, 1)
        return x

    return Recipe(as_it_is, content, style, terms, descend)


def fastai(given: Given) -> Recipe:
    content = picture(given.content, *sized(given.content, long=SIZE), "bicubic")
    style = picture(given.style, *sized(given.style, long=SIZE), "bicubic")

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg16, 16, x, "avg")

    p, s = maps(bgr(content)), maps(bgr(style))
    weights = {"relu1_2": 0.05, "relu2_2": 0.2, "relu3_2": 0.2, "relu4_2": 0.25, "relu5_2": 0.3}

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = added(w * mse(gram_cn(f[n]), gram_cn(s[n])) for n, w in weights.items())
        return mse(f["relu4_2"], p["relu4_2"]) / 10, of_style, NONE

    def start() -> Tensor:
        return 2.5 * (2 * torch.rand(content.shape, generator=seeded()).double() - 1)

    def descend(x: Tensor, loss: Loss) -> Tensor:
        return scipy_blocks(x, loss, FASTAI_CLIP, FASTAI_BLOCK)

    return Recipe(bgr, content, style, terms, descend, start)


def aladdinpersson(given: Given) -> Recipe:
    content, style = (picture(path, SIZE, SIZE, "bilinear") for path in (given.content, given.style))

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, x)

    p, s = maps(content), maps(style)
    names = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "conv5_1")

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = 0.01 * added(mse(gram(f[n]), gram(s[n])) for n in names)
        return added(mse(f[n], p[n]) for n in names), of_style, NONE

    return Recipe(as_it_is, content, style, terms, lambda x, loss: adam(x, loss, 1e-3))


def cs231n(given: Given, alpha: float, weights: tuple[int, ...], tv: float, style_size: int) -> Recipe:
    content = picture(given.content, *sized(given.content, short=SIZE), "bilinear")
    style = picture(given.style, *sized(given.style, short=style_size), "bilinear")

    def maps(x: Tensor) -> list[Tensor]:
        return squeezenet(given.squeezenet, x)

    p, s = maps(normalised(content)), maps(normalised(style))

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = added(w * sse(gram_cn(f[n]), gram_cn(s[n])) for n, w in zip((1, 4, 6, 7), weights, strict=True))
        return alpha * sse(f[3], p[3]), of_style, tv * squares(x)

    def descend(x: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        x = x.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([x], lr=3.0)
        for step in range(STEPS):
            if step < CS231N_UNTIL:
                x.data.clamp_(-1.5, 1.5)
            optimizer.zero_grad()
            loss(x).backward()
            if step == CS231N_DECAY:
                optimizer = torch.optim.Adam([x], lr=0.1)
            optimizer.step()
        return x.detach()

    return Recipe(normalised, content, style, terms, descend)


def cs231n_composition7(given: Given) -> Recipe:
    return cs231n(given, 5e-2, (20000, 500, 12, 1), 5e-2, CS231N_STYLES["composition7"])


def cs231n_scream(given: Given) -> Recipe:
    return cs231n(given, 3e-2, (200000, 800, 12, 1), 2e-2, CS231N_STYLES["scream"])


def cs231n_starry(given: Given) -> Recipe:
    return cs231n(given, 6e-2, (300000, 1000, 15, 3), 2e-2, CS231N_STYLES["starry"])


def li2017(given: Given, loss: Callable[[Tensor, Tensor, int], Tensor], weight: float) -> Recipe:
    """Li 2017 with one of its style losses of a layer, given C x N features."""
    size = sized(given.content, long=SIZE)
    content, style = (picture(path, *size, "bilinear") for path in (given.content, given.style))

    def encode(image: Tensor) -> Tensor:
        return bgr(image, 256.0)

    def maps(x: Tensor) -> Maps:
        return vgg(given.vgg19, 19, x, "avg")

    p, s = maps(encode(content)), maps(encode(style))

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        of_style = weight * added(loss(rows(f[n]), rows(s[n]), step) for n in FIVE)
        # half of x times its Laplacian (4 in the middle, zeros around the picture) / 8: its gradient is the Laplacian
        kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=x.dtype).expand(3, 1, 3, 3) / 8
        variation = (x * F.conv2d(x, kernel, padding=1, groups=3)).sum() / 2
        return sse(f["relu4_2"], p["relu4_2"]), of_style, 1e-2 * variation

    def descend(x: Tensor, loss: Callable[..., Tensor]) -> Tensor:
        speed = torch.zeros_like(x)
        for step in range(STEPS):
            g = gradient(loss, x, step)
            g = g * min(1.0, x.numel() / g.norm().item())
            speed = 0.9 * speed + g + 5e-4 * x
            before, x = x, x - 1e-3 * 0.9 ** (step // LI2017_DECAY) * speed
            if (x - before).norm() / x.norm() < 0.005:
                break
        return x

    def start() -> Tensor:
        return 0.1 * (2 * torch.rand(content.shape, generator=seeded()).double() - 1)

    return Recipe(encode, content, style, terms, descend, start)


def li2017_linear(given: Given) -> Recipe:
    def loss(f: Tensor, s: Tensor, step: int) -> Tensor:
        return 1e3 / f.numel() * sse(f.sum(1), s.sum(1))

    return li2017(given, loss, 5.0)


def li2017_poly(given: Given) -> Recipe:
    def loss(f: Tensor, s: Tensor, step: int) -> Tensor:
        channels, positions = f.shape
        return 0.025 / (channels**2 * positions) * sse(f @ f.T, s @ s.T)

    return li2017(given, loss, 5.0)


def li2017_gaussian(given: Given) -> Recipe:
    def loss(f: Tensor, s: Tensor, step: int) -> Tensor:
        (i, j), (k, m) = given.drawn(step, *f.shape)
        pairs = [(f[:, i], f[:, j]), (s[:, k], s[:, m]), (f[:, i], s[:, m]), (f[:, j], s[:, k])]
        apart = [((a - b) ** 2).sum(0) for a, b in pairs]
        rate = 1 / torch.cat(apart).mean().detach()
        of_f, of_s, one, other = (torch.exp(-rate * d).sum() for d in apart)
        return 1.5e14 / f.numel() * (of_f + of_s - one - other)

    return li2017(given, loss, 5.0)


def li2017_bn(given: Given) -> Recipe:
    def loss(f: Tensor, s: Tensor, step: int) -> Tensor:
        channels, positions = f.shape
        means, deviations = (sse(a(f), a(s)) for a in (lambda x: x.mean(1), lambda x: x.std(1, correction=0)))
        return 500 * positions / channels * (means + deviations)

    return li2017(given, loss, 1.0)


def heitz2021(given: Given) -> Recipe:
    style = picture(given.style, *sized(given.style, long=SIZE), "bicubic")
    state = rescaled(given, 25, "reflect")

    def maps(x: Tensor) -> Maps:
        return vgg(state, 19, bgr(x), "avg", "reflect", "reflect")

    s = maps(style)
    names = [f"relu{block}_{layer}" for block, count in enumerate((2, 2, 4, 4), 1) for layer in range(1, count + 1)]

    def layer(f: Tensor, s: Tensor, step: int) -> Tensor:
        channels, positions = f.shape
        directions = given.drawn(step, channels, positions)
        assert directions.shape == (channels, channels)
        assert torch.allclose(directions.norm(dim=1), torch.ones(channels, dtype=f.dtype))
        return mse((directions @ f).sort(1).values, (directions @ s).sort(1).values)

    def terms(x: Tensor, step: int = 0) -> Terms:
        f = maps(x)
        return NONE, added(layer(rows(f[n]), rows(s[n]), step) for n in names), NONE

    def start() -> Tensor:
        return style.mean((2, 3), keepdim=True) + 0.01 * torch.randn(style.shape, generator=seeded()).double()

    return Recipe(as_it_is, style, style, terms, lbfgs, start)


def resized(x: Tensor, size: tuple[int, ...], corners: bool = False) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=corners)


def half(x: Tensor) -> Tensor:
    return resized(x, (max(x.shape[2] // 2, 1), max(x.shape[3] // 2, 1)))


def detail(x: Tensor) -> Tensor:
    return x - resized(half(x), x.shape[2:])


def bands(x: Tensor, levels: int) -> list[Tensor]:
    """A Laplacian pyramid, the finest band first; no more of it once one pixel is left."""
    if levels == 0 or x.numel() == 3:
        return [x]
    return [detail(x), *bands(half(x), levels - 1)]


def collapsed(pyramid: list[Tensor]) -> Tensor:
    return pyramid[0] + resized(collapsed(pyramid[1:]), pyramid[0].shape[2:]) if len(pyramid) > 1 else pyramid[0]


def gradients(loss: Loss, pyramid: list[Tensor]) -> tuple[Tensor, ...]:
    variables = [band.detach().requires_grad_(True) for band in pyramid]
    return torch.autograd.grad(loss(collapsed(variables)), variables)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of every two columns of C x n and C x m: n x m."""
    return (a / a.norm(dim=0)).T @ (b / b.norm(dim=0))


def strotss(given: Given) -> Recipe:
    blocks = ((1, 2), (1, 2), (1, 2, 3), (3,), (1,))
    names = ["rgb", *(f"relu{block}_{layer}" for block, layers in enumerate(blocks, 1) for layer in layers)]
    turn = [[0.577350, 0.577350, 0.577350], [-0.577350, 0.788675, -0.211325], [-0.577350, -0.211325, 0.788675]]

    def maps(x: Tensor) -> Maps:
        return {"rgb": x, **vgg(given.vgg16, 16, bgr(x))}

    def columns(maps: Maps, places: Tensor) -> Tensor:
        """C x n: what all layers say of places, halved wherever a map is smaller than the one before."""
        height, width = maps["rgb"].shape[2:]
        row, column, found = (places // width).double(), (places % width).double(), []
        for name in names:
            here = maps[name]
            if here.shape[2] < height:
                row, column = row / 2, column / 2
            height = here.shape[2]
            down, across = (  # linear weights of all rows, and of all columns; beyond the last one it is the last
                F.relu(1 - (at.clamp(max=side - 1)[:, None] - torch.arange(side)).abs())
                for at, side in zip((row, column), here.shape[2:], strict=True)
            )
            found.append(torch.einsum("chw,nh,nw->cn", here[0], down, across))
        return torch.cat(found)

    def relaxed(distances: Tensor) -> Tensor:
        return torch.maximum(distances.amin(0).mean(), distances.amin(1).mean())

    def moments(z: Tensor) -> tuple[Tensor, Tensor]:
        return z.mean(1), torch.cov(z, correction=0)

    def alike(z: Tensor) -> Tensor:
        distances = 1 - cosines(z, z)
        return distances / distances.sum(0)

    def of_colors(a: Tensor, b: Tensor) -> Tensor:
        a, b = (a.new_tensor(turn) @ one[:3] for one in (a, b))
        squared = ((a[:, :, None] - b[:, None]) ** 2).sum(0).clamp(1e-5, 1e5)
        return relaxed(1 - cosines(a, b) + (squared / 3).sqrt())

    def at_scale(number: int) -> tuple[Tensor, Tensor, Callable[..., Terms]]:
        size = STROTSS_SCALES[number][0]
        content, style = (picture(path, *sized(path, long=size), "bilinear") for path in (given.content, given.style))
        weight, p = 16 / 2**number, maps(content)
        z = columns(maps(style), given.drawn(0, STROTSS_SAMPLES[1], style[0, 0].numel()))

        def terms(x: Tensor, step: int = 0) -> Terms:
            places = given.drawn(step, STROTSS_SAMPLES[0], x[0, 0].numel())
            mine, theirs = columns(maps(x), places), columns(p, places)
            of_content = (alike(mine) - alike(theirs)).abs().mean() * len(places)
            moved = added((a - b).abs().mean() / b.abs().mean() for a, b in zip(moments(mine), moments(z), strict=True))
            of_style = relaxed(1 - cosines(mine, z)) + moved + of_colors(mine, z) / max(weight, 1)
            return weight * of_content, of_style, NONE

        return content, style, terms

    content, style, terms = at_scale(0)

    def descend(x: Tensor, loss: Loss) -> Tensor:
        step, last = 0, len(STROTSS_SCALES) - 1
        for number, (_, steps) in enumerate(STROTSS_SCALES):
            here, _, terms = at_scale(number)
            if number:
                x = F.interpolate(x, here.shape[2:], mode="bicubic") + (detail(here) if number < last else 0)
                x = x.clamp(0, 1)
            pyramid, rate = bands(x, 5), 0.001 if number == last else 0.002
            mean = [torch.zeros_like(band) for band in pyramid]
            for _ in range(steps):
                found = gradients(lambda x: added(terms(x, step)), pyramid)  # noqa: B023
                mean = [0.99 * m + 0.01 * g**2 for m, g in zip(mean, found, strict=True)]  # RMSprop
                pyramid = [band - rate * g / (m.sqrt() + 1e-8) for band, g, m in zip(pyramid, found, mean, strict=True)]
                step += 1
            x = collapsed(pyramid).clamp(0, 1)
        return x

    return Recipe(as_it_is, content, style, terms, descend, lambda: style.mean((2, 3), keepdim=True) + detail(content))


def nnst(given: Given) -> Recipe:
    names = [f"relu{block}_{layer}" for block, count in enumerate((2, 2, 3, 3), 1) for layer in range(1, count + 1)]

    def maps(x: Tensor) -> list[Tensor]:
        found = vgg(given.vgg16, 16, bgr(x))
        return [found[name] for name in names]

    def columns(x: Tensor) -> Tensor:
        size = x.shape[2] // 4, x.shape[3] // 4
        return torch.cat([rows(resized(f / f.shape[1], size, corners=True)) for f in maps(x)])

    def centred(z: Tensor) -> Tensor:
        return z - z.mean(1, keepdim=True)

    def turned(style: Tensor) -> list[Tensor]:
        return [style.rot90(quarters, (2, 3)) for quarters in range(4)]

    def at_scale(number: int, start: Tensor | None) -> tuple[Tensor, Tensor, Callable[..., Terms]]:
        size = NNST_SCALES[number][0]
        content, style = (picture(path, *sized(path, long=size), "bilinear") for path in (given.content, given.style))
        looked_at = content if start is None else 0.75 * content + 0.25 * (start + detail(content))
        every = torch.cat([columns(one) for one in turned(style)], 1)
        wanted = every[:, cosines(centred(columns(looked_at)), centred(every)).argmax(1)]

        def terms(x: Tensor, step: int = 0) -> Terms:
            return NONE, (1 - F.cosine_similarity(columns(x), wanted, dim=0)).mean(), NONE

        return content, style, terms

    def last_pass(style: Tensor) -> Callable[..., Terms]:
        upright = [[f.mT if quarters % 2 else f for f in maps(one)] for quarters, one in enumerate(turned(style))]
        theirs = [torch.cat(layer, 2) for layer in zip(*upright, strict=True)]

        def terms(x: Tensor, step: int = 0) -> Terms:
            found, ours = [], maps(x)
            strides = [max(max(f.shape[2:]) // NNST_SIDE, 1) for f in ours]
            for f, s, stride, (down, across) in zip(ours, theirs, strides, given.drawn(step, *strides), strict=True):
                pair = (centred(rows(one[:, :, down::stride, across::stride])) for one in (f, s))
                found.append((1 - cosines(*pair)).amin(1).mean())
            return NONE, added(found), NONE

        return terms

    content, style, terms = at_scale(0, None)

    def descend(x: Tensor, loss: Loss) -> Tensor:
        step = 0
        for number, (size, steps) in enumerate(NNST_SCALES):
            if number:
                width, height = sized(given.content, long=size)
                x = F.interpolate(x, (height, width), mode="bicubic").clamp(0, 1)
            _, style, terms = at_scale(number, x if number else None)
            if number == len(NNST_SCALES) - 1:
                terms = last_pass(style)
            pyramid = bands(x, 8)
            first, second = ([torch.zeros_like(band) for band in pyramid] for _ in range(2))
            for count in range(1, steps + 1):
                found = gradients(lambda x: added(terms(x, step)), pyramid)  # noqa: B023
                moved = [
                    adam_step(*of_band, count, 0.002, (0.9, 0.999))
                    for of_band in zip(found, pyramid, first, second, strict=True)
                ]
                pyramid, first, second = (list(one) for one in zip(*moved, strict=True))
                step += 1
            x = collapsed(pyramid).clamp(0, 1)
        return x

    return Recipe(as_it_is, content, style, terms, descend)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# What the test makes smaller than the recipe, so that three steps meet it.
SIZE = 32
FASTAI_CLIP, FASTAI_BLOCK = 127.0, 2
CS231N_UNTIL, CS231N_DECAY = 2, 1
CS231N_STYLES = {"composition7": 64, "scream": 28, "starry": 24}
LI2017_DECAY = 2
CROWSONKB_SCALES = ((23, 2), (32, 1))
STROTSS_SCALES = ((24, 2), (28, 1), (32, 1))
STROTSS_SAMPLES = (100, 150)  # places of the picture, and of the style image
NNST_SCALES = ((16, 2), (32, 2), (32, 2))  # the last pass is at the last size
NNST_SIDE = 8

RECIPES: dict[str, Callable[[Given], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        gatys2016_paper,
        gatys2016_code,
        texture_gatys2015,
        jcjohnson,
        johnson_slow,
        gordicaleksa,
        gordicaleksa_adam,
        crowsonkb,
        udacity,
        pytorch_tutorial,
        keras,
        tensorflow,
        fastai,
        aladdinpersson,
        cs231n_composition7,
        cs231n_scream,
        cs231n_starry,
        li2017_linear,
        li2017_poly,
        li2017_gaussian,
        li2017_bn,
        heitz2021,
        strotss,
        nnst,
    )
}

# What three small steps do not meet: how long, how large, and what is far along the way.
SETTINGS: dict[str, dict[str, Any]] = {
    "gatys2016_paper": {"steps": 1000, "size": 512, "fit": "long", "optimizer.history_size": 100},
    "gatys2016_code": {"steps": 520, "size": 512, "fit": "short", "optimizer.history_size": 100},
    "texture_gatys2015": {"steps": 2000, "size": 256, "optimizer.history": 20, "optimizer.block": 15000},
    "jcjohnson": {"steps": 1000, "size": 512, "fit": "long", "optimizer.history_size": 100},
    "johnson_slow": {"steps": 500, "size": 512, "fit": "long", "optimizer.history_size": 100},
    "gordicaleksa": {"steps": 950, "size": 400, "fit": "height", "optimizer.history_size": 100},
    "gordicaleksa_adam": {"steps": 3000, "size": 400, "fit": "height"},
    "crowsonkb": {
        "size": 512,
        "fit": "long",
        "schedule.from": 128,
        "schedule.factor": 2**0.5,
        "steps": [1000, 500],
    },
    "udacity": {"steps": 2000, "size": 400, "fit": "short"},
    "pytorch_tutorial": {"steps": 320, "size": 512, "fit": "short", "optimizer.history_size": 100},
    "keras": {"steps": 4000, "size": 400, "fit": "height"},
    "tensorflow": {"steps": 1000, "size": 512, "fit": "long"},
    "fastai": {"optimizer.block": 20, "optimizer.history": 10, "clamp_range": [-127, 127]},
    "aladdinpersson": {"steps": 6000, "size": 356, "fit": "square"},
    **{
        f"cs231n_{name}": {
            "steps": 200,
            "size": 192,
            "fit": "short",
            "style_size": size,
            "clamp_until": 190,
            "lr_schedule.milestones": [180],
        }
        for name, size in (("composition7", 512), ("scream", 224), ("starry", 192))
    },
    **{
        f"li2017_{name}": {"steps": 1000, "size": 600, "fit": "long", "lr_schedule.step_size": 80}
        for name in ("linear", "poly", "gaussian", "bn")
    },
    "heitz2021": {"steps": 64 * 64, "optimizer.history_size": 100, "style_loss.redraw": 1},
    "strotss": {
        **{"steps": 250, "size": 512, "fit": "long", "schedule.from": 64, "schedule.factor": 2.0, "schedule.again": 0},
        **{"content_loss.samples": 1024, "style_loss.samples": 1024, "style_loss.style_samples": 5000},
        "schedule.factors": {  # of 64, 128, 256, 512 and 1024 pixels
            "alpha": [1, 0.5, 0.25, 0.125, 0.0625],
            "style_loss": {"_target_": "nst.losses.RelaxedEMDLoss", "colors": [1, 2, 4, 8, 16]},
            "schedule": {"detail": [1, "...", 0]},
            "optimizer": {"lr": [1, "...", 0.5]},
        },
    },
    "nnst": {
        "steps": 200,
        "size": 512,
        "fit": "long",
        "schedule.from": 64,
        "schedule.factor": 2.0,
        "style_loss.side": 64,
    },
}
