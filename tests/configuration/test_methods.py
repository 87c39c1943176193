"""The methods of study=methods: what they share, what each is, and how the weight of each is found."""

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from command_line import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nst import configuration
from nst.setup.check import check

sys.path.insert(0, str(ROOT / "scripts"))
from tune_methods import METHODS, tune

TRAINED = ("fast", "adain")


def composed(*overrides: str) -> dict[str, Any]:
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        job = compose("config", list(overrides))
    check(job)
    found: Any = OmegaConf.to_container(job, resolve=True)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_the_style_loss_of_its_name_and_its_weight_and_all_else_is_gram_s(method: str) -> None:
    job, gram = composed(f"method={method}"), composed("method=gram")
    text = (ROOT / "conf" / "method" / f"{method}.yaml").read_text()
    assert f"#   python run.py method={method} content=photo.jpg style=painting.jpg" in text
    assert job["backbone"] == gram["backbone"]
    if method in TRAINED:
        assert job["task"] == "train"
        assert job["layers"] == gram["layers"]
    elif job["task"] == "optimize" and "- gram\n" in text:
        fewer = ["style_loss.directions=32"] if method == "sliced_wasserstein" else []
        assert job["style_loss"] == composed(f"style_loss={method}", *fewer)["style_loss"]
        assert {name for name in job if job[name] != gram[name]} <= {"style_loss", "beta"}


def test_what_is_typed_beside_a_method_wins() -> None:
    job = composed("method=moments", "beta=3", "style_loss=mrf", "optimizer=lbfgs", "pair=[chelsea,wave]")
    assert (job["beta"], job["style_loss"]["_target_"]) == (3, "nst.losses.MRFLoss")
    assert job["optimizer"]["_target_"] == "torch.optim.LBFGS"
    assert (job["content"], job["style"]) == ("chelsea", "wave")


def test_every_method_is_in_the_study_and_on_its_page() -> None:
    study = (ROOT / "conf" / "study" / "methods.yaml").read_text()
    page = (ROOT / "docs" / "methods.md").read_text()
    for method in METHODS:
        assert method in study
        assert f"`{method}`" in page


def test_the_pairs_of_the_study_are_not_those_that_weights_are_tuned_on() -> None:
    from calibrate import PAIRS

    study = (ROOT / "conf" / "study" / "methods.yaml").read_text()
    assert study.count("],[") == 3
    assert not any(f"[{content},{style}]" in study for content, style in PAIRS)


@pytest.mark.parametrize(
    ("distance", "slope"),
    [
        (lambda weight: 0.6 / (1 + 0.05 / weight**0.7), 0.2),
        (lambda weight: 0.6 + 0.08 * math.log10(weight), 0.2),
        (lambda weight: 0.5 * weight**-0.3, -0.2),
        (lambda weight: 0.6 / (1 + 1e-3 / weight), 0.2),
    ],
)
def test_a_weight_is_found_in_few_tries(distance: Callable[[float], float], slope: float) -> None:
    tried = []

    def measure(weight: float) -> float:
        tried.append(weight)
        return distance(weight)

    weight, found = tune(measure, 0.01, 0.45, slope)
    assert found == pytest.approx(0.45, rel=0.02)
    assert distance(weight) == found
    assert len(tried) <= 6


def test_a_distance_that_cannot_be_had_gives_the_nearest() -> None:
    weight, found = tune(lambda weight: 0.3 + 0.01 * math.atan(math.log(weight)), 1.0, 0.45, 0.2)
    assert found == pytest.approx(0.3157, abs=0.001)
    assert weight > 1
