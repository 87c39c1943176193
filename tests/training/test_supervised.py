"""Pairs from folders or painted on the way, their crops, and the losses that a network learns from them with."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from problems import CONF, CPU
from problems import composed as composed_from_files
from torch import Tensor, nn

from nst import configuration, runtime
from nst.errors import ConfigError, UserError
from nst.files import write_json
from nst.images import rgb
from nst.setup.inputs import load_images
from nst.setup.layers import layer_weights
from nst.setup.network import load_network
from nst.training import pairs, reference
from nst.training.method import TrainingContext
from nst.training.pairs import Pairs
from nst.training.photos import Photos
from nst.training.supervised import Supervised

TINY = ("count=3", "side=40", "crop=32", "painter.steps=2", "painter.at_once=2")


def composed(*overrides: str) -> DictConfig:
    """Compose a configuration with the node of the group ``training`` from its file."""
    own = [*TINY, *(o.removeprefix("training.") for o in overrides if "training." in o)]
    config = composed_from_files("size=48", *(o for o in overrides if "training." not in o))
    node = OmegaConf.merge(OmegaConf.load(CONF / "training" / "supervised.yaml"), OmegaConf.from_dotlist(own))
    OmegaConf.update(config, "training", node, merge=False, force_add=True)
    if "photos" not in config:
        OmegaConf.update(config, "photos", None, force_add=True)
    return config


def with_photos(config: DictConfig, folder: Path) -> DictConfig:
    config.photos = str(folder)
    return config


def method(config: DictConfig) -> Supervised:
    made = configuration.build(config.training)
    assert isinstance(made, Supervised)
    return made


def context(
    config: DictConfig, folder: Path, stop: runtime.PoliteStop | None = None, writes: bool = True
) -> TrainingContext:
    folder.mkdir(exist_ok=True)
    facts: dict[str, Any] = {}

    def note(**more: Any) -> None:
        facts.update(more)
        write_json(folder / "run.json", facts)

    runtime.prepare("cpu", config.precision)
    backbone = load_network(config, CPU)
    return TrainingContext(
        config, folder, load_images(config, CPU), backbone, stop or runtime.PoliteStop(), note, writes
    )


def facts(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "run.json").read_text())
    assert isinstance(found, dict)
    return found


def ramp(width: int, height: int) -> np.ndarray:
    """Red is the column, green the row: where a crop was cut can be read off it."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, 0 * x], axis=2).astype(np.uint8)


def pair_folders(folder: Path, names: dict[str, str], size: tuple[int, int] = (80, 60)) -> tuple[Path, Path]:
    """Make two folders of pictures with the names given; the stylised ones have blue added."""
    first, second = folder / "photos", folder / "stylised"
    for one, other in names.items():
        for root, name, blue in ((first, one, 0), (second, other, 200)):
            if name:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                picture = ramp(*size)
                picture[:, :, 2] = blue
                Image.fromarray(picture).save(root / name, quality=95)
    return first, second


# ---- pairs from folders


def test_both_halves_get_the_same_crop_and_flip(tmp_path: Path) -> None:
    originals, stylised = pair_folders(tmp_path, {"a.png": "a.png"}, (200, 100))
    found = Pairs(str(originals), 32, 0, stylised=str(stylised))
    corners, flipped = set(), 0
    for index in range(40):
        photo, painting = (half * 255 for half in found.item(index))
        assert torch.equal(photo[:2], painting[:2])
        assert photo[2].max() == 0
        assert (painting[2] == 200).all()
        columns, rows = photo[0, 0], photo[1, :, 0]
        steps = columns.diff()  # not scaled: one column a pixel
        assert (steps.round() == 1).all() or (steps.round() == -1).all()
        flipped += int(steps[0] < 0)
        corners.add((round(float(columns.min())), round(float(rows.min()))))
    assert 8 < flipped < 32
    lefts, tops = zip(*corners, strict=True)
    assert max(lefts) > 120
    assert 50 < max(tops) <= 68
    again = Pairs(str(originals), 32, 0, stylised=str(stylised))
    assert all(torch.equal(a, b) for a, b in zip(again.item(7), found.item(7), strict=True))
    still = Pairs(str(originals), 32, 0, flip=False, stylised=str(stylised))
    assert all(float(still.item(index)[0][0].diff(dim=1).min()) > 0 for index in range(20))


def test_names_match_whatever_the_suffix_and_the_rest_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = {"a.jpg": "a.png", "deep/b.png": "deep/b.jpg", "c.png": "", "deep/d.png": "", "e.png": "", "f.png": "",
             "": "b.png"}  # fmt: skip
    originals, stylised = pair_folders(tmp_path, names)
    found = Pairs(str(originals), 32, 0, stylised=str(stylised))
    expected = {"a": ("a.jpg", "a.png"), "deep/b": ("deep/b.png", "deep/b.jpg")}
    assert found.files == {name: (originals / one, stylised / other) for name, (one, other) in expected.items()}
    with caplog.at_level(logging.WARNING):
        found.warn_of_unmatched()
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("5 files have no counterpart")
    assert "c.png" in message
    assert message.endswith("and 2 more")
    assert found.about()["unmatched"] == 5
    assert found.about()["count"] == 2


def test_folders_that_make_no_pairs_are_refused(tmp_path: Path) -> None:
    originals, stylised = pair_folders(tmp_path, {"a.png": "b.png"})
    with pytest.raises(UserError, match=r"No file in .*photos has the name of one in .*stylised.*a\.png"):
        Pairs(str(originals), 32, 0, stylised=str(stylised))
    shutil.copy(stylised / "b.png", stylised / "a.png")
    Pairs(str(originals), 32, 0, stylised=str(stylised))
    Image.new("RGB", (80, 60)).save(stylised / "a.jpg")
    with pytest.raises(UserError, match=r"has both a\.jpg and a\.png"):
        Pairs(str(originals), 32, 0, stylised=str(stylised))
    with pytest.raises(UserError, match="There is no folder"):
        Pairs(str(originals), 32, 0, stylised=str(tmp_path / "none"))


def test_a_stylised_picture_of_another_size_has_its_original_scaled_to_it(tmp_path: Path) -> None:
    originals, stylised = pair_folders(tmp_path, {"a.png": "a.png"}, (160, 120))
    half = Image.open(stylised / "a.png").resize((80, 60), Image.Resampling.LANCZOS)
    half.save(stylised / "a.png")
    found = Pairs(str(originals), 32, 0, stylised=str(stylised))
    expected = Image.open(originals / "a.png").resize((80, 60), Image.Resampling.LANCZOS)
    both = [torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255 for picture in (expected, half)]
    for index in range(5):
        photo, painting = found.item(index)
        assert torch.equal(photo[:2], painting[:2])
        whole = both[0] if float(photo[0].diff(dim=1).mean()) > 0 else both[0].flip(2)
        windows = whole[:2].unfold(1, 32, 1).unfold(2, 32, 1)  # (2, rows, columns, 32, 32)
        gaps = (windows - photo[:2, None, None]).abs().amax((0, 3, 4))
        assert float(gaps.min()) < 1e-6


@pytest.mark.parametrize(
    ("size", "fits"),
    [((80, 60), True), ((40, 30), True), ((41, 30), True), ((27, 20), True), ((60, 80), False), ((80, 64), False),
     ((40, 40), False), ((84, 60), False)],
)  # fmt: skip
def test_pairs_of_another_shape_are_refused_by_name(tmp_path: Path, size: tuple[int, int], fits: bool) -> None:
    originals, stylised = pair_folders(tmp_path, {"a.png": "a.png", "b.png": "b.png"})
    Image.new("RGB", size).save(stylised / "b.png")
    if fits:
        Pairs(str(originals), 16, 0, stylised=str(stylised))
        return
    with pytest.raises(UserError, match=rf"1 of 2 pairs differ.*: b \(80 x 60 and {size[0]} x {size[1]} pixels\)"):
        Pairs(str(originals), 16, 0, stylised=str(stylised))


def test_a_photograph_on_its_side_has_its_upright_shape(tmp_path: Path) -> None:
    originals, stylised = pair_folders(tmp_path, {"a.png": "a.png"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(originals / "a.png").transpose(Image.Transpose.ROTATE_90).save(originals / "a.png", exif=exif)
    photo, painting = Pairs(str(originals), 32, 0, stylised=str(stylised)).item(0)
    assert torch.equal(photo[:2], painting[:2])


def test_a_pair_with_a_broken_half_is_skipped(tmp_path: Path) -> None:
    names = {f"{n}.png": f"{n}.png" for n in range(4)}
    originals, stylised = pair_folders(tmp_path, names)
    (originals / "1.png").write_bytes(b"")
    (stylised / "2.png").write_bytes((stylised / "2.png").read_bytes()[:-40])
    found = Pairs(str(originals), 16, 0, stylised=str(stylised))
    for index in range(8):
        found.item(index)
    assert sorted(found.broken) == ["1", "2"]
    assert found.about()["broken"] == 2


def test_small_pairs_are_enlarged(tmp_path: Path) -> None:
    originals, stylised = pair_folders(tmp_path, {"a.png": "a.png"}, (20, 30))
    photo, painting = Pairs(str(originals), 64, 0, stylised=str(stylised)).item(0)
    assert photo.shape == painting.shape == (3, 64, 64)
    assert float(photo[0].max() * 255) == pytest.approx(19, abs=1)


# ---- pairs painted on the way


def test_pairs_are_painted_as_the_optimiser_paints_them(tmp_path: Path) -> None:
    config = composed()
    ready = context(config, tmp_path / "run")
    made = method(config)
    made.prepare(ready)
    folder = tmp_path / "run" / "pairs"
    assert sorted(path.name for path in folder.glob("stylised/*")) == ["00000.png", "00001.png", "00002.png"]
    photos = Photos(None, 40, config.seed, flip=False)
    for number in (0, 2):
        item = photos.item(number)[None]
        assert torch.equal(rgb.load(str(folder / "originals" / f"{number:05d}.png"), 40), item)
        with runtime.PoliteStop() as stop:
            alone = reference.paint(config, ready.inputs, {"one": item}, ready.backbone, stop).pictures["one"]
        painted = rgb.load(str(folder / "stylised" / f"{number:05d}.png"), 40)
        assert (painted - alone.clamp(0, 1)).abs().max() < 0.02
        assert (painted - item).abs().mean() > 0.005
    about = facts(tmp_path / "run")
    assert about["pairs"]["made"] == "generate"
    assert about["pairs"]["count"] == 3
    assert about["pairs"]["seconds"] > 0
    assert about["pairs"]["painter"]["steps"] == 2
    assert about["photos"]["count"] == 4
    photo, painting = made.item(5)
    assert photo.shape == painting.shape == (3, 32, 32)
    assert not torch.equal(photo, painting)


def painted_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which pairs are painted from here on."""
    names: list[str] = []
    paint = reference.paint

    def noting(config: Any, inputs: Any, contents: dict[str, Tensor], *rest: Any, **more: Any) -> Any:
        names.extend(contents)
        return paint(config, inputs, contents, *rest, **more)

    monkeypatch.setattr(reference, "paint", noting)
    return names


def stylised_bytes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "pairs" / "stylised").glob("*.png"))]


def test_what_is_painted_is_not_painted_again_and_the_rest_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed()
    method(config).prepare(context(config, tmp_path / "whole"))
    expected = stylised_bytes(tmp_path / "whole")
    names = painted_names(monkeypatch)
    again = context(config, tmp_path / "whole")
    method(config).prepare(again)
    assert names == []
    seconds = facts(tmp_path / "whole")["pairs"]["seconds"]
    assert seconds > 0
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed" / "pairs" / "stylised" / "00001.png").unlink()  # while its batch of two was being saved
    half = tmp_path / "killed" / "pairs" / "stylised" / ".00001.png.123.tmp"
    half.write_bytes(b"half")
    method(config).prepare(context(config, tmp_path / "killed"))
    assert names == ["00000.png", "00001.png"]
    assert stylised_bytes(tmp_path / "killed") == expected
    assert not half.exists()
    assert facts(tmp_path / "killed")["pairs"]["seconds"] > seconds
    (tmp_path / "killed" / "pairs" / "originals" / "00002.png").unlink()
    method(config).prepare(context(config, tmp_path / "killed"))
    assert names == ["00000.png", "00001.png", "00002.png"]


def test_a_signal_between_two_steps_leaves_what_is_painted(tmp_path: Path) -> None:
    config = composed()
    method(config).prepare(context(config, tmp_path / "whole"))
    stop = runtime.PoliteStop()
    polled = 0

    def poll() -> None:
        nonlocal polled
        polled += 1
        if polled == 6:  # two steps of two pictures and the end of the first batch, then a step of the second
            raise runtime.Interrupted(2)

    stop.poll = poll  # type: ignore[method-assign]
    with pytest.raises(runtime.Interrupted):
        method(config).prepare(context(config, tmp_path / "run", stop))
    assert stylised_bytes(tmp_path / "run") == stylised_bytes(tmp_path / "whole")[:2]
    method(config).prepare(context(config, tmp_path / "run"))
    assert stylised_bytes(tmp_path / "run") == stylised_bytes(tmp_path / "whole")


def test_pairs_of_another_style_are_painted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style = tmp_path / "style.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(style)
    config = composed(f"style={style}")
    method(config).prepare(context(config, tmp_path / "run"))
    before = stylised_bytes(tmp_path / "run")
    Image.new("RGB", (48, 48), "red").save(style)
    names = painted_names(monkeypatch)
    method(config).prepare(context(config, tmp_path / "run"))
    assert len(names) == 3
    assert all(a != b for a, b in zip(before, stylised_bytes(tmp_path / "run"), strict=True))


def test_other_processes_wait_until_the_first_has_painted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed()
    first = context(config, tmp_path / "run")
    waited = 0

    def paint_meanwhile(seconds: float) -> None:
        nonlocal waited
        waited += 1
        if waited == 2:
            method(config).prepare(first)

    monkeypatch.setattr(pairs.time, "sleep", paint_meanwhile)
    other = method(config)
    other.prepare(context(config, tmp_path / "run", writes=False))
    assert waited == 2
    assert other.item(0)[0].shape == (3, 32, 32)


# ---- resuming, with files that changed


def test_pairs_that_changed_are_refused_where_a_run_is_carried_on(tmp_path: Path) -> None:
    originals, stylised = pair_folders(tmp_path, {"a.png": "a.png", "b.png": "b.png"})
    config = with_photos(composed(f"training.stylised={stylised}"), originals)
    method(config).prepare(context(config, tmp_path / "run"))
    method(config).prepare(context(config, tmp_path / "run"))
    assert facts(tmp_path / "run")["pairs"]["made"] == "folders"
    shutil.copy(originals / "a.png", originals / "c.png")  # no pair
    method(config).prepare(context(config, tmp_path / "run"))
    shutil.copy(stylised / "a.png", stylised / "c.png")
    with pytest.raises(UserError, match="2 then, 3 now"):
        method(config).prepare(context(config, tmp_path / "run"))


# ---- losses


class Painter(nn.Module):
    """A network of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, images: Tensor, blend: Tensor | None = None) -> Tensor:
        return images * self.gain


def prepared(tmp_path: Path, *overrides: str) -> tuple[Supervised, TrainingContext]:
    originals, stylised = pair_folders(tmp_path, {"a.png": "a.png"})
    config = with_photos(composed(f"training.stylised={stylised}", *overrides), originals)
    ready = context(config, tmp_path / "run")
    made = method(config)
    made.prepare(ready)
    return made, ready


def batch(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, 3, 32, 32, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("loss", ["l1", "mse"])
def test_losses_of_pixels_are_means_over_each_picture(tmp_path: Path, loss: str) -> None:
    made, _ = prepared(tmp_path, f"training.loss={loss}", "training.tv=0.5", "tv_kind=squared", "tv_reduction=mean")
    items = batch()
    losses = made.losses(Painter(), items)
    photos, stylised = (half.double().numpy() for half in items)
    painted = 0.7 * photos
    gap = painted - stylised
    expected = {"l1": np.abs(gap).mean((1, 2, 3)), "mse": (gap**2).mean((1, 2, 3))}
    variation = losses.unweighted["unweighted/tv"].detach().double().numpy()
    np.testing.assert_allclose(losses.total.detach().double(), expected[loss] + 0.5 * variation, rtol=1e-5)
    for name in ("l1", "mse"):
        np.testing.assert_allclose(losses.unweighted[f"unweighted/{name}"].detach(), expected[name], rtol=1e-5)
    np.testing.assert_allclose(losses.tv.detach().double(), 0.5 * variation, rtol=1e-6)
    rough = made.losses(Painter(), [torch.rand(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)])
    flat = made.losses(Painter(), [torch.ones(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)])
    assert float(flat.tv.detach()) == 0
    assert float(rough.tv.detach()) > 0
    assert losses.content.tolist() == losses.style.tolist() == [0, 0, 0]
    assert all(value.shape == (3,) for value in losses.named().values())


@pytest.mark.parametrize("loss", ["l1", "mse", "perceptual"])
def test_the_gradient_reaches_the_network(tmp_path: Path, loss: str) -> None:
    made, _ = prepared(tmp_path, f"training.loss={loss}", "training.tv=0.1", "precision=float64")
    items = [half.double() for half in batch()]

    def total(gain: Tensor) -> Tensor:
        network = Painter().double()
        network.gain = nn.Parameter(gain.detach())
        losses = made.losses(network, items)
        losses.total.sum().backward()
        assert network.gain.grad is not None
        return torch.stack([losses.total.sum().detach(), network.gain.grad])

    here, above, below = (total(torch.tensor(0.7 + step, dtype=torch.float64)) for step in (0, 1e-6, -1e-6))
    slope = float((above[0] - below[0]) / 2e-6)
    assert float(here[1]) == pytest.approx(slope, rel=1e-4)


def test_the_perceptual_loss_is_that_of_the_network_against_the_stylised_picture(tmp_path: Path) -> None:
    made, ready = prepared(
        tmp_path, "training.loss=perceptual", "alpha=2", "beta=0.5", "tv=0.25", "precision=float64", "margin=0",
        "content_loss=mse", "style_loss=gram",
    )  # fmt: skip
    items = [half.double() for half in batch()]
    losses = made.losses(Painter().double(), items)
    config, backbone = ready.config, ready.backbone

    def maps(pictures: Tensor) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {name: found.numpy() for name, found in backbone(backbone.preprocessing(pictures)).items()}

    def gram(found: np.ndarray) -> np.ndarray:
        rows = found.reshape(*found.shape[:2], -1)
        product: np.ndarray = rows @ rows.transpose(0, 2, 1) / rows.shape[2]
        return product

    def gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        over = tuple(range(1, a.ndim))
        ratio: np.ndarray = ((a - b) ** 2).mean(over) / (b**2).mean(over)  # relative to the target's own size
        return ratio

    painted, stylised = maps(0.7 * items[0]), maps(items[1])

    def mean(kind: str, gaps: dict[str, np.ndarray]) -> np.ndarray:
        weights = layer_weights(config, kind)
        assert gaps.keys() == weights.keys()
        found: np.ndarray = sum(weights[name] * gaps[name] for name in gaps) / sum(weights.values())
        return found

    content = mean("content", {n: gap(painted[n], stylised[n]) for n in layer_weights(config, "content")})
    grams = {n: gap(gram(painted[n]), gram(stylised[n])) for n in layer_weights(config, "style")}
    style = mean("style", grams) * config.style_loss.scale
    np.testing.assert_allclose(losses.unweighted["unweighted/content"].detach(), content, rtol=1e-6)
    np.testing.assert_allclose(losses.unweighted["unweighted/style"].detach(), style, rtol=1e-6)
    variation = losses.unweighted["unweighted/tv"].detach().numpy()
    total = 2 * content + 0.5 * style + 0.25 * variation
    np.testing.assert_allclose(losses.total.detach(), total, rtol=1e-6)
    assert "unweighted/l1" in losses.unweighted


def test_a_network_that_paints_what_it_should_has_no_loss(tmp_path: Path) -> None:
    for loss in ("l1", "mse", "perceptual"):
        made, _ = prepared(tmp_path / loss, f"training.loss={loss}", "precision=float32")
        items = batch()
        perfect = nn.Module()
        perfect.forward = lambda images, blend=None, painting=items[1]: painting  # type: ignore[method-assign]
        losses = made.losses(perfect, items)
        assert losses.total.abs().max() < 1e-9
        assert losses.style.abs().max() < 1e-9


# ---- mistakes


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("training.loss=l3",), r"training\.loss 'l3'.*Did you mean 'l1'|'l3'.*Known: l1, mse, perceptual"),
        (("training.pairs=folder",), "Did you mean 'folders'"),
        (("training.pairs=folders",), r"needs training\.stylised=FOLDER"),
        (("training.pairs=generate", "training.stylised=x"), "has no use"),
        (("training.crop=64",), r"training\.crop=64 is more than training\.side=40"),
        (("training.crop=8",), "out of range"),
        (("training.count=0",), r"training\.count=0 is out of range"),
        (("training.batch=0",), r"training\.batch=0 is out of range"),
        (("training.scale=2",), r"training\.scale=2 is out of range"),
        (("training.painter.steps=0",), r"training\.painter\.steps=0 is out of range"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        method(composed(*overrides))
    assert len(raised.value.problems) == 1


def test_several_styles_are_refused(tmp_path: Path) -> None:
    config = composed("style=[swirls,mosaic]")
    with pytest.raises(UserError, match=r"learns one style.*training=perceptual"):
        method(config).prepare(context(config, tmp_path / "run"))


def test_defaults_are_those_of_the_optimiser() -> None:
    config = composed_from_files()
    painter = OmegaConf.load(CONF / "training" / "supervised.yaml").painter
    assert painter.optimizer == config.optimizer
    assert {name: painter[name] for name in ("steps", "clamp", "jitter", "margin")} == {
        name: config[name] for name in ("steps", "clamp", "jitter", "margin")
    }
