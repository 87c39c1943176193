"""The style losses beside the plain Gram loss, against their formulas written again in float64 NumPy and SciPy."""

import itertools

import numpy as np
import ot
import pytest
import scipy.linalg
import torch

from nst import engines
from nst.batching import grouping
from nst.engines import tiles
from nst.engines.fused import Fused
from nst.engines.plain import Plain
from nst.engines.tiles import Tiled
from nst.losses import (
    GaussianMMDLoss,
    GaussianWassersteinLoss,
    GramLoss,
    LinearMMDLoss,
    MomentsLoss,
    PolynomialMMDLoss,
    is_summed,
)
from nst.losses import functional as F
from nst.losses.objective import LayerTerm, LossRequest, TargetRequest
from nst.networks import backbones

PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-4)]
# What each constant of the authors' code is divided by, given C and N.
LI = {
    "moments": lambda c, n: c / n,
    "linear": lambda c, n: c / n,
    "polynomial": lambda c, n: c**2 / n,
    "gaussian": lambda c, n: c * n / (n // 2),
}


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, shape)).to(dtype)


def guides(*shape, seed=5):
    """Weights of positions with the mean 1, some of them 0."""
    weights = np.random.default_rng(seed).uniform(-0.3, 1.0, shape).clip(0)
    return torch.from_numpy(weights / weights.mean((2, 3), keepdims=True))


def rows(features):
    """Positions by channels, of each image."""
    return [image.reshape(image.shape[0], -1).T for image in features.double().numpy()]


def weights_of(features, guide):
    if guide is None:
        return [np.ones(features.shape[2] * features.shape[3])] * features.shape[0]
    return [one.ravel() for one in guide.expand(features.shape[0], -1, -1, -1).numpy()]


def mean(x, w):
    return (w[:, None] * x).sum(0) / len(x)


def covariance(x, w):
    second = sum(weight * np.outer(row, row) for weight, row in zip(w, x, strict=True)) / len(x)
    return second - np.outer(mean(x, w), mean(x, w))


def deviation(x, w):
    return np.sqrt(((w[:, None] * x**2).sum(0)) / len(x) - mean(x, w) ** 2)


def moments(x, wx, y, wy):
    return ((mean(x, wx) - mean(y, wy)) ** 2 + (deviation(x, wx) - deviation(y, wy)) ** 2).sum()


def discrepancy(kernel):
    """MMD^2 with every pair of positions."""

    def over(x, wx, y, wy):
        return sum(kernel(a, b) * u * v for a, u in zip(x, wx, strict=True) for b, v in zip(y, wy, strict=True)) / (
            len(x) * len(y)
        )

    return lambda x, wx, y, wy: over(x, wx, x, wx) + over(y, wy, y, wy) - 2 * over(x, wx, y, wy)


def polynomial(degree, offset):
    return discrepancy(lambda a, b: (a @ b + offset) ** degree)


def gaussian(sigma):
    return discrepancy(lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * sigma**2)))


def gaussian_auto(x, wx, y, wy):
    pairs = [((a - b) ** 2).sum() for one, other in ((x, x), (y, y), (x, y), (y, x)) for a in one for b in other]
    sizes = np.array([len(x) ** 2, len(y) ** 2, len(x) * len(y), len(x) * len(y)])
    ends = np.cumsum(sizes)[:-1]
    average = np.mean([part.mean() for part in np.split(np.array(pairs), ends)])
    return gaussian(np.sqrt(average / 2))(x, wx, y, wy)


def drawn(seed, step, n, m):
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))
    k = min(n, m) // 2
    orders = [torch.randperm(number, generator=generator).numpy() for number in (n, m)]
    return [(order[:k], order[k : 2 * k]) for order in orders]


def gaussian_linear(sigma=None, seed=0, step=0):
    def value(x, wx, y, wy):
        (i, i_), (j, j_) = drawn(seed, step, len(x), len(y))
        distances = [((a - b) ** 2).sum(1) for a, b in ((x[i], x[i_]), (y[j], y[j_]), (x[i], y[j_]), (x[i_], y[j]))]
        rate = 1 / np.mean(distances) if sigma is None else 1 / (2 * sigma**2)
        signs = (1, 1, -1, -1)
        return sum(s * np.exp(-rate * d).mean() for s, d in zip(signs, distances, strict=True))

    return value


def zero_gaussian_linear(y, wy, x):
    """What an all-zero map gives, with the pairs and the bandwidth that map x has."""
    (i, i_), (j, j_) = drawn(0, 0, len(x), len(y))
    distances = [((a - b) ** 2).sum(1) for a, b in ((x[i], x[i_]), (y[j], y[j_]), (x[i], y[j_]), (x[i_], y[j]))]
    rate = 1 / np.mean(distances)
    k = [np.exp(-rate * ((a - b) ** 2).sum(1)).mean() for a, b in ((y[j], y[j_]), (0, y[j]), (0, y[j_]))]
    return 1 + k[0] - k[1] - k[2]


def wasserstein(ridge):
    def value(x, wx, y, wy):
        eye = ridge * np.eye(x.shape[1])
        one, other = covariance(x, wx) + eye, covariance(y, wy) + eye
        root = scipy.linalg.sqrtm(other)
        middle = scipy.linalg.sqrtm(root @ one @ root)
        apart = ((mean(x, wx) - mean(y, wy)) ** 2).sum()
        return (apart + np.trace(one + other - 2 * middle).real) / x.shape[1]

    return value


# By name: the loss of a norm, and its formula without one.
LOSSES = {
    "moments": (lambda norm="none": MomentsLoss(norm), moments),
    "linear": (lambda norm="none": LinearMMDLoss(norm), discrepancy(lambda a, b: a @ b)),
    "polynomial": (lambda norm="none": PolynomialMMDLoss(norm=norm), polynomial(2, 0.0)),
    "polynomial offset": (lambda norm="none": PolynomialMMDLoss(2, 1.5, norm), polynomial(2, 1.5)),
    "polynomial cubic": (lambda norm="none": PolynomialMMDLoss(3, 0.5, norm), polynomial(3, 0.5)),
    "gaussian": (lambda norm="none": GaussianMMDLoss(norm=norm), gaussian_linear()),
    "gaussian sigma": (lambda norm="none": GaussianMMDLoss(1.7, norm=norm), gaussian_linear(1.7)),
    "gaussian all": (lambda norm="none": GaussianMMDLoss("auto", "all", norm), gaussian_auto),
    "gaussian all sigma": (lambda norm="none": GaussianMMDLoss(1.7, "all", norm), gaussian(1.7)),
    "wasserstein": (lambda norm="none": GaussianWassersteinLoss(norm), wasserstein(1e-4)),
    "wasserstein ridge": (lambda norm="none": GaussianWassersteinLoss(norm, 0.3), wasserstein(0.3)),
}
GUIDED = ("moments", "linear", "polynomial", "polynomial offset", "polynomial cubic", "wasserstein")
SUMMED = ("moments", "linear", "polynomial", "polynomial offset", "wasserstein", "wasserstein ridge")
DRAWN = ("gaussian", "gaussian sigma")


def expected(name, features, style, guide=None, style_guide=None):
    formula = LOSSES[name][1]
    pairs = zip(rows(features), weights_of(features, guide), rows(style), weights_of(style, style_guide), strict=True)
    return np.array([formula(*each) for each in pairs])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_formula_for_a_style_of_another_size(name, dtype, tolerance):
    features, style = maps(3, 4, 5, 6, dtype=dtype), maps(3, 4, 7, 3, seed=1, dtype=dtype)
    loss = LOSSES[name][0]()
    value = loss(features, loss.target(style))
    assert value.shape == (3,)
    assert value.dtype == dtype
    np.testing.assert_allclose(value.numpy(), expected(name, features, style), rtol=tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_the_norms_are_divisors(name):
    features, style = maps(3, 4, 5, 6), maps(3, 4, 5, 6, seed=1)
    bare = expected(name, features, style)
    make = LOSSES[name][0]
    np.testing.assert_allclose(make(2.5)(features, make(2.5).target(style)), bare / 2.5, rtol=1e-9)
    named = next((divisor for start, divisor in LI.items() if name.startswith(start)), None)
    if named is not None and "all" not in name:
        np.testing.assert_allclose(make("li")(features, make("li").target(style)), bare / named(4, 30), rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_relative_loss_is_divided_by_that_of_an_all_zero_map(name):
    features, style = maps(3, 4, 5, 6), maps(3, 4, 7, 3, seed=1)
    loss = LOSSES[name][0]("relative")
    if name in ("gaussian", "gaussian all"):  # whose bandwidth is that of the map at hand
        bare = LOSSES[name][0]()
        sizes = bare(features, bare.target(style)) / loss(features, loss.target(style))
        if name == "gaussian":
            wanted = [zero_gaussian_linear(y, None, x) for x, y in zip(rows(features), rows(style), strict=True)]
        else:
            wanted = []
            for x, y in zip(rows(features), rows(style), strict=True):
                spread = x.var(0).sum() + y.var(0).sum() + ((x.mean(0) - y.mean(0)) ** 2).sum() / 2
                wanted.append(gaussian(np.sqrt(spread / 2))(np.zeros((1, 4)), [1], y, np.ones(len(y))))
        np.testing.assert_allclose(sizes, wanted, rtol=1e-9)
    else:
        np.testing.assert_allclose(loss(torch.zeros_like(features), loss.target(style)), np.ones(3), rtol=1e-9)
        nothing = expected(name, torch.zeros_like(features), style)
        np.testing.assert_allclose(
            loss(features, loss.target(style)), expected(name, features, style) / nothing, rtol=1e-9
        )


def well_conditioned(batch, seed=0):
    """More positions than channels, so that covariances have full rank."""
    return maps(batch, 3, 3, 4, seed=seed)


@pytest.mark.parametrize("norm", ["none", "relative"])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("gaussian", "gaussian all")])
def test_the_gradient_is_that_of_the_formula(name, norm):
    loss = LOSSES[name][0](norm)
    target = loss.target(well_conditioned(1, 1))
    assert torch.autograd.gradcheck(lambda f: loss(f, target), well_conditioned(2).requires_grad_())


@pytest.mark.parametrize("pairs", ["linear", "all"])
def test_the_bandwidth_found_is_constant_when_gradients_are_taken(pairs):
    features, style = well_conditioned(1).requires_grad_(), well_conditioned(1, 1)
    x, y = rows(features.detach())[0], rows(style)[0]
    if pairs == "linear":
        (i, i_), (j, j_) = drawn(0, 0, len(x), len(y))
        average = np.mean([(a - b) ** 2 for a, b in ((x[i], x[i_]), (y[j], y[j_]), (x[i], y[j_]), (x[i_], y[j]))]) * 3
    else:
        average = np.mean([((a[:, None] - b) ** 2).sum(2) for a, b in ((x, x), (y, y), (x, y), (y, x))])
    found, fixed = GaussianMMDLoss(pairs=pairs, norm="none"), GaussianMMDLoss(np.sqrt(average / 2), pairs, "none")
    gradients = [torch.autograd.grad(loss(features, loss.target(style)).sum(), features)[0] for loss in (found, fixed)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("norm", ["none", "relative"])
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in DRAWN])
def test_a_loss_is_zero_at_its_own_target_and_flat(name, norm):
    features = maps(2, 3, 4, 5).requires_grad_()
    loss = LOSSES[name][0](norm)
    value = loss(features, loss.target(features.detach()))
    other = loss(maps(2, 3, 4, 5, seed=1), loss.target(features.detach()))
    (gradient,) = torch.autograd.grad(value.sum(), features)
    assert (value.abs() < 1e-12 * other.abs()).all()
    assert gradient.abs().max() < 1e-12 * other.abs().max()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_three_is_three_batches_of_one(name):
    loss = LOSSES[name][0]("relative")
    features, style = maps(3, 4, 5, 6), maps(3, 4, 7, 3, seed=1)
    together = loss(features, loss.target(style))
    alone = [loss(features[i : i + 1], loss.target(style[i : i + 1])).item() for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-10)
    assert len(set(alone)) == 3
    shared = loss(features, loss.target(style[:1]))
    np.testing.assert_allclose(shared, loss(features, loss.target(style[:1].expand(3, -1, -1, -1))), rtol=1e-10)
    assert grouping.is_per_image(loss)


@pytest.mark.parametrize("name", GUIDED)
def test_a_guide_weights_the_positions(name):
    features, style = maps(3, 4, 5, 6), maps(3, 4, 7, 3, seed=1)
    guide, style_guide = guides(3, 1, 5, 6), guides(1, 1, 7, 3, seed=6)
    loss = LOSSES[name][0]()
    value = loss(features, loss.target(style, guide=style_guide), guide=guide)
    np.testing.assert_allclose(value, expected(name, features, style, guide, style_guide), rtol=1e-9)
    even = loss(features, loss.target(style, guide=torch.ones(1, 1, 7, 3)), guide=torch.ones(1, 1, 5, 6))
    np.testing.assert_allclose(even, loss(features, loss.target(style)), rtol=1e-9)
    changed = features + 10 * (guide == 0)  # where it is 0 nothing is seen
    np.testing.assert_allclose(
        loss(changed, loss.target(style), guide=guide), loss(features, loss.target(style), guide=guide)
    )


@pytest.mark.parametrize("name", GUIDED)
def test_the_gradient_under_a_guide_is_that_of_the_formula(name):
    loss = LOSSES[name][0]("relative")
    target, guide = loss.target(well_conditioned(1, 1)), guides(1, 1, 3, 4) * 0.5 + 0.5
    features = well_conditioned(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: loss(f, target, guide=guide), features)


# Li's theorem and the oracles of the Wasserstein distance.


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gram_loss_is_the_discrepancy_of_the_quadratic_kernel(seed):
    """Li 2017, section 4.1: over all pairs of positions, up to a constant; here with maps of different sizes."""
    features, style = maps(1, 4, 5, 6, seed=seed), maps(1, 4, 7, 3, seed=seed + 10)
    over_all_pairs = expected("polynomial", features, style)
    gram = GramLoss("N", "none", "sum")
    np.testing.assert_allclose(gram(features, gram.target(style)), over_all_pairs, rtol=1e-9)
    same_size = maps(1, 4, 5, 6, seed=seed + 20)
    paper = GramLoss("none", "4C2N2", "sum")  # Gatys' constant
    theirs = 30**2 * expected("polynomial", features, same_size) / (4 * 4**2 * 30**2)
    np.testing.assert_allclose(paper(features, paper.target(same_size)), theirs, rtol=1e-9)
    relative = [make(features, make.target(style)) for make in (GramLoss(), PolynomialMMDLoss())]
    np.testing.assert_allclose(*relative, rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_degree_two_from_sums_is_degree_two_from_pairs(offset):
    features, style = maps(2, 4, 5, 6), maps(2, 4, 7, 3, seed=1)
    loss, pairwise = PolynomialMMDLoss(2, offset), PolynomialMMDLoss(2, offset)
    pairwise.sums = None
    values = [one(features, one.target(style)) for one in (loss, pairwise)]
    np.testing.assert_allclose(*values, rtol=1e-9)


def test_pairs_in_blocks_are_pairs_all_at_once(monkeypatch):
    features, style = maps(2, 4, 5, 6).requires_grad_(), maps(2, 4, 7, 3, seed=1)
    results = []
    for block in (2**22, 40):
        monkeypatch.setattr("nst.losses.mmd.BLOCK", block)
        loss = GaussianMMDLoss(pairs="all")
        value = loss(features, loss.target(style))
        results += [(value.detach(), torch.autograd.grad(value.sum(), features)[0])]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_wasserstein_distance_is_that_of_optimal_transport(seed):
    features, style = maps(1, 6, 5, 7, seed=seed), maps(1, 6, 4, 9, seed=seed + 5)
    x, y = rows(features)[0], rows(style)[0]
    ones = [np.ones(len(x)), np.ones(len(y))]
    ridge = 1e-4 * np.eye(6)
    distance = ot.gaussian.bures_wasserstein_distance(
        mean(x, ones[0]), mean(y, ones[1]), covariance(x, ones[0]) + ridge, covariance(y, ones[1]) + ridge
    )
    loss = GaussianWassersteinLoss("none")
    np.testing.assert_allclose(loss(features, loss.target(style)).item(), distance**2 / 6, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_eigenvalues_do_not_trouble_the_wasserstein_gradient(dtype):
    """Covariances that are multiples of the identity: W2^2 is then |m|^2 + C (a - b)^2, with the deviations a and b."""
    directions = torch.cat([torch.eye(3), -torch.eye(3)]).T.reshape(1, 3, 2, 3).to(dtype)
    features, style = (2 * directions).requires_grad_(), 5 * directions
    loss = GaussianWassersteinLoss("none", ridge=0.0)
    value = loss(features, loss.target(style))
    np.testing.assert_allclose(value.item(), (2 / 3**0.5 - 5 / 3**0.5) ** 2, rtol=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), features)
    torch.testing.assert_close(gradient, -2 * (5 / 2 - 1) * features.detach() / 6 / 3, rtol=1e-5, atol=1e-7)


def test_fewer_positions_than_channels_are_no_trouble():
    features, style = maps(1, 20, 2, 3).requires_grad_(), maps(1, 20, 3, 3, seed=1)
    for loss in (GaussianWassersteinLoss(), GaussianWassersteinLoss(ridge=0.0)):
        for dtype in (torch.float64, torch.float32):
            value = loss(features.to(dtype), loss.target(style.to(dtype)))
            (gradient,) = torch.autograd.grad(value.sum(), features)
            assert value.isfinite().all()
            assert gradient.isfinite().all()
            assert gradient.abs().max() < 10


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_finite_is_seen_and_raises_nothing(name):
    loss = LOSSES[name][0]("relative")
    features = torch.full((1, 3, 4, 4), torch.nan)
    assert not loss(features, loss.target(maps(1, 3, 4, 4).float())).isfinite().any()


@pytest.mark.parametrize("name", LOSSES)
def test_dead_channels_and_empty_maps_have_a_gradient(name):
    """Channels that are 0 everywhere, or constant, as ReLUs leave them; and maps of nothing else."""
    style = maps(1, 3, 4, 4) * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    dead = maps(1, 3, 4, 4, seed=1) * torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    constant = torch.full_like(style, 0.1)
    for given, of_style in itertools.product((dead, constant, torch.zeros_like(style)), repeat=2):
        features = given.clone().requires_grad_()
        loss = LOSSES[name][0]("relative")
        value = loss(features, loss.target(of_style))
        (gradient,) = torch.autograd.grad(value.sum(), features)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_maps_of_a_single_position_have_a_value(name):
    loss = LOSSES[name][0]("relative")
    features = maps(2, 3, 1, 1).requires_grad_()
    value = loss(features, loss.target(maps(1, 3, 2, 1, seed=1)))
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), features)[0].isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_can_be_rehearsed_without_numbers(name):
    loss = LOSSES[name][0]("relative")
    features = torch.empty(2, 3, 8, 8, device="meta", requires_grad=True)
    value = loss(features, loss.target(torch.empty(1, 3, 7, 5, device="meta")))
    value.sum().backward()
    assert (value.shape, features.grad.shape) == ((2,), (2, 3, 8, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_maps_are_lifted(name, dtype):
    features, style = maps(1, 4, 5, 6).to(dtype), maps(1, 4, 5, 6, seed=1).to(dtype)
    loss = LOSSES[name][0]()
    value = loss(features, loss.target(style))
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value, expected(name, features, style), rtol=1e-4)


# Pairs that are drawn.


def test_pairs_are_drawn_anew_at_each_step_and_only_there():
    features, style = maps(1, 4, 5, 6), maps(1, 4, 7, 3, seed=1)
    loss = GaussianMMDLoss(norm="none")
    target = loss.target(style)

    def value(step=None, seed=0):
        if step is not None:
            loss.begin_step(step, seed)
        return loss(features, target).item()

    state = torch.get_rng_state()
    first = value()
    assert value() == first == value(0, 0)
    values = [value(step, seed) for step in range(4) for seed in (0, 1)]
    assert len(set(values)) == 8
    assert [value(step, seed) for step in range(4) for seed in (0, 1)] == values
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(value(3, 2**63 - 1), gaussian_linear(None, 2**63 - 1, 3)(
        rows(features)[0], None, rows(style)[0], None), rtol=1e-9)  # fmt: skip


def test_linear_time_pairs_estimate_all_pairs():
    features, style = maps(1, 3, 60, 70), 0.5 + maps(1, 3, 60, 70, seed=1)
    estimate, exact = GaussianMMDLoss(2.0, "linear", "none"), GaussianMMDLoss(2.0, "all", "none")
    values = []
    for step in range(40):
        estimate.begin_step(step, 0)
        values.append(estimate(features, estimate.target(style)).item())
    error = np.std(values) / 40**0.5
    assert abs(np.mean(values) - exact(features, exact.target(style)).item()) < 4 * error
    assert error < 0.02 * np.mean(values)


def test_each_position_has_one_partner():
    for n, m in ((30, 21), (7, 40), (2, 2), (3, 9)):
        pairs = GaussianMMDLoss()._draw(torch.arange(n).view(1, n, 1), torch.arange(m).view(1, m, 1))
        for (first, second), number in zip(pairs, (n, m), strict=True):
            used = torch.cat([first, second]).flatten().tolist()
            assert len(used) == len(set(used)) == 2 * (min(n, m) // 2)
            assert set(used) <= set(range(number))


# Gram matrices of shifted activations, across layers, and with the picture's pixels.


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_a_shift_is_added_to_every_activation(dtype, tolerance):
    features, style = maps(3, 4, 5, 6, dtype=dtype), maps(3, 4, 7, 3, seed=1, dtype=dtype)
    loss, plain = GramLoss(shift=-1.0), GramLoss()
    torch.testing.assert_close(
        loss(features, loss.target(style)),
        plain(features - 1, plain.target(style - 1)),
        rtol=tolerance, atol=0,
    )  # fmt: skip
    assert (GramLoss(shift=0.0).sums, is_summed(loss)) == (F.channel_products, True)


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_a_guide_weights_the_positions_of_a_gram_matrix(shift):
    features, guide = maps(3, 4, 5, 6), guides(3, 1, 5, 6)
    found = GramLoss(shift=shift).target(features, guide=guide)
    for matrix, x, w in zip(found, rows(features), weights_of(features, guide), strict=True):
        wanted = sum(weight * np.outer(row + shift, row + shift) for weight, row in zip(w, x, strict=True)) / 30
        np.testing.assert_allclose(matrix, wanted, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=0)


def repeated(coarse, height, width):
    """Bring a map to a size by repeating its positions."""
    lines = [int(i * coarse.shape[1] / height) for i in range(height)]
    places = [int(i * coarse.shape[2] / width) for i in range(width)]
    return coarse[:, lines][:, :, places]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    ("gram_norm", "term_norm"), [("N", "relative"), ("CN", "none"), ("none", "4C2N2"), ("N", "CN")]
)
@pytest.mark.parametrize("order", [1, -1])
def test_across_layers_the_coarser_map_is_brought_to_the_finer_ones_size(order, gram_norm, term_norm, guided):
    sizes = (3, 6, 9), (5, 3, 4)  # channels, height, width
    features = tuple(maps(2, *size, seed=i) for i, size in enumerate(sizes))[::order]
    style = (maps(2, 3, 8, 5, seed=7), maps(2, 5, 4, 2, seed=8))[::order]
    guide, style_guide = (guides(2, 1, 6, 9), guides(1, 1, 8, 5)) if guided else (None, None)
    loss = GramLoss(gram_norm, term_norm, cross_layers="adjacent", shift=-1.0)
    value = loss(features, loss.target(style, guide=style_guide), guide=guide)

    def matrix(pair, size, which, weights):
        a, b = (repeated(one[which].numpy(), *size) - 1 for one in pair)
        w = np.ones((1, *size)) if weights is None else weights.expand(2, -1, -1, -1)[which].numpy()
        products = np.einsum("ihw,jhw->ij", a * w, b)
        return products / {"N": np.prod(size), "CN": 15**0.5 * np.prod(size), "none": 1}[gram_norm]

    for i in range(2):
        one, other = matrix(features, (6, 9), i, guide), matrix(style, (8, 5), i, style_guide)
        divisor = {"relative": (other**2).mean(), "none": 1, "4C2N2": 4 * 15 * 54**2, "CN": 15**0.5 * 54}[term_norm]
        np.testing.assert_allclose(value[i], ((one - other) ** 2).mean() / divisor, rtol=1e-9)


def test_the_gradient_across_layers_is_that_of_the_formula():
    loss = GramLoss(cross_layers="adjacent")
    target = loss.target((maps(1, 2, 4, 4, seed=3), maps(1, 3, 2, 2, seed=4)))
    pair = maps(2, 2, 4, 5).requires_grad_(), maps(2, 3, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss((a, b), target), pair)


def test_a_term_across_layers_has_each_layer_with_the_next():
    loss = GramLoss(cross_layers="adjacent", scale=10.0)
    term = LayerTerm("style", loss, {"a": 1.0, "b": 3.0, "c": 5.0}, "sum")
    wanted = {tag: layer for tag, (layer, _) in term.target_requests().items()}
    assert wanted == {"style_layers/a-b": ("a", "b"), "style_layers/b-c": ("b", "c")}
    assert term.weights == {"a-b": 20.0, "b-c": 40.0}
    assert LayerTerm("style", loss, {"a": 1.0, "b": 3.0, "c": 5.0}, "mean").weights["b-c"] == 10 * 4 / 6
    assert not is_summed(loss)
    assert grouping.is_per_image(loss)


def test_keras_divides_by_the_pixels_of_the_picture():
    features, style = maps(1, 4, 5, 6), maps(1, 4, 7, 3, seed=1)
    loss = GramLoss("none", "keras", "sum")
    f, s = rows(features)[0], rows(style)[0]
    squares = ((f.T @ f - s.T @ s) ** 2).sum()
    told = loss.for_picture(40, 48)
    np.testing.assert_allclose(told(features, told.target(style)).item(), squares / (4 * 9 * 1920**2), rtol=1e-9)
    np.testing.assert_allclose(loss(features, loss.target(style)).item(), squares / (4 * 9 * 30**2), rtol=1e-9)
    assert loss.picture is None


# In the engines and on every network.


def network(architecture, layers, dtype=torch.float64):
    return backbones.load(architecture, "random", layers, "avg", seed=3).to(dtype)


def picture(number, height, width, seed=0, dtype=torch.float64):
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def compared(engine, losses, layers, style, image):
    with torch.no_grad():
        wanted = {f"{layer} {i}": TargetRequest(layer, loss) for layer in layers for i, loss in enumerate(losses)}
        targets = engine.targets(style, wanted)
    image = image.clone().requires_grad_(True)
    requests = {tag: LossRequest(layer, loss, targets[tag]) for tag, (layer, loss) in wanted.items()}
    values = engine.values(image, requests)
    gradients = {tag: torch.autograd.grad(v.sum(), image, retain_graph=True)[0] for tag, v in values.items()}
    return {tag: value.detach() for tag, value in values.items()}, gradients


@pytest.mark.parametrize("name", [*LOSSES, "gram shifted"])
def test_fused_is_plain(name):
    layers = ("conv1", "relu1", "fire3", "fire4")
    backbone = network("squeezenet1_1", layers)
    loss = LOSSES[name][0]("relative") if name in LOSSES else GramLoss(shift=-1.0)
    results = [
        compared(engine(backbone, torch.float64), [loss], layers, picture(1, 35, 42, 1), picture(2, 41, 38))
        for engine in (Plain, Fused)
    ]
    for one, other in zip(*results, strict=True):
        for tag in one:
            torch.testing.assert_close(other[tag], one[tag], rtol=1e-8, atol=1e-10 * one[tag].abs().max())


def test_the_quadratic_kernel_takes_the_fused_path_of_the_gram_loss():
    engine = Fused(network("squeezenet1_1", ("relu1",)), torch.float64)
    assert engine.describe([PolynomialMMDLoss()]) == engine.describe([GramLoss()]) == "fused"
    assert engine.describe([PolynomialMMDLoss(offset=1.0)]) == "fused, PolynomialMMDLoss under autograd"


@pytest.mark.parametrize("inner", [Plain, Fused])
@pytest.mark.parametrize("name", [*SUMMED, "gram shifted"])
def test_tiles_are_the_whole(name, inner):
    layers = ("conv1", "relu1", "fire3", "fire4")
    backbone = network("squeezenet1_1", layers)
    loss = LOSSES[name][0]("relative") if name in LOSSES else GramLoss(shift=-1.0)
    assert engines.untileable(backbone, [loss]) is None
    made = inner(backbone, torch.float64), Tiled(inner(backbone, torch.float64), tiles.receptive_fields(backbone), 64)
    results = [compared(engine, [loss], layers, picture(1, 90, 70, 1), picture(2, 131, 75)) for engine in made]
    for one, other in zip(*results, strict=True):
        for tag in one:
            torch.testing.assert_close(other[tag], one[tag], rtol=1e-8, atol=1e-10 * one[tag].abs().max())


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in SUMMED])
def test_what_is_no_function_of_sums_is_not_tiled(name):
    loss = LOSSES[name][0]()
    assert not is_summed(loss)
    assert "no function of sums" in engines.untileable(network("squeezenet1_1", ("relu1",)), [loss])


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
def test_every_loss_works_on_every_network(architecture):
    names = [layer.name for layer in backbones.layers_of(architecture)]
    layers = names[1], names[len(names) // 2]
    backbone = network(architecture, layers, torch.float32)
    losses = [make("relative") for name, (make, _) in LOSSES.items() if not name.startswith("gaussian")]
    wide = 40.0  # of the order of the distances in all networks: a kernel far narrower is 0, and so is its gradient
    losses += [GaussianMMDLoss(sigma, pairs, "relative") for sigma in ("auto", wide) for pairs in ("linear", "all")]
    engine = engines.make("auto", backbone, torch.float32)
    values, gradients = compared(
        engine, losses, layers, picture(1, 40, 33, 1, torch.float32), picture(1, 36, 44, dtype=torch.float32)
    )
    for tag, value in values.items():
        assert value.isfinite().all(), tag
        assert gradients[tag].isfinite().all(), tag
        assert gradients[tag].abs().max() > 0, tag


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: MomentsLoss("relativ"), "norm"),
        (lambda: MomentsLoss(0), "norm"),
        (lambda: MomentsLoss(scale=0), "scale"),
        (lambda: LinearMMDLoss("CN"), "norm"),
        (lambda: LinearMMDLoss(scale="big"), "scale"),
        (lambda: PolynomialMMDLoss(1), "degree=1 must .*mmd_linear"),
        (lambda: PolynomialMMDLoss(2.0), "degree"),
        (lambda: PolynomialMMDLoss(True), "degree"),
        (lambda: PolynomialMMDLoss(2, -1.0), "offset"),
        (lambda: PolynomialMMDLoss(norm=None), "norm"),
        (lambda: PolynomialMMDLoss(scale=-1), "scale"),
        (lambda: GaussianMMDLoss("median"), "bandwidth"),
        (lambda: GaussianMMDLoss(0.0), "bandwidth"),
        (lambda: GaussianMMDLoss(pairs="quadratic"), "pairs"),
        (lambda: GaussianMMDLoss(pairs="all", norm="li"), "norm=li"),
        (lambda: GaussianMMDLoss(norm="N"), "norm"),
        (lambda: GaussianMMDLoss(scale=0), "scale"),
        (lambda: GaussianWassersteinLoss("li"), "norm"),
        (lambda: GaussianWassersteinLoss(ridge=-1e-4), "ridge"),
        (lambda: GaussianWassersteinLoss(ridge="small"), "ridge"),
        (lambda: GaussianWassersteinLoss(scale=0), "scale"),
        (lambda: GramLoss(shift="down"), "shift"),
        (lambda: GramLoss(shift=float("inf")), "shift"),
        (lambda: GramLoss(cross_layers="all"), "cross_layers"),
    ],
)
def test_a_bad_argument_is_refused_by_name(make, argument):
    with pytest.raises(ValueError, match=argument):
        make()
