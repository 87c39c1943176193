"""The pictures from inside the network: what is drawn where, in which colour, and when it is shown."""

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import torch
from batches import DiesAt, done_together
from PIL import Image
from problems import CPU, composed, stylized
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from watched import run_info, snapshot

from nst import runtime
from nst.errors import ConfigError
from nst.images import rgb
from nst.images.pixels import PixelSpace, Preprocessing, with_margin
from nst.losses.functional import gram_matrix
from nst.networks import backbones
from nst.setup.check import check
from nst.setup.layers import inspected_layers
from nst.setup.network import inspected_maps
from nst.tracking import inside
from nst.tracking.inside import BACKGROUND, COLUMNS, GAP, LABEL, STEPS, TEXT, Inside, Scale

TINY = ("size=32", "steps=12", "log_every=1", "evaluator=none", "layers.style=[conv1,fire2]", "device=cpu")
INSPECT = "inspect=[fire2,pool1,features.8]"


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def numbers(picture: Image.Image) -> np.ndarray:
    """A picture's numbers in the palette."""
    assert picture.mode == "P"
    return np.asarray(picture)


def cell(picture: Image.Image, place: int, height: int, width: int) -> np.ndarray:
    """The colours of a channel, by its place in the grid."""
    top = place // COLUMNS * (LABEL + height + GAP) + LABEL
    left = place % COLUMNS * (width + GAP)
    return numbers(picture)[top : top + height, left : left + width]


def test_colours_are_as_light_as_their_values_are_large_warm_or_blue() -> None:
    colors = inside.palette()[: 2 * STEPS + 1]
    lab = skimage.color.rgb2lab(colors[None])[0]
    lightness = np.abs(np.arange(-STEPS, STEPS + 1)) / STEPS * 97
    np.testing.assert_allclose(lab[:, 0], lightness, atol=3)
    assert (np.diff(lab[STEPS:, 0]) > 0).all()
    assert (np.diff(lab[: STEPS + 1, 0]) < 0).all()
    assert colors[STEPS].tolist() == [0, 0, 0]
    halves = colors.astype(int)
    assert (halves[STEPS + 8 :, 0] > halves[STEPS + 8 :, 2]).all()  # more red than blue
    assert (halves[: STEPS - 7, 0] < halves[: STEPS - 7, 2]).all()


def test_numbers_are_steps_of_the_value_and_what_is_beyond_is_brightest() -> None:
    values = torch.tensor([-7.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, torch.nan])
    assert inside.color_numbers(values).tolist() == [0, 0, 63, 126, 189, 252, 252, 126]


def test_channels_are_ordered_by_what_the_content_does_to_them() -> None:
    content, style = maps(1, 5, 6, 8), maps(1, 5, 7, 4, seed=1)
    factors = torch.tensor([1.0, 9.0, 0.1, 4.0, 2.0]).view(1, 5, 1, 1)
    scale = inside.common_scale(content * factors, style)
    assert scale.channels == [1, 3, 4, 0, 2]
    assert scale.gram_channels == np.argsort(-(style.numpy() ** 2).mean((0, 2, 3))).tolist()


def test_a_colour_means_the_same_number_for_content_and_style() -> None:
    """The brightest colour of a channel is the larger of the two images' 99.5th hundredths."""
    content, style = maps(1, 3, 30, 40), maps(1, 3, 50, 20, seed=1) * torch.tensor([0.2, 3.0, 1.0]).view(1, 3, 1, 1)
    scale = inside.common_scale(content, style)
    expected = [
        max(np.quantile(np.abs(one[0, c].numpy()), 0.995) for one in (content, style)) for c in scale.channels
    ]  # enlarging repeats values, which leaves their hundredths nearly alone
    np.testing.assert_allclose(scale.brightest, expected, rtol=0.02)
    grams = [np.einsum("cij,dij->cd", one, one) / one[0].size for one in (content[0].numpy(), style[0].numpy())]
    assert scale.gram_brightest == pytest.approx(max(np.quantile(np.abs(gram), 0.999) for gram in grams), rel=1e-5)


@pytest.mark.parametrize("count", [1, 3, 8, 20, 64, 200])
def test_each_channel_stands_in_its_place_under_its_number(count: int) -> None:
    content = maps(1, count, 5, 7)
    scale = inside.common_scale(content, content)
    picture = inside.features_picture(content, scale)
    shown, times = min(count, 64), 14  # 100 / 7
    assert len(scale.channels) == shown
    rows = -(-shown // COLUMNS)
    assert picture.size == (min(shown, COLUMNS) * (7 * times + GAP), rows * (LABEL + 5 * times + GAP))
    for place in range(shown):
        values = content[0, scale.channels[place]] / scale.brightest[place]
        expected = inside.color_numbers(values).repeat(times, 0).repeat(times, 1)
        np.testing.assert_array_equal(cell(picture, place, 5 * times, 7 * times), expected)
    labels = numbers(picture)[:LABEL, : 7 * times]
    assert set(np.unique(labels)) == {BACKGROUND, TEXT}


def test_a_channels_number_can_be_read() -> None:
    """The line above channel 7 is what it is for 7, whatever its place, and another than for 8."""

    def label(channel: int, place: int) -> np.ndarray:
        channels = [0] * place + [channel]
        picture = inside.features_picture(torch.ones(1, 9, 4, 4), Scale(channels, torch.ones(place + 1), [], 1.0))
        return numbers(picture)[:LABEL, place * (100 + GAP) :]

    np.testing.assert_array_equal(label(7, 0), label(7, 2))
    assert (label(7, 0) != label(8, 0)).any()
    assert (label(7, 0) == TEXT).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (66, 66), (67, 99), (100, 100), (101, 50), (700, 900), (3, 2000)])
def test_grids_are_legible_and_bounded(size: tuple[int, int]) -> None:
    picture = inside.features_picture(maps(1, 70, *size), Scale(list(range(64)), torch.ones(64), [], 1.0))
    assert 450 <= max(picture.size) <= 1200


def test_large_maps_are_averaged_over_their_positions() -> None:
    picture = inside.cells(maps(1, 2, 200, 400), [1])
    assert picture.shape == (1, 50, 100)
    by_hand = maps(1, 2, 200, 400)[0, 1].reshape(50, 4, 100, 4).mean((1, 3))
    torch.testing.assert_close(picture[0], by_hand)


@pytest.mark.parametrize(("channels", "side"), [(1, 512), (3, 513), (64, 512), (200, 600), (512, 512), (1100, 1024)])
def test_gram_matrices_are_legible_and_bounded(channels: int, side: int) -> None:
    content = maps(1, channels, 3, 3)
    picture = inside.gram_picture(content, inside.common_scale(content, content))
    assert picture.size == (side, side)


def test_a_gram_picture_is_the_signed_root_in_the_order_of_the_styles_diagonal() -> None:
    content, style = maps(1, 64, 6, 8), maps(1, 64, 7, 4, seed=1)
    scale = inside.common_scale(content, style)
    shown = numbers(inside.gram_picture(content, scale)).astype(int) - STEPS
    small = shown[4::8, 4::8]
    np.testing.assert_array_equal(shown, small.repeat(8, 0).repeat(8, 1))
    rows = content[0].flatten(1).double().numpy()
    gram = (rows @ rows.T / 48)[np.ix_(scale.gram_channels, scale.gram_channels)]
    expected = np.sign(gram) * np.sqrt(np.abs(gram) / scale.gram_brightest)
    np.testing.assert_allclose(small, expected.clip(-1, 1) * STEPS, atol=0.51)
    assert (small < 0).any()
    diagonal = numbers(inside.gram_picture(style, scale)).astype(int).diagonal()
    assert (np.diff(diagonal) <= 0).all()


def test_the_gram_matrix_is_that_of_the_losses() -> None:
    features = maps(1, 5, 6, 8)
    torch.testing.assert_close(inside.gram_matrix(features), gram_matrix(features)[0])


def test_a_layer_that_is_silent_is_black() -> None:
    silent = torch.zeros(1, 4, 6, 6)
    scale = inside.common_scale(silent, silent)
    assert (cell(inside.features_picture(silent, scale), 0, 102, 102) == STEPS).all()
    assert (numbers(inside.gram_picture(silent, scale)) == STEPS).all()
    awake = inside.features_picture(silent + 1, scale)  # for the picture alone it is as bright as it gets
    assert (cell(awake, 0, 102, 102) == 2 * STEPS).all()


def test_it_looks_at_few_steps_only_and_shows_content_and_style_once() -> None:
    seen: list[Tensor] = []
    shown: list[tuple[str, int]] = []

    def look(image: Tensor) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled()
        seen.append(image)
        return {"a": image, "b": image[:, :2, ::2, ::2]}

    def show(tag: str, picture: Image.Image, step: int) -> None:
        shown.append((tag, step))

    for begun in (False, True):
        seen.clear()
        shown.clear()
        tracker = Inside(run_info(Path(), 300, begin=7 * begun, content=torch.rand(1, 3, 8, 8)), look, show)
        space = PixelSpace("network", Preprocessing(mean=(0.5, 0.5, 0.5)))
        for index in range(301):
            tracker.step(snapshot(index, torch.full((1, 3, 8, 8), 0.7), index == 300, space))
        tracker.close("done", "")
        assert tracker.position() is None
        tags = {tag for tag, _ in shown}
        names = ("picture",) if begun else ("content", "style", "picture")
        assert tags == {f"{kind}/{layer}/{name}" for kind in ("features", "gram") for layer in "ab" for name in names}
        steps = [step for tag, step in shown if tag == "gram/a/picture"]
        assert steps[:2] == [0, 1]
        assert steps[-1] == 300
        assert len(steps) == len(set(steps)) <= 8
        assert len(seen) == 2 + len(steps)
        torch.testing.assert_close(seen[-1], torch.full((1, 3, 8, 8), 1.2))  # decoded, not clamped


def inspected(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """What was shown by tag: steps and files."""
    found = EventAccumulator(str(folder), size_guidance={"images": 0})
    found.Reload()
    tags = [tag for tag in found.Tags()["images"] if tag.startswith("seen/")]
    return {
        tag.removeprefix("seen/"): [(shown.step, shown.encoded_image_string) for shown in found.Images(tag)]
        for tag in tags
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that looks at a layer of the losses, one that is not, and one deeper than all of them."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    stylized(folder, *TINY, INSPECT)
    return folder


def test_a_run_shows_every_layer_in_tensorboard(whole: Path) -> None:
    shown = inspected(whole)
    assert len([*whole.glob("events*")]) == 1
    names, layers = ("content", "style", "picture"), ("fire2", "pool1", "pool5")
    assert set(shown) == {f"{kind}/{a}/{b}" for kind in ("features", "gram") for a in layers for b in names}
    for tag, pictures in shown.items():
        steps = [step for step, _ in pictures]
        assert steps == sorted({0, 1, 2, 3, 4, 7, 12} if tag.endswith("picture") else {0})
    start, content = shown["features/pool5/picture"][0][1], shown["features/pool5/content"][0][1]
    assert start == content  # the run starts from the content image


def test_what_is_shown_is_the_networks_own(whole: Path) -> None:
    network = backbones.load("squeezenet1_1", "bundled", ["fire2"], "avg")
    with torch.no_grad():
        content, style = (
            network(network.preprocessing(with_margin(rgb.load(name, 32), 8)))["fire2"] for name in ("coffee", "swirls")
        )
    scale = inside.common_scale(content, style)
    expected = inside.gram_picture(style, scale).convert("RGB")
    shown = Image.open(io.BytesIO(inspected(whole)["gram/fire2/style"][0][1])).convert("RGB")
    assert np.abs(np.asarray(shown, int) - np.asarray(expected, int)).max() <= 8  # a step of the palette at most


def test_looking_changes_no_number_of_the_run(whole: Path, tmp_path: Path) -> None:
    stylized(tmp_path, *TINY)
    assert (tmp_path / "result.png").read_bytes() == (whole / "result.png").read_bytes()

    def without_seconds(folder: Path) -> list[list[str]]:
        lines = (folder / "metrics.csv").read_text().splitlines()
        return [line.split(",")[:2] + line.split(",")[3:] for line in lines]

    assert without_seconds(tmp_path) == without_seconds(whole)
    assert inspected(tmp_path) == {}


@pytest.mark.parametrize("die_at", [2, 8])
def test_a_run_that_is_carried_on_shows_nothing_twice(whole: Path, tmp_path: Path, die_at: int) -> None:
    overrides = (*TINY, INSPECT, "checkpoint_steps=3", "checkpoint_seconds=0")
    with pytest.raises(runtime.Interrupted):
        stylized(tmp_path, *overrides, stop=DiesAt(die_at))
    assert 0 < len(inspected(tmp_path)["gram/pool1/picture"]) < 7
    if die_at == 2:
        for path in tmp_path.glob("events*"):
            path.unlink()  # as a run that begins anew does
    stylized(tmp_path, *overrides)
    assert inspected(tmp_path) == inspected(whole)


def test_the_jobs_of_a_batch_show_what_each_would_alone(whole: Path, tmp_path: Path) -> None:
    done_together(tmp_path, (*TINY, INSPECT), (*TINY, INSPECT, "style=mosaic", "seed=3", "init=noise"))
    ours, alone = inspected(tmp_path / "0"), inspected(whole)
    assert {tag: [step for step, _ in shown] for tag, shown in ours.items()} == {
        tag: [step for step, _ in shown] for tag, shown in alone.items()
    }
    assert ours["gram/fire2/style"] == alone["gram/fire2/style"]
    assert ours["features/pool1/picture"][0] == alone["features/pool1/picture"][0]
    other = inspected(tmp_path / "1")
    assert other["gram/fire2/content"] != ours["gram/fire2/content"]  # on a scale with another style
    assert other["features/pool1/picture"][0] != ours["features/pool1/picture"][0]


@pytest.mark.parametrize("name", ["vgg16", "vgg19_bn", "squeezenet"])
def test_any_backbone_can_be_looked_into(name: str) -> None:
    layer = "conv2_2" if name.startswith("vgg") else "fire9"
    settings = composed(f"backbone={name}", "backbone.weights=random", f"inspect=[{layer}]", "precision=float64")
    look = inspected_maps(settings, CPU)
    assert look is not None
    with torch.no_grad():
        found = look(torch.rand(1, 3, 48, 40, dtype=torch.float64))
    assert list(found) == [layer]
    assert found[layer].dtype == torch.float64
    assert found[layer].shape[0] == 1
    assert inspected_maps(composed(f"backbone={name}"), CPU) is None


class OwnNetwork(nn.Module):
    """A network of somebody's own, which gives more maps than it is asked for, in fewer digits."""

    preprocessing = Preprocessing()

    def __init__(self, layers: list[str], pooling: str) -> None:
        super().__init__()
        assert layers == ["mine"]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"other": image, "mine": image.bfloat16()}


def test_a_network_of_ones_own_can_be_looked_into() -> None:
    settings = composed("inspect=[mine]")
    settings.backbone = {"_target_": f"{__name__}.OwnNetwork"}
    look = inspected_maps(settings, CPU)
    assert look is not None
    found = look(torch.rand(1, 3, 8, 8))
    assert list(found) == ["mine"]
    assert found["mine"].dtype == torch.float32


def test_a_layer_that_does_not_exist_is_told_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"inspect: There is no layer in squeezenet1_1 'fir5'.*mean 'fire5'"):
        check(composed("inspect=[conv1,fir5]"))
    with pytest.raises(ConfigError, match="2 mistakes") as error:
        check(composed("backbone=vgg16", "backbone.weights=random", "inspect=[relu9_1,fire2]"))
    assert "relu9_1" in str(error.value)
    assert "fire2" in str(error.value)


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("[]", []),
        ("null", []),
        ("conv1", ["conv1"]),
        ("[features.0,conv1,relu1]", ["conv1", "relu1"]),
        ("[0]", ["conv1"]),
    ],
)
def test_layers_are_named_as_everywhere(typed: str, names: list[str]) -> None:
    settings = composed(f"inspect={typed}")
    check(settings)
    assert inspected_layers(settings) == names
