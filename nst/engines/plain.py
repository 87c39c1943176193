"""The plain engine: the network and the losses under torch's own autograd."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nst.engines.requests import Sums, Window, each, given, is_ours, only, target_of, value_of
from nst.errors import UserError
from nst.losses.functional import at_least_float32
from nst.losses.objective import LossRequest, TargetRequest
from nst.losses.protocols import Layer
from nst.networks.backbones import Backbone


class Plain:
    """Runs a backbone module by module and hands its maps to the losses; autograd does the rest.

    It computes in ``dtype``; the first layer, which sees the pixels, at least in float32.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype, compiled: bool = False) -> None:
        self.is_lifted = dtype == torch.bfloat16 and not isinstance(backbone, Backbone)  # to float32, as it is
        if dtype == torch.bfloat16 and isinstance(backbone, Backbone):
            backbone = backbone.in_bfloat16()
        self.compiled = compiled
        is_real = all(parameter.device.type != "meta" for parameter in backbone.parameters())  # no rehearsal
        self.backbone = torch.compile(backbone) if compiled and is_real else backbone

    def describe(self, losses: Iterable[object]) -> str:
        """Say what computes; see ``nst.engines.Engine``."""
        return "plain" + ", compiled" * self.compiled + ", float32" * self.is_lifted

    def targets(self, image: Tensor, wanted: dict[str, TargetRequest]) -> dict[str, Any]:
        """Take the targets of an image; see ``nst.engines.Engine``."""
        maps = self._maps(image)
        return {tag: target_of(one, _given(maps, one.layer, one.loss)) for tag, one in wanted.items()}

    def values(self, image: Tensor, requests: dict[str, LossRequest]) -> dict[str, Tensor]:
        """Compare an image with its targets; see ``nst.engines.Engine``."""
        maps = self._maps(image)
        return {tag: value_of(one, _given(maps, one.layer, one.loss)) for tag, one in requests.items()}

    def sums(self, image: Tensor, requests: dict[str, LossRequest], windows: dict[str, Window]) -> Sums:
        """Return the sums ``(B, ...)`` of each loss over its layer's window, and the shapes of whole maps."""
        maps = self._maps(image)
        sums = {tag: loss.sums(_cut(maps, layer, loss, windows), t) for tag, (layer, loss, t) in requests.items()}
        return sums, {layer: tuple(activation.shape[1:]) for layer, activation in maps.items()}

    def pieces(self, image: Tensor, wanted: dict[str, TargetRequest], windows: dict[str, Window]) -> Sums:
        """Return what each target takes of its layer's window: a piece of a map, or sums."""
        maps = self._maps(image)
        pieces = {}
        for tag, (layer, loss) in wanted.items():
            own = _cut(maps, layer, loss, windows)
            pieces[tag] = loss.target(own) if loss.target_is_map else loss.sums(own, None)
        return pieces, {layer: tuple(activation.shape[1:]) for layer, activation in maps.items()}

    def _maps(self, image: Tensor) -> dict[str, Tensor]:
        try:
            maps = self.backbone(image)
        except Exception as error:
            if self.compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"compile=true: torch.compile cannot work on this network here ({reason}). Use compile=false, or "
                    "install what it needs: on a CPU a C++ compiler."
                ) from error
            raise
        return {layer: at_least_float32(activation) for layer, activation in maps.items()}


def _own(maps: Tensor, loss: object) -> Tensor:
    """Return a map for a loss, a copy if it is somebody's own, which may change it in place."""
    return maps if is_ours(loss) else maps.clone()


def _given(maps: dict[str, Tensor], layer: Layer, loss: object) -> Any:
    return given(layer, (_own(maps[name], loss) for name in each(layer)))


def _cut(maps: dict[str, Tensor], layer: Layer, loss: object, windows: dict[str, Window]) -> Tensor:
    rows, columns = windows[only(layer)]
    return _own(maps[only(layer)][:, :, rows, columns], loss)
