"""Networks as ONNX files, painted with by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import ROOT, script
from torch import Tensor, nn

from nst import transformers
from nst.errors import UserError
from nst.transformers import onnx as exporting
from nst.transformers.layers import normalisations

RESIDUAL: dict[str, Any] = {"_target_": "nst.transformers.ResidualTransformer", "width": 2, "blocks": 1, "kernel": 3}
PYRAMID: dict[str, Any] = {"_target_": "nst.transformers.PyramidTransformer", "channels": 2, "levels": 2}


def network(node: dict[str, Any], styles: int) -> nn.Module:
    """A network whose styles differ from each other, as they do after training."""
    made = transformers.build(node, styles, 0)
    with torch.no_grad():
        for norm in normalisations(made):
            for number in range(styles):
                norm.gain[number] += 0.3 * number
                norm.bias[number] -= 0.2 * number
    return made


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return script(ROOT / "scripts" / "export_onnx.py", *arguments)


def test_a_network_of_one_style_paints_pictures_of_any_size(tmp_path: Path) -> None:
    made, path = network(RESIDUAL, 1), tmp_path / "network.onnx"
    about = {"styles": [{"label": "swirls"}]}
    difference = exporting.export(made, path, about)
    assert 0 <= difference < 1e-4
    model = onnx.load(path)
    onnx.checker.check_model(model)
    facts = json.loads(model.metadata_props[0].value)
    assert (facts["transformer"], facts["styles"], facts["about"]) == (RESIDUAL, 1, about)
    session = onnxruntime.InferenceSession(path)
    assert [value.name for value in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape == session.get_outputs()[0].shape == [1, 3, "height", "width"]
    for size in ((16, 16), (33, 128), (90, 47)):
        images = torch.rand(1, 3, *size)
        (painted,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(painted, made(images).detach().numpy(), atol=1e-4)
    text = str(model)
    assert str(ROOT) not in text
    assert "site-packages" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]


def test_the_script_exports_a_network_of_several_styles_with_their_blend(tmp_path: Path) -> None:
    made = network(PYRAMID, 3)
    transformers.save(tmp_path / "network.safetensors", made, {"steps": 5})
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'network.onnx'} (")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    assert {value.name: value.shape for value in session.get_inputs()} == {
        "images": [1, 3, "height", "width"],
        "blend": [1, 3],
    }
    images = torch.rand(1, 3, 31, 50)
    for blend in (torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([[0.0, 0.0, 1.0]])):
        (painted,) = session.run(None, {"images": images.numpy(), "blend": blend.numpy()})
        np.testing.assert_allclose(painted, made(images, blend).detach().numpy(), atol=1e-4)


def test_what_paints_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.onnx"
    path.write_text("what was there")
    shown = exporting._exported

    def changed(painter: nn.Module, styles: int) -> Any:
        model = shown(painter, styles)  # type: ignore[arg-type]
        for tensor in model.graph.initializer:
            if tensor.name.endswith("last.convolution.bias"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 0.1, tensor.name))
                return model
        raise AssertionError("no bias found")

    monkeypatch.setattr(exporting, "_exported", changed)
    with pytest.raises(UserError, match=r"does not paint what the network does \(colours differ by up to 0\.02"):
        exporting.export(network(RESIDUAL, 1), path)
    assert path.read_text() == "what was there"
    monkeypatch.setattr(exporting, "_exported", lambda painter, styles: onnx.ModelProto())
    with pytest.raises(UserError, match="ONNX Runtime cannot work with what was exported"):
        exporting.export(network(RESIDUAL, 1), path)
    assert path.read_text() == "what was there"


class Looking(nn.Module):
    """A network that looks at the picture before it decides what to do, which cannot be exported."""

    styles = 1
    node: dict[str, Any] = {}  # noqa: RUF012

    def forward(self, images: Tensor, blend: Tensor | None = None) -> Tensor:
        return images * 2 if float(images.mean()) > 0.5 else images


def test_a_network_that_cannot_be_exported_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The network cannot be exported\. .* It says: .*data"):
        exporting.export(Looking(), tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_told_with_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"\(onnxscript\): pip install -e '\.\[onnx\]', or pip install onnxscript"):
        exporting.export(network(RESIDUAL, 1), tmp_path / "network.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/nowhere.safetensors"], "There is no network file"),
        (["{folder}"], "There is no network file"),
        (["{folder}/text.safetensors"], "cannot be read"),
        (["{folder}", "--output", "network.pt"], "must end in .onnx"),
    ],
)
def test_mistakes_are_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no network")
    done = command(*(argument.format(folder=tmp_path) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
