"""A recipe in one file: what it sets of an option goes with that option, and whatever replaces it is as if alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import run
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from nst import configuration
from nst.configuration import recipes
from nst.setup.check import check

CONF = Path(__file__).parents[2] / "conf"
RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
# Of each group a common option that recipes seldom choose, and another for those that do.
OTHERS = {
    "backbone": ("squeezenet", "vgg16"),
    "content_loss": ("mse", "self_similarity"),
    "style_loss": ("gram", "moments"),
    "init": ("style", "recolored"),
    "optimizer": ("lbfgs", "adam"),
    "lr_schedule": ("none", "cosine"),
    "parameterization": ("pixels", "fourier"),
    "schedule": ("single", "pyramid"),
    "transformer": ("small", "johnson"),
    "training": ("supervised", "perceptual"),
}
OF_OPTIMIZERS = recipes.COMPANIONS["optimizer"]


def composed(*overrides: str) -> DictConfig:
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(overrides))


def groups_set(name: str) -> dict[str, str]:
    """Return the groups for whose option a recipe, or the one that it is based on, sets something, and that option."""
    values = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    defaults = values.get("defaults", [])
    bases = [entry for entry in defaults if isinstance(entry, str)]
    found = {group: option for base in bases for group, option in groups_set(base).items()}
    chosen = {
        key.removeprefix("override /"): option
        for entry in defaults
        if isinstance(entry, dict)
        for key, option in entry.items()
    }
    found |= {group: option for group, option in chosen.items() if group in values}
    if any(knob in values for knob in OF_OPTIMIZERS):
        found["optimizer"] = chosen["optimizer"]
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_that_a_recipe_sets_stays_of_an_option_that_is_replaced(name: str) -> None:
    plain = composed()
    for group, chosen in groups_set(name).items():
        if group == "layers":
            continue  # which follow the backbone
        options = ("weights",) if group == "optimizer" and composed(f"experiment={name}").task == "train" else ()
        option = next(one for one in (*options, *OTHERS[group]) if one != chosen)
        alone = composed(f"{group}={option}", *(["task=train"] if options else []))
        job = composed(f"experiment={name}", f"{group}={option}")
        check(job)
        assert job[group] == alone[group], group
        if group == "optimizer":
            assert {knob: job[knob] for knob in OF_OPTIMIZERS} == {knob: alone[knob] for knob in OF_OPTIMIZERS}
            assert options or job.lr_schedule == plain.lr_schedule
        if group == "backbone":
            assert job.layers == alone.layers


@pytest.mark.parametrize(
    "words",
    [
        "experiment=reconstruct_content init=content",
        "experiment=johnson2016 training=supervised",
        "experiment=cs231n_starry optimizer=lbfgsb",
        "experiment=keras optimizer=lbfgsb",
        "experiment=li2017_linear optimizer=lbfgsb stop_change=0",
        "experiment=ulyanov2017 lr_schedule=cosine",
        "experiment=showpiece backbone=squeezenet",
        "experiment=texture backbone=squeezenet",
        "experiment=[sketch,notebook]",
        "experiment=jcjohnson optimizer=gordicaleksa_adam",
        "optimizer=crowsonkb style_loss=li2017_bn layers=udacity backbone=vgg19",
    ],
)
def test_what_is_typed_beside_a_recipe_passes(words: str) -> None:
    check(composed(*words.split()))


def test_another_network_of_the_family_keeps_the_recipes_layers_and_arguments() -> None:
    own, other = composed("experiment=crowsonkb"), composed("experiment=crowsonkb", "backbone=vgg16")
    assert other.layers == own.layers
    differing = {name for name in own.backbone if own.backbone[name] != other.backbone[name]}
    assert differing == {"architecture", "weights"}


def test_what_a_recipe_sets_without_choosing_an_option_holds_for_any() -> None:
    job = composed("experiment=reconstruct_content", "backbone=vgg16")
    assert (job.layers.style, job.layers.content) == ([], ["relu4_2"])


def test_an_option_of_a_recipes_name_is_that_of_the_recipe() -> None:
    job, recipe = composed("optimizer=li2017_linear"), composed("experiment=li2017_linear")
    for name in ("optimizer", "lr_schedule", *OF_OPTIMIZERS):
        assert job[name] == recipe[name]
    assert composed("transformer=ulyanov2017").transformer == OmegaConf.load(CONF / "transformer" / "ulyanov2017.yaml")


def test_the_choices_recorded_are_those_of_a_reader() -> None:
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for backbone, layers in (("vgg19", "keras"), ("vgg16", "keras"), ("squeezenet", "squeezenet")):
            words = ["experiment=keras", f"backbone={backbone}"]
            choices = compose("config", words, return_hydra_config=True).hydra.runtime.choices
            kept = recipes.recorded(choices)
            assert kept.keys() == {*configuration.GROUPS, "task", "experiment", "study", "method"}
            assert (kept["backbone"], kept["layers"], kept["optimizer"]) == (backbone, layers, "keras")
            assert (kept["content_loss"], kept["study"]) == ("mse_sum", "None")


def test_a_recipe_of_ones_own_may_be_based_on_another(tmp_path: Path) -> None:
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [keras, override /init: blend]\n"
        "optimizer: {momentum: 0.5}\ninit: {noise: 0.2}\nbackbone: {seed: 7}\nbeta: 3.0\n"
    )

    def job(*words: str) -> Any:
        typed = ("--config-dir", str(tmp_path / "own"), "experiment=mine", *words, "--cfg", "job", "--resolve")
        result = run(*typed, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return yaml.safe_load(result.stdout)

    base, mine, other = composed("experiment=keras"), job(), job("optimizer=lbfgs", "init=content", "backbone=resnet18")
    assert mine["optimizer"] == {**base.optimizer, "momentum": 0.5}
    assert (mine["clamp"], mine["lr_schedule"]) == (base.clamp, base.lr_schedule)
    assert mine["backbone"] == {**base.backbone, "seed": 7}
    assert (mine["init"]["noise"], mine["beta"], mine["layers"]) == (0.2, 3.0, base.layers)
    plain = composed("optimizer=lbfgs", "init=content", "backbone=resnet18")
    for group in ("optimizer", "clamp", "lr_schedule", "init", "backbone", "layers"):
        assert other[group] == plain[group]
    assert (other["beta"], other["style_loss"]) == (3.0, base.style_loss)


def test_hydra_lists_no_option_that_a_recipe_brings() -> None:
    help_page = run("--help").stdout
    assert "optimizer: adam, keras_adam, lbfgs, lbfgsb, rmsprop, sgd, weights\n" in help_page
    assert "recipe:" not in help_page
