"""The losses of hypercolumns, said again in NumPy and SciPy: read between positions, neighbours by brute force."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from problems import composed, posed
from scipy.ndimage import map_coordinates
from scipy.spatial.distance import cdist
from torch import Tensor

from nst.engines import LossRequest, TargetRequest, make
from nst.errors import ConfigError
from nst.images.pixels import PREPROCESSINGS
from nst.losses import GramLoss, NearestNeighborLoss, RelaxedEMDLoss, SelfSimilarityLoss, SumLoss, neighbors
from nst.losses.drawing import Drawing, sampled_columns
from nst.losses.patches import nearest
from nst.losses.protocols import DrawingLoss, MatchingLoss, traits
from nst.losses.similarity import TURN
from nst.networks import backbones
from nst.networks.backbones import Backbone
from nst.setup.check import check
from nst.setup.objective import Maps

CHANNELS = (3, 4, 5, 6, 7)
WEIGHTS = {"rgb": 1.0, "a": 2.0, "b": 0.5, "c": 3.0, "d": 1.5}


def pyramid(height: int, width: int, seed: int = 0, batch: int = 1, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Maps of several layers, each half as high and wide as the one before, as poolings leave them."""
    rng = np.random.default_rng(seed)
    shapes = [(channels, height >> halvings, width >> halvings) for halvings, channels in enumerate(CHANNELS)]
    return [torch.from_numpy(rng.normal(0.3, 1.0, (batch, *shape))).to(dtype) for shape in shapes]


def one_of(maps: Sequence[Tensor], image: int) -> list[np.ndarray]:
    return [one[image].double().numpy() for one in maps]


# ---------------------------------------------------------------- the same, said again


def read(maps: Sequence[np.ndarray], places: np.ndarray, weights: Sequence[float] = (1,) * 5) -> np.ndarray:
    """Hypercolumns n x C at places of the first map: the k-th one, k times halved, is read at the place / 2^k."""
    at = np.array(np.divmod(places, maps[0].shape[2]), dtype=float)
    found = [
        weight * map_coordinates(channel, at / 2**halvings, order=1, mode="nearest")
        for halvings, (one, weight) in enumerate(zip(maps, weights, strict=True))
        for channel in one
    ]
    return np.array(found).T


def drawn(loss: Drawing, maps: Sequence[Tensor], count: int) -> np.ndarray:
    return torch.randperm(maps[0][0, 0].numel(), generator=loss.generator())[:count].numpy()


def relaxed(distances: np.ndarray) -> float:
    return float(max(distances.min(0).mean(), distances.min(1).mean()))


def expected_emd(loss: RelaxedEMDLoss, ours: Sequence[Tensor], style: Sequence[Tensor]) -> list[float]:
    values, weights = [], loss.layer_weights or (1,) * 5
    for image in range(len(ours[0])):
        places = drawn(loss, style, loss.style_samples or loss.samples)
        a = read(one_of(ours, image), drawn(loss, ours, loss.samples), weights)
        b = read(one_of(style, image if len(style[0]) > 1 else 0), places, weights)
        value = relaxed(cdist(a, b, "cosine"))
        for mine, theirs in ((a.mean(0), b.mean(0)), (np.cov(a.T, bias=True), np.cov(b.T, bias=True))):
            share = {"relative": np.abs(theirs).mean(), "none": 1.0}.get(loss.norm, loss.norm)  # type: ignore[call-overload]
            value += loss.moments * np.abs(mine - theirs).mean() / share
        colors = [columns[:, :3] @ np.array(TURN).T for columns in (a, b)]
        euclidean = np.sqrt(np.clip(cdist(*colors, "sqeuclidean"), 1e-5, 1e5) / 3)
        values.append(value + loss.colors * relaxed(cdist(*colors, "cosine") + euclidean))
    return values


def expected_similarity(loss: SelfSimilarityLoss, ours: Sequence[Tensor], content: Sequence[Tensor]) -> list[float]:
    values = []
    for image in range(len(ours[0])):
        places = drawn(loss, ours, loss.samples)
        shares = []
        for maps in (ours, content):
            columns = read(one_of(maps, image if len(maps[0]) > 1 else 0), places, loss.layer_weights or (1,) * 5)
            distances = cdist(columns, columns, "cosine")
            shares.append(distances / distances.sum(0))
        share = {"relative": 1 / len(places), "none": 1.0}.get(loss.norm, loss.norm)  # type: ignore[call-overload]
        values.append(np.abs(shares[0] - shares[1]).mean() / share)
    return values


def quarter(maps: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Hypercolumns n x C on a grid a quarter as large, its corners on those of each map, divided by channels."""
    height, width = (max(side // 4, 1) for side in maps[0].shape[1:])
    found = []
    for one, weight in zip(maps, weights, strict=True):
        grid = np.meshgrid(
            *(np.linspace(0, side - 1, n) for side, n in zip(one.shape[1:], (height, width), strict=True)),
            indexing="ij",
        )
        for channel in one:
            found.append(weight * map_coordinates(channel, grid, order=1, mode="nearest").ravel() / len(one))
    return np.array(found).T


def less_mean(vectors: np.ndarray) -> np.ndarray:
    return vectors - vectors.mean(0)


def expected_neighbors(
    loss: NearestNeighborLoss, ours: Sequence[Tensor], turns: Sequence[Sequence[Tensor]], matched: Sequence[Tensor]
) -> list[float]:
    values, weights = [], loss.layer_weights or (1,) * 5
    for image in range(len(ours[0])):
        theirs = [one_of(maps, image if len(maps[0]) > 1 else 0) for maps in turns]
        value = 0.0
        if loss.of_columns:
            every = np.concatenate([quarter(maps, weights) for maps in theirs])
            looked_at = quarter(one_of(matched, image), weights)
            wanted = every[cdist(less_mean(looked_at), less_mean(every), "cosine").argmin(1)]
            mine = quarter(one_of(ours, image), weights)
            cosines = (mine * wanted).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(wanted, axis=1)
            value += loss.of_columns * (1 - cosines).mean()
        generator = loss.generator()
        for layer, weight in enumerate(weights) if loss.of_layers else ():
            own = one_of(ours, image)[layer]
            stride = max(max(own.shape[1:]) // loss.side, 1)
            row, column = torch.randint(stride, (2,), generator=generator).tolist()
            upright = [m[layer].transpose(0, 2, 1) if quarters % 2 else m[layer] for quarters, m in enumerate(theirs)]
            a, b = (
                less_mean(one[:, row::stride, column::stride].reshape(len(one), -1).T)
                for one in (own, np.concatenate(upright, axis=1))
            )
            value += loss.of_layers * weight * cdist(a, b, "cosine").min(1).mean()
        values.append(value)
    return values


def target_of(loss: NearestNeighborLoss, turns: Sequence[Sequence[Tensor]], matched: Sequence[Tensor]) -> Any:
    """As a run takes it."""
    found = [loss.target(maps) for maps in turns]
    joined = loss.joined(found) if len(found) > 1 else found[0]
    return loss.match(joined, matched) if loss.of_columns else joined


def turned(loss: NearestNeighborLoss, height: int, width: int, batch: int = 1) -> list[list[Tensor]]:
    """Maps of a style image and of its quarter turns, which a network does not make alike: numbers of their own."""
    return [pyramid(*((height, width), (width, height))[t % 2], seed=10 + t, batch=batch) for t in range(loss.turns)]


EMD: dict[str, RelaxedEMDLoss] = {
    "as in the recipe": RelaxedEMDLoss(40, hypercolumns=True, style_samples=60, colors=0.25),
    "paper's moments": RelaxedEMDLoss(40, norm="none", hypercolumns=True, style_samples=60),
    "drawn each time": RelaxedEMDLoss(40, hypercolumns=True, colors=2.0),
    "all positions, a number": RelaxedEMDLoss(5000, 0.5, 2.5, hypercolumns=True, style_samples=5000),
    "no moments": RelaxedEMDLoss(40, 0, hypercolumns=True, style_samples=60, colors=1),
}
SIMILARITY: dict[str, SelfSimilarityLoss] = {
    "relative": SelfSimilarityLoss(40, hypercolumns=True),
    "none": SelfSimilarityLoss(40, "none", hypercolumns=True),
    "a number": SelfSimilarityLoss(5000, 2.5, hypercolumns=True),
}
NEIGHBORS: dict[str, NearestNeighborLoss] = {
    "columns": NearestNeighborLoss(2.0, 0),
    "layers": NearestNeighborLoss(0, 3.0, side=4),
    "both": NearestNeighborLoss(side=6),
    "both, upright only": NearestNeighborLoss(turned=False, side=4),
    "columns, upright only": NearestNeighborLoss(1, 0, turned=False),
}
weighted = pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weighted"])


def told(loss: Any, weights: dict[str, float] | None) -> Any:
    """Return a loss in the middle of a run, with the weights of its layers."""
    own = loss.for_layers(weights or dict.fromkeys(WEIGHTS, 1.0))
    own.begin_step(5, 3)
    return own


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    "size",
    [(16, 24), (24, 32), (32, 24), (30, 64), (64, 30), (17, 50), (48, 64), (46, 64), (64, 47), (31, 31), (100, 37)],
)
def test_columns_are_read_where_each_map_has_the_place(size: tuple[int, int]) -> None:
    """Also where a side that is halved leaves less than half: 30 x 64 positions end as 1 x 4."""
    maps = pyramid(*size)
    found = sampled_columns(maps, 10**6, Drawing().generator())
    places = drawn(Drawing(), maps, 10**6)
    assert sorted(places.tolist()) == list(range(size[0] * size[1]))
    np.testing.assert_allclose(found[0].numpy().T, read(one_of(maps, 0), places), rtol=0, atol=1e-12)
    some = sampled_columns(maps, 12, Drawing().generator())
    assert torch.equal(some, found[:, :, :12])


@weighted
@pytest.mark.parametrize("name", EMD)
def test_relaxed_emd_of_hypercolumns_is_what_numpy_says(name: str, weights: dict[str, float] | None) -> None:
    loss, features = told(EMD[name], weights), pyramid(16, 24, batch=3)
    for style in (pyramid(20, 18, seed=1, batch=3), pyramid(33, 16, seed=2)):
        value = loss(features, loss.target(style))
        assert value.shape == (3,)
        np.testing.assert_allclose(value.numpy(), expected_emd(loss, features, style), rtol=1e-9)


@weighted
@pytest.mark.parametrize("name", SIMILARITY)
def test_self_similarity_of_hypercolumns_is_what_numpy_says(name: str, weights: dict[str, float] | None) -> None:
    loss, features = told(SIMILARITY[name], weights), pyramid(16, 24, batch=3)
    for content in (pyramid(16, 24, seed=1, batch=3), pyramid(16, 24, seed=2)):
        value = loss(features, loss.target(content))
        np.testing.assert_allclose(value.numpy(), expected_similarity(loss, features, content), rtol=1e-9)


@weighted
@pytest.mark.parametrize("name", NEIGHBORS)
def test_nearest_neighbors_are_those_of_brute_force(name: str, weights: dict[str, float] | None) -> None:
    loss, features = told(NEIGHBORS[name], weights), pyramid(32, 48, batch=3)
    for batch in (1, 3):
        turns, matched = turned(loss, 38, 34, batch), pyramid(32, 48, seed=5, batch=3)
        value = loss(features, target_of(loss, turns, matched))
        assert value.shape == (3,)
        np.testing.assert_allclose(value.numpy(), expected_neighbors(loss, features, turns, matched), rtol=1e-9)


def test_the_picture_to_match_is_between_the_content_and_what_the_scale_begins_with() -> None:
    rng = np.random.default_rng(0)
    content, begun = (torch.from_numpy(rng.random((1, 3, 8, 12))) for _ in range(2))
    small = content.numpy().reshape(1, 3, 4, 2, 6, 2).mean((3, 5))
    rows, columns = (np.clip((np.arange(n) + 0.5) / 2 - 0.5, 0, n // 2 - 1) for n in (8, 12))
    grid = np.meshgrid(rows, columns, indexing="ij")
    again = np.array([[map_coordinates(channel, grid, order=1) for channel in small[0]]])
    loss = NearestNeighborLoss(mix=0.3)
    expected = 0.7 * content.numpy() + 0.3 * (begun.numpy() + content.numpy() - again)
    np.testing.assert_allclose(loss.to_match(content, begun), expected, atol=1e-12)
    assert torch.equal(NearestNeighborLoss(mix=0).to_match(content, begun), content)
    assert NearestNeighborLoss(0, 1).to_match(content, begun) is None
    assert isinstance(loss, MatchingLoss)
    assert isinstance(loss, DrawingLoss)
    assert not isinstance(RelaxedEMDLoss(hypercolumns=True), MatchingLoss)


# ---------------------------------------------------------------- what holds of all of them

EVERY = {f"{kind.__name__}, {name}": loss for kind, some in ((RelaxedEMDLoss, EMD), (SelfSimilarityLoss, SIMILARITY),
         (NearestNeighborLoss, NEIGHBORS)) for name, loss in some.items()}  # fmt: skip
every_loss = pytest.mark.parametrize("name", EVERY)


def posed_maps(loss: Any, height: int, width: int, batch: int = 1, dtype: torch.dtype = torch.float64) -> Any:
    """Return a target, of so many images."""
    if isinstance(loss, NearestNeighborLoss):
        matched = [one.to(dtype) for one in pyramid(height, width, seed=5, batch=batch)]
        turns = [[one.to(dtype) for one in maps] for maps in turned(loss, height, width, batch)]
        return target_of(loss, turns, matched)
    return loss.target([one.to(dtype) for one in pyramid(height, width, seed=1, batch=batch)])


@every_loss
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    loss = told(EVERY[name], WEIGHTS)
    features = tuple(one.requires_grad_() for one in pyramid(16, 16))
    target = posed_maps(loss, 16, 16)
    assert torch.autograd.gradcheck(lambda *maps: loss(maps, target), features, fast_mode=True)
    gradients = torch.autograd.grad(loss(features, target).sum(), features)
    assert all(gradient.any() for gradient in gradients[:-1])


@every_loss
def test_a_batch_of_three_is_three_batches_of_one(name: str) -> None:
    loss, features = told(EVERY[name], None), pyramid(16, 24, batch=3)
    target = posed_maps(loss, 16, 24, batch=3)

    def of(image: int, target: Any) -> Any:
        if isinstance(target, Tensor):
            return target[image : image + 1]
        if isinstance(target, dict):
            return {key: of(image, value) for key, value in target.items()}
        return [of(image, value) for value in target]

    alone = [loss([one[i : i + 1] for one in features], of(i, target)).item() for i in range(3)]
    np.testing.assert_allclose(loss(features, target), alone, rtol=1e-12)
    assert len(set(alone)) == 3


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_compared_in_float32(name: str, dtype: torch.dtype) -> None:
    loss, features = told(EVERY[name], None), pyramid(16, 24, dtype=dtype)
    value = loss(features, posed_maps(loss, 16, 24, dtype=dtype))
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()


@every_loss
def test_maps_of_nothing_give_a_finite_value_and_gradient(name: str) -> None:
    loss = told(EVERY[name], None)
    features = [torch.zeros_like(one).requires_grad_() for one in pyramid(16, 16)]
    nothing = [one.detach() for one in features]
    target = target_of(loss, [nothing] * loss.turns, nothing) if isinstance(loss, NearestNeighborLoss) else None
    value = loss(features, loss.target(nothing) if target is None else target)
    assert torch.isfinite(value).all()
    for gradient in torch.autograd.grad(value.sum(), features):
        assert torch.isfinite(gradient).all()


@every_loss
def test_weights_multiply_maps_or_a_layers_own_term(name: str) -> None:
    loss, features = EVERY[name], pyramid(16, 24)
    if isinstance(loss, NearestNeighborLoss) and loss.of_layers:
        alone = []
        for layer in WEIGHTS:
            one = told(loss, {other: float(other == layer) for other in WEIGHTS})
            one.of_columns = 0.0
            alone.append(WEIGHTS[layer] * float(one(features, posed_maps(one, 16, 24))))
        whole = told(loss, WEIGHTS)
        whole.of_columns = 0.0
        np.testing.assert_allclose(float(whole(features, posed_maps(whole, 16, 24))), sum(alone), rtol=1e-9)
        return
    if isinstance(loss, NearestNeighborLoss):
        return  # said by brute force above
    style = pyramid(16, 24, seed=1)
    scaled = [[w * one for w, one in zip(WEIGHTS.values(), maps, strict=True)] for maps in (features, style)]
    plain, own = told(loss, None), told(loss, WEIGHTS)
    expected = plain(scaled[0], plain.target(scaled[1]))
    torch.testing.assert_close(own(features, own.target(style)), expected, rtol=1e-12, atol=0)
    assert not torch.equal(own(features, own.target(style)), plain(features, plain.target(style)))


@every_loss
def test_numbers_are_those_of_seed_and_step(name: str) -> None:
    loss, features = told(EVERY[name], None), pyramid(32, 24)
    target = posed_maps(loss, 32, 24)
    values = {}
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 1), (0, 0)):
        loss.begin_step(step, seed)
        assert values.setdefault((seed, step), loss(features, target).item()) == loss(features, target).item()
    draws = getattr(loss, "samples", 0) < 32 * 24 and getattr(loss, "of_layers", 1)
    values = {
        key: round(value, 9) for key, value in values.items()
    }  # in another order all of them have another last bit
    assert (len(set(values.values())) > 1) == bool(draws)


@pytest.mark.parametrize("most", [1, 7, 100, 1000])
def test_neighbors_searched_for_in_parts_are_those_found_at_once(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, matched = told(NearestNeighborLoss(), None), pyramid(16, 24, seed=5, batch=2)
    features, turns = pyramid(16, 24, batch=2), turned(loss, 20, 18)
    at_once = target_of(loss, turns, matched)
    value = loss(features, at_once)
    monkeypatch.setattr(neighbors, "nearest", functools.partial(nearest, most=most))
    assert torch.equal(target_of(loss, turns, matched)["columns"], at_once["columns"])
    assert torch.equal(loss(features, at_once), value)


# ---------------------------------------------------------------- in the framework

LAYERS = ("rgb", "relu1_1", "relu2_1", "relu3_1")


@functools.cache
def network(preprocessing: str) -> Backbone:
    return backbones.load("vgg16", "random", LAYERS, preprocessing=preprocessing, seed=3).double()


@pytest.mark.parametrize("engine", ["plain", "fused"])
@pytest.mark.parametrize("preprocessing", ["caffe", "imagenet"])
def test_the_layer_rgb_is_the_picture(preprocessing: str, engine: str) -> None:
    image = torch.from_numpy(np.random.default_rng(0).random((2, 3, 32, 40)))
    seen = PREPROCESSINGS[preprocessing](image)
    found = make(engine, network(preprocessing), torch.float64).targets(seen, {"all": TargetRequest(LAYERS, Maps())})
    np.testing.assert_allclose(found["all"][0], image.numpy(), atol=1e-12)
    assert [one.shape[1:] for one in found["all"]] == [(3, 32, 40), (64, 32, 40), (128, 16, 20), (256, 8, 10)]


@pytest.mark.parametrize("preprocessing", ["caffe", "imagenet"])
def test_both_engines_say_the_same_beside_losses_of_single_layers(preprocessing: str) -> None:
    weights = dict(zip(LAYERS, (1.0, 0.5, 2.0, 1.0), strict=True))
    losses: dict[str, Any] = {
        "emd": RelaxedEMDLoss(40, hypercolumns=True, style_samples=60, colors=0.25).for_layers(weights),
        "self": SelfSimilarityLoss(40, hypercolumns=True).for_layers(weights),
        "nnst": NearestNeighborLoss(side=8).for_layers(weights),
    }
    rng = np.random.default_rng(0)
    image, other, matched = (
        PREPROCESSINGS[preprocessing](torch.from_numpy(rng.random((b, 3, 32, 40)))) for b in (2, 1, 2)
    )
    values, gradients = {}, {}
    for name in ("plain", "fused"):
        engine = make(name, network(preprocessing), torch.float64)
        wanted = {tag: TargetRequest(LAYERS, loss) for tag, loss in losses.items()}
        wanted |= {"gram": TargetRequest("relu2_1", GramLoss())}
        targets = engine.targets(other, wanted)
        turns = [engine.targets(other.rot90(t, (2, 3)), wanted)["nnst"] for t in range(4)]
        maps = engine.targets(matched, {"maps": TargetRequest(LAYERS, Maps())})["maps"]
        targets["nnst"] = losses["nnst"].match(losses["nnst"].joined(turns), maps)
        pixels = image.clone().requires_grad_()
        values[name] = engine.values(pixels, {t: LossRequest(o.layer, o.loss, targets[t]) for t, o in wanted.items()})
        (gradients[name],) = torch.autograd.grad(torch.stack(list(values[name].values())).sum(), pixels)
    for tag, value in values["plain"].items():
        torch.testing.assert_close(values["fused"][tag], value, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradients["fused"], gradients["plain"], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("experiment", ["strotss", "nnst"])
def test_its_memory_is_told_and_its_layers_have_one_tag(experiment: str) -> None:
    small = ("backbone.weights=random", "size=32", "schedule=single", "style=mosaic")
    problem = posed(f"experiment={experiment}", *small)
    assert problem.fit.need is not None
    losses = problem.evaluate((problem.start + 0.01).requires_grad_())
    assert losses.style.item() > 0
    assert [tag for tag in losses.unweighted if "style_layers" in tag] == ["style_layers/hypercolumn"]
    assert "fused" in problem.engine


def test_what_a_loss_declares() -> None:
    assert traits(RelaxedEMDLoss(hypercolumns=True)).joins_layers
    assert not traits(RelaxedEMDLoss()).joins_layers
    assert traits(SelfSimilarityLoss(hypercolumns=True)).joins_layers
    assert (traits(NearestNeighborLoss()).turns, traits(NearestNeighborLoss(turned=False)).turns) == (4, 1)


@pytest.mark.parametrize(
    ("made", "argument"),
    [
        (lambda: RelaxedEMDLoss(style_samples=-1), "style_samples"),
        (lambda: RelaxedEMDLoss(style_samples=1.5), "style_samples"),  # type: ignore[arg-type]
        (lambda: RelaxedEMDLoss(hypercolumns=True, colors=-1), "colors"),
        (lambda: RelaxedEMDLoss(colors=1), "hypercolumns=true"),
        (lambda: RelaxedEMDLoss(hypercolumns=True, colors=1).for_layers({"relu1_1": 1, "rgb": 1}), "rgb"),
        (lambda: SumLoss({"a": RelaxedEMDLoss(hypercolumns=True)}), r"losses\.a compares layers"),
        (lambda: SumLoss({"a": NearestNeighborLoss()}), r"losses\.a compares layers"),
        (lambda: SelfSimilarityLoss(0, hypercolumns=True), "samples"),
        (lambda: NearestNeighborLoss(-1), "columns"),
        (lambda: NearestNeighborLoss(layers=-1), "layers"),
        (lambda: NearestNeighborLoss(0, 0), "columns and layers are both 0"),
        (lambda: NearestNeighborLoss(mix=1.5), "mix"),
        (lambda: NearestNeighborLoss(mix=-1), "mix"),
        (lambda: NearestNeighborLoss(side=0), "side"),
        (lambda: NearestNeighborLoss(redraw=0), "redraw"),
        (lambda: NearestNeighborLoss(scale=0), "scale"),
    ],
)
def test_a_bad_argument_is_refused_by_name(made: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        made()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("style_loss=hypercolumn_emd", "style_loss.colors=0.5"), r"colors=0\.5 needs rgb as the first style layer"),
        (
            ("style_loss=hypercolumn_emd", "style_loss.colors=1", "backbone=vgg16", "layers.style=[relu1_1,rgb]"),
            r"needs rgb as the first style layer",
        ),
        (
            ("style_loss=hypercolumn_emd", "tile=128"),
            r"RelaxedEMDLoss is no function of sums over positions.*tile=none",
        ),
        (
            ("content_loss=hypercolumn_similarity", "tile=128"),
            r"SelfSimilarityLoss is no function of sums over positions",
        ),
        (
            ("style_loss=nearest_neighbors", "tile=128"),
            r"NearestNeighborLoss is no function of sums over positions.*tile=none",
        ),
        (
            ("style_loss=nearest_neighbors", "style_masks=[geometry]"),
            r"style_masks: NearestNeighborLoss cannot be confined",
        ),
        (("style_loss=hypercolumn_emd", "style_masks=[geometry]"), r"style_masks: RelaxedEMDLoss cannot be confined"),
        (
            ("experiment=strotss", "schedule.optimizer=carry"),
            r"schedule\.optimizer=carry: .* Use schedule\.optimizer=restart",
        ),
        (
            ("style_loss=nearest_neighbors", "optimizer=adam", "jitter=8"),
            r"jitter=8 would move the picture away from the neighbours",
        ),
        (
            ("style_loss=nearest_neighbors", "task=train"),
            r"style_loss: NearestNeighborLoss looks for neighbours of one picture: it is a",
        ),
        (("style_loss=nearest_neighbors", "style_loss.columns=0"), r"columns and layers are both 0"),
    ],
)
def test_what_does_not_go_together_is_told(typed: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(composed(*typed))


def test_any_loss_may_look_at_the_picture_itself() -> None:
    common = ("size=80", "layers.style=[rgb,conv1]", "layers.content=[rgb,fire4]", "precision=float64", "init=style",
              "margin=0", "jitter=0")  # fmt: skip
    whole, fused, tiled = (
        posed(*common, *more) for more in (("engine=plain",), ("engine=fused",), ("engine=fused", "tile=64"))
    )
    content, style = whole.inputs.content[0].flatten(1), whole.inputs.style[0].flatten(1)
    picture = whole.space.decode(whole.start)[0].flatten(1)
    grams = [one @ one.T / one.shape[1] for one in (picture, style)]
    expected = {
        "style_layers/rgb": float((grams[0] - grams[1]).square().sum() / grams[1].square().sum()),
        "content_layers/rgb": float((picture - content).square().sum() / content.square().sum()),
    }
    for problem in (whole, fused, tiled):
        found = problem.evaluate().unweighted
        assert {tag: float(found[tag]) for tag in expected} == pytest.approx(expected, rel=1e-9, abs=1e-15)
        gradient = problem.gradient(problem.start)
        torch.testing.assert_close(gradient, whole.gradient(whole.start), rtol=1e-6, atol=1e-12)


def test_a_word_that_is_neither_true_nor_false_is_refused() -> None:
    for made in (
        lambda: RelaxedEMDLoss(hypercolumns="maybe"),  # type: ignore[arg-type]
        lambda: SelfSimilarityLoss(hypercolumns="maybe"),  # type: ignore[arg-type]
        lambda: NearestNeighborLoss(turned="maybe"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"=maybe must be true or false"):
            made()
