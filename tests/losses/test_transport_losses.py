"""The losses of transport and patches, said again in NumPy and SciPy, and against Python Optimal Transport."""

import copy
from typing import Any

import numpy as np
import ot
import pytest
import torch
from problems import CONF, composed, posed
from scipy.spatial.distance import cdist
from skimage.exposure import match_histograms

from nst.engines import LossRequest, TargetRequest, make
from nst.losses import (
    GramLoss,
    HistogramLoss,
    MRFLoss,
    RelaxedEMDLoss,
    SelfSimilarityLoss,
    SlicedWassersteinLoss,
    SumLoss,
    is_summed,
    transport,
)
from nst.losses.drawing import Drawing, sampled_positions, unit_directions
from nst.losses.patches import nearest, normalized
from nst.losses.protocols import DrawingLoss
from nst.losses.similarity import cosine_distances, moment_distance, moments, relaxed_emd, self_similarity
from nst.losses.transport import matched_quantiles, sliced_wasserstein, wasserstein_1d
from nst.networks import backbones
from nst.setup.layers import layer_weights

PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-4)]
SIZES = [(5, 6, 5, 6), (5, 6, 7, 3), (3, 4, 6, 8), (6, 8, 3, 4), (3, 5, 8, 8), (7, 7, 2, 3)]
OPTIONS = ["sliced_wasserstein", "histogram", "gram_histogram", "relaxed_emd", "mrf"]


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Feature maps, reproducible and without ties."""
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, shape)).to(dtype)


# ---------------------------------------------------------------- the same, said again


def rows(features: torch.Tensor) -> list[np.ndarray]:
    """Return each image's activations as C x N."""
    return [image.reshape(len(image), -1) for image in features.double().numpy()]


def divisor(norm: str | float, style: np.ndarray) -> float:
    return float(np.mean(style**2)) if norm == "relative" else 1.0 if norm == "none" else float(norm)


def quantile(ordered: np.ndarray, t: np.ndarray) -> np.ndarray:
    return ordered[np.minimum((t * len(ordered)).astype(int), len(ordered) - 1)]


def expected_line(a: np.ndarray, b: np.ndarray) -> float:
    """Integrate (Q_a - Q_b)^2 over the pieces on which both are constant."""
    cuts = np.unique(np.round(np.r_[np.arange(len(a) + 1) / len(a), np.arange(len(b) + 1) / len(b)], 12))
    middle = (cuts[1:] + cuts[:-1]) / 2
    return float((np.diff(cuts) * (quantile(np.sort(a), middle) - quantile(np.sort(b), middle)) ** 2).sum())


def expected_sliced(features: torch.Tensor, style: torch.Tensor, loss: SlicedWassersteinLoss) -> np.ndarray:
    channels = features.shape[1]
    directions = unit_directions(loss.directions or channels, channels, loss.generator()).numpy()
    return np.array(
        [
            np.mean([expected_line(v @ f, v @ s) for v in directions]) / divisor(loss.norm, s)
            for f, s in zip(rows(features), rows(style), strict=True)
        ]
    )


def expected_histogram(features: torch.Tensor, style: torch.Tensor, loss: HistogramLoss) -> np.ndarray:
    """Match each channel as scikit-image does."""
    values = []
    for f, s in zip(rows(features), rows(style), strict=True):
        matched = [match_histograms(ours, others) for ours, others in zip(f, s, strict=True)]
        values.append(np.mean((f - np.array(matched)) ** 2) / divisor(loss.norm, s))
    return np.array(values)


def seen(image: np.ndarray, loss: RelaxedEMDLoss | SelfSimilarityLoss) -> np.ndarray:
    """Return the sampled positions of C x N, one a row."""
    if image.shape[1] <= loss.samples:
        return image.T
    return image.T[torch.randperm(image.shape[1], generator=loss.generator())[: loss.samples].numpy()]


def expected_emd(features: torch.Tensor, style: torch.Tensor, loss: RelaxedEMDLoss) -> np.ndarray:
    values = []
    for f, s in zip(rows(features), rows(style), strict=True):
        a, b = seen(f, loss), seen(s, loss)
        distances = cdist(a, b, "cosine")
        value = max(distances.min(1).mean(), distances.min(0).mean())
        for ours, others in ((a.mean(0), b.mean(0)), (np.cov(a.T, bias=True), np.cov(b.T, bias=True))):
            share = {"relative": np.abs(others).mean(), "none": 1.0}.get(loss.norm, loss.norm)  # type: ignore[call-overload]
            value += loss.moments * np.abs(ours - others).mean() / share
        values.append(value)
    return np.array(values)


def expected_mrf(features: torch.Tensor, style: torch.Tensor, loss: MRFLoss) -> np.ndarray:
    side = min(loss.patch, *features.shape[2:], *style.shape[2:])

    def cut(image: np.ndarray) -> list[np.ndarray]:
        height, width = image.shape[1:]
        return [
            image[:, y : y + side, x : x + side]
            for y in range(0, height - side + 1, loss.stride)
            for x in range(0, width - side + 1, loss.stride)
        ]

    values = []
    for f, s in zip(features.double().numpy(), style.double().numpy(), strict=True):
        others, errors = cut(s), []
        for ours in cut(f):
            scores = [(ours * o).sum() / np.sqrt((ours**2).sum() * (o**2).sum()) for o in others]
            errors.append(np.mean((ours - others[int(np.argmax(scores))]) ** 2))
        values.append(np.mean(errors) / divisor(loss.norm, s))
    return np.array(values)


def expected_similarity(features: torch.Tensor, content: torch.Tensor, loss: SelfSimilarityLoss) -> np.ndarray:
    values = []
    for f, p in zip(rows(features), rows(content), strict=True):
        ours, others = (cdist(x, x, "cosine") for x in (seen(f, loss), seen(p, loss)))
        ours, others = ours / ours.sum(0), others / others.sum(0)
        share = {"relative": others.mean(), "none": 1.0}.get(loss.norm, loss.norm)  # type: ignore[call-overload]
        values.append(np.abs(ours - others).mean() / share)
    return np.array(values)


def expected_sum(features: torch.Tensor, style: torch.Tensor, loss: SumLoss) -> np.ndarray:
    gram, histogram = loss.losses["gram"], loss.losses["histogram"]
    total = []
    for f, s in zip(rows(features), rows(style), strict=True):
        ours, others = f @ f.T / f.shape[1], s @ s.T / s.shape[1]
        total.append(gram.scale * np.mean((ours - others) ** 2) / np.mean(others**2))
    return np.array(total) + histogram.scale * expected_histogram(features, style, histogram)


EXPECTED: dict[type, Any] = {
    SlicedWassersteinLoss: expected_sliced,
    HistogramLoss: expected_histogram,
    RelaxedEMDLoss: expected_emd,
    MRFLoss: expected_mrf,
    SelfSimilarityLoss: expected_similarity,
    SumLoss: expected_sum,
}
LOSSES = {
    "sliced": SlicedWassersteinLoss(),
    "sliced, 7 directions": SlicedWassersteinLoss(directions=7, norm="none"),
    "sliced, 2 directions": SlicedWassersteinLoss(directions=2, norm=2.5),
    "histogram": HistogramLoss(),
    "histogram, none": HistogramLoss(norm="none"),
    "histogram, number": HistogramLoss(norm=2.5),
    "gram and histogram": SumLoss({"gram": GramLoss(scale=30), "histogram": HistogramLoss(scale=2)}),
    "emd": RelaxedEMDLoss(),
    "emd, few": RelaxedEMDLoss(samples=9, norm="none"),
    "emd, alone": RelaxedEMDLoss(moments=0),
    "emd, number": RelaxedEMDLoss(moments=0.5, norm=2.5),
    "mrf": MRFLoss(),
    "mrf, close": MRFLoss(patch=2, stride=1, norm="none"),
    "mrf, points": MRFLoss(patch=1, stride=1, norm=2.5),
    "self-similarity": SelfSimilarityLoss(),
    "self-similarity, few": SelfSimilarityLoss(samples=9, norm="none"),
    "self-similarity, number": SelfSimilarityLoss(norm=2.5),
}
DRAWING = [name for name, loss in LOSSES.items() if isinstance(loss, Drawing)]
every_loss = pytest.mark.parametrize("name", LOSSES)
drawing_loss = pytest.mark.parametrize("name", DRAWING)


def sizes_for(loss: object) -> list[tuple[int, ...]]:
    return SIZES[:1] if isinstance(loss, SelfSimilarityLoss) else SIZES


@every_loss
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_every_loss_is_what_numpy_says_for_any_two_sizes(name: str, dtype: torch.dtype, tolerance: float) -> None:
    loss = LOSSES[name]
    for height, width, style_height, style_width in sizes_for(loss):
        features = maps(3, 4, height, width, dtype=dtype)
        style = maps(3, 4, style_height, style_width, seed=1, dtype=dtype)
        value = loss(features, loss.target(style))
        assert value.shape == (3,)
        assert value.dtype == dtype
        np.testing.assert_allclose(value.numpy(), EXPECTED[type(loss)](features, style, loss), rtol=tolerance)


@every_loss
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    loss = LOSSES[name]
    features = maps(2, 3, 4, 3).requires_grad_()
    for shape in [(4, 3)] if isinstance(loss, SelfSimilarityLoss) else [(4, 3), (3, 3), (5, 6)]:
        target = loss.target(maps(2, 3, *shape, seed=1))
        assert torch.autograd.gradcheck(lambda f, target=target: loss(f, target), features)  # type: ignore[misc]
        (gradient,) = torch.autograd.grad(loss(features, target).sum(), features)
        assert (gradient.flatten(1).abs().amax(1) > 1e-4).all()


@every_loss
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_every_loss_is_zero_at_its_own_target_and_only_there(name: str, dtype: torch.dtype, tolerance: float) -> None:
    loss, features = LOSSES[name], maps(2, 4, 5, 6, dtype=dtype)
    assert loss(features, loss.target(features)).abs().max() <= tolerance
    assert loss(features + 0.3 * maps(2, 4, 5, 6, seed=2, dtype=dtype), loss.target(features)).min() > 1e-3


@every_loss
def test_a_batch_of_three_is_three_batches_of_one(name: str) -> None:
    loss, features, others = LOSSES[name], maps(3, 4, 5, 6), maps(3, 4, 5, 6, seed=1)
    together = loss(features, loss.target(others))
    alone = [loss(features[i : i + 1], loss.target(others[i : i + 1])).item() for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert len(set(alone)) == 3
    shared = loss(features, loss.target(others[:1]))
    alone = [loss(features[i : i + 1], loss.target(others[:1])).item() for i in range(3)]
    np.testing.assert_allclose(shared, alone, rtol=1e-12)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_compared_in_float32(name: str, dtype: torch.dtype) -> None:
    loss, features, style = LOSSES[name], maps(2, 4, 5, 6, dtype=dtype), maps(2, 4, 5, 6, seed=1, dtype=dtype)
    value = loss(features, loss.target(style))
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value, loss(features.double(), loss.target(style.double())), rtol=1e-4)


@every_loss
def test_an_all_zero_map_against_an_all_zero_target_is_finite(name: str) -> None:
    loss, nothing = LOSSES[name], torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = loss(nothing, loss.target(nothing.detach()))
    assert torch.isfinite(value).all()
    assert torch.isfinite(torch.autograd.grad(value.sum(), nothing)[0]).all()
    if not isinstance(loss, RelaxedEMDLoss):  # there a zero vector is at distance 1 from all
        assert value.tolist() == [0.0, 0.0]


@every_loss
def test_every_loss_can_be_rehearsed_without_values(name: str) -> None:
    loss, features = LOSSES[name], torch.empty(2, 4, 5, 6, device="meta", requires_grad=True)
    others = torch.empty(1, 4, 5 if isinstance(loss, SelfSimilarityLoss) else 7, 6, device="meta")
    value = loss(features, loss.target(others))
    assert value.is_meta
    assert value.shape == (2,)
    assert torch.autograd.grad(value.sum(), features)[0].shape == features.shape


@every_loss
def test_no_loss_promises_tiles(name: str) -> None:
    assert not is_summed(LOSSES[name])


# ---------------------------------------------------------------- what is drawn


@drawing_loss
def test_numbers_are_those_of_seed_and_step_whatever_came_before(name: str) -> None:
    features, others = maps(1, 4, 5, 6), maps(1, 4, 5, 6, seed=1)
    loss = copy.copy(LOSSES[name])
    if not isinstance(loss, SlicedWassersteinLoss):
        loss.samples = 9
    target = loss.target(others)

    def value(step: int, seed: int) -> float:
        loss.begin_step(step, seed)
        first = loss(features, target).item()
        assert loss(features, target).item() == first  # a line search sees one function
        return first

    untouched = copy.copy(LOSSES[name])
    if not isinstance(untouched, SlicedWassersteinLoss):
        untouched.samples = 9
    before = torch.get_rng_state()
    values = {(step, seed): value(step, seed) for step in range(3) for seed in range(3)}
    assert len(set(values.values())) == 9
    for (step, seed), expected in reversed(values.items()):
        assert value(step, seed) == expected
    assert untouched(features, target).item() == values[0, 0]
    assert torch.equal(torch.get_rng_state(), before)


@drawing_loss
def test_redraw_keeps_numbers_for_several_steps(name: str) -> None:
    loss = copy.copy(LOSSES[name])
    loss.redraw = 3  # type: ignore[attr-defined]
    drawn = []
    for step in range(7):
        loss.begin_step(step, 5)  # type: ignore[attr-defined]
        drawn.append(int(torch.randint(2**62, (), generator=loss.generator())))  # type: ignore[attr-defined]
    assert [drawn.index(number) for number in drawn] == [0, 0, 0, 3, 3, 3, 6]


def test_directions_have_length_one_and_no_preferred_side() -> None:
    directions = unit_directions(20000, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(20000, dtype=torch.float64))
    assert directions.mean(0).abs().max() < 0.02
    torch.testing.assert_close(
        directions.T @ directions / 20000, torch.eye(3, dtype=torch.float64) / 3, atol=0.01, rtol=0
    )


def test_positions_are_drawn_once_each_and_alike_for_maps_of_one_size() -> None:
    places = torch.arange(30.0).reshape(1, 1, 5, 6)
    drawn = sampled_positions(places, 12, Drawing().generator())
    assert drawn.shape == (1, 1, 12)
    assert len(drawn.unique()) == 12
    assert torch.equal(sampled_positions(places + 1, 12, Drawing().generator()), drawn + 1)
    assert torch.equal(sampled_positions(places, 30, Drawing().generator()), places.flatten(2))


# ---------------------------------------------------------------- optimal transport


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 7), (7, 12), (12, 36), (36, 12), (1, 5), (5, 1), (97, 89)])
def test_transport_on_a_line_is_that_of_python_optimal_transport(n: int, m: int) -> None:
    a, b = maps(3, n), maps(3, m, seed=1) * 2
    value = wasserstein_1d(a, b)
    np.testing.assert_allclose(value, ot.lp.wasserstein_1d(a.numpy().T, b.numpy().T, p=2), rtol=1e-9)
    exact = [ot.emd2_1d(ours, others, metric="sqeuclidean") for ours, others in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(value, exact, rtol=1e-5)


def test_sliced_wasserstein_is_that_of_python_optimal_transport() -> None:
    features, style = maps(1, 4, 5, 6), maps(1, 4, 7, 3, seed=1)
    directions = unit_directions(11, 4, torch.Generator().manual_seed(3))
    (a,), (b,) = rows(features), rows(style)
    expected = ot.sliced_wasserstein_distance(a.T, b.T, projections=directions.numpy().T) ** 2
    np.testing.assert_allclose(sliced_wasserstein(features, style, directions), expected, rtol=1e-9)


def test_relative_sliced_wasserstein_of_an_all_zero_map_is_one_on_average() -> None:
    style = maps(1, 4, 5, 6)
    loss = SlicedWassersteinLoss(directions=20000)
    assert loss(torch.zeros_like(style), loss.target(style)).item() == pytest.approx(1, rel=0.02)


def test_relaxed_earth_movers_distance_never_exceeds_the_whole_one() -> None:
    for seed in range(5):
        a, b = maps(1, 4, 9, seed=seed), maps(1, 4, 7, seed=seed + 10)
        distances = cosine_distances(a, b)[0].numpy()
        np.testing.assert_allclose(distances, cdist(a[0].T, b[0].T, "cosine"), rtol=1e-9)
        whole = ot.emd2([], [], distances)
        for one_sided in (distances.min(1).mean(), distances.min(0).mean()):
            assert one_sided <= whole + 1e-12
        assert relaxed_emd(a, b).item() == pytest.approx(max(distances.min(1).mean(), distances.min(0).mean()))
        assert relaxed_emd(a, b).item() < whole


def test_relaxed_earth_movers_distance_is_the_whole_one_where_each_vector_has_its_own_partner() -> None:
    a = torch.eye(6, dtype=torch.float64)[None] * torch.arange(1, 7)
    b = (torch.eye(6, dtype=torch.float64) + 0.1 * maps(6, 6).abs())[None, :, torch.tensor([3, 1, 5, 0, 2, 4])]
    whole = ot.emd2([], [], cosine_distances(a, b)[0].numpy())
    assert relaxed_emd(a, b).item() == pytest.approx(whole, rel=1e-5)
    assert whole > 0


def test_the_larger_of_the_two_sides_counts() -> None:
    one = torch.tensor([[[1.0], [0.0]]])
    both = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert relaxed_emd(one, both).item() == 0.5  # the second of the two has no partner
    assert relaxed_emd(both, one).item() == 0.5


def test_moments_see_the_lengths_that_cosines_do_not() -> None:
    vectors = maps(1, 4, 9)
    assert relaxed_emd(2 * vectors, vectors).item() == pytest.approx(0, abs=1e-12)
    # means are doubled, covariances four times as large
    assert moment_distance(2 * vectors, moments(vectors), "relative").item() == pytest.approx(1 + 3)


def test_self_similarity_does_not_see_lengths_and_rotations() -> None:
    vectors = maps(1, 4, 9)
    turned = torch.linalg.qr(maps(4, 4, seed=3)).Q @ vectors * maps(1, 1, 9, seed=4).abs()
    assert self_similarity(turned, vectors).item() == pytest.approx(0, abs=1e-12)
    assert self_similarity(maps(1, 4, 9, seed=5), vectors).item() > 1e-3


# ---------------------------------------------------------------- histograms and patches


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 7), (7, 12), (100, 9), (9, 100), (1, 5), (5, 1)])
def test_quantiles_are_matched_as_scikit_image_matches_values_without_ties(n: int, m: int) -> None:
    ours, given = maps(n).sort().values, maps(m, seed=1).sort().values
    np.testing.assert_allclose(matched_quantiles(given, n), match_histograms(ours.numpy(), given.numpy()), rtol=1e-12)


def test_the_matched_map_is_a_constant_to_the_gradient() -> None:
    features, style = maps(1, 2, 3, 4).requires_grad_(), maps(1, 2, 3, 4, seed=1)
    loss = HistogramLoss(norm="none")
    (gradient,) = torch.autograd.grad(loss(features, loss.target(style)).sum(), features)
    matched = [match_histograms(f, s) for f, s in zip(rows(features.detach())[0], rows(style)[0], strict=True)]
    expected = 2 * (features.detach().numpy() - np.array(matched).reshape(1, 2, 3, 4)) / 24
    np.testing.assert_allclose(gradient, expected, rtol=1e-9)


def test_a_transposed_or_shuffled_map_has_the_same_histograms() -> None:
    features = maps(1, 3, 4, 5)
    shuffled = features.flatten(2)[:, :, torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    for loss in (HistogramLoss(), SlicedWassersteinLoss(), RelaxedEMDLoss(), MRFLoss(patch=1, stride=1)):
        assert loss(features, loss.target(shuffled.reshape(1, 3, 5, 4))).item() == pytest.approx(0, abs=1e-12)
    assert MRFLoss(patch=2)(features, shuffled.reshape(1, 3, 4, 5)).item() > 1e-3


def test_patches_are_matched_in_parts_as_at_once() -> None:
    ours, others = maps(2, 12, 17), maps(1, 12, 23, seed=1)
    at_once = nearest(ours, normalized(others))
    for most in (1, 50, 100, 2 * 23 * 5):
        assert torch.equal(nearest(ours, normalized(others), most), at_once)
    scores = torch.nn.functional.cosine_similarity(ours[:, :, :, None], others[:, :, None], dim=1)
    assert torch.equal(at_once, scores.argmax(2))


def test_a_patch_is_matched_by_its_pattern_and_not_by_its_contrast() -> None:
    pattern, other = maps(1, 2, 3, 3), maps(1, 2, 3, 3, seed=1)
    style = torch.cat([other, 5 * pattern], dim=3)
    value = MRFLoss(patch=3, stride=3, norm="none")(pattern, style)
    np.testing.assert_allclose(value, [float((16 * pattern**2).mean())], rtol=1e-12)


def test_a_sum_is_its_losses_times_their_scales() -> None:
    features, style = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1)
    parts = {"a": GramLoss(scale=3), "b": MRFLoss(scale=0.5), "c": RelaxedEMDLoss(samples=9)}
    loss = SumLoss(parts, scale=7)
    assert loss.scale == 7
    expected = sum(part.scale * part(features, part.target(style)) for part in parts.values())
    torch.testing.assert_close(loss(features, loss.target(style)), expected)
    loss.begin_step(4, 2)
    alone = RelaxedEMDLoss(samples=9)
    alone.begin_step(4, 2)
    assert torch.equal(loss.losses["c"](features, style), alone(features, style))
    assert isinstance(loss, DrawingLoss)
    assert not isinstance(SumLoss({"a": GramLoss()}), DrawingLoss)


def test_a_sum_tells_its_losses_the_size_of_the_picture() -> None:
    class Counts(GramLoss):
        def for_picture(self, height: int, width: int) -> GramLoss:
            return GramLoss(term_norm=float(height * width))

    parts = SumLoss({"a": Counts(), "b": HistogramLoss()}, scale=7).for_picture(4, 5)
    assert parts.scale == 7
    assert parts.losses["a"].term_norm == 20
    assert isinstance(parts.losses["b"], HistogramLoss)


# ---------------------------------------------------------------- in the framework


NETWORKS = sorted({path.stem for path in (CONF / "backbone").glob("*.yaml")} - {"torchvision"})


@pytest.mark.parametrize("network", NETWORKS)
def test_every_loss_works_on_every_network_and_engine(network: str) -> None:
    found = composed(f"backbone={network}")
    layers = list(layer_weights(found, "style"))
    backbone = backbones.load(found.backbone.architecture, "random", layers, preprocessing="imagenet").double()
    image, other = maps(2, 3, 40, 48), maps(1, 3, 36, 32, seed=1)
    same = maps(1, 3, 40, 48, seed=2)
    names = [name for name in LOSSES if "," not in name]
    values: dict[str, dict[str, torch.Tensor]] = {}
    gradients = {}
    for engine in ("plain", "fused"):
        made = make(engine, backbone, torch.float64)
        wanted = {f"{name}/{layer}": TargetRequest(layer, LOSSES[name]) for name in names for layer in layers}
        of_content = {tag: one for tag, one in wanted.items() if tag.startswith("self")}
        with torch.no_grad():
            targets = made.targets(other, wanted) | made.targets(same, of_content)
        pixels = image.clone().requires_grad_()
        requests = {tag: LossRequest(one.layer, one.loss, targets[tag]) for tag, one in wanted.items()}
        values[engine] = made.values(pixels, requests)
        total = torch.stack(list(values[engine].values())).sum()
        (gradients[engine],) = torch.autograd.grad(total, pixels)
    for tag, value in values["plain"].items():
        assert value.shape == (2,)
        assert torch.isfinite(value).all(), tag
        torch.testing.assert_close(values["fused"][tag], value, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(gradients["fused"], gradients["plain"], rtol=1e-5, atol=1e-9)
    assert gradients["plain"].abs().max() > 0


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_group_is_built_and_its_memory_is_told(option: str) -> None:
    problem = posed(f"style_loss={option}", "content_loss=self_similarity", "size=48", "layers.style=[conv1,fire3]",
                    "style=mosaic")  # fmt: skip
    assert problem.fit.need is not None
    pixels = (problem.start + 0.01).requires_grad_()
    losses = problem.evaluate(pixels)
    assert losses.style.item() > 0
    assert losses.content.item() > 0
    assert torch.autograd.grad(losses.total.sum(), pixels)[0].abs().max() > 0


@pytest.mark.parametrize(
    ("made", "argument"),
    [
        (lambda: SlicedWassersteinLoss(directions=0), "directions"),
        (lambda: SlicedWassersteinLoss(directions=1.5), "directions"),  # type: ignore[arg-type]
        (lambda: SlicedWassersteinLoss(directions=True), "directions"),
        (lambda: SlicedWassersteinLoss(redraw=0), "redraw"),
        (lambda: SlicedWassersteinLoss(norm="CN"), "norm"),
        (lambda: SlicedWassersteinLoss(scale=0), "scale"),
        (lambda: HistogramLoss(norm="relativ"), "relative"),
        (lambda: HistogramLoss(scale=-1), "scale"),
        (lambda: RelaxedEMDLoss(samples=0), "samples"),
        (lambda: RelaxedEMDLoss(moments=-1), "moments"),
        (lambda: RelaxedEMDLoss(moments=None), "moments"),  # type: ignore[arg-type]
        (lambda: RelaxedEMDLoss(norm=0), "norm"),
        (lambda: RelaxedEMDLoss(redraw=None), "redraw"),  # type: ignore[arg-type]
        (lambda: MRFLoss(patch=0), "patch"),
        (lambda: MRFLoss(stride=0), "stride"),
        (lambda: MRFLoss(norm="none "), "norm"),
        (lambda: SelfSimilarityLoss(samples="many"), "samples"),  # type: ignore[arg-type]
        (lambda: SelfSimilarityLoss(norm=-1), "norm"),
        (lambda: SumLoss({}), "losses"),
        (lambda: SumLoss({"a": 3}), "losses.a"),
        (lambda: SumLoss({"a": GramLoss()}, scale=0), "scale"),
    ],
)
def test_a_bad_argument_is_refused_by_name(made: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        made()


def test_a_loss_that_compares_layers_cannot_be_added() -> None:
    coupled = GramLoss()
    coupled.couples_layers = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"losses\.a compares layers"):
        SumLoss({"a": coupled})


def test_the_variance_within_parts_is_no_part_of_the_gradient_but_of_the_value() -> None:
    values, given = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0, 2.0, 4.0])
    means, variance = transport._parts(given, 2)
    assert means.tolist() == [1.0, 3.0]
    assert variance.item() == 1.0
    assert wasserstein_1d(values, given).item() == 1.0
