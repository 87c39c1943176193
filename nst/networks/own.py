"""A network from outside this package, made fit to look through: frozen, in one precision, its maps checked."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nst.errors import UserError, unknown
from nst.images.pixels import PREPROCESSINGS, Preprocessing
from nst.networks.backbones import refuse_too_small
from nst.networks.weights import Source

log = logging.getLogger(__name__)


class OwnNetwork(nn.Module):
    """Somebody's network, in eval mode and without gradients of its own; what it gives is checked at each pass.

    Args:
        network: any module that maps a preprocessed image ``(B, 3, H, W)`` to ``{layer: (B, C, h, w)}``. Its
            ``preprocessing`` is a ``Preprocessing`` or the name of one; without it, it is given RGB in [0, 1].
        layers: names of the layers that are looked at.

    Raises:
        UserError: it is no module, or its ``preprocessing`` none.
    """

    def __init__(self, network: Any, layers: Iterable[str]) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise UserError(f"backbone: {type(network).__name__} is no network: a torch.nn.Module is needed.")
        self.name, self.layers = type(network).__name__, tuple(layers)
        source = getattr(network, "source", None)
        self.source = source if isinstance(source, Source) else None
        declared: Any = getattr(network, "preprocessing", None)
        if declared is None:
            log.info(
                "%s is given RGB in [0, 1]: an attribute preprocessing = 'imagenet' declares another (%s)",
                *(self.name, ", ".join(PREPROCESSINGS)),
            )
            declared = "none"
        if isinstance(declared, str) and declared not in PREPROCESSINGS:
            raise UserError(f"{self.name}: {unknown('preprocessing', declared, PREPROCESSINGS)}")
        self.preprocessing: Any = PREPROCESSINGS[declared] if isinstance(declared, str) else declared
        if not isinstance(self.preprocessing, Preprocessing):
            raise UserError(
                f"{self.name}.preprocessing is {type(declared).__name__}: a name ({', '.join(PREPROCESSINGS)}) or an "
                "nst.images.pixels.Preprocessing is needed."
            )
        held = [tensor for tensor in (*network.parameters(), *network.buffers()) if tensor.is_floating_point()]
        if strange := {str(tensor.dtype).removeprefix("torch.") for tensor in held} - {"float32"}:
            log.info("%s has weights in %s: it computes in float32", self.name, " and ".join(sorted(strange)))
        self.network = network
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the maps that are looked at, by layer; raise UserError if the network fails or gives no such maps."""
        try:
            found: Any = self.network(image)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            refuse_too_small(error, image, self.layers)
            raise self._failed(error) from error
        except Exception as error:
            raise self._failed(error) from error
        if not isinstance(found, Mapping):
            raise UserError(f"{self.name} gave {type(found).__name__}: a dictionary is needed, {{layer: map}}.")
        return {layer: self._checked(layer, found, image) for layer in self.layers}

    def _failed(self, error: Exception) -> Exception:
        """Return what to raise for an error of the network: memory's own, or one that names the network."""
        if (
            isinstance(error, UserError)
            or "memory" in str(error).lower()
            or type(error).__module__.startswith("torch._")
        ):
            return error
        reason = str(error).partition("\n")[0]
        return UserError(f"{self.name} failed: {type(error).__name__}: {reason} (more in run.log).")

    def _checked(self, layer: str, found: Mapping[str, Any], image: Tensor) -> Tensor:
        if layer not in found:
            raise UserError(unknown(f"layer in {self.name}", layer, found))
        maps = found[layer]
        is_map = isinstance(maps, Tensor) and maps.is_floating_point() and maps.dim() == 4
        if not is_map or maps.shape[0] != image.shape[0]:
            what = f"a tensor {tuple(maps.shape)}, {maps.dtype}" if isinstance(maps, Tensor) else type(maps).__name__
            raise UserError(f"{self.name} gave {what} for {layer}: a map in floats is needed, (B, C, H, W).")
        if image.requires_grad and torch.is_grad_enabled() and not maps.requires_grad:
            raise UserError(
                f"{self.name}'s map {layer} has no gradient, so that nothing could be learnt from it: it is detached "
                "from the image on the way (detach, numpy, no_grad)."
            )
        return maps
