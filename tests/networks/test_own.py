"""Networks of one's own: the example, and what is said of those that are not as they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ROOT, TINY, run
from torch import Tensor, nn

from nst.errors import UserError
from nst.images.pixels import PREPROCESSINGS, Preprocessing
from nst.networks.own import OwnNetwork

EXAMPLE = ("--config-dir", str(ROOT / "examples" / "own_network"), "backbone=oriented_edges")


class Net(nn.Module):
    """Two maps; what it gives in their place may be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, image: Tensor) -> Any:
        first = self.first(image)
        return self.changed({"a": first, "b": self.second(first)})

    def changed(self, maps: dict[str, Tensor]) -> Any:
        return maps


def own(changed: Any = None, **attributes: Any) -> OwnNetwork:
    network = Net()
    if changed is not None:
        network.changed = changed  # type: ignore[method-assign]
    for name, value in attributes.items():
        setattr(network, name, value)
    return OwnNetwork(network, ["a", "b"])


def seen(network: OwnNetwork) -> dict[str, Tensor]:
    maps: dict[str, Tensor] = network(torch.rand(2, 3, 8, 8, requires_grad=True))
    return maps


def raises(maps: dict[str, Tensor]) -> Any:
    raise ValueError("what is\nthis")


def test_it_is_frozen_and_in_eval_mode_and_gives_the_maps_asked_for() -> None:
    network = own(lambda maps: {**maps, "more": 3})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    maps = seen(network)
    assert {name: tuple(value.shape) for name, value in maps.items()} == {"a": (2, 4, 8, 8), "b": (2, 8, 4, 4)}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (raises, "Net failed: ValueError: what is"),
        (lambda maps: maps["b"], "Net gave Tensor: a dictionary is needed"),
        (lambda maps: {"a": maps["a"], "bb": maps["b"]}, "no layer in Net 'b'. Did you mean 'bb'"),
        (lambda maps: maps | {"b": maps["b"].flatten(1)}, r"Net gave a tensor \(2, 128\).* for b"),
        (lambda maps: maps | {"b": maps["b"][:1]}, r"Net gave a tensor \(1, 8, 4, 4\).* for b"),
        (lambda maps: maps | {"b": maps["b"].int()}, "torch.int32 for b: a map in floats"),
        (lambda maps: maps | {"b": [1]}, "Net gave list for b"),
        (lambda maps: maps | {"b": maps["b"].detach()}, "map b has no gradient"),
    ],
)
def test_what_it_gives_is_checked(changed: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        seen(own(changed))


def test_memory_is_nobodys_mistake() -> None:
    def full(maps: dict[str, Tensor]) -> Any:
        raise RuntimeError("not enough memory")

    with pytest.raises(RuntimeError, match="not enough memory"):
        seen(own(full))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match="function is no network"):
        OwnNetwork(raises, ["a"])


def test_preprocessing_is_declared_or_rgb_is_given(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="nst.networks.own")
    assert own(preprocessing="caffe").preprocessing == PREPROCESSINGS["caffe"]
    assert own(preprocessing=Preprocessing(scale=2)).preprocessing == Preprocessing(scale=2)
    assert caplog.messages == []
    assert own().preprocessing == Preprocessing()
    (message,) = caplog.messages
    assert message.startswith("Net is given RGB in [0, 1]: an attribute preprocessing = 'imagenet' declares another")
    with pytest.raises(UserError, match="Did you mean 'imagenet'"):
        own(preprocessing="imagnet")
    with pytest.raises(UserError, match=r"Net\.preprocessing is int"):
        own(preprocessing=3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_in_another_precision_are_told_in_one_line(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="nst.networks.own")
    network = Net().to(dtype)
    network.preprocessing = "none"  # type: ignore[assignment]
    ready = OwnNetwork(network, ["a", "b"]).float()
    assert caplog.messages == [f"Net has weights in {str(dtype).removeprefix('torch.')}: it computes in float32"]
    assert seen(ready)["b"].dtype == torch.float32


# As a user types them


def test_the_example_paints(tmp_path: Path) -> None:
    result = run(*EXAMPLE, *TINY, "evaluator=none", f"hydra.run.dir={tmp_path}/out")
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["computation"]["engine"].startswith("plain")
    assert (tmp_path / "out" / "result.png").exists()


def test_precision_that_a_network_of_ones_own_does_not_have_is_told_once(tmp_path: Path) -> None:
    result = run(*EXAMPLE, *TINY, "evaluator=none", "precision=bfloat16", f"hydra.run.dir={tmp_path}/out")
    text = result.stdout + result.stderr
    assert result.returncode == 0, text
    assert text.count("precision=bfloat16: OrientedEdges is not made for it, and computes in float32") == 1
    assert "in float32 (plain, float32)" in text
    assert json.loads((tmp_path / "out" / "run.json").read_text())["computation"]["precision"] == "float32"


CODE = (
    "import torch\n"
    "class Net(torch.nn.Module):\n"
    "    def __init__(self, layers, pooling):\n"
    "        super().__init__()\n"
    "        self.first = torch.nn.Conv2d(3, 4, 3, padding=1, dtype=torch.bfloat16)\n"
    "    def forward(self, image):\n"
    "        return {RETURNED}\n"
)


def written(folder: Path, returned: str) -> tuple[str, ...]:
    for group, text in {"backbone": "_target_: net.Net\n", "layers": "content: [a]\nstyle: [a]\n"}.items():
        (folder / group).mkdir()
        (folder / group / "net.yaml").write_text(text)
    (folder / "net.py").write_text(CODE.replace("{RETURNED}", returned))
    return ("--config-dir", str(folder), "backbone=net", *TINY, "evaluator=none", f"hydra.run.dir={folder}/out")


def test_a_network_without_preprocessing_and_with_weights_in_bfloat16_paints(tmp_path: Path) -> None:
    result = run(*written(tmp_path, "{'a': self.first(image)}"))
    text = result.stdout + result.stderr
    assert result.returncode == 0, text
    assert text.count("Net is given RGB in [0, 1]") == 1
    assert text.count("Net has weights in bfloat16: it computes in float32") == 1


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("self.to(torch.bfloat16).first(image)", "Net failed: RuntimeError: "),
        ("self.first(image)", "Net gave Tensor: a dictionary is needed"),
        ("{'b': self.first(image)}", "There is no layer in Net 'a'."),
    ],
)
def test_a_network_that_fails_is_one_message(returned: str, said: str, tmp_path: Path) -> None:
    result = run(*written(tmp_path, returned))
    text = result.stdout + result.stderr
    assert result.returncode == 1
    assert f"Error: {said}" in text
    assert "Traceback" not in text
