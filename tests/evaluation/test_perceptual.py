"""LPIPS and ArtFID: the formula, and one clear message where a package or its weights are missing."""

import sys
import urllib.error
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from nst.errors import UserError
from nst.evaluation import learned
from nst.images import rgb


def offline(*arguments: Any, **options: Any) -> None:
    raise urllib.error.URLError("no network")


@pytest.mark.parametrize(("first", "second"), [(40, 60), (7, 9), (60, 8)])
def test_the_frechet_distance_is_that_of_two_gaussians(first: int, second: int) -> None:
    random = np.random.default_rng(first)
    mixing = random.normal(size=(6, 6))
    x, y = random.normal(size=(first, 6)) @ mixing, random.normal(1, 2, size=(second, 6))
    s1, s2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real)
    assert learned.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_holds_for_fewer_pictures_than_features() -> None:
    x = np.random.default_rng(0).normal(size=(4, 50))
    assert learned.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert learned.frechet_distance(x, x + 0.5) == pytest.approx(50 * 0.25)
    # covariances that share no direction: nothing but the two traces and the means
    left, right = np.hstack([x, np.zeros((4, 50))]), np.hstack([np.zeros((4, 50)), x])
    expected = 2 * x.var(0, ddof=1).sum() + 2 * (x.mean(0) ** 2).sum()
    assert learned.frechet_distance(left, right) == pytest.approx(expected)


def test_art_fid_is_one_plus_lpips_times_one_plus_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "load_lpips", lambda: lambda a, b: float((a - b).abs().mean()))
    monkeypatch.setattr(learned, "_load_art_inception", lambda: lambda picture: picture.mean((2, 3))[0].numpy())
    files = {kind: [tmp_path / f"{kind}{index}.png" for index in range(3)] for kind in ("result", "content", "style")}
    random = np.random.default_rng(0)
    shades = {}
    for kind, paths in files.items():
        shades[kind] = random.integers(0, 256, (3, 3))
        for path, shade in zip(paths, shades[kind], strict=True):
            Image.fromarray(np.full((8, 12, 3), shade, np.uint8)).save(path)
    unit = {kind: values / 255 for kind, values in shades.items()}
    lpips = np.abs(unit["result"] - unit["content"]).mean()
    s1, s2 = (np.cov(unit[kind], rowvar=False) for kind in ("result", "style"))
    root = scipy.linalg.sqrtm(s1 @ s2)
    fid = ((unit["result"].mean(0) - unit["style"].mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real)
    found = learned.art_fid(files["result"], files["content"], files["style"])
    assert found == pytest.approx((1 + lpips) * (1 + fid), rel=1e-5)
    with pytest.raises(UserError, match="a set of pictures"):
        learned.art_fid(files["result"][:1], files["content"][:1], files["style"][:1])


@pytest.mark.parametrize(
    ("package", "load", "way_out"),
    [
        ("lpips", learned.load_lpips, r"pip install -e '\.\[perceptual\]'.*evaluator\.lpips=false"),
        ("art_fid", learned._load_art_inception, r"pip install --no-deps art-fid==0\.0\.2"),
    ],
)
def test_a_missing_package_is_told_with_what_to_do(
    package: str, load: Any, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=way_out):
        load()
    assert package in (learned.missing(package) or "")


def test_missing_weights_of_art_fid_are_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art_fid", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "art_fid.inception", SimpleNamespace())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"no network.*art_inception\.pth elsewhere and put it at"):
        learned._load_art_inception()


def test_weights_of_art_fid_that_are_not_all_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art_fid", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "art_fid.inception", SimpleNamespace(Inception3=lambda: torch.nn.Linear(2, 3)))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save({"weight": torch.zeros(3, 2)}, tmp_path / "checkpoints" / "art_inception.pth")
    with pytest.raises(UserError, match=r"the file has no bias.*put it at"):
        learned._load_art_inception()


def test_missing_weights_of_lpips_are_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=offline))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError) as told:
        learned.load_lpips()
    for piece in ("no network", "alexnet-owt-7be5be79.pth", str(tmp_path), "evaluator.lpips=false"):
        assert piece in str(told.value), piece


def test_lpips_itself_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lpips")
    import lpips.pretrained_networks as networks

    alexnet = networks.tv.alexnet
    monkeypatch.setattr(networks.tv, "alexnet", lambda pretrained: alexnet(weights=None))
    state = torch.get_rng_state()
    distance = learned.load_lpips()
    assert torch.equal(torch.get_rng_state(), state)
    content, other = rgb.load("coffee", 96).double(), rgb.load("chelsea", 96).double()
    assert distance(content, content) == 0
    assert distance(content, other) > distance(content, content * 0.9) > 0
    assert np.isnan(distance(content[..., :62], content[..., :62]))
