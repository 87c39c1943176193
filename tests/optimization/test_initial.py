"""The starting image: content, style, its colour, noise, a blend, or a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from problems import composed, posed
from scipy import stats

from nst import configuration
from nst.errors import UserError
from nst.images.pixels import PREPROCESSINGS, PixelSpace
from nst.optimization import initial
from nst.optimization.initial import from_blend, from_content, from_file, from_noise, from_style, from_style_color

UNIT = PixelSpace("unit", PREPROCESSINGS["caffe"])
CAFFE = PixelSpace("network", PREPROCESSINGS["caffe"])


def picture(height, width, seed=0):
    values = np.random.default_rng(seed).uniform(size=(1, 3, height, width)).astype(np.float32)
    return torch.from_numpy(values)


CONTENT, STYLE = picture(12, 20), picture(9, 31, seed=1)


def caffe(image):
    """BGR, 0..255, minus the mean: what the original VGG weights expect."""
    rgb = np.asarray(image, dtype=np.float64)
    return rgb[:, ::-1] * 255 - np.array([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)


def stretched(image, height, width):
    """Pillow's bicubic resize, channel by channel, as an independent reference."""
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC) for plane in image[0].numpy()]
    return np.clip(np.stack([np.asarray(plane) for plane in planes])[None], 0, 1)


def test_content_is_the_content_image_in_the_pixel_space():
    assert torch.equal(from_content(CONTENT, STYLE, UNIT, 0), CONTENT)
    np.testing.assert_allclose(from_content(CONTENT, STYLE, CAFFE, 0), caffe(CONTENT), atol=1e-4)


def test_style_is_stretched_to_the_contents_size():
    np.testing.assert_allclose(from_style(CONTENT, STYLE, UNIT, 0), stretched(STYLE, 12, 20), atol=1e-5)
    np.testing.assert_allclose(from_style(CONTENT, STYLE, CAFFE, 0), caffe(stretched(STYLE, 12, 20)), atol=1e-2)


def test_style_of_the_contents_size_is_taken_as_it_is():
    style = picture(12, 20, seed=1)
    assert torch.equal(from_style(CONTENT, style, UNIT, 0), style)


@pytest.mark.parametrize(("center", "amplitude"), [(0.5, 0.5), (0.0, 120.0)])
def test_uniform_noise_is_uniform_around_its_center(center, amplitude):
    noise = from_noise(picture(80, 90), STYLE, CAFFE, 3, "uniform", center, amplitude)
    assert noise.shape == (1, 3, 80, 90)
    scaled = (noise.double().numpy().ravel() - center) / amplitude
    assert scaled.min() >= -1
    assert scaled.max() <= 1
    assert stats.kstest(scaled, stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("center", "amplitude"), [(0.5, 0.1), (0.0, 0.001)])
def test_normal_noise_is_normal_with_its_amplitude_as_standard_deviation(center, amplitude):
    noise = from_noise(picture(80, 90), STYLE, CAFFE, 3, "normal", center, amplitude)
    scaled = (noise.double().numpy().ravel() - center) / amplitude
    assert stats.kstest(scaled, stats.norm().cdf).pvalue > 1e-3


def test_noise_is_white():
    noise = from_noise(picture(80, 90), STYLE, UNIT, 3)[0].double().numpy() - 0.5
    for one, other in ((noise[:, 1:], noise[:, :-1]), (noise[:, :, 1:], noise[:, :, :-1]), (noise[1:], noise[:-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("start", [from_noise, from_blend, from_style_color])
def test_noise_follows_its_seed_alone(start, distribution):
    torch.manual_seed(1)
    first = start(CONTENT, STYLE, UNIT, 5, distribution=distribution)
    torch.manual_seed(2)
    assert torch.equal(start(CONTENT, STYLE, UNIT, 5, distribution=distribution), first)
    after = torch.rand(4)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(4), after), "the global generator was touched"
    assert not torch.equal(start(CONTENT, STYLE, UNIT, 6, distribution=distribution), first)


def test_noise_starts_alike_in_float32_and_float64():
    double = from_noise(CONTENT.double(), STYLE.double(), UNIT, 5)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), from_noise(CONTENT, STYLE, UNIT, 5))


def test_the_styles_colour_is_its_mean_with_noise_on_it():
    """Heitz 2021's texture_optimization_slicing.py: the mean over positions + 0.01 * randn, in RGB."""
    drawn = torch.randn(CONTENT.shape, generator=torch.Generator().manual_seed(5)).numpy()
    mean = STYLE.double().numpy().mean((2, 3), keepdims=True)
    np.testing.assert_allclose(from_style_color(CONTENT, STYLE, UNIT, 5), mean + 0.01 * drawn, atol=1e-6)
    start = from_style_color(CONTENT, STYLE, CAFFE, 5, amplitude=2.5)
    np.testing.assert_allclose(start, caffe(mean) + 2.5 * drawn, atol=1e-4)
    uniform = from_style_color(CONTENT, STYLE, UNIT, 5, "uniform", 0.1).double().numpy() - mean
    assert 0.09 < np.abs(uniform).max() <= 0.1


# What each recipe starts from: how to say so, and the draw in words of torch.
RECIPES = {
    "gatys2016_paper": (["init.distribution=normal", "init.center=0", "init.amplitude=1"], lambda normal, _: normal),
    "jcjohnson": (
        ["init.distribution=normal", "init.center=0", "init.amplitude=1e-3"],
        lambda normal, _: normal * 1e-3,
    ),
    "johnson_slow": (["init.distribution=normal", "init.center=0", "init.amplitude=1"], lambda normal, _: normal),
    "fastai": (["init.center=0", "init.amplitude=2.5"], lambda _, uniform: (uniform - 0.5) * 5),
    "li2017": (["init.center=0", "init.amplitude=0.1"], lambda _, uniform: (uniform - 0.5) * 0.2),
    "gordicaleksa": (["init.distribution=normal", "init.center=0", "init.amplitude=90"], lambda normal, _: normal * 90),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipes_noise_can_be_said(recipe):
    """All of them in the network's space, whose 0 is ImageNet's mean colour."""
    said, expected = RECIPES[recipe]
    start = configuration.build(composed("init=noise", *said).init)(content=CONTENT, style=STYLE, space=CAFFE, seed=7)
    normal, uniform = (
        draw(CONTENT.shape, generator=torch.Generator().manual_seed(7)) for draw in (torch.randn, torch.rand)
    )
    torch.testing.assert_close(start, expected(normal, uniform), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [UNIT, CAFFE])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_blend_mixes_content_and_the_same_noise_in_the_pixel_space(space, share):
    noise = from_noise(CONTENT, STYLE, space, 5, "normal", 0.1, 2.0).double().numpy()
    image = caffe(CONTENT) if space is CAFFE else CONTENT.double().numpy()
    blend = from_blend(CONTENT, STYLE, space, 5, share, "normal", 0.1, 2.0)
    np.testing.assert_allclose(blend, (1 - share) * image + share * noise, atol=1e-4)


def save(path, image):
    array = np.rint(image[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(array).save(path)
    return array.transpose(2, 0, 1)[None] / 255


def test_a_file_of_the_contents_size_is_taken_pixel_for_pixel(tmp_path):
    bytes_ = save(tmp_path / "start.png", picture(12, 20, seed=2))
    path = str(tmp_path / "start.png")
    np.testing.assert_allclose(from_file(CONTENT, STYLE, UNIT, 0, path), bytes_, atol=1e-7)
    np.testing.assert_allclose(from_file(CONTENT, STYLE, CAFFE, 0, path), caffe(bytes_), atol=1e-4)


@pytest.mark.parametrize("size", [(40, 17), (5, 5), (24, 40)])
def test_a_file_of_another_size_is_stretched_to_the_contents(size, tmp_path):
    ramp = torch.linspace(0, 1, size[1]).expand(1, 3, *size)
    save(tmp_path / "start.png", ramp)
    start = from_file(CONTENT, STYLE, UNIT, 0, str(tmp_path / "start.png"))
    assert start.shape == CONTENT.shape
    columns = (np.arange(20) + 0.5) / 20 * size[1] - 0.5
    expected = np.broadcast_to(columns[3:-3] / (size[1] - 1), (3, 12, 14))
    np.testing.assert_allclose(start[0, :, :, 3:-3], expected, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_start_has_the_contents_shape_and_type(dtype, tmp_path):
    save(tmp_path / "start.png", picture(30, 30))
    content, style = CONTENT.to(dtype), STYLE.to(dtype)
    makers = (from_content, from_style, from_style_color, from_noise, from_blend)
    for other in (style, style.transpose(2, 3), style[..., :1, :1], content):
        starts = [make(content, other, CAFFE, 0) for make in makers]
        starts.append(from_file(content, other, CAFFE, 0, str(tmp_path / "start.png")))
        for start in starts:
            assert start.shape == content.shape
            assert start.dtype == dtype
            assert torch.isfinite(start).all()


@pytest.mark.parametrize("start", [from_noise, from_blend, from_style_color])
@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"distribution": "gaussian"}, "distribution"),
        ({"amplitude": 0.0}, "amplitude"),
        ({"amplitude": -1.0}, "amplitude"),
        ({"amplitude": float("nan")}, "amplitude"),
    ],
)
def test_bad_noise_is_refused_by_name(start, options, argument):
    with pytest.raises(ValueError, match=argument):
        start(CONTENT, STYLE, UNIT, 0, **options)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_noise_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match="noise"):
        from_blend(CONTENT, STYLE, UNIT, 0, noise=share)


def test_a_missing_or_broken_file_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.png"):
        from_file(CONTENT, STYLE, UNIT, 0, str(tmp_path / "nowhere.png"))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png"):
        from_file(CONTENT, STYLE, UNIT, 0, str(tmp_path / "broken.png"))


# ---------------------------------------------------------------- recoloured


def test_recolored_is_the_content_with_mean_and_covariance_of_the_styles_colours() -> None:
    generator = torch.Generator().manual_seed(3)
    content = 0.5 + 0.05 * torch.randn(1, 3, 12, 15, generator=generator, dtype=torch.float64)
    mixed = 0.04 * torch.randn(1, 3, 9, 7, generator=generator, dtype=torch.float64)
    style = torch.einsum("dc,bchw->bdhw", torch.tensor([[1, 0.5, 0], [0, 1, 0], [0.2, 0, 2]]).double(), mixed) + 0.45
    start = initial.from_recolored(content, style, UNIT, seed=0)
    pixels, others = start.flatten(2)[0].numpy(), style.flatten(2)[0].numpy()
    np.testing.assert_allclose(pixels.mean(1), others.mean(1), rtol=1e-9)
    np.testing.assert_allclose(np.cov(pixels, bias=True), np.cov(others, bias=True), rtol=1e-7, atol=1e-12)
    assert np.corrcoef(start[0, 1].flatten(), content[0, 1].flatten())[0, 1] > 0.5
    grey = content.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert torch.allclose(initial.from_recolored(grey, grey, UNIT, seed=0), grey, atol=1e-9)


def test_with_masks_each_region_starts_in_the_colours_of_its_style(tmp_path: Path) -> None:
    for name, left in (("left", 255), ("right", 0)):
        mask = np.full((32, 48), 255 - left, np.uint8)
        mask[:, :24] = left
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    masks = f"style_masks=[{tmp_path / 'left.png'},{tmp_path / 'right.png'}]"
    styles = [("style=[swirls,mosaic]", masks), ("style=swirls",), ("style=mosaic",)]
    both, swirls, mosaic = (posed("size=48", "init=recolored", *one).start for one in styles)
    assert torch.allclose(both[..., :23], swirls[..., :23], atol=1e-4)
    assert torch.allclose(both[..., 25:], mosaic[..., 25:], atol=1e-4)
    assert not torch.allclose(swirls, mosaic, atol=0.1)
