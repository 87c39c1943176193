"""The content's colours in the style's palette: said again in float64 NumPy, and in the runs that show it."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from nst.images import color, palette, rgb
from nst.images.canvas import Canvas
from nst.images.pixels import PREPROCESSINGS, PixelSpace

UNIT = PixelSpace("unit", PREPROCESSINGS["none"])


def picture(height: int, width: int, seed: int, batch: int = 1) -> Tensor:
    """Colours that are correlated, some of them beyond black and white."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(0, 0.15, (3, 3)) + 0.1
    pixels = 0.5 + mixing @ generator.normal(0, 1, (batch, 3, height * width))
    return torch.from_numpy(pixels.reshape(batch, 3, height, width))


def greyish(height: int, width: int, seed: int, tint: float = 0.0) -> Tensor:
    grey = picture(height, width, seed)[:, :1].clamp(0, 1).expand(-1, 3, -1, -1).clone()
    grey[:, 0] += tint * picture(height, width, seed + 1)[:, 1]
    return grey


# ---------------------------------------------------------------- the same, said again


def lab(image: np.ndarray) -> np.ndarray:
    """Oklab of (H, W, 3), as the authors feed it: without making it linear."""
    lms = np.clip(image, 0, 1) @ np.array(palette.LMS).T
    return np.cbrt(lms) @ np.array(palette.LAB).T


def back(image: np.ndarray) -> np.ndarray:
    return np.clip((image @ np.array(palette.ROOTS).T) ** 3 @ np.array(palette.RGB).T, 0, 1)


def zca(pixels: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Give (N, D) the mean and covariance of (M, D), both covariances with a ridge."""
    roots = [scipy.linalg.sqrtm(np.cov(x.T, bias=True) + 1e-4 * np.eye(x.shape[1])).real for x in (pixels, style)]
    return (pixels - pixels.mean(0)) @ np.linalg.inv(roots[0]) @ roots[1] + style.mean(0)


def bilateral(colors: np.ndarray, light: np.ndarray) -> np.ndarray:
    height, width = light.shape
    for _ in range(5):
        found = np.zeros_like(colors)
        for y, x in np.ndindex(height, width):
            total = 0.0
            for v in range(y - 1, y + 2):
                for u in range(x - 1, x + 2):
                    at = min(max(v, 0), height - 1), min(max(u, 0), width - 1)
                    weight = np.exp(-10 * abs(light[at] - light[y, x]))
                    found[y, x] += weight * colors[at]
                    total += weight
            found[y, x] /= total
        colors = found
    return colors


def expected(content: Tensor, style: Tensor, result: Tensor) -> np.ndarray:
    c, s, o = (lab(image[0].numpy().transpose(1, 2, 0)) for image in (content, style, result))
    flat = s.reshape(-1, 3)
    low, high = flat.min(0), flat.max(0)
    light = np.clip(o[..., :1], low[:1], high[:1])
    if np.abs(np.cov(flat.T, bias=True)[1:, 1:]).max() < 6e-5:
        own = np.concatenate([light, o[..., 1:]], 2)
        found = zca(own.reshape(-1, 3), flat).reshape(o.shape)
    else:
        colors = zca(c[..., 1:].reshape(-1, 2), flat[:, 1:]).reshape(*c.shape[:2], 2)
        found = np.concatenate([light, bilateral(colors, light[..., 0])], 2)
    return back(np.clip(found, low, high)).transpose(2, 0, 1)


@pytest.mark.parametrize("strip", [3, 256])
def test_it_is_what_numpy_says(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palette, "STRIP", strip)
    content, style, results = picture(17, 13, 0), picture(9, 20, 1), picture(17, 13, 2, batch=2)
    own = palette.palette(content, style)
    assert own.colors is not None
    found = palette.recolored(results, [own])
    for result, image in zip(results.split(1), found, strict=True):
        np.testing.assert_allclose(image.numpy(), expected(content, style, result), atol=1e-9)
    assert 0 <= found.min() < found.max() <= 1
    assert not torch.allclose(found, results.clamp(0, 1), atol=0.05)


@pytest.mark.parametrize(("tint", "has_colors"), [(0.0, False), (0.003, False), (0.2, True)])
def test_a_style_without_colours_gives_the_pictures_own_its_moments(tint: float, has_colors: bool) -> None:
    content, style, result = picture(9, 11, 0), greyish(14, 8, 1, tint), picture(9, 11, 2)
    own = palette.palette(content, style)
    assert (own.colors is not None) is has_colors
    found = palette.recolored(result, [own])
    np.testing.assert_allclose(found[0].numpy(), expected(content, style, result), atol=1e-9)
    assert tint or (found.amax(1) - found.amin(1)).max() < 0.01


def test_the_images_that_the_network_and_the_evaluator_see_stay_as_they_are() -> None:
    content, style = picture(9, 11, 0), picture(5, 6, 1)
    seen, (shown,) = color.prepare("recolored", content, [style])
    assert seen is content
    assert shown is style


def test_a_single_colour_and_a_small_picture_are_no_trouble() -> None:
    flat = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    for content, style, result in ((flat, flat, flat), (flat, picture(4, 4, 0), flat), (picture(1, 1, 0),) * 3):
        found = palette.recolored(result, [palette.palette(content, style)])
        assert torch.isfinite(found).all()
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_and_shape_are_kept(dtype: torch.dtype) -> None:
    content, result = picture(8, 9, 0).to(dtype), picture(8, 9, 2).to(dtype)
    for style in (picture(5, 6, 1), greyish(5, 6, 1)):
        found = palette.recolored(result, [palette.palette(content, style.to(dtype))])
        assert (found.dtype, found.shape, found.device) == (dtype, result.shape, result.device)
        exact = palette.recolored(result.double(), [palette.palette(content.double(), style)])
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-4 if dtype == torch.float32 else 1e-12)


def test_several_styles_colour_the_picture_by_their_shares() -> None:
    content, result, left = picture(8, 9, 0), picture(8, 9, 2), torch.zeros(1, 1, 8, 9, dtype=torch.float64)
    left[..., :4] = 1
    styles = [picture(5, 6, seed) for seed in (3, 4)]
    palettes = [palette.palette(content, s, share) for s, share in zip(styles, (left, 1 - left), strict=True)]
    found = palette.recolored(result, palettes)
    alone = [palette.recolored(result, [palette.palette(content, style)]) for style in styles]
    assert torch.equal(found[..., :4], alone[0][..., :4])
    assert torch.equal(found[..., 4:], alone[1][..., 4:])


def test_what_is_protected_stays_the_contents() -> None:
    content, style, pixels = picture(8, 9, 0).clamp(0, 1), picture(5, 6, 1), picture(8, 9, 2)
    protected = torch.zeros(1, 1, 8, 9, dtype=torch.float64)
    protected[..., 4:] = 1
    canvas = Canvas(UNIT, content, protected, palettes=[palette.palette(content, style)])
    shown = canvas.decode(pixels)
    torch.testing.assert_close(shown[..., 4:], content[..., 4:])
    assert not torch.allclose(shown[..., :4], content[..., :4], atol=0.05)
    torch.testing.assert_close(canvas.seen(pixels)[..., :4], pixels[..., :4])  # the network sees it as it is painted


def test_the_samples_are_recoloured_as_numpy_says() -> None:
    content, style = (rgb.load(name, 24).double() for name in ("coffee", "swirls"))
    found = palette.recolored(content, [palette.palette(content, style)])
    np.testing.assert_allclose(found[0].numpy(), expected(content, style, content), atol=1e-9)
