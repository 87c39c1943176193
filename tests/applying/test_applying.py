"""Painting with a network: tiles that equal the whole, what is left in the folder, stopping and going on."""

import csv
import json
import re
import shutil
import signal
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import refused, run, start
from PIL import Image
from problems import job as job_of
from problems import run_here
from test_media import ramp
from torch import Tensor, nn

from nst import configuration, reproduce, runtime, transformers
from nst.applying import contact_sheet, model
from nst.applying.apply import apply, problems
from nst.applying.painter import Painter, receptive_field
from nst.applying.pictures import PictureRow, PicturesFile
from nst.errors import ConfigError, UserError
from nst.evaluation import evaluator
from nst.images import rgb
from nst.report.write import write_report
from nst.runs import provenance, resume
from nst.runs.record import Job, write_status
from nst.runtime import memory
from nst.setup import estimate
from nst.setup.check import check
from nst.transformers.layers import given

RESIDUAL = "nst.transformers.ResidualTransformer"
CPU = torch.device("cpu")
NETWORKS = [
    {"width": 4, "blocks": 2},
    {"width": 4, "blocks": 1, "kernel": 5, "upsampling": "transposed"},
    {"width": 4, "blocks": 3, "padding": "reflect_start", "output": "tanh"},
    {"_target_": "nst.transformers.PyramidTransformer", "channels": 3, "levels": 4},
]
ADAPTIVE = {"architecture": "squeezenet1_1", "weights": "random", "layer": "fire3"}


def network(styles: int = 1, **arguments: Any) -> nn.Module:
    """Return an untrained network whose normalisations are those of one that was trained: not all alike."""
    smallest = {} if "_target_" in arguments else {"_target_": RESIDUAL, "width": 4, "blocks": 1}
    made = transformers.build({**smallest, **arguments}, styles, 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith(("gain", "bias")):
                value += 0.3 * torch.rand(value.shape, generator=generator)
    return made


def saved(path: Path, *styles: str) -> Path:
    """Write the file of a network of bundled styles."""
    named = [{"label": name, "file": f"{name}.jpg", **_digest(name)} for name in styles]
    transformers.save(path, network(len(styles)), {"styles": named, "steps": 7})
    return path


def _digest(name: str) -> dict[str, str]:
    return {"sha256": str(provenance.image_file(name)["sha256"])}


def photo(path: Path, width: int = 48, height: int = 32, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), np.uint8)
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def job(folder: Path, *overrides: str) -> Job:
    """Return a job that paints; nothing is scored unless asked for."""
    return job_of(folder, "task=apply", "evaluator=none", *overrides)


class StopAfter(runtime.PoliteStop):
    """Asks to stop when it has been polled so often."""

    def __init__(self, polls: int) -> None:
        super().__init__()
        self.polls = polls

    def poll(self) -> None:
        self.polls -= 1
        if self.polls < 0:
            raise runtime.Interrupted(2)


def paint(folder: Path, *overrides: str) -> dict[str, Any]:
    """Paint in this process, and return the record."""
    run_here(job(folder, *overrides), apply)
    return resume.read(folder / "run.json")


def directly(path: Path, blend: list[float] | None = None, net: nn.Module | None = None) -> np.ndarray:
    """Return what the network itself makes of a file, as bytes."""
    array = np.asarray(Image.open(path).convert("RGB"))
    image = torch.from_numpy(array.copy()).permute(2, 0, 1)[None] / 255
    net = net or network(len(blend or [1]))
    with torch.no_grad():
        painted = net(image.contiguous(), None if blend is None else torch.tensor([blend]))
    return (painted[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def close(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two pictures differ in the rounding of some bytes at most."""
    difference = np.abs(first.astype(int) - second.astype(int))
    return first.shape == second.shape and difference.max() <= 1 and difference.mean() < 0.01


def assembled(painter: Painter, image: Tensor, side: int, at: tuple[int, int]) -> Tensor:
    whole = torch.full_like(image, torch.nan)
    with torch.inference_mode():
        for rows, columns, painted in painter.tiles(image, side, painter.measure(image, at)):
            assert torch.isnan(whole[:, :, rows, columns]).all()
            whole[:, :, rows, columns] = painted
    return whole


# Tiles.


@pytest.mark.parametrize("arguments", NETWORKS)
@pytest.mark.parametrize("shape", [(96, 160), (117, 131)])
def test_tiles_with_the_statistics_of_the_whole_equal_the_whole(
    arguments: dict[str, Any], shape: tuple[int, int]
) -> None:
    image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(2))
    painter = Painter(network(**arguments).double(), None, CPU, torch.float64)
    with torch.inference_mode():
        whole = painter.whole(image)
    for side in (32, 50, 64):
        tiles = assembled(painter, image.double(), side, shape)
        torch.testing.assert_close(tiles, whole, rtol=0, atol=1e-9)


def test_statistics_of_the_tiles_themselves_would_not() -> None:
    image = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(2))
    image[:, :, :, 80:] *= 0.2
    net = network()
    painter = Painter(net, None, CPU, torch.float32)
    with torch.inference_mode():
        whole, left = painter.whole(image), painter.whole(image[:, :, :, :96])
    assert float((whole[:, :, :, :48] - left[:, :, :, :48]).abs().mean()) > 0.02


@pytest.mark.parametrize("arguments", NETWORKS)
def test_the_receptive_field_covers_all_that_a_pixel_depends_on(arguments: dict[str, Any]) -> None:
    net = network(**arguments).double()
    painter = Painter(net, None, CPU, torch.float64)
    image = torch.rand(1, 3, 200, 208, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = receptive_field(net)
    assert found.stride == (8 if "levels" in arguments else 4)
    with torch.inference_mode():
        statistics = painter.measure(image, (200, 208))
        furthest = 0
        for row in (100, 101, 102, 103):
            changed = image.clone()
            changed[:, :, row, 100] += 1
            with given(net, statistics):
                moved = (painter.whole(changed) - painter.whole(image)).abs().amax((0, 1)).nonzero()
            furthest = max(
                furthest, *(int((moved[:, axis] - place).abs().max()) for axis, place in ((0, row), (1, 100)))
            )
    assert furthest <= found.radius <= furthest + 30  # all of it, and not much more


def test_a_row_of_tiles_is_narrower_than_the_halo(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 3, 30, 200, generator=torch.Generator().manual_seed(4))
    painter = Painter(network(), None, CPU, torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(assembled(painter, image, 64, (30, 200)), painter.whole(image), rtol=0, atol=1e-4)


def test_tiles_are_chosen_by_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = Painter(network(), None, CPU, torch.float32)
    shape = (1200, 1600)
    need = estimate.forward_bytes(painter.network, shape, torch.float32, CPU)
    assert need is not None and need > 1200 * 1600 * 4 * 4  # maps of the first convolution alone
    for free, most in ((need * 2, None), (need // 2, 1200), (need // 20, 512)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        side = painter.choose(shape)
        if most is None:
            assert side is None
            assert painter.measurable(shape) == shape
            continue
        assert side is not None and 0 < side <= most
        halo = painter.receptive_field.halo
        within = min(side + 2 * halo, 1200), side + 2 * halo
        assert (estimate.forward_bytes(painter.network, within, torch.float32, CPU) or 0) <= free
        at = painter.measurable(shape)
        assert at[0] < 1200 and abs(at[1] / at[0] - 4 / 3) < 0.02
        assert (estimate.forward_bytes(painter.network, at, torch.float32, CPU) or 0) <= free
    assert Painter(painter.network, None, CPU, torch.float32, "none").choose(shape) is None
    assert Painter(painter.network, None, CPU, torch.float32, "256").choose(shape) == 256
    assert Painter(painter.network, None, CPU, torch.float32, "2048").choose(shape) is None


def test_a_network_that_normalises_otherwise_is_not_cut_into_tiles() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.InstanceNorm2d(3), nn.Conv2d(3, 3, 1))

        def forward(self, images: Tensor, blend: Tensor | None = None) -> Tensor:
            painted: Tensor = self.layers(images)
            return painted

    for net in (Own(), transformers.build({**ADAPTIVE, "_target_": "nst.transformers.AdaptiveTransformer"}, 1, 0)):
        painter = Painter(net, None, CPU, torch.float32, "64")
        with torch.inference_mode(), pytest.raises(UserError, match="cannot paint in tiles"):
            painter.paint(torch.rand(1, 3, 100, 100))


# The model.


def test_styles_are_blended_by_their_weights() -> None:
    path = Path("network.safetensors")
    assert model.blend_weights(None, 1, path) is None
    assert model.blend_weights(None, 4, path) == [0.25] * 4
    assert model.blend_weights([3, 1], 2, path) == [0.75, 0.25]
    assert model.blend_weights([0, 1], 2, path) == [0, 1]
    for given_weights, styles, told in (
        ([1], 1, "paints in one style"),
        ([1, 2, 3], 2, "must have 2 numbers"),
        (1, 2, "must have 2 numbers"),
        ([1, -1], 2, "-1 is no number"),
        ([1, float("nan")], 2, "no number"),
        ([True, 1], 2, "no number"),
        (["a", 1], 2, "a is no number"),
        ([0, 0], 2, "all 0"),
    ):
        with pytest.raises(ConfigError, match=told):
            model.blend_weights(given_weights, styles, path)


def test_the_style_images_are_found_where_they_are(tmp_path: Path) -> None:
    mine = photo(tmp_path / "elsewhere" / "painting.png")
    trained = tmp_path / "run"
    trained.mkdir()
    styles = [{"label": "swirls", "file": "gone.jpg", **_digest("swirls")}]
    styles += [{"label": "painting", "file": "painting.png", "sha256": provenance.file(mine)["sha256"]}]
    transformers.save(trained / "network.safetensors", network(2), {"styles": styles})
    about = {"name": "painting.png", **provenance.file(mine)}
    (trained / "run.json").write_text(json.dumps({"style": None, "further_images": {"style[1]": about}}))
    made = model.load(job(tmp_path / "job", f"model={trained}").config)
    found = made.style_files()
    assert [(one["name"], Path(one["file"]).name, one["found"]) for one in found] == [
        ("swirls", "swirls.jpg", True),
        ("painting", "painting.png", True),
    ]
    photo(mine, seed=9)
    assert [one["found"] for one in made.style_files()] == [True, False]


def test_a_network_for_any_style_takes_those_that_are_named(tmp_path: Path) -> None:
    node = {**ADAPTIVE, "_target_": "nst.transformers.AdaptiveTransformer"}
    transformers.save(tmp_path / "net.safetensors", transformers.build(node, 1, 0), {})
    content = photo(tmp_path / "photo.png")
    overrides = f"model={tmp_path / 'net.safetensors'}", f"content={content}"
    record = paint(tmp_path / "one", *overrides, "style=mosaic")
    assert record["style"]["sha256"] == _digest("mosaic")["sha256"]
    net = transformers.build(node, 1, 0).eval()
    net.take_styles([rgb.load(name, 512) for name in ("mosaic", "wave")])  # type: ignore[operator]
    assert close(np.asarray(Image.open(tmp_path / "one/result.png")), directly(content, [1.0, 0.0], net))
    paint(tmp_path / "two", *overrides, "style=[mosaic,wave]", "style_weights=[1,3]")
    assert close(np.asarray(Image.open(tmp_path / "two/result.png")), directly(content, [0.25, 0.75], net))
    with pytest.raises(ConfigError, match="nowhere"):
        check(job(tmp_path / "none", *overrides, "style=nowhere").config, problems)
    with pytest.raises(UserError, match="another style"):
        paint(tmp_path / "one", *overrides, "style=wave")


# What is left in the folder.


def test_a_picture_is_painted_as_the_network_paints_it(tmp_path: Path) -> None:
    path, content = saved(tmp_path / "net.safetensors", "swirls", "mosaic"), photo(tmp_path / "photo.png", 47, 33)
    record = paint(tmp_path / "out", f"model={path}", f"content={content}", "style_weights=[3,1]")
    assert close(np.asarray(Image.open(tmp_path / "out/result.png")), directly(content, [0.75, 0.25]))
    assert record["model"]["sha256"] == provenance.file(path)["sha256"]
    assert record["model"]["about"]["steps"] == 7
    assert record["style_blend"] == [0.75, 0.25]
    assert record["applied"] == {"kind": "picture", "count": 1, "failed": 0, "tile": "none"}
    assert record["size"] == {"width": 47, "height": 33}
    assert 0 < record["seconds_per_picture"] < record["seconds"]["total"]
    assert record["result"] == provenance.output_file(tmp_path / "out/result.png")
    assert record["computation"]["precision"] == "float32"


def test_size_fit_format_and_background_are_those_of_other_tasks(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.safetensors", "swirls")
    clear = np.dstack([ramp(60, 40), np.full((40, 60), 255, np.uint8)])
    clear[:, :20, 3] = 0
    content = tmp_path / "clear.png"
    Image.fromarray(clear, "RGBA").save(content)
    seen = rgb.load(str(content), 48, "square", "bicubic", "red")
    with torch.no_grad():
        painted = network()(seen)
    record = paint(
        *(tmp_path / "out", f"model={path}", f"content={content}", "size=48", "fit=square", "resample=bicubic"),
        *("background=red", "output_format=jpeg", "jpeg_quality=100"),
    )
    with Image.open(tmp_path / "out/result.jpg") as file:
        assert file.format == "JPEG"
        assert file.size == (48, 32)
        assert np.abs(np.asarray(file).astype(int) - rgb.to_bytes(painted, (48, 32)).astype(int)).mean() < 2
    assert record["size"] == {"width": 48, "height": 32}


def test_tiles_make_the_same_picture(tmp_path: Path) -> None:
    path, content = saved(tmp_path / "net.safetensors", "swirls"), photo(tmp_path / "photo.png", 150, 130)
    record = paint(tmp_path / "out", f"model={path}", f"content={content}", "tile=64")
    assert record["applied"]["tile"] == 64
    assert record["applied"]["statistics_at"] == {"width": 150, "height": 130}
    assert close(np.asarray(Image.open(tmp_path / "out/result.png")), directly(content))


def test_scores_are_those_of_the_evaluator(tmp_path: Path) -> None:
    path, content = saved(tmp_path / "net.safetensors", "swirls"), photo(tmp_path / "photo.png", 64, 64)
    record = paint(tmp_path / "out", f"model={path}", f"content={content}", "evaluator=squeezenet", "evaluator.size=64")
    judge = configuration.build(job(tmp_path / "x", "evaluator=squeezenet", "evaluator.size=64").config.evaluator)
    assert record["scores"] == judge.scores(tmp_path / "out/result.png", content, "swirls")
    styles = [{"label": "mine", "file": "mine.png", "sha256": "0" * 64}]
    transformers.save(path, network(), {"styles": styles})
    record = paint(tmp_path / "gone", f"model={path}", f"content={content}", "evaluator=squeezenet")
    assert record["scores"] is None
    assert record["result"]


def folder_of_photos(folder: Path) -> Path:
    for place, name in enumerate(("b.jpg", "a.png", "a.jpg", "sub/c.png")):
        photo(folder / name, 40 + place, 32, place)
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    photo(folder / "tiny.png", 9, 9)
    return folder


def test_a_folder_is_painted_and_what_is_broken_is_counted(tmp_path: Path) -> None:
    path, photos = saved(tmp_path / "net.safetensors", "swirls"), folder_of_photos(tmp_path / "photos")
    record = paint(tmp_path / "out", f"model={path}", f"content={photos}")
    results = tmp_path / "out/results"
    names = {"b.jpg": "b.png", "a.png": "a.png.png", "a.jpg": "a.jpg.png", "sub/c.png": "sub/c.png"}
    assert {p.relative_to(results).as_posix() for p in results.rglob("*.png")} == set(names.values())
    for picture, painting in names.items():
        assert close(np.asarray(Image.open(results / painting)), directly(photos / picture))
    assert record["applied"]["count"] == 4
    assert record["applied"]["failed"] == 2
    assert {failure["picture"] for failure in record["applied"]["failures"]} == {"broken.jpg", "tiny.png"}
    with (tmp_path / "out/pictures.csv").open(newline="") as file:
        rows = {row["picture"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a.jpg", "a.png", "b.jpg", "broken.jpg", "sub/c.png", "tiny.png"]
    assert rows["sub/c.png"]["painting"] == "results/sub/c.png"
    assert (rows["b.jpg"]["width"], rows["b.jpg"]["height"]) == ("40", "32")
    seconds = sorted(float(row["seconds"]) for row in rows.values() if row["painting"])
    assert record["seconds_per_picture"] == pytest.approx((seconds[1] + seconds[2]) / 2, abs=1e-4)
    assert record["content"] is None
    drawn = np.asarray(Image.open(tmp_path / "out/result.png"))
    assert (drawn < 250).any()


def test_a_folder_in_which_all_is_broken_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.safetensors", "swirls")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/x.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"None of the 1 pictures .* can be painted\. .*x\.jpg is not an image"):
        paint(tmp_path / "out", f"model={path}", f"content={tmp_path / 'photos'}")


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_folder_goes_on_where_it_was_stopped(tmp_path: Path, after: int) -> None:
    path, photos = saved(tmp_path / "net.safetensors", "swirls"), folder_of_photos(tmp_path / "photos")
    overrides = f"model={path}", f"content={photos}"
    paint(tmp_path / "whole", *overrides)
    with pytest.raises(runtime.Interrupted):
        run_here(job(tmp_path / "out", *overrides), apply, StopAfter(after))
    done = list((tmp_path / "out/results").rglob("*.png"))
    assert len(done) == after
    times = {painting: painting.stat().st_mtime_ns for painting in done}
    with (tmp_path / "out/pictures.csv").open("a") as file:
        file.write("b.jpg,results/b.p")  # as after a kill
    record = paint(tmp_path / "out", *overrides)
    assert {painting: painting.stat().st_mtime_ns for painting in done} == times
    assert record["applied"]["count"] == 4
    assert record["applied"]["failed"] == 2
    for painting in (tmp_path / "whole/results").rglob("*.png"):
        other = tmp_path / "out" / painting.relative_to(tmp_path / "whole")
        assert other.read_bytes() == painting.read_bytes()
    assert (tmp_path / "out/result.png").read_bytes() == (tmp_path / "whole/result.png").read_bytes()
    assert len((tmp_path / "out/pictures.csv").read_text().splitlines()) == 7


def test_a_picture_that_has_changed_is_painted_again(tmp_path: Path) -> None:
    path, photos = saved(tmp_path / "net.safetensors", "swirls"), folder_of_photos(tmp_path / "photos")
    overrides = f"model={path}", f"content={photos}"
    with pytest.raises(runtime.Interrupted):
        run_here(job(tmp_path / "out", *overrides), apply, StopAfter(3))
    photo(photos / "a.png", 55, 32, 8)
    paint(tmp_path / "out", *overrides)
    assert close(np.asarray(Image.open(tmp_path / "out/results/a.png.png")), directly(photos / "a.png"))


def test_a_picture_that_was_broken_is_tried_again(tmp_path: Path) -> None:
    path, photos = saved(tmp_path / "net.safetensors", "swirls"), folder_of_photos(tmp_path / "photos")
    overrides = f"model={path}", f"content={photos}"
    with pytest.raises(runtime.Interrupted):
        run_here(job(tmp_path / "out", *overrides), apply, StopAfter(5))
    assert "broken.jpg,,0,0" in (tmp_path / "out/pictures.csv").read_text()
    photo(photos / "broken.jpg")
    record = paint(tmp_path / "out", *overrides)
    assert record["applied"]["failed"] == 1
    assert (tmp_path / "out/results/broken.png").is_file()


def test_another_network_is_no_way_to_go_on(tmp_path: Path) -> None:
    path, photos = saved(tmp_path / "net.safetensors", "swirls"), folder_of_photos(tmp_path / "photos")
    overrides = f"model={path}", f"content={photos}"
    with pytest.raises(runtime.Interrupted):
        run_here(job(tmp_path / "out", *overrides), apply, StopAfter(2))
    saved(path, "mosaic")
    with pytest.raises(UserError, match="has changed since the run began"):
        paint(tmp_path / "out", *overrides)


def moving(path: Path, count: int = 7) -> Path:
    frames = [Image.fromarray(np.roll(ramp(48, 32, 30 * place), 5 * place, 1)) for place in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[40, 60] * 3 + [90], loop=0)
    return path


def test_an_animation_is_painted_frame_by_frame(tmp_path: Path) -> None:
    path, clip = saved(tmp_path / "net.safetensors", "swirls"), moving(tmp_path / "moving.gif")
    record = paint(tmp_path / "out", f"model={path}", f"content={clip}")
    net = network()
    with Image.open(tmp_path / "out/result.gif") as painted, Image.open(clip) as original:
        assert painted.n_frames == 7  # type: ignore[attr-defined]
        assert painted.info["loop"] == 0
        for place in range(7):
            painted.seek(place)
            original.seek(place)
            original.convert("RGB").save(tmp_path / "frame.png")
            assert painted.info["duration"] == ([40, 60] * 3 + [90])[place]
            expected = directly(tmp_path / "frame.png", net=net)
            difference = np.abs(np.asarray(painted.convert("RGB")).astype(int) - expected.astype(int))
            assert difference.mean() < 4  # 256 colours a frame
            if place == 3:
                shown = np.asarray(Image.open(tmp_path / "out/result.png"))
                assert close(shown, expected)
                assert np.array_equal(
                    np.asarray(Image.open(tmp_path / "out/original.png")), np.asarray(original.convert("RGB"))
                )
    assert record["applied"]["count"] == record["applied"]["frames"] == 7
    assert record["source"]["sha256"] == provenance.file(clip)["sha256"]
    assert Path(record["content"]["file"]).name == "original.png"
    assert not (tmp_path / "out/parts").exists()


@pytest.mark.parametrize("kind", ["gif", "mp4"])
@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_clip_goes_on_where_it_was_stopped_and_has_the_same_bytes(
    tmp_path: Path, kind: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "net.safetensors", "swirls")
    if kind == "mp4":
        pytest.importorskip("av", reason="PyAV is not installed")
        from test_video import film

        from nst.applying.video import Video

        film(tmp_path / "moving.mp4", 7)
        monkeypatch.setattr(Video, "per_segment", 2)
    else:
        moving(tmp_path / "moving.gif")
    overrides = f"model={path}", f"content={tmp_path / f'moving.{kind}'}"
    paint(tmp_path / "whole", *overrides)
    with pytest.raises(runtime.Interrupted):
        run_here(job(tmp_path / "out", *overrides), apply, StopAfter(after))
    assert not (tmp_path / f"out/result.{kind}").exists()
    assert (tmp_path / f"out/interrupted.{kind}").exists() == (after > 0)
    if after and kind == "gif":
        with Image.open(tmp_path / "out/interrupted.gif") as file:
            assert file.n_frames == after  # type: ignore[attr-defined]
    elif after:
        from test_video import decoded

        assert len(decoded(tmp_path / "out/interrupted.mp4")[0]) == after
    record = paint(tmp_path / "out", *overrides)
    for name in (f"result.{kind}", "result.png", "original.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert record["applied"]["count"] == 7
    assert not (tmp_path / f"out/interrupted.{kind}").exists()
    assert record["resumed"]


def test_a_video_is_painted_frame_by_frame(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    from test_video import decoded, far, film

    path, clip = saved(tmp_path / "net.safetensors", "swirls"), tmp_path / "film.mp4"
    film(clip, 6, sound="aac")
    record = paint(tmp_path / "out", f"model={path}", f"content={clip}")
    (frames, times), (originals, before) = decoded(tmp_path / "out/result.mp4"), decoded(clip)
    assert times == before
    net = network()
    for frame, original in zip(frames, originals, strict=True):
        Image.fromarray(original).save(tmp_path / "frame.png")
        assert far(frame, directly(tmp_path / "frame.png", net=net)) < 8  # colours are kept for two by two pixels
    assert record["applied"]["sound"] == ["aac"]
    assert record["applied"]["clip"] == "result.mp4"
    assert set(record["outputs"]) == {"result.png", "result.mp4"}


def test_memory_that_runs_out_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Painter, image: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(Painter, "whole", fail)
    path, content = saved(tmp_path / "net.safetensors", "swirls"), photo(tmp_path / "photo.png")
    with pytest.raises(UserError, match="Use tile=512 or less") as caught:
        paint(tmp_path / "out", f"model={path}", f"content={content}")
    assert memory.is_out_of_memory(caught.value)


# The table and the contact contact_sheet.


def test_the_table_survives_any_name_and_a_cut_line(tmp_path: Path) -> None:
    table = PicturesFile(tmp_path)
    rows = [
        PictureRow('a,"b".jpg', "results/a.png", 3, 4, 0.5, "ab", ""),
        PictureRow("\u00e9\n.jpg", problem="two\nlines, told"),
    ]
    for row in rows:
        table.add(row)
    with (tmp_path / "pictures.csv").open("a") as file:
        file.write('c.jpg,results/c.png,5,6,0.1,"cd')
    again = PicturesFile(tmp_path).rows
    assert list(again) == ['a,"b".jpg', "\u00e9 .jpg"]
    assert again['a,"b".jpg'] == rows[0]
    assert again["\u00e9 .jpg"].problem == "two lines, told"


def test_the_contact_sheet_shows_each_photograph_above_its_painting() -> None:
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    shapes = [(60, 30), (20, 80), (500, 400)]
    pairs = [
        (Image.new("RGB", shape, color), Image.new("RGB", shape, tuple(value // 2 for value in color)), "x" * 99)
        for color, shape in zip(colors, shapes, strict=True)
    ]
    drawn = contact_sheet.draw(pairs).astype(int)
    rights = []
    for color in colors:
        photograph = np.argwhere((np.abs(drawn - color) < 3).all(-1))
        painting = np.argwhere((np.abs(drawn - np.array(color) // 2) < 3).all(-1))
        assert photograph[:, 0].max() < painting[:, 0].min()
        assert abs(photograph[:, 1].mean() - painting[:, 1].mean()) < 1
        assert np.ptp(photograph, 0).max() + 1 == contact_sheet.SIDE
        rights.append((photograph[:, 1].min(), photograph[:, 1].max()))
    assert rights[0][1] < rights[1][0] < rights[1][1] < rights[2][0]


def test_a_sheet_of_many_shows_some_of_all() -> None:
    assert contact_sheet.chosen(3) == [0, 1, 2]
    places = contact_sheet.chosen(1000)
    assert len(set(places)) == contact_sheet.MOST
    assert (places[0], places[-1]) == (0, 999)
    assert max(np.diff(places)) - min(np.diff(places)) <= 1
    assert contact_sheet.draw([(Image.new("RGB", (20, 20)), Image.new("RGB", (20, 20)), "a")] * 24).shape[0] < 3000


# The command line.


def test_mistakes_are_told_before_anything_is_painted(tmp_path: Path) -> None:
    path, content = saved(tmp_path / "net.safetensors", "swirls"), photo(tmp_path / "photo.png")
    (tmp_path / "torn.safetensors").write_bytes(path.read_bytes()[:500])
    (tmp_path / "empty").mkdir()
    for overrides, told in (
        (["content=coffee"], r"needs a trained network: model=FILE.*task=train"),
        (["model=nowhere.safetensors"], "there is no such file"),
        ([f"model={tmp_path / 'empty'}"], "there is no such file"),
        ([f"model={tmp_path / 'torn.safetensors'}"], "cannot be read as a .safetensors file"),
        ([f"model={path}", "style_weights=[1,2]"], "paints in one style"),
        ([f"model={path}", "size=8"], "size=8 is out of range"),
        ([f"model={path}", "tile=7"], "tile=7 is neither"),
        ([f"model={path}", "content=nothing.png"], "no image file 'nothing.png'"),
        ([f"model={path}", "fit=round"], "fit=round is not one of"),
    ):
        lines = (
            overrides if any(line.startswith("content=") for line in overrides) else [*overrides, f"content={content}"]
        )
        with pytest.raises(ConfigError) as caught:
            check(job(tmp_path / "out", *lines).config, problems)
        assert len(caught.value.problems) == 1, caught.value.problems
        assert re.search(told, str(caught.value), re.DOTALL), str(caught.value)


def test_a_picture_from_the_command_line(tmp_path: Path) -> None:
    saved(tmp_path / "network.safetensors", "swirls")
    photo(tmp_path / "photo.png")
    done = run("task=apply", f"model={tmp_path}", "content=photo.png", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert close(np.asarray(Image.open(tmp_path / "out/result.png")), directly(tmp_path / "photo.png"))
    assert resume.read(tmp_path / "out/status.json")["status"] == "done"
    assert resume.read(tmp_path / "out/run.json")["scores"]["style_distance"] > 0
    again = run("resume=out", cwd=tmp_path)
    assert again.returncode == 0
    assert "finished already" in again.stderr


def test_a_folder_from_the_command_line_goes_on_after_a_kill(tmp_path: Path) -> None:
    saved(tmp_path / "network.safetensors", "swirls")
    folder_of_photos(tmp_path / "photos")
    words = ("task=apply", "model=network.safetensors", "content=photos", "hydra.run.dir=out", "evaluator=none")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 pictures painted, 2 could not be read" in done.stderr
    # as if it had been killed after two pictures
    out = tmp_path / "out"
    first = (out / "result.png").read_bytes()
    (out / "result.png").unlink()
    shutil.rmtree(out / "results/sub")
    (out / "status.json").write_text(json.dumps({"status": "running"}))
    facts = resume.read(out / "run.json")
    del facts["result"], facts["applied"]
    (out / "run.json").write_text(json.dumps(facts))
    again = run("resume=out", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "6 pictures, 3 of them painted already" in again.stderr
    assert (out / "result.png").read_bytes() == first
    assert (out / "results/sub/c.png").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_leaves_a_run_that_can_be_carried_on_with(tmp_path: Path) -> None:
    saved(tmp_path / "network.safetensors", "swirls")
    frames = [Image.fromarray(np.roll(ramp(200, 200), place, 1)) for place in range(150)]
    frames[0].save(tmp_path / "long.gif", save_all=True, append_images=frames[1:], duration=40)
    words = ("task=apply", "model=network.safetensors", "content=long.gif", "hydra.run.dir=out", "evaluator=none")
    process, parts = start(*words, cwd=tmp_path), tmp_path / "out/parts"
    deadline = time.monotonic() + 120
    while not (parts / "000002.png").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert resume.read(tmp_path / "out/status.json")["status"] == "interrupted"
    with Image.open(tmp_path / "out/interrupted.gif") as file:
        assert 3 <= file.n_frames == len(list(parts.iterdir())) < 150  # type: ignore[attr-defined]


def test_a_clip_that_was_painted_is_painted_again_from_the_clip(tmp_path: Path) -> None:
    path, clip = saved(tmp_path / "net.safetensors", "swirls"), moving(tmp_path / "moving.gif")
    paint(tmp_path / "out", f"model={path}", f"content={clip}")
    write_status(tmp_path / "out", "done")
    assert reproduce.main([str(tmp_path / "out"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/result.gif").read_bytes() == (tmp_path / "out/result.gif").read_bytes()
    assert evaluator.run_pictures(tmp_path / "out").content == tmp_path / "out/original.png"
    write_report([tmp_path / "out"], bundle=True)
    with zipfile.ZipFile(tmp_path / "out/bundle.zip") as bundle:
        files = {zlib.crc32(file.read_bytes()) for file in (path, clip)}
        assert files <= {about.CRC for about in bundle.infolist() if about.filename.startswith("inputs/")}
    moving(clip, 6)
    assert reproduce.main([str(tmp_path / "out"), "--out", str(tmp_path / "other")]) == 1
    assert not (tmp_path / "other").exists()


def test_the_record_of_a_folder_is_repeated_and_not_scored_as_one_picture(tmp_path: Path) -> None:
    path, photos = saved(tmp_path / "net.safetensors", "swirls"), folder_of_photos(tmp_path / "photos")
    paint(tmp_path / "out", f"model={path}", f"content={photos}")
    write_status(tmp_path / "out", "done")
    assert reproduce.main([str(tmp_path / "out"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/results/sub/c.png").is_file()
    with pytest.raises(UserError, match="a folder of pictures"):
        evaluator.run_pictures(tmp_path / "out")


def test_a_mistake_on_the_command_line_is_one_message(tmp_path: Path) -> None:
    told = refused(run("task=apply", "content=coffee", "hydra.run.dir=out", cwd=tmp_path))
    assert "python run.py task=train" in told
    assert not (tmp_path / "out").exists()
