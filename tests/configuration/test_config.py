"""The configuration: what composes, what is refused, and what the message says. In process, so that it is quick."""

import dataclasses
import json
import re
from pathlib import Path

import make_json_schema
import pytest
import yaml
from command_line import ROOT, sketch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from nst import configuration
from nst.configuration import tasks
from nst.errors import ConfigError
from nst.runs import sweep
from nst.setup.check import check
from nst.setup.layers import layer_weights

CONF = Path(__file__).parents[2] / "conf"
RANDOM = "backbone.weights=random"


def composed(*overrides: str) -> DictConfig:
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", sketch(*overrides))


def mistakes(*overrides: str) -> list[str]:
    try:
        check(composed(*overrides))
    except ConfigError as error:
        return error.problems
    return []


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_the_defaults_pass() -> None:
    assert mistakes() == []


@pytest.mark.parametrize(
    "choice",
    [f"{g}={o}" for g in configuration.GROUPS if g not in ("layers", "backbone") for o in options(g) if o != "file"],
)
def test_every_option_of_every_group_passes(choice: str) -> None:
    # the small experiment has jitter, beside which there can be no neighbours
    assert mistakes(choice, *(["jitter=0"] if choice == "style_loss=nearest_neighbors" else [])) == []


@pytest.mark.parametrize("backbone", [name for name in options("backbone") if name != "torchvision"])
def test_every_backbone_passes_with_the_layers_of_its_name(backbone: str) -> None:
    assert mistakes(f"backbone={backbone}") == []
    assert composed(f"backbone={backbone}").layers == OmegaConf.load(CONF / "layers" / f"{backbone}.yaml")


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_passes_and_opens_with_its_command_expectation_and_source(experiment: str) -> None:
    assert mistakes(f"experiment={experiment}") == []
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    assert f"python run.py experiment={experiment}" in text
    assert "# Expect" in text
    assert "# Source:" in text


def test_what_is_typed_beats_an_experiment() -> None:
    job = composed("experiment=notebook", "beta=5", "optimizer.lr=0.5", "backbone=vgg16", "layers.style=[conv1_2]")
    assert (job.beta, job.optimizer.lr, job.backbone.architecture) == (5, 0.5, "vgg16")
    assert layer_weights(job, "style") == {"conv1_2": 1.0}


@pytest.mark.parametrize("choice", ["optimizer=lbfgs", "optimizer=lbfgsb", "style_loss=gram", "content_loss=mse"])
def test_a_group_typed_beside_an_experiment_takes_the_place_of_its_own(choice: str) -> None:
    assert mistakes("experiment=notebook", choice) == []
    group, _, option = choice.partition("=")
    assert composed("experiment=notebook", choice)[group] == composed(f"{group}={option}")[group]


def test_an_optimizer_brings_the_clamp_and_jitter_that_suit_it_and_they_can_be_overridden() -> None:
    assert (composed().clamp, composed().jitter) == ("step", 8)
    lbfgs = composed("optimizer=lbfgs")
    assert (lbfgs.clamp, lbfgs.jitter) == ("end", 0)
    assert composed("optimizer=lbfgs", "clamp=never").clamp == "never"


def test_any_optimizer_of_torch_goes_by_its_target() -> None:
    base = ("optimizer=sgd", "~optimizer.momentum")
    assert mistakes(*base, "optimizer._target_=torch.optim.Adagrad", "+optimizer.eps=1e-8") == []
    assert mistakes("~optimizer.betas", "optimizer._target_=torch.optim.RMSprop", "+optimizer.alpha=0.9") == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("alpha=-1", r"alpha=-1.0 is out of range"),
        ("beta=nan", r"beta=nan is out of range"),
        ("tv=inf", r"tv=inf is out of range"),
        ("steps=0", r"steps=0 must be a whole number"),
        ("size=0", r"size=0 is out of range: it must be from 16 to 8192"),
        ("size=1000000", r"size=1000000 is out of range"),
        ("seed=-1", r"seed=-1 is out of range"),
        ("jpeg_quality=0", r"jpeg_quality=0 is out of range"),
        ("log_every=0", r"log_every=0 is out of range"),
        ("margin=-1", r"margin=-1 is out of range"),
        ("pooling=average", r"pooling=average is not one of max, avg, l2\. Did you mean 'avg'"),
        ("fit=sqare", r"Did you mean 'square'"),
        ("clamp=always", r"clamp=always is not one of never, step, end"),
        ("precision=float46", r"Did you mean 'float"),
        ("device=cpu precision=tf32", r"precision=tf32 exists on NVIDIA's GPUs only, not on device=cpu"),
        ("engine=fast", r"engine=fast is not one of auto, plain, fused"),
        ("tile=63", r"tile=63 is neither auto, none nor a number of pixels from 64 up"),
        ("tile=1.5", r"tile=1\.5 is neither auto"),
        ("tile=-64", r"tile=-64 is neither auto"),
        ("tile=big", r"tile=big is neither auto"),
        ("engine=fused compile=true", r"compile=true goes with engine=plain or auto"),
        ("output_format=gif", r"output_format=gif is not one of png, jpeg"),
        ("device=gpu", r"device=gpu is not one of auto"),
        ("device=cuda:99", r"torch sees \d+ CUDA devices"),
        ("background=reddish", r"background=reddish is no colour"),
        ("content=chelse", r"no image file 'chelse'.*Did you mean 'chelsea'.*astronaut"),
        ("style=.", r"'\.' is a folder"),
        (
            "layers.content=[fire10]",
            r"layers\.content: There is no layer in squeezenet1_1 'fire10'\. Did you mean 'fire",
        ),
        ("layers.style=[conv1,features.0]", r"layers\.style names conv1 twice"),
        ("layers.style=[conv1:-1]", r"the weight of conv1 is -1"),
        ("layers.style=[{conv1:0}]", r"must not all be 0"),
        ("layers.style=[conv1:heavy]", r"the weight of conv1 is heavy; a number"),
        ("layers.combine=product", r"layers\.combine=product is not one of mean, sum"),
        ("+layers.contnt=[conv1]", r"There is no setting of layers 'contnt'\. Did you mean 'content'"),
        ("backbone.architecture=vgg20", r"There is no architecture 'vgg20'\. Did you mean 'vgg"),
        ("backbone.weights=w.pth", r"neither a file nor a source of weights"),
        ("backbone.preprocessing=cafe", r"Did you mean 'caffe'"),
        ("backbone.avg_scale=0", r"avg_scale=0 must be a positive number"),
        ("+backbone.pretrained=true", r"backbone: There is no argument of load 'pretrained'"),
        ("+style_loss.gram=N", r"There is no argument of GramLoss 'gram'\. Did you mean 'gram_norm'"),
        ("style_loss.gram_norm=NC", r"style_loss: .*gram_norm=NC is not one of none, N, CN"),
        ("style_loss.term_norm=-3", r"term_norm=-3 must be a number above 0"),
        (
            "style_loss.cross_layers=adjacent layers.style=[conv1]",
            r"cross_layers=adjacent needs two style layers or more",
        ),
        ("style_loss=mmd_polynomial style_loss.degree=1", r"style_loss: .*degree=1 must be a whole number from 2 up"),
        ("style_loss=mmd_gaussian tile=128", r"style_loss: GaussianMMDLoss is no function of sums"),
        ("tv_kind=cubic", r"tv_kind=cubic is not one of squared, absolute, diagonal, keras, laplacian"),
        ("content_loss.scale=0", r"scale=0 must be a number above 0"),
        ("style_loss._target_=nst.losses.GramLos", r"style_loss\._target_=nst\.losses\.GramLos cannot be imported"),
        ("optimizer.lr=-1", r"optimizer: .*Invalid learning rate"),
        ("+optimizer.learning_rate=1", r"There is no argument of Adam 'learning_rate'"),
        ("optimizer._target_=torch.optim.SGD", r"There is no argument of SGD 'betas'"),
        ("init.amplitude=0 init=noise", r"init: .*amplitude=0 must be a number above 0"),
        ("init=file init.path=nothing.png", r"init\.path=nothing\.png: There is no image file"),
        ("optimizer=lbfgs jitter=4", r"jitter=4 changes the loss at every step"),
        ("alpha=0 beta=0", r"Every term that has layers has the weight 0"),
        ("layers.content=[] layers.style=[]", r"both empty"),
        ("beta=0 layers.content=[]", r"Every term that has layers has the weight 0"),
        ("device='cpu:'", r"device=cpu: is not one of"),
        ("optimizer=lbfgs optimizer.line_search_fn=wolfe", r"only 'strong_wolfe' is supported"),
        ("optimizer=lbfgs +optimizer.max_iter=20", r"max_iter has no meaning here"),
        ("optimizer=lbfgsb optimizer.ftol=nan", r"ftol and gtol not negative"),
        ("optimizer.lr=abc", r"optimizer.lr=abc: a number is needed"),
        ("backbone.seed=abc", r"backbone\.seed=abc must be a whole number"),
        ("backbone.avg_scale=abc", r"avg_scale=abc must be a positive number"),
        (
            "backbone.padding=reflection",
            r"backbone\.padding=reflection is not one of zeros, replicate, reflect\. Did you mean 'reflect'",
        ),
        ("backbone.padding=1", r"backbone\.padding=1 is not one of zeros, replicate, reflect"),
        ("backbone.padding_layers=conv1", r"backbone\.padding_layers=conv1 is not one of first, all"),
        (
            "backbone.padding=reflect backbone.padding_layers=first",
            r"padding=reflect would change nothing.*first convolution has no padding\. Use backbone\.padding_lay",
        ),
        (
            "backbone.rescale=mean_activations",
            r"backbone\.rescale=mean_activations is not one of none, mean_activation\. Did you mean 'mean_act",
        ),
        (
            "backbone=resnet18 backbone.weights=random backbone.rescale=mean_activation",
            r"rescale=mean_activation would change what resnet18 computes.*Use backbone\.rescale=none",
        ),
        ("backbone.preprocessing=caffe255", r"no preprocessing 'caffe255'\. Did you mean 'caffe256'.*imagenet255"),
        ("init=style_color init.amplitude=-1", r"init: .*amplitude=-1 must be a number above 0"),
        ("init=style_color init.distribution=gauss", r"distribution=gauss is not one of uniform, normal"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(override: str, message: str) -> None:
    parts = re.split(r" (?=[+a-z_.]+=)", override)
    found = mistakes(*sorted(parts, key=lambda part: "." in part.partition("=")[0]))
    assert len(found) == 1, found
    assert re.search(message, found[0]), found[0]


def test_all_mistakes_come_together() -> None:
    found = mistakes("alpha=-1", "content=nope", "layers.style=[relu9]", "optimizer.lr=-1", "pooling=none")
    assert len(found) == 5
    with pytest.raises(ConfigError, match=r"(?s)5 mistakes.*1\. .*5\. "):
        check(composed("alpha=-1", "content=nope", "layers.style=[relu9]", "optimizer.lr=-1", "pooling=none"))


def test_a_missing_value_is_named() -> None:
    assert mistakes("init=file") == ["init.path has no value. Give it one: init.path=VALUE."]


def test_layers_are_a_list_or_weights_by_name_under_any_alias() -> None:
    vgg = ("backbone=vgg19", RANDOM)
    assert layer_weights(composed(*vgg, "layers.content=[features.21,conv4_3]"), "content") == {
        "conv4_2": 1.0,
        "conv4_3": 1.0,
    }
    job = composed(*vgg, "layers.style=[features.19:0.5,{relu1_1:2}]")
    assert layer_weights(job, "style") == {"conv4_1": 0.5, "relu1_1": 2.0}


def test_a_term_can_be_left_out() -> None:
    assert mistakes("layers.content=[]") == []


def test_every_knob_has_a_default_and_a_line_of_help() -> None:
    job = composed()
    for knob in dataclasses.fields(configuration.Config):
        assert knob.name in job
        assert knob.metadata["help"]
    scalars = set(OmegaConf.load(CONF / "config.yaml")) - {"defaults", "hydra"}
    known = {knob.name for knob in dataclasses.fields(configuration.Config)}
    with_the_optimizer = {"clamp", "clamp_range", "clamp_until", "clip_gradient", "jitter", "optimizer_units"}
    assert scalars == known - set(configuration.GROUPS) - with_the_optimizer - {"task", "tracking"}


@pytest.mark.parametrize(
    ("overrides", "swept", "expected"),
    [
        (["beta=0.1", "size=64"], {"beta"}, "_beta=0.1"),
        (["content='my photo.jpg'"], {"content"}, "_content=my-photo.jpg"),
        ([r"layers.style=[conv1\:5,fire2]"], {"layers.style"}, "_layers.style=conv1-5,fire2"),
        (["+optimizer.eps=1e-8"], {"optimizer.eps"}, "_optimizer.eps=1e-08"),
        (["content=/home/me/my photo.jpg"], {"content"}, "_content=my-photo.jpg"),
        ([r"content=C:\pictures\a.png"], {"content"}, "_content=a.png"),
        (["optimizer=lbfgs", "beta=1"], {"optimizer", "beta"}, "_optimizer=lbfgs,beta=1"),
        (["layers.style=[conv1,fire2]"], {"layers.style"}, "_layers.style=conv1,fire2"),
        (["beta=1"], set(), ""),
        (["content=..", "style=  "], {"content", "style"}, "_content=..,style="),
    ],
)
def test_a_folder_is_named_by_what_differs(overrides: list[str], swept: set[str], expected: str) -> None:
    assert sweep.slug(overrides, swept) == expected


def test_a_folder_name_is_safe_whatever_the_override() -> None:
    for value in ("a" * 500, 'q"<>|?*:', "äöü✓", "../../etc", "con\nrol", "'" * 9, "a/b\\c"):
        name = sweep.slug([f"x={value}"])
        assert len(name) <= 81
        assert re.fullmatch(r"[A-Za-z0-9.,=+_-]*", name)
        assert not name.endswith((".", " "))
    assert sweep.slug(["x=" + "a" * 500]) != sweep.slug(["x=" + "a" * 499 + "b"])


# What changes nothing


@pytest.mark.parametrize(
    ("overrides", "key", "is_idle"),
    [
        (("jitter=0", "init=recolored"), "seed", True),
        (("init=noise",), "seed", False),
        (("optimizer=adam",), "seed", False),  # which jitters
        (("style_loss=sliced_wasserstein",), "seed", False),
        (("jitter=0", "backbone._target_=mine.Net"), "seed", False),  # whatever it does
        ((), "size", False),
        (("schedule.sizes=[32,48]",), "size", True),
        (("schedule=pyramid", "schedule.to=256"), "size", True),
        (("schedule=single",), "schedule.factor", True),
        ((), "jpeg_quality", True),
        (("output_format=jpeg",), "jpeg_quality", False),
        ((), "tv_kind", True),
        (("tv=1",), "tv_kind", False),
        (("layers.style=[]", "tv=1"), "beta", True),
        ((), "training", True),
        (("task=train",), "training", False),
        (("task=train",), "init", True),
        (("task=apply", "model=x"), "style", True),
        (("task=apply", "model=x"), "style_weights", False),
    ],
)
def test_what_changes_nothing_is_known(overrides: tuple[str, ...], key: str, is_idle: bool) -> None:
    assert (key in tasks.idle(composed(*overrides))) == is_idle


def test_the_jobs_of_a_sweep_are_those_that_hydra_composes() -> None:
    lines = [
        [f"beta={beta}", f"optimizer={optimizer}", "layers.style=[relu1_1:2]", *more]
        for beta in (0.1, 1)
        for optimizer in ("adam", "lbfgs")
        for more in ([], ["style=[wave,mosaic]"], ["~optimizer.lr", "+optimizer.lr=0.5"], ["experiment=keras"])
    ]
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        jobs = list(sweep.composed("config", lines))
        assert [own for own, _ in jobs] == lines
        assert all(job == compose("config", own) for own, job in jobs)
        with pytest.raises(Exception, match="oops"):
            list(sweep.composed("config", [["beta=oops"]]))


def global_files() -> list[Path]:
    files = [path for folder in (CONF, ROOT / "examples") for path in folder.rglob("*.yaml")]
    return [path for path in files if path.name == "config.yaml" or path.read_text().startswith("# @package _global_")]


def test_the_json_schema_is_of_today_fits_every_file_and_finds_mistakes() -> None:
    written = (CONF / "schema.json").read_text()
    assert written == make_json_schema.page(), "run scripts/make_json_schema.py"
    jsonschema = pytest.importorskip("jsonschema")
    schema = jsonschema.Draft202012Validator(json.loads(written))
    assert len(global_files()) > 40
    for path in global_files():
        assert not list(schema.iter_errors(yaml.safe_load(path.read_text()))), path
    for mistake in (
        "beta: oops",
        "beta: -1",
        "betta: 1",
        "pooling: mean",
        "style_fit: wide",
        "optimizer: 3",
        "size: 1e+9",
    ):
        assert list(schema.iter_errors(yaml.safe_load(mistake))), mistake
    for right in ("beta: ${alpha}", "size: 0", "style_fit: null", "clamp_range: [0, 1]", "content: photo.jpg"):
        assert not list(schema.iter_errors(yaml.safe_load(right))), right
