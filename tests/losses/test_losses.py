"""Every loss and every option against the formulas of the docstrings, written again in float64 NumPy."""

import itertools

import numpy as np
import pytest
import torch

from nst.engines import operators
from nst.losses import GramLoss, MomentsLoss, MSELoss, TotalVariation
from nst.losses import functional as F

GRAM_NORMS = ("none", "N", "CN")
TERM_NORMS = ("none", "CN", "4C2", "4C2N2", "keras", "relative", 7.5)
CONTENT_NORMS = ("none", "relative", 2.0)
REDUCTIONS = ("mean", "sum")
TV_KINDS = ("squared", "absolute", "diagonal", "keras", "laplacian")
GRAM_OPTIONS = list(itertools.product(GRAM_NORMS, TERM_NORMS, REDUCTIONS))
CONTENT_OPTIONS = list(itertools.product(CONTENT_NORMS, REDUCTIONS))
TV_OPTIONS = list(itertools.product(TV_KINDS, REDUCTIONS))
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-4)]


def maps(*shape, seed=0, dtype=torch.float64):
    """Rectified-looking feature maps, reproducible and without ties."""
    values = np.random.default_rng(seed).normal(0.3, 1.0, shape)
    return torch.from_numpy(values).to(dtype)


def reduced(squares, reduction):
    """Sum or mean over everything but the batch, image by image."""
    return np.array([image.sum() if reduction == "sum" else image.sum() / image.size for image in squares])


def expected_gram(features, norm):
    f = features.double().numpy()
    _, c, h, w = f.shape
    return np.einsum("bihw,bjhw->bij", f, f) / {"none": 1.0, "N": h * w, "CN": c * h * w}[norm]


def expected_style(features, style, gram_norm, term_norm, reduction):
    _, c, h, w = features.shape
    gram, target = expected_gram(features, gram_norm), expected_gram(style, gram_norm)
    n = h * w
    divisors = {"none": 1.0, "CN": c * n, "4C2": 4 * c**2, "4C2N2": 4 * c**2 * n**2, "keras": 36 * n**2}
    if term_norm == "relative":
        divisor = reduced(target**2, reduction)
    else:
        divisor = divisors[term_norm] if isinstance(term_norm, str) else term_norm
    return reduced((gram - target) ** 2, reduction) / divisor


def expected_content(features, target, norm, reduction):
    f, p = features.double().numpy(), target.double().numpy()
    divisor = {"none": 1.0, "relative": reduced(p**2, reduction)}[norm] if isinstance(norm, str) else norm
    return reduced((f - p) ** 2, reduction) / divisor


def expected_diagonal(picture, reduction):
    """Of the picture with its edges repeated, as crowsonkb takes it: indices beyond an edge are the edge's."""
    channels, height, width = picture.shape

    def at(c, y, x):
        return picture[c, min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    every = [(c, y, x) for c in range(channels) for y in range(height) for x in range(width)]
    corners = [(c, y, x) for c in range(channels) for y in range(-1, height) for x in range(-1, width)]
    groups = (
        ([at(c, y, x + 1) - at(c, y, x) for c, y, x in every], 3),
        ([at(c, y + 1, x) - at(c, y, x) for c, y, x in every], 3),
        ([at(c, y + 1, x + 1) - at(c, y, x) for c, y, x in corners], 12),
        ([at(c, y + 1, x) - at(c, y, x + 1) for c, y, x in corners], 12),
    )
    return sum(np.square(d).sum() / (len(d) if reduction == "mean" else 1) / divisor for d, divisor in groups)


def expected_keras(picture, reduction):
    channels, height, width = picture.shape
    sizes = [
        ((picture[c, y + 1, x] - picture[c, y, x]) ** 2 + (picture[c, y, x + 1] - picture[c, y, x]) ** 2) ** 1.25
        for c in range(channels) for y in range(height - 1) for x in range(width - 1)
    ]  # fmt: skip
    return sum(sizes) / (max(len(sizes), 1) if reduction == "mean" else 1)


def laplacian(picture):
    """Four times each pixel less its four neighbours, with zeros around the picture."""
    framed = np.pad(picture, ((0, 0), (1, 1), (1, 1)))
    around = framed[:, 2:, 1:-1] + framed[:, :-2, 1:-1] + framed[:, 1:-1, 2:] + framed[:, 1:-1, :-2]
    return 4 * picture - around


def expected_laplacian(picture, reduction):
    """Half of x . L x, whose gradient is L x, where L is the Laplacian divided by 8."""
    return (picture * laplacian(picture)).sum() / 16 / (picture.size if reduction == "mean" else 1)


WHOLE = {"diagonal": expected_diagonal, "keras": expected_keras, "laplacian": expected_laplacian}


def expected_variation(image, kind, reduction):
    values = []
    for picture in image.double().numpy():
        if kind in WHOLE:
            values.append(WHOLE[kind](picture, reduction))
            continue
        channels, height, width = picture.shape
        size = np.abs if kind == "absolute" else np.square
        down = [size(picture[c, y + 1, x] - picture[c, y, x])
                for c in range(channels) for y in range(height - 1) for x in range(width)]  # fmt: skip
        across = [size(picture[c, y, x + 1] - picture[c, y, x])
                  for c in range(channels) for y in range(height) for x in range(width - 1)]  # fmt: skip
        values.append(sum(sum(d) / (len(d) if reduction == "mean" else 1) for d in (down, across) if d))
    return np.array(values)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("norm", GRAM_NORMS)
def test_gram_matrix_is_channel_correlations_over_its_norm(norm, dtype, tolerance):
    features = maps(3, 4, 5, 6, dtype=dtype)
    gram = F.gram_matrix(features, norm)
    assert gram.dtype == dtype
    np.testing.assert_allclose(gram.numpy(), expected_gram(features, norm), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gram, gram.mT)


def test_gram_matrix_of_a_map_done_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    assert F.gram_matrix(features, "none").tolist() == [[[5.0, 1.0], [1.0, 10.0]]]
    assert F.gram_matrix(features, "N").tolist() == [[[2.5, 0.5], [0.5, 5.0]]]
    assert F.gram_matrix(features, "CN").tolist() == [[[1.25, 0.25], [0.25, 2.5]]]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("gram_norm", "term_norm", "reduction"), GRAM_OPTIONS)
def test_gram_loss_matches_numpy_for_a_style_of_another_size(gram_norm, term_norm, reduction, dtype, tolerance):
    features, style = maps(3, 4, 5, 6, dtype=dtype), maps(3, 4, 7, 3, seed=1, dtype=dtype)
    loss = GramLoss(gram_norm, term_norm, reduction)
    value = loss(features, loss.target(style))
    assert value.shape == (3,)
    assert value.dtype == dtype
    np.testing.assert_allclose(
        value.numpy(), expected_style(features, style, gram_norm, term_norm, reduction), rtol=tolerance
    )
    direct = F.gram_loss(features, torch.from_numpy(expected_gram(style, gram_norm)), gram_norm, term_norm, reduction)
    np.testing.assert_allclose(
        direct.numpy(), expected_style(features, style, gram_norm, term_norm, reduction), rtol=tolerance
    )


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("norm", "reduction"), CONTENT_OPTIONS)
def test_content_loss_matches_numpy(norm, reduction, dtype, tolerance):
    features, content = maps(3, 4, 5, 6, dtype=dtype), maps(3, 4, 5, 6, seed=1, dtype=dtype)
    expected = expected_content(features, content, norm, reduction)
    loss = MSELoss(norm, reduction)
    for value in (F.content_loss(features, content, norm, reduction), loss(features, loss.target(content))):
        assert value.shape == (3,)
        assert value.dtype == dtype
        np.testing.assert_allclose(value.numpy(), expected, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("kind", "reduction"), TV_OPTIONS)
def test_total_variation_matches_loops_over_pixels(kind, reduction, dtype, tolerance):
    image = maps(3, 3, 5, 7, dtype=dtype)
    expected = expected_variation(image, kind, reduction)
    for value in (F.total_variation(image, kind, reduction), TotalVariation(kind, reduction)(image)):
        assert value.shape == (3,)
        assert value.dtype == dtype
        np.testing.assert_allclose(value.numpy(), expected, rtol=tolerance)


def test_defaults_are_the_ones_documented():
    features, other = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1)
    style, content = GramLoss(), MSELoss()
    np.testing.assert_allclose(
        style(features, style.target(other)), expected_style(features, other, "N", "relative", "mean"), rtol=1e-9
    )
    np.testing.assert_allclose(
        content(features, content.target(other)), expected_content(features, other, "relative", "mean"), rtol=1e-9
    )
    np.testing.assert_allclose(TotalVariation()(features), expected_variation(features, "squared", "mean"), rtol=1e-9)


@pytest.mark.parametrize(("gram_norm", "term_norm", "reduction"), GRAM_OPTIONS)
def test_gram_loss_gradient_is_that_of_the_formula(gram_norm, term_norm, reduction):
    target = torch.from_numpy(expected_gram(maps(1, 2, 3, 3, seed=1), gram_norm))
    features = maps(2, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: F.gram_loss(f, target, gram_norm, term_norm, reduction), features)


@pytest.mark.parametrize(("norm", "reduction"), CONTENT_OPTIONS)
def test_content_loss_gradient_is_that_of_the_formula(norm, reduction):
    target, features = maps(2, 2, 3, 2, seed=1), maps(2, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: F.content_loss(f, target, norm, reduction), features)


@pytest.mark.parametrize(("kind", "reduction"), TV_OPTIONS)
def test_total_variation_gradient_is_that_of_the_formula_and_not_zero(kind, reduction):
    image = maps(2, 3, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: F.total_variation(x, kind, reduction), image)
    (gradient,) = torch.autograd.grad(F.total_variation(image, kind, reduction).sum(), image)
    assert (gradient.flatten(1).abs().amax(1) > 1e-3).all()


def test_squared_variation_gradient_by_hand():
    image = torch.tensor([[[[1.0, 4.0, 2.0]]]], requires_grad=True)
    F.total_variation(image, "squared", "sum").sum().backward()
    assert image.grad.flatten().tolist() == [-6.0, 10.0, -4.0]


def test_the_gradient_of_the_laplacian_variation_is_the_laplacian_over_eight():
    image = maps(2, 3, 5, 6).requires_grad_()
    F.total_variation(image, "laplacian", "sum").sum().backward()
    wanted = [laplacian(picture) / 8 for picture in image.detach().numpy()]
    np.testing.assert_allclose(image.grad, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("gram_norm", "term_norm", "reduction"), GRAM_OPTIONS)
def test_gram_loss_is_zero_at_its_own_target(gram_norm, term_norm, reduction):
    features = maps(2, 3, 4, 5)
    loss = GramLoss(gram_norm, term_norm, reduction)
    assert loss(features, loss.target(features)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("norm", "reduction"), CONTENT_OPTIONS)
def test_content_loss_is_zero_at_its_own_target(norm, reduction):
    features = maps(2, 3, 4, 5)
    loss = MSELoss(norm, reduction)
    assert loss(features, loss.target(features)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("norm", ["relative", "none"])
def test_an_all_zero_map_against_an_all_zero_target_is_zero_and_not_nan(norm):
    nothing = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for loss in (MSELoss(norm), GramLoss(term_norm=norm)):
        value = loss(nothing, loss.target(nothing.detach()))
        assert value.tolist() == [0.0, 0.0]
        assert torch.autograd.grad(value.sum(), nothing)[0].abs().max() == 0


def test_relative_content_loss_of_an_all_zero_map_is_one():
    content = maps(2, 3, 4, 5)
    for reduction in REDUCTIONS:
        value = F.content_loss(torch.zeros_like(content), content, "relative", reduction)
        np.testing.assert_allclose(value, [1.0, 1.0], rtol=1e-12)


@pytest.mark.parametrize("term_norm", ["relative", "4C2N2"])
def test_a_batch_of_three_is_three_batches_of_one(term_norm):
    features, style = maps(3, 4, 5, 6), maps(3, 4, 7, 3, seed=1)
    for loss in (GramLoss(term_norm=term_norm), MSELoss("relative" if term_norm == "relative" else "none")):
        others = style if isinstance(loss, GramLoss) else maps(3, 4, 5, 6, seed=1)
        together = loss(features, loss.target(others))
        alone = [loss(features[i : i + 1], loss.target(others[i : i + 1])).item() for i in range(3)]
        np.testing.assert_allclose(together, alone, rtol=1e-12)
        assert len(set(alone)) == 3
    alone = [F.total_variation(features[i : i + 1]).item() for i in range(3)]
    np.testing.assert_allclose(F.total_variation(features), alone, rtol=1e-12)


@pytest.mark.parametrize("norm", ["relative", "none"])
def test_one_target_serves_the_whole_batch(norm):
    features, one = maps(3, 4, 5, 6), maps(1, 4, 5, 6, seed=1)
    thrice = one.expand(3, -1, -1, -1)
    content, style = MSELoss(norm), GramLoss(term_norm=norm)
    np.testing.assert_allclose(
        content(features, content.target(one)), expected_content(features, thrice, norm, "mean"), rtol=1e-9
    )
    np.testing.assert_allclose(
        style(features, style.target(one)), expected_style(features, thrice, "N", norm, "mean"), rtol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_summed_in_float32(dtype):
    features, style = (10 * maps(1, 3, 200, 300, seed=seed).abs() for seed in (0, 1))
    features, style = features.to(dtype), style.to(dtype)
    gram = F.gram_matrix(features, "none")
    assert gram.dtype == torch.float32
    assert gram.min() > 65504  # more than float16 can hold
    np.testing.assert_allclose(gram, expected_gram(features, "none"), rtol=1e-5)
    for norm, reduction in CONTENT_OPTIONS:
        value = F.content_loss(features, style, norm, reduction)
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value, expected_content(features, style, norm, reduction), rtol=1e-5)
    loss = GramLoss("none", "none", "sum")
    value = loss(features, loss.target(style))
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value, expected_style(features, style, "none", "none", "sum"), rtol=1e-3)


@pytest.mark.parametrize(("kind", "reduction"), TV_OPTIONS)
@pytest.mark.parametrize("shape", [(2, 3, 6, 1), (2, 3, 1, 6)])
def test_variation_of_an_image_one_pixel_thin_counts_the_other_direction_only(shape, kind, reduction):
    image = maps(*shape)
    value = F.total_variation(image, kind, reduction)
    np.testing.assert_allclose(value, expected_variation(image, kind, reduction), rtol=1e-9)
    assert (value == 0).all() if kind == "keras" else (value > 0).all()  # which looks down and across at once


@pytest.mark.parametrize("kind", [kind for kind in TV_KINDS if kind != "laplacian"])
def test_variation_of_a_single_pixel_is_zero(kind):
    assert F.total_variation(maps(2, 3, 1, 1), kind).tolist() == [0.0, 0.0]


def test_keras_variation_of_a_flat_picture_has_a_gradient():
    image = torch.ones(1, 3, 4, 5, requires_grad=True)
    F.total_variation(image, "keras", "sum").sum().backward()
    assert image.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: MSELoss(norm="relativ"), "norm"),
        (lambda: MSELoss(norm="CN"), "norm"),
        (lambda: MSELoss(norm=0), "norm"),
        (lambda: MSELoss(norm=-1.0), "norm"),
        (lambda: MSELoss(norm=float("nan")), "norm"),
        (lambda: MSELoss(norm=True), "norm"),
        (lambda: MSELoss(norm=None), "norm"),
        (lambda: MSELoss(reduction="max"), "reduction"),
        (lambda: MSELoss(reduction=None), "reduction"),
        (lambda: MSELoss(scale=0.0), "scale"),
        (lambda: MSELoss(scale=float("inf")), "scale"),
        (lambda: MSELoss(scale="big"), "scale"),
        (lambda: MSELoss(scale=None), "scale"),
        (lambda: GramLoss(gram_norm="NC"), "gram_norm"),
        (lambda: GramLoss(gram_norm=3), "gram_norm"),
        (lambda: GramLoss(term_norm="4C3"), "term_norm"),
        (lambda: GramLoss(term_norm=float("inf")), "term_norm"),
        (lambda: GramLoss(term_norm=-2), "term_norm"),
        (lambda: GramLoss(term_norm=None), "term_norm"),
        (lambda: GramLoss(reduction="total"), "reduction"),
        (lambda: GramLoss(scale=-1.0), "scale"),
        (lambda: TotalVariation(kind="cubic"), "kind"),
        (lambda: TotalVariation(reduction="max"), "reduction"),
    ],
)
def test_a_bad_argument_is_refused_by_name(make, argument):
    with pytest.raises(ValueError, match=argument):
        make()


def test_a_refusal_suggests_the_nearest_option():
    with pytest.raises(ValueError, match="Did you mean 'relative'"):
        GramLoss(term_norm="realtive")


@pytest.mark.parametrize("loss", [MSELoss, GramLoss])
def test_scale_is_kept_for_the_term_and_does_not_touch_the_layer(loss):
    features, other = maps(1, 2, 3, 4), maps(1, 2, 3, 4, seed=1)
    plain, scaled = loss(), loss(scale=300)
    assert (plain.scale, scaled.scale) == (1.0, 300.0)
    assert torch.equal(plain(features, plain.target(other)), scaled(features, scaled.target(other)))


@pytest.mark.parametrize("name", ["mse relative", "mse none", "gram", "moments", "variation", "fused difference"])
def test_long_sums_in_float32_are_right_to_a_millionth(name):
    """Maps of a picture of 1024 pixels: adding one number after the other would be off by 6e-3."""
    generator = torch.Generator().manual_seed(0)
    maps, target = (share * torch.rand(1, 8, 1024, 1024, generator=generator) for share in (1, 0.5))

    def value(of, to):
        if name == "variation":
            return F.total_variation(of[:, :3], "squared", "sum")
        if name == "fused difference":
            return operators.squared_differences(of, to)[0]
        loss = {
            "mse relative": MSELoss("relative"),
            "mse none": MSELoss("none", "sum"),
            "gram": GramLoss(),
            "moments": MomentsLoss(),
        }[name]
        return loss(of, loss.target(to))

    exact = value(maps.double(), target.double())
    assert value(maps, target).item() == pytest.approx(exact.item(), rel=2e-6)
