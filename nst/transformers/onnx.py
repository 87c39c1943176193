"""Networks for other programs: ONNX files, kept only if ONNX Runtime paints with them what torch paints."""

import copy
import importlib.util
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nst.errors import UserError
from nst.files import write_atomic
from nst.transformers.layers import SMALLEST
from nst.transformers.storage import described

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18  # of ONNX 1.13 (2022)
TRACED = (64, 96)  # height and width of the picture that the exporter follows through the network
CHECKED = ((SMALLEST, 50), (75, 61))  # of those that are painted with the result
TOLERANCE = 1e-3  # how far colours in [0, 1] may differ: half of what 8 bits tell apart is 2e-3


def export(network: nn.Module, path: Path, about: Mapping[str, Any] | None = None) -> float:
    """Write a network as an ONNX file, once ONNX Runtime has painted the same with it as torch.

    Its input ``images`` is ``(1, 3, height, width)`` RGB in [0, 1], of any height and width from 16 up; its output
    ``painted`` has the same shape and is not clamped. A network of several styles has a second input ``blend``,
    ``(1, styles)``: how much each counts. The metadata hold the JSON that the network's own file holds.
    Network and ``about`` are what ``nst.transformers.load`` returned, and are not changed. The file is written
    atomically; what stood there remains if anything goes wrong. Returns the largest difference between a colour of ONNX
    Runtime's and torch's, over pictures of two sizes.

    Raises:
        UserError: a package is missing, the network cannot be exported, or paints something else then.
        CannotWrite: the disk is full, or the folder is read-only.
    """
    refuse_missing_packages()
    styles = int(network.styles)  # type: ignore[arg-type]
    painter = _Painter(copy.deepcopy(network).cpu().float().eval())
    model = _exported(painter, styles)
    entry = model.metadata_props.add()
    ((entry.key, entry.value),) = described(network, about or {}).items()
    data = model.SerializeToString()
    difference = _difference(painter, styles, data)
    if not difference <= TOLERANCE:
        raise UserError(
            f"What was exported does not paint what the network does (colours differ by up to {difference:.2g}; at "
            f"most {TOLERANCE} is allowed), so {path} is not written. Other versions of {', '.join(PACKAGES)} may help."
        )
    write_atomic(path, lambda file: file.write(data))
    return difference


def refuse_missing_packages() -> None:
    """Raise UserError if a package that is needed here is not installed."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"ONNX needs packages that are not installed ({', '.join(missing)}): pip install -e '.[onnx]', or "
            f"pip install {' '.join(missing)}"
        )


class _Painter(nn.Module):
    """A network whose only inputs are those of the ONNX file."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, *blend: Tensor) -> Tensor:
        """Paint ``(1, 3, H, W)``, with the blend ``(1, S)`` of a network that has one."""
        return self.network(images, *blend)


def _inputs(styles: int, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return a picture, and a blend if there are several styles: each counts, and each something else."""
    generator = torch.Generator().manual_seed(0)
    blend = torch.arange(1.0, styles + 1)[None] / (styles * (styles + 1) / 2)
    return (torch.rand(1, 3, *size, generator=generator), *([blend] if styles > 1 else []))


def _exported(painter: _Painter, styles: int) -> Any:
    """Return the network as an ``onnx.ModelProto``; raise UserError if something in it cannot be exported."""
    sides = {2: torch.export.Dim("height", min=SMALLEST), 3: torch.export.Dim("width", min=SMALLEST)}
    shapes: dict[str, Any] = {"images": sides} | ({"blend": ({},)} if styles > 1 else {})
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                painter,
                _inputs(styles, TRACED),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(shapes),
                output_names=["painted"],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # torch.export raises whatever the network's code drives it to
        raise UserError(
            "The network cannot be exported. One of your own must do the same with every picture of every size, and "
            f"call only what torch.export knows. It says: {_reason(error)}"
        ) from error
    finally:
        exporter.setLevel(level)
    model = program.model_proto  # type: ignore[union-attr]
    _describe(model)
    return model


def _describe(model: Any) -> None:
    """Name the sides of the pictures, and remove what the exporter noted of the source code and where it lies."""
    for value in (model.graph.input[0], model.graph.output[0]):
        for place, name in ((2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[place].dim_param = name
    model.doc_string = "RGB in [0, 1] in, RGB (not clamped) out"
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    del model.graph.value_info[:]  # shapes in between, in symbols


def _difference(painter: _Painter, styles: int, data: bytes) -> float:
    """Return by how much ONNX Runtime's colours differ from torch's; raise UserError if it cannot use the file."""
    import onnxruntime

    largest = 0.0
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for size in CHECKED:
            inputs = _inputs(styles, size)
            names = [value.name for value in session.get_inputs()]
            (painted,) = session.run(None, {name: part.numpy() for name, part in zip(names, inputs, strict=True)})
            with torch.no_grad():
                expected = painter(*inputs)
            if painted.shape != tuple(expected.shape):
                return float("inf")
            largest = max(largest, float((torch.from_numpy(painted) - expected).abs().max()))
    except Exception as error:  # its exceptions have no common class
        reason = _reason(error)
        raise UserError(f"ONNX Runtime cannot work with what was exported, so it is not kept: {reason}") from error
    return largest


def _reason(error: BaseException) -> str:
    """Return the first line of the error that others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
