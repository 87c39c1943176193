"""The colour formulas against their statements in float64 NumPy, against scikit-image, and on images without colour."""

from collections.abc import Callable

import numpy as np
import pytest
import skimage.color
import skimage.exposure
import torch
from torch import Tensor

from nst.images import color, rgb

MATCHES = (color.match_pca, color.match_cholesky, color.match_histogram)
LINEAR = (color.match_pca, color.match_cholesky)
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]
Match = Callable[[Tensor, Tensor], Tensor]


def picture(height: int, width: int, seed: int, batch: int = 1) -> Tensor:
    """Colours that are correlated, of one hump in each channel, without ties."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(0, 0.1, (3, 3)) + 0.08
    pixels = 0.5 + mixing @ generator.normal(0, 1, (batch, 3, height * width))
    return torch.from_numpy(pixels.reshape(batch, 3, height, width))


def grey(height: int, width: int, seed: int) -> Tensor:
    return picture(height, width, seed)[:, :1].expand(-1, 3, -1, -1).clone()


def moments(image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a single image's colours, by NumPy."""
    pixels = image[0].double().numpy().reshape(len(image[0]), -1)
    return pixels.mean(1), np.cov(pixels, bias=True)


def root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def hwc(image: Tensor) -> np.ndarray:
    return image[0].double().numpy().transpose(1, 2, 0)


def test_luminance_is_y_of_yiq() -> None:
    image = picture(5, 7, 0)
    y = color.luminance(image)
    assert y.shape == (1, 1, 5, 7)
    np.testing.assert_allclose(y[0, 0].numpy(), hwc(image) @ [0.299, 0.587, 0.114], rtol=1e-12)
    np.testing.assert_allclose(y[0, 0].numpy(), skimage.color.rgb2yiq(hwc(image))[:, :, 0], rtol=1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_luminance_takes_the_place_of_y_while_i_and_q_stay(dtype: torch.dtype, tolerance: float) -> None:
    content, other = picture(5, 7, 0).to(dtype), color.luminance(picture(5, 7, 1)).to(dtype)
    mixed = color.with_luminance(content, other)
    assert mixed.dtype == dtype
    torch.testing.assert_close(color.luminance(mixed), other, rtol=0, atol=tolerance)
    yiq = skimage.color.rgb2yiq(hwc(content))
    yiq[:, :, 0] = other[0, 0].numpy()
    np.testing.assert_allclose(hwc(mixed), skimage.color.yiq2rgb(yiq), atol=max(tolerance, 1e-6))


def test_a_grey_content_lends_no_colour_and_its_own_luminance_changes_nothing() -> None:
    luminance = color.luminance(picture(4, 4, 1))
    torch.testing.assert_close(color.with_luminance(grey(4, 4, 0), luminance), luminance.expand(-1, 3, -1, -1))
    image = picture(4, 4, 0)
    torch.testing.assert_close(color.with_luminance(image, color.luminance(image)), image)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_luminance_gets_the_contents_mean_and_deviation(dtype: torch.dtype, tolerance: float) -> None:
    style, content = (color.luminance(picture(*size, seed)).to(dtype) for seed, size in enumerate([(6, 5), (9, 8)]))
    matched = color.match_luminance(style, content)
    assert (matched.dtype, matched.shape) == (dtype, style.shape)
    s, c = style.double().numpy(), content.double().numpy()
    expected = c.std() / s.std() * (s - s.mean()) + c.mean()
    np.testing.assert_allclose(matched.double().numpy(), expected, atol=tolerance)


@pytest.mark.parametrize("match", LINEAR)
def test_a_linear_map_gives_the_contents_mean_and_covariance(match: Match) -> None:
    style, content = picture(20, 31, 0), picture(17, 40, 1)
    matched = match(style, content)
    assert matched.shape == style.shape
    for ours, theirs in zip(moments(matched), moments(content), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert not torch.allclose(matched, style, atol=0.05)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", ["pca", "cholesky"])
def test_the_maps_are_those_of_the_paper(name: str, dtype: torch.dtype, tolerance: float) -> None:
    style, content = picture(20, 31, 0).to(dtype), picture(17, 40, 1).to(dtype)
    (mean_s, s), (mean_c, c) = moments(style), moments(content)
    matrix = {
        "pca": root(c) @ np.linalg.inv(root(s)),
        "cholesky": np.linalg.cholesky(c) @ np.linalg.inv(np.linalg.cholesky(s)),
    }[name]
    expected = (hwc(style) - mean_s) @ matrix.T + mean_c
    matched = getattr(color, f"match_{name}")(style, content)
    assert matched.dtype == dtype
    np.testing.assert_allclose(hwc(matched), expected, atol=tolerance)


@pytest.mark.parametrize("levels", [None, 255, 7])
def test_histograms_are_matched_as_scikit_image_does_it(levels: int | None) -> None:
    style, content = picture(20, 31, 0), picture(17, 40, 1)
    if levels:
        style, content = ((image * levels).round() / levels for image in (style, content))
    expected = skimage.exposure.match_histograms(hwc(style), hwc(content), channel_axis=2)
    np.testing.assert_allclose(hwc(color.match_histogram(style, content)), expected, atol=1e-5)
    narrow = color.match_histogram(style.float(), content.float())
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(hwc(narrow), expected, atol=1e-5)


def test_a_matched_histogram_is_the_contents_to_the_last_value_and_keeps_the_order() -> None:
    style, content = picture(20, 30, 0), picture(30, 20, 1)
    matched = color.match_histogram(style, content).flatten(2)
    assert torch.equal(matched.sort().values, content.flatten(2).sort().values)
    assert torch.equal(matched.argsort(), style.flatten(2).argsort())


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("make", [picture, grey])
def test_a_style_that_is_the_content_stays_as_it_is(match: Match, make: Callable[..., Tensor]) -> None:
    image = make(12, 13, 0)
    torch.testing.assert_close(match(image, image), image, rtol=0, atol=1e-9)
    torch.testing.assert_close(match(image.float(), image.float()), image.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("match", LINEAR)
def test_a_grey_style_gets_the_contents_mean_and_stays_on_a_line(match: Match) -> None:
    content = picture(17, 40, 1)
    matched = match(grey(20, 31, 0), content)
    mean, covariance = moments(matched)
    np.testing.assert_allclose(mean, moments(content)[0], atol=1e-9)
    values = np.linalg.eigvalsh(covariance)
    assert values[2] > 1e-3
    np.testing.assert_allclose(values[:2], 0, atol=1e-12)
    assert values[2] <= np.linalg.eigvalsh(moments(content)[1])[2] * (1 + 1e-9)  # no colour beyond the content's


@pytest.mark.parametrize("match", LINEAR)
def test_the_noise_of_a_grey_scan_is_no_colour(match: Match) -> None:
    """Else the last bits of a grey scan would be stretched to bright specks."""
    noise = torch.rand(1, 3, 20, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    style = grey(20, 31, 0)
    torch.testing.assert_close(
        match(style + (noise - 0.5) * 5 / 255, picture(17, 40, 1)),
        match(style, picture(17, 40, 1)),
        rtol=0,
        atol=0.02,
    )


@pytest.mark.parametrize("match", LINEAR)
def test_a_grey_content_makes_the_style_grey(match: Match) -> None:
    content = grey(17, 40, 1)
    matched = match(picture(20, 31, 0), content)
    torch.testing.assert_close(matched, matched[:, :1].expand(-1, 3, -1, -1), rtol=0, atol=1e-9)
    for ours, theirs in zip(moments(matched), moments(content), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_content_makes_the_style_constant(match: Match, dtype: torch.dtype) -> None:
    tint = torch.tensor([0.2, 0.4, 0.9], dtype=dtype).view(1, 3, 1, 1)
    matched = match(picture(8, 9, 0).to(dtype), tint.expand(-1, -1, 5, 6))
    torch.testing.assert_close(matched, tint.expand(-1, -1, 8, 9))


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_style_stays_constant(match: Match, dtype: torch.dtype) -> None:
    tint = torch.tensor([0.2, 0.4, 0.9], dtype=dtype).view(1, 3, 1, 1)
    content = picture(5, 6, 0).to(dtype)
    matched = match(tint.expand(-1, -1, 8, 9), content)
    reached = content.amax((2, 3)) if match is color.match_histogram else content.mean((2, 3))
    torch.testing.assert_close(matched, reached[:, :, None, None].expand(-1, -1, 8, 9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_luminance_stays_constant_and_becomes_the_contents_mean(dtype: torch.dtype) -> None:
    flat, content = torch.full((1, 1, 3, 4), 0.3, dtype=dtype), color.luminance(picture(5, 6, 0)).to(dtype)
    torch.testing.assert_close(color.match_luminance(flat, content), content.mean().expand(1, 1, 3, 4))
    torch.testing.assert_close(color.match_luminance(content, flat), torch.full_like(content, 0.3))


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("contents", [1, 2])
def test_the_images_of_a_batch_are_matched_each_for_itself(match: Match, contents: int) -> None:
    styles, content = torch.cat([picture(6, 7, 0), grey(6, 7, 1)]), picture(5, 9, 2, contents)
    alone = [match(style[None], content[min(i, contents - 1)][None]) for i, style in enumerate(styles)]
    torch.testing.assert_close(match(styles, content), torch.cat(alone))


def test_luminance_of_a_batch_is_that_of_each_image() -> None:
    styles, content = picture(6, 7, 0, 2), picture(6, 7, 1)
    y, of_content = color.luminance(styles), color.luminance(content)
    torch.testing.assert_close(y, torch.cat([color.luminance(style[None]) for style in styles]))
    alone = torch.cat([color.match_luminance(one[None], of_content) for one in y])
    torch.testing.assert_close(color.match_luminance(y, of_content), alone)
    assert color.with_luminance(content, alone).shape == (2, 3, 6, 7)


@pytest.mark.parametrize("match", MATCHES)
def test_real_pictures_keep_their_range_but_for_a_little(match: Match) -> None:
    style, content = rgb.load("swirls", 64), rgb.load("coffee", 64)
    matched = match(style, content)
    assert bool(matched.isfinite().all())
    outside = (matched < 0) | (matched > 1)
    assert outside.float().mean() < 0.2


def test_the_cholesky_factor_is_numpys_and_exists_for_a_singular_covariance() -> None:
    _, covariance = moments(picture(20, 31, 0))
    factor = color._cholesky_factor(torch.from_numpy(covariance)[None])[0].numpy()
    np.testing.assert_allclose(factor, np.linalg.cholesky(covariance), atol=1e-12)
    _, singular = moments(grey(20, 31, 0))
    factor = color._cholesky_factor(torch.from_numpy(singular)[None])[0].numpy()
    np.testing.assert_allclose(factor @ factor.T, singular, atol=1e-12)
    np.testing.assert_array_equal(factor, np.tril(factor))
