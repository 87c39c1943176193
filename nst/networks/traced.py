"""Any other of torchvision's classification networks, whose maps go by the names of the nodes in its graph.

A node is where a module or an operation has its output: ``features.denseblock1.denselayer1.conv1``; the name of a
larger module, ``features.denseblock1``, stands for its last node. See ``torchvision.models.feature_extraction``.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as nnf
from torchvision.models import feature_extraction

from nst.errors import ConfigError, UserError, nearest, unknown
from nst.images.pixels import PREPROCESSINGS, Preprocessing
from nst.networks import backbones
from nst.networks import weights as weight_sources

NETWORKS = tuple(torchvision.models.list_models(module=torchvision.models))
OPTIONS = {"squeezenet1_1": "squeezenet"}  # of conf/backbone, where not of the network's own name
SIZES = (224, 288)  # of pictures on which a node is seen to give a map or not
NO_DOWNLOAD = "use weights that need no download: backbone.weights=random, or backbone=vgg16."


class Traced(nn.Module):
    """A frozen network in eval mode, cut after the nodes asked for: ``nodes`` by the names of layers."""

    def __init__(
        self,
        graph: fx.GraphModule,
        nodes: dict[str, str],
        name: str,
        preprocessing: Preprocessing,
        source: weight_sources.Source,
    ) -> None:
        super().__init__()
        self.graph, self.nodes, self.name = graph, nodes, name
        self.preprocessing, self.source = preprocessing, source
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of a preprocessed image ``(B, 3, H, W)``: ``{layer: (B, C, h, w)}``.

        Raises UserError if the image is too small for the layers.
        """
        try:
            maps = self.graph.forward(image)  # not the call, which prints where an error is
        except RuntimeError as error:
            backbones.refuse_too_small(error, image, self.nodes)
            raise
        return {layer: maps[node] for layer, node in self.nodes.items()}


def load(
    architecture: str,
    weights: str,
    layers: Iterable[str],
    pooling: str = "max",
    preprocessing: str = "auto",
    avg_scale: float = 1.0,
    seed: int = 0,
) -> Traced:
    """Build a pretrained or random network, cut after ``layers``, on the CPU in float32.

    Args:
        architecture: torchvision's name, one of ``NETWORKS``.
        weights: ``torchvision``, ``random``, a file or a URL; see ``weights.load``.
        layers: names of nodes, or of modules.
        pooling: ``max``, ``avg`` or ``l2`` in place of every max pooling.
        preprocessing: one of ``PREPROCESSINGS``; ``auto`` is what torchvision's weights were trained with.
        avg_scale: what the output of average and L2 pooling is multiplied by.
        seed: of random weights.

    Raises:
        ConfigError: an argument has a value that does not exist, or cannot be had of this network.
        UserError: the weights cannot be had.
    """
    wanted = list(layers)
    mistakes = problems(architecture, weights, preprocessing, avg_scale, seed, pooling=pooling, layers=wanted)
    if not wanted:
        mistakes.append("No layer is asked for, so there is nothing to compute.")
    if mistakes:
        raise ConfigError(mistakes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of what random weights have beside convolutions: as torchvision draws it
        nodes = {name: resolve(name, architecture) for name in wanted}
        graph = _cut(_network(architecture), nodes.values())
    source = weight_sources.load(graph, architecture, weights, seed, names=None, no_download=NO_DOWNLOAD)
    for name, module in list(graph.named_modules()):
        if isinstance(module, nn.MaxPool2d) and pooling != "max":
            graph.set_submodule(name, backbones.other_pooling(module, pooling, avg_scale))
    trained = weight_sources.of_torchvision(architecture).transforms()
    auto = Preprocessing(mean=tuple(trained.mean), std=tuple(trained.std))
    return Traced(graph, nodes, architecture, PREPROCESSINGS.get(preprocessing, auto), source)


def problems(
    architecture: str,
    weights: str,
    preprocessing: str = "auto",
    avg_scale: float = 1.0,
    seed: int = 0,
    *,
    pooling: str = "max",
    layers: Iterable[str] = (),
) -> list[str]:
    """Return what is wrong with the arguments of ``load``, one sentence each, without loading any weight."""
    if architecture in backbones.ARCHITECTURES:
        option = OPTIONS.get(architecture, architecture)
        return [f"{architecture} has an option of its own, which names its layers as papers do: backbone={option}."]
    if architecture not in NETWORKS:
        return [f"backbone.architecture: {unknown('network in torchvision', architecture, NETWORKS)}"]
    found = backbones.problems_of_settings(architecture, weights, preprocessing, avg_scale, seed)
    if pooling not in backbones.POOLINGS:
        found.append(unknown("pooling", pooling, backbones.POOLINGS))
    try:
        nodes = [resolve(name, architecture) for name in layers]
    except UserError as error:
        return [*found, str(error)]
    if nodes and pooling != "max" and not found:
        cut = _cut(_skeleton(architecture), nodes)
        if any(node.target in (nnf.max_pool2d, torch.max_pool2d) for node in cut.graph.nodes):
            found.append(f"pooling={pooling}: {architecture} pools by a function that cannot be replaced: pooling=max.")
        elif not any(isinstance(module, nn.MaxPool2d) for module in cut.modules()):
            found.append(
                f"pooling={pooling} changes nothing: {architecture} has no max pooling up to these layers: pooling=max."
            )
    return found


def resolve(name: str, architecture: str) -> str:
    """Return the node that a layer's name stands for: itself, or the last one of a module.

    Raises UserError if there is none, if what it gives is no feature map, or if the network cannot be cut.
    """
    known = _last_nodes(architecture)
    if known.get(name) in _map_nodes(architecture):
        return known[name]
    if name in known:
        what = f"The layer {name} of {architecture} gives no feature map (B, C, H, W)."
    else:
        what = f"There is no layer '{name}' in {architecture}.{nearest(name, known)}"
    raise UserError(f"{what} {some_layers(architecture)}")


@functools.lru_cache
def some_layers(architecture: str) -> str:
    """Return a sentence that names modules with maps, from the first to the deepest, and how to see all nodes."""
    last, maps = _last_nodes(architecture), _map_nodes(architecture)
    named = [name for name, _ in _skeleton(architecture).named_modules() if last.get(name) in maps] or list(maps)
    shown = []
    for top in (name for name in named if "." not in name):
        is_trunk = 2 * sum(name.startswith(f"{top}.") for name in named) > len(named)
        shown += [name for name in named if name.rpartition(".")[0] == top] if is_trunk else [top]
    return f"Some layers of {architecture}: {', '.join(shown)}; all: torchvision's get_graph_node_names."


def _network(architecture: str) -> nn.Module:
    """Return torchvision's network, weights drawn at random; its Inceptions bring the input to their own range."""
    options = {"transform_input": True, "init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(architecture, weights=None, **options).eval()
    return network


@functools.lru_cache
def _skeleton(architecture: str) -> nn.Module:
    """Return the network without memory for the weights."""
    try:
        with torch.device("meta"):
            return _network(architecture)
    except NotImplementedError:  # RegNet computes its widths with tensors
        with torch.random.fork_rng(devices=[]):
            return _network(architecture).to("meta")


@functools.lru_cache
def _last_nodes(architecture: str) -> dict[str, str]:
    """Return, by the name of each node and module, the last node that it stands for.

    Raises UserError if torchvision cannot tell the network's nodes.
    """
    try:
        nodes = feature_extraction.get_graph_node_names(_skeleton(architecture), suppress_diff_warning=True)
    except Exception as error:  # tracing runs the network's own code on what is no tensor
        raise UserError(f"torchvision cannot trace {architecture}. Choose another network.") from error
    found: dict[str, str] = {}
    for node in nodes[1]:  # those of eval mode
        parts = node.split(".")
        found |= {".".join(parts[:length]): node for length in range(1, len(parts) + 1)}
    return found


@functools.lru_cache
def _map_nodes(architecture: str) -> frozenset[str]:
    """Return the nodes that give maps ``(B, C, H, W)``, the same C for each size of the picture, which H and W follow.

    Raises UserError if the network does not take pictures of any size.
    """
    nodes = frozenset(_last_nodes(architecture).values())
    try:
        cut = _cut(_skeleton(architecture), nodes)
        small, large = (cut.forward(torch.empty(1, 3, size, size, device="meta")) for size in SIZES)
    except Exception as error:  # a network's own checks, of whatever kind
        raise UserError(f"{architecture} takes pictures of one size only. Choose another network.") from error
    return frozenset(node for node in nodes if _is_map(small[node], large[node]))


def _is_map(small: object, large: object) -> bool:
    if not (isinstance(small, Tensor) and isinstance(large, Tensor) and small.dim() == 4):
        return False
    return small.shape[:2] == large.shape[:2] and small.shape[2] < large.shape[2] and small.shape[3] < large.shape[3]


def _cut(network: nn.Module, nodes: Iterable[str]) -> fx.GraphModule:
    """Return the part of a network that computes some nodes, ``{node: map}``, with nothing changed in place."""
    extractor = feature_extraction.create_feature_extractor(network, list(nodes), suppress_diff_warning=True).eval()
    for node in extractor.graph.nodes:
        if node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
        if node.target is operator.iadd:
            node.target = operator.add
    for module in extractor.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return fx.GraphModule(extractor, extractor.graph)  # of eval mode alone
