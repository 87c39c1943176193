"""Write docs/recipes.md: the published recipes under conf/experiment, a card each, from the files themselves."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nst import configuration  # noqa: E402
from nst.losses.protocols import traits  # noqa: E402
from nst.networks import backbones  # noqa: E402
from nst.optimization import schedule  # noqa: E402
from nst.setup.layers import layer_weights  # noqa: E402

CONF, DOCS = ROOT / "conf", ROOT / "docs"
TABLE = DOCS / "recipes.md"
INTRODUCTION = """\
# Published recipes

Each is a preset, one file under [conf/experiment](../conf/experiment), which says what to expect, where it comes from,
and in what it departs from its source. The table leads to a card for each, with all its settings. What is typed beside
a preset wins: `experiment=keras steps=200`, or `experiment=jcjohnson optimizer=adam`. All but the founding notebook's,
which has its own test, are [stated a second time](../tests/recipes_stated.py), plainly and in float64, and
[compared](../tests/stylization/test_presets.py): every term, the gradient, and the pixels after three steps.

Losses are `alpha * content + beta * style + tv * variation`. F and P are the maps of the picture and of the content
image, with C channels and N = H W positions; G is the Gram matrix of F, and A is made alike of the style image's map;
d are the differences of neighbouring pixels. `relu4_2` is a map after its ReLU, `conv4_2` before. Layers' weights are
multiplied as they stand for a sum, and divided by their sum for a mean. Rates, noise and limits are in the units of
the space that the pixels are optimised in: network space is the network's own input. Alpha and beta of different
recipes cannot be compared.

The pictures are chelsea in the style of swirls (textures: swirls alone), small and cut short, so that a CPU makes them
in minutes: 160 to 256 pixels, at most 1000 steps, and **the bundled VGG-16 in place of VGG-19**, with the layers that
it has ([exactly](images/README.md)). They show what a recipe is like, not how well it does at its own size. Where there
is none, the recipe's units belong to weights that were not at hand; the preset downloads them by itself.

This file is written by `python scripts/make_recipes_docs.py`.
"""
COLUMNS = ("picture", "preset", "in one line")
DIVISORS = {"none": "", "N": " / N", "CN": " / (C N)", "4C2": " / (4 C²)", "4C2N2": " / (4 C² N²)"}
KERAS_DIVISOR = " / (4 · 3² (H W of the picture)²)"
LOSSES = {
    "GaussianMMDLoss": "MMD of the Gaussian kernel",
    "GaussianWassersteinLoss": "Wasserstein distance of Gaussians",
    "LinearMMDLoss": "MMD of the linear kernel",
    "MomentsLoss": "means and standard deviations",
    "NearestNeighborLoss": "cosine distance to the nearest neighbour",
    "PolynomialMMDLoss": "MMD of the polynomial kernel",
    "RelaxedEMDLoss": "relaxed earth mover's distance",
    "SelfSimilarityLoss": "self-similarity",
    "SlicedWassersteinLoss": "sliced Wasserstein distance",
}
VARIATIONS = {"squared": "d²", "absolute": "absolute d", "laplacian": "Laplacian", "keras": "d^2.5", "diagonal": "d²"}
USUAL = {  # settings of optimisers that are not worth a word
    "betas": [0.9, 0.999],
    "history_size": 100,
    "line_search_fn": None,
    "momentum": 0.0,
    "tolerance_change": 0.0,
    "tolerance_grad": 0.0,
}
OURS = {
    *("showpiece", "sketch", "reconstruct_content", "texture"),
    *("approach_optimisation", "approach_fast", "approach_supervised"),
}  # experiments that are nobody's published recipe
TRAINED = """
## Networks that are trained

With `task=train`, see [three approaches](approaches.md). F is of what the network paints, P of the photograph.
"""
CARDS = """
## The settings of each
"""
FIVE = "relu1_1, relu2_1, relu3_1, relu4_1, relu5_1"


def main() -> None:
    """Write the table."""
    TABLE.write_text(page())


def page() -> str:
    """Return the whole file."""
    presets = {name: composed(name) for name in published()}
    optimised, trained = (
        [name for name, preset in presets.items() if preset.task == task] for task in ("optimize", "train")
    )
    cards = (card(name, presets[name]) for name in (*optimised, *trained))
    return "\n".join([INTRODUCTION, table(optimised) + TRAINED, table(trained) + CARDS, *cards])


def published() -> list[str]:
    """Return the names of the experiments that are published recipes."""
    return sorted({path.stem for path in (CONF / "experiment").glob("*.yaml")} - OURS)


def table(names: list[str]) -> str:
    """Return a table with a short row for each preset, which leads to its card."""
    rows = [(picture(name, 120), f"[`{name}`](#{name})", told(name)[0]) for name in names]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (COLUMNS, ("---",) * len(COLUMNS), *rows))


def card(name: str, preset: DictConfig) -> str:
    """Return all that there is to say of a preset."""
    title, source, command = told(name)
    facts = trained_facts(name, preset) if preset.task == "train" else optimised_facts(preset)
    facts |= {"source": source, "file": f"[conf/experiment/{name}.yaml](../conf/experiment/{name}.yaml)"}
    lines = "".join(f"* **{what}**: {said}\n" for what, said in facts.items())
    shown = picture(name, 240)
    return f"### {name}\n\n{title}\n\n{shown and shown + chr(10) * 2}```bash\n{command}\n```\n\n{lines}"


def composed(name: str) -> DictConfig:
    """Return the configuration of a preset."""
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", [f"experiment={name}"])


def told(name: str) -> tuple[str, str, str]:
    """Return what the file of a preset says: title, source, command."""
    notes = comments((CONF / "experiment" / f"{name}.yaml").read_text())
    title, _, rest = notes.partition(" python run.py ")
    first = rest.partition(" Expect")[0].partition(" python run.py ")[0]
    command = f"python run.py {first}".partition("  ")[0]
    return title, escaped(notes.partition("Source: ")[2].partition(". ")[0]), command


def trained_facts(name: str, preset: DictConfig) -> dict[str, str]:
    """Return the settings of a preset that trains a network."""
    training, backbone = preset.training, preset.backbone
    fits = {"crop": "scaled and cropped", "natural": "cropped at their own size", "squeeze": "squeezed"}
    rates = preset.lr_schedule.get("_target_", "").rpartition(".")[2] == "StepLR"
    decay = f"; times {preset.lr_schedule.gamma} every {preset.lr_schedule.step_size} steps" if rates else ""
    node = preset.optimizer
    return {
        "network": f"`transformer={name}`",
        "photographs": f"{training.batch} a step, {fits[training.fit]}: {training.crop}",
        "content": term(preset, "content"),
        "style": term(preset, "style"),
        "alpha, beta, tv": weights(preset),
        "optimiser": f"{str(node['_target_']).rpartition('.')[2]} lr {number(node.lr)}; {preset.steps} steps{decay}",
        "looked at by": f"{backbone.architecture}, {backbone.weights} weights; {preset.pooling}",
    }


def optimised_facts(preset: DictConfig) -> dict[str, str]:
    """Return the settings of a preset that optimises pixels."""
    return {
        "content": term(preset, "content"),
        "style": term(preset, "style"),
        "alpha, beta, tv": weights(preset),
        "optimiser": descent(preset),
        "start": start(preset.init),
        "network": network(preset),
        "size": size(preset),
    }


def picture(name: str, width: int) -> str:
    """Return the thumbnail of a preset, if there is one."""
    file = DOCS / "images" / "recipes" / f"{name}.jpg"
    return f'<img src="images/recipes/{name}.jpg" width="{width}" alt="{name}">' if file.is_file() else ""


def term(preset: DictConfig, kind: str) -> str:
    """Return the layers of a term with their weights, and its loss."""
    found = layer_weights(preset, kind)
    if not found:
        return "none"
    alike = set(found.values()) == {1.0}
    layers = ", ".join(layer if alike else f"{layer} · {number(weight)}" for layer, weight in found.items())
    layers = layers.replace(FIVE, "relu1_1 to relu5_1")
    how = "" if len(found) == 1 else "mean over " if preset.layers.combine == "mean" else "sum over "
    if traits(configuration.build(preset[f"{kind}_loss"])).joins_layers:
        how = "hypercolumns of "
    return f"{how}{layers}: {loss(preset[f'{kind}_loss'])}"


def loss(node: DictConfig) -> str:
    """Return a loss as a formula, or in words with its settings."""
    name = str(node["_target_"]).rpartition(".")[2]
    if name == "MSELoss":
        return f"{node.reduction} (F - P)²" + ("" if node.norm == "none" else f" / {number(node.norm)}")
    if name == "GramLoss":
        divisor = KERAS_DIVISOR if node.term_norm == "keras" else DIVISORS[node.term_norm]
        return f"G = F Fᵀ{DIVISORS[node.gram_norm]}, {node.reduction} (G - A)²{divisor}"
    own = {"_target_": None, "norm": "none", "scale": 1.0, "redraw": 1, "directions": None, "hypercolumns": True}
    settings = [f"{key} {number(value)}" for key, value in node.items() if own.get(str(key), "") != value]
    return ", ".join([LOSSES[name], *(word for word in settings if not word.startswith("_"))])


def weights(preset: DictConfig) -> str:
    """Return alpha, beta and, if it counts, the total variation."""
    words = [number(preset.alpha), number(preset.beta), number(preset.tv)]
    variation = f" ({preset.tv_reduction} of {VARIATIONS[preset.tv_kind]})" if preset.tv else ""
    return ", ".join(words) + variation


def descent(preset: DictConfig) -> str:
    """Return optimiser, steps and all that is done at every step."""
    name = str(preset.optimizer["_target_"]).rpartition(".")[2]
    settings = [
        f"{key} {listed(value)}"
        for key, value in preset.optimizer.items()
        if not str(key).startswith("_") and (key not in USUAL or USUAL[str(key)] != value)
    ]
    scales = schedule.scales(preset)
    steps = ", ".join(str(scale.steps) for scale in scales)
    words = [" ".join([name, *settings]), f"{steps} steps"]
    if len(scales) > 1:
        words[-1] += (
            f" at {', '.join(str(scale.size) for scale in scales)} pixels ({configuration.between_scales(preset)})"
        )
    words += [f"{name} times {listed(factors)}" for name, factors in factors_of(preset.schedule.get("factors") or {})]
    if preset.parameterization.get("levels"):
        words.append(f"on a Laplacian pyramid of {preset.parameterization.levels} bands")
    words.append(f"clamp {preset.clamp}")
    rates = {key: value for key, value in preset.lr_schedule.items() if not str(key).startswith("_")}
    if rates:
        name = str(preset.lr_schedule["_target_"]).rpartition(".")[2]
        words.append(" ".join([name, *(f"{key} {listed(value)}" for key, value in rates.items())]))
    knobs = ("clamp_range", "clamp_until", "average", "clip_gradient", "stop_change")
    return "; ".join([*words, *(f"{knob} {listed(preset[knob])}" for knob in knobs if preset[knob])])


def factors_of(node: DictConfig, path: str = "") -> list[tuple[str, Any]]:
    """Return the numbers that change scale by scale, by name, each with what it is multiplied by."""
    found: list[tuple[str, Any]] = []
    for name, value in node.items():
        if name == "_target_":
            continue
        is_list = OmegaConf.is_list(value)
        found += [(f"{path}{name}", value)] if is_list else factors_of(value, f"{path}{name}.")
    return found


def start(node: DictConfig) -> str:
    """Return the start image."""
    name = str(node["_target_"]).rpartition(".from_")[2].replace("_", " ")
    settings = [listed(node[key]) for key in ("distribution", "center", "amplitude") if key in node]
    return f"{name} ({', '.join(settings)})" if settings else name


def network(preset: DictConfig) -> str:
    """Return the network and how it is fed."""
    backbone = preset.backbone
    chosen = backbones.chosen_preprocessing(backbone.weights, backbone.preprocessing)
    words = [f"{backbone.architecture}, {backbone.weights} weights", preset.pooling]
    words.append(f"{chosen}, pixels optimised in {preset.pixel_space} space")
    if backbone.padding != "zeros":
        words.append(
            f"{backbone.padding} padding of {backbone.padding_layers} layers".replace("first layers", "the first")
        )
    if backbone.rescale != "none":
        words.append("rescaled to mean activation 1")
    return "; ".join(words)


def size(preset: DictConfig) -> str:
    """Return the sizes of both images."""
    words = [f"{preset.size} ({preset.fit}), {preset.resample}"]
    if preset.style_fit == "content":
        words.append("style: the content's shape")
    if preset.style_size:
        words.append(f"style: {preset.style_size}")
    return "; ".join(words)


def comments(text: str) -> str:
    """Return the comment that a file opens with, as one line."""
    lines = []
    for line in text.removeprefix("# @package _global_\n").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def escaped(text: str) -> str:
    """Return a text without Markdown of its own."""
    return re.sub(r"([|*_])", r"\\\1", text)


def listed(value: Any) -> str:
    """Return a setting, in words."""
    return ", ".join(number(one) for one in value) if OmegaConf.is_list(value) else number(value)


def number(value: Any) -> str:
    """Return a number as briefly as it can be written."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
