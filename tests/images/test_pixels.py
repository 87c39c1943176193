"""Preprocessing and pixel spaces against the formulas of the published networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nst.images.pixels import PIXEL_SPACES, PREPROCESSINGS, PixelSpace, Preprocessing

NAMES = ["none", "imagenet", "imagenet255", "caffe", "caffe256"]
SPACES = [(space, name) for space in ("unit", "network") for name in NAMES]


def random_image(batch: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((batch, 3, 5, 7)))


def by_formula(name: str, rgb: np.ndarray) -> np.ndarray:
    """What the network is fed with, channel by channel, from ``(B, 3, H, W)`` in [0, 1]."""
    red, green, blue = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    if name in ("caffe", "caffe256"):
        white = 255 if name == "caffe" else 256
        planes = [blue * white - 103.939, green * white - 116.779, red * white - 123.68]
    elif name == "imagenet255":
        planes = [red * 255 - 123.675, green * 255 - 116.28, blue * 255 - 103.53]
    elif name == "imagenet":
        planes = [(red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225]
    else:
        planes = [red, green, blue]
    return np.stack(planes, axis=1)


def test_the_known_names() -> None:
    assert set(PREPROCESSINGS) == set(NAMES)
    assert set(PIXEL_SPACES) == {"unit", "network"}


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_is_the_published_formula(name: str) -> None:
    image = random_image()
    np.testing.assert_allclose(PREPROCESSINGS[name](image).numpy(), by_formula(name, image.numpy()), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_inverse_undoes_the_published_formula(name: str) -> None:
    image = random_image()
    fed = torch.from_numpy(by_formula(name, image.numpy()))
    np.testing.assert_allclose(PREPROCESSINGS[name].inverse(fed).numpy(), image.numpy(), atol=1e-12)


def test_caffe_puts_blue_first_in_units_of_bytes() -> None:
    pure_red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    fed = PREPROCESSINGS["caffe"](pure_red).flatten().tolist()
    assert fed == pytest.approx([-103.939, -116.779, 255 - 123.68], abs=1e-4)


def test_std_and_mean_are_per_channel_in_rgb_order_and_scaled_units() -> None:
    own = Preprocessing(mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0), scale=10.0, bgr=True)
    fed = own(torch.tensor([0.3, 0.6, 0.7]).view(1, 3, 1, 1).double()).flatten().tolist()
    assert fed == pytest.approx([(7 - 3) / 8, (6 - 2) / 4, (3 - 1) / 2])


@pytest.mark.parametrize(
    ("name", "slopes"),
    [
        ("none", (1, 1, 1)),
        ("imagenet", (1 / 0.229, 1 / 0.224, 1 / 0.225)),
        ("imagenet255", (255, 255, 255)),
        ("caffe", (255, 255, 255)),
        ("caffe256", (256, 256, 256)),
    ],
)
def test_preprocessing_passes_gradients_to_the_right_channel(name: str, slopes: tuple[float, float, float]) -> None:
    image = random_image(1).requires_grad_()
    fed = PREPROCESSINGS[name](image)
    weights = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64).view(1, 3, 1, 1)
    (fed * weights).sum().backward()
    places = (100.0, 10.0, 1.0) if name.startswith("caffe") else (1.0, 10.0, 100.0)
    assert image.grad is not None
    for channel in range(3):
        expected = np.full((5, 7), slopes[channel] * places[channel])
        np.testing.assert_allclose(image.grad[0, channel].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_image_itself_is_left_alone(name: str) -> None:
    image = random_image()
    before = image.numpy().copy()
    PREPROCESSINGS[name](image)
    PREPROCESSINGS[name].inverse(image)
    np.testing.assert_array_equal(image.numpy(), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_precision_of_the_image_is_kept(name: str, dtype: torch.dtype) -> None:
    image = random_image().to(dtype)
    assert PREPROCESSINGS[name](image).dtype == dtype
    assert PREPROCESSINGS[name].inverse(image).dtype == dtype


def test_float32_first_does_not_spoil_float64_afterwards() -> None:
    own = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.7, 0.7, 0.7))
    own(random_image().float())
    image = random_image()
    expected = (image.numpy() - np.array([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)) / 0.7
    np.testing.assert_allclose(own(image).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("space", "name"), SPACES)
def test_encoding_and_decoding_round_trip(space: str, name: str) -> None:
    image = random_image()
    pixels = PixelSpace(space, PREPROCESSINGS[name])
    encoded = pixels.encode(image)
    expected = by_formula(name, image.numpy()) if space == "network" else image.numpy()
    np.testing.assert_allclose(encoded.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(pixels.decode(encoded).numpy(), image.numpy(), atol=1e-12)


@pytest.mark.parametrize(("space", "name"), SPACES)
def test_a_round_trip_in_float32_keeps_every_byte_value(space: str, name: str) -> None:
    levels = torch.arange(256).float().div(255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    pixels = PixelSpace(space, PREPROCESSINGS[name])
    back = pixels.decode(pixels.encode(levels)).mul(255).round()[0, 0].flatten()
    assert back.tolist() == list(range(256))


@pytest.mark.parametrize(("space", "name"), SPACES)
def test_the_network_sees_the_same_in_either_space(space: str, name: str) -> None:
    image = random_image()
    pixels = PixelSpace(space, PREPROCESSINGS[name])
    seen = pixels.to_network(pixels.encode(image))
    np.testing.assert_allclose(seen.numpy(), by_formula(name, image.numpy()), atol=1e-12)


@pytest.mark.parametrize(("space", "name"), SPACES)
def test_decoding_does_not_clamp(space: str, name: str) -> None:
    beyond = torch.tensor([-0.5, 1.5, 3.0], dtype=torch.float64).view(1, 3, 1, 1)
    pixels = PixelSpace(space, PREPROCESSINGS[name])
    np.testing.assert_allclose(pixels.decode(pixels.encode(beyond)).flatten(), [-0.5, 1.5, 3.0], atol=1e-12)


@pytest.mark.parametrize(("space", "name"), SPACES)
def test_bounds_are_the_pixels_of_black_and_white(space: str, name: str) -> None:
    low, high = PixelSpace(space, PREPROCESSINGS[name]).bounds(random_image())
    if space == "unit" or name == "none":
        black, white = [0, 0, 0], [1, 1, 1]
    elif name == "caffe":
        black, white = [-103.939, -116.779, -123.68], [151.061, 138.221, 131.32]
    elif name == "caffe256":
        black, white = [-103.939, -116.779, -123.68], [152.061, 139.221, 132.32]
    elif name == "imagenet255":
        black, white = [-123.675, -116.28, -103.53], [131.325, 138.72, 151.47]
    else:
        black = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
        white = [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]
    assert low.shape == high.shape == (1, 3, 1, 1)
    assert low.dtype == high.dtype == torch.float64
    np.testing.assert_allclose(low.flatten().numpy(), black, atol=1e-9)
    np.testing.assert_allclose(high.flatten().numpy(), white, atol=1e-9)


def test_bounds_take_the_precision_of_the_pixels() -> None:
    low, high = PixelSpace("network", PREPROCESSINGS["caffe"]).bounds(random_image().float())
    assert low.dtype == high.dtype == torch.float32
