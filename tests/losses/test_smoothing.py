"""Activation smoothing: the losses of smoothed maps against the softmax written in float64 NumPy and SciPy."""

import numpy as np
import pytest
import scipy.special
import torch

from nst.losses import GramLoss, MSELoss, is_guidable, is_summed
from nst.losses import functional as F

NORMS = ("none", "relative")


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, shape)).to(dtype)


def smooth(image, temperature):
    """The softmax over all numbers of one map, times how many there are."""
    return scipy.special.softmax(image / temperature) * image.size


def gram(image):
    return np.einsum("ihw,jhw->ij", image, image) / (image.shape[1] * image.shape[2])


def expected_style(features, style, norm, temperature):
    target = gram(smooth(style[0], temperature))
    of_zero = gram(smooth(np.zeros_like(style[0]), temperature))
    worth = np.mean((of_zero - target) ** 2) if norm == "relative" else 1.0
    return [np.mean((gram(smooth(one, temperature)) - target) ** 2) / worth for one in features]


def expected_content(features, content, norm, temperature):
    target = smooth(content[0], temperature)
    worth = np.mean((smooth(np.zeros_like(target), temperature) - target) ** 2) if norm == "relative" else 1.0
    return [np.mean((smooth(one, temperature) - target) ** 2) / worth for one in features]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("norm", NORMS)
def test_smoothed_losses_are_their_formulas(norm, temperature):
    about = {"smoothing": "softmax", "temperature": temperature}
    features, style, content = maps(3, 4, 5, 6), maps(1, 4, 7, 3, seed=1), maps(1, 4, 5, 6, seed=2)
    loss = GramLoss(term_norm=norm, **about)
    expected = expected_style(features.numpy(), style.numpy(), norm, temperature)
    np.testing.assert_allclose(loss(features, loss.target(style)), expected, rtol=1e-9)
    loss = MSELoss(norm=norm, **about)
    expected = expected_content(features.numpy(), content.numpy(), norm, temperature)
    np.testing.assert_allclose(loss(features, loss.target(content)), expected, rtol=1e-9)


@pytest.mark.parametrize("make", [GramLoss, MSELoss])
@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_is_that_of_the_formula(make, norm):
    loss = make(**{"term_norm" if make is GramLoss else "norm": norm}, smoothing="softmax")
    target = loss.target(maps(1, 3, 4, 3, seed=1))
    features = maps(2, 3, 4, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda f: loss(f, target), features)
    assert torch.autograd.grad(loss(features, target).sum(), features)[0].abs().max() > 1e-3


@pytest.mark.parametrize("make", [GramLoss, MSELoss])
def test_a_batch_of_three_is_three_batches_of_one(make):
    loss = make(smoothing="softmax")
    features, others = maps(3, 4, 5, 6), maps(3, 4, 5, 6, seed=1)
    alone = [loss(f, loss.target(o)) for f, o in zip(features.split(1), others.split(1), strict=True)]
    torch.testing.assert_close(loss(features, loss.target(others)), torch.cat(alone), rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [GramLoss, MSELoss])
def test_it_is_zero_at_its_own_target_and_one_for_an_all_zero_map(make):
    loss, image = make(smoothing="softmax"), maps(1, 4, 5, 6)
    assert float(loss(image, loss.target(image))) < 1e-20
    assert float(loss(torch.zeros_like(image), loss.target(image))) == pytest.approx(1, rel=1e-12)
    assert float(loss(torch.zeros_like(image), loss.target(torch.zeros_like(image)))) == 0


def test_smoothing_lowers_peaks_as_the_temperature_rises():
    """What it is for: high peaks of a map (Wang 2021, figure 4) come down; the mean is 1 whatever the size."""
    peaked = maps(1, 4, 8, 8).relu()
    peaked[0, 1, 2, 3] = 9
    peaks = [float(F.smoothed(peaked, t).max()) for t in (1, 3, 100)]
    assert peaks[0] > peaks[1] > peaks[2] > 1
    assert float(F.smoothed(peaked).mean()) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_smoothed_in_float32(dtype):
    half = maps(1, 4, 5, 6).to(dtype)
    torch.testing.assert_close(F.smoothed(half), F.smoothed(half.float()), rtol=0, atol=0)


@pytest.mark.parametrize("make", [GramLoss, MSELoss])
def test_it_looks_at_the_whole_map_so_that_there_are_neither_tiles_nor_regions(make):
    assert not is_summed(make(smoothing="softmax"))
    assert is_summed(make())
    assert not is_guidable(make(smoothing="softmax"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GramLoss(smoothing="softmx"), "Did you mean 'softmax'"),
        (lambda: MSELoss(smoothing="soft"), "smoothing=soft"),
        (lambda: GramLoss(temperature=2), "temperature=2 goes with smoothing=softmax"),
        (lambda: MSELoss(temperature=2), "temperature=2 goes with smoothing=softmax"),
        (lambda: GramLoss(smoothing="softmax", temperature=0), "temperature=0"),
        (lambda: GramLoss(smoothing="softmax", shift=-1), "cross_layers=none"),
        (lambda: GramLoss(smoothing="softmax", cross_layers="adjacent"), "cross_layers=none"),
    ],
)
def test_a_bad_argument_is_refused_by_name(make, said):
    with pytest.raises(ValueError, match=said):
        make()
