"""Control over the picture: several styles, their size and shape, masks, what is protected, and whose colours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import DiesAt, done_together
from command_line import ROOT, refused, run, script
from PIL import Image
from problems import composed as composed_from_files
from problems import pose, stylized

from nst import configuration, runtime
from nst.errors import ConfigError, UserError
from nst.images import color, palette, rgb
from nst.losses import GramLoss, Guided, MSELoss, is_guidable
from nst.losses.guided import guide_of
from nst.setup import fitting
from nst.setup.check import check
from nst.setup.inputs import load_images

PLAIN = ("size=48", "steps=2", "precision=float64", "margin=0", "jitter=0", "engine=plain", "evaluator=none")
pytestmark = pytest.mark.usefixtures("nothing_kept")
LAYERS = ("layers.content=[fire3]", "layers.style=[relu1,fire3]", "layers.combine=sum")


@pytest.fixture
def masks(tmp_path: Path) -> list[str]:
    """Left and right of the picture, as files; coffee is 48 x 32 at this size."""
    left = np.zeros((32, 48), np.uint8)
    left[:, :20] = 255
    left[:, 20:24] = 128
    for name, mask in (("left", left), ("right", 255 - left)):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    return [str(tmp_path / "left.png"), str(tmp_path / "right.png")]


def composed(*overrides):
    job = composed_from_files(*PLAIN, *overrides)
    check(job)
    return job


def posed(*overrides):
    return pose(composed(*overrides))


def noisy(problem):
    generator = torch.Generator().manual_seed(1)
    return (problem.start + 0.2 * torch.randn(problem.start.shape, generator=generator, dtype=torch.float64)).clamp(
        0, 1
    )


def named(problem, pixels=None):
    values = problem.evaluate(noisy(problem) if pixels is None else pixels).named()
    return {tag: value.item() for tag, value in values.items()}


def maps_of(problem, image):
    """The network's maps as NumPy arrays (C, H, W)."""
    maps = problem.backbone(problem.backbone.preprocessing(image))
    return {name: activation[0].numpy() for name, activation in maps.items()}


def test_a_blend_is_the_weighted_mean_of_the_styles_own_terms():
    blend = posed("style=[swirls,mosaic,wave]", "style_weights=[2,1,1]")
    alone = [named(posed(f"style={style}"))["unweighted/style"] for style in ("swirls", "mosaic", "wave")]
    found = named(blend)
    assert found["unweighted/style"] == pytest.approx(np.average(alone, weights=[2, 1, 1]), rel=1e-12)
    assert [found[f"styles/{style}"] for style in ("swirls", "mosaic", "wave")] == pytest.approx(alone, rel=1e-12)
    assert found["loss/style"] == pytest.approx(0.01 * found["unweighted/style"], rel=1e-12)
    assert {"style_layers/wave/fire4", "style_layers/mosaic/conv1"} <= found.keys()


def test_with_fixed_norms_a_blend_descends_like_one_loss_with_blended_targets():
    fixed = ("style_loss=gram_raw", "style_loss.gram_norm=N", *LAYERS)
    blend = posed("style=[swirls,mosaic]", "style_weights=[3,1]", "alpha=0", *fixed)
    pixels = noisy(blend).requires_grad_(True)
    gradient = blend.gradient(pixels)

    def gram(image):
        maps = blend.backbone(blend.backbone.preprocessing(image))
        return [torch.einsum("bchw,bdhw->cd", m, m) / (m.shape[2] * m.shape[3]) for m in (maps["relu1"], maps["fire3"])]

    swirls, mosaic = (gram(style) for style in blend.inputs.styles)
    loss = sum(
        (own - (0.75 * a + 0.25 * b)).square().mean() for own, a, b in zip(gram(pixels), swirls, mosaic, strict=True)
    )
    (expected,) = torch.autograd.grad(0.01 * loss, pixels)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


def test_one_style_in_a_list_is_the_style_alone():
    assert named(posed("style=[mosaic]")) == named(posed("style=mosaic"))


@pytest.mark.parametrize("loss", ["gram", "gram_raw"])
def test_masks_send_each_style_to_its_region(masks, loss):
    problem = posed("style=[swirls,mosaic]", f"style_masks=[{','.join(masks)}]", f"style_loss={loss}", *LAYERS)
    pixels = noisy(problem)
    ours, found = maps_of(problem, pixels), named(problem)
    areas, values = [], []
    for place, (style, file) in enumerate(zip(("swirls", "mosaic"), masks, strict=True)):
        mask = np.asarray(Image.open(file), np.float64) / 255
        areas.append(mask.mean())
        target = maps_of(problem, problem.inputs.styles[place])
        value = 0.0
        for layer in ("relu1", "fire3"):
            features, painted = ours[layer], target[layer]
            weights = shrunk(mask, features.shape[1:]) ** 2
            divisor = 1 if loss == "gram_raw" else features[0].size
            gram = np.einsum("hw,chw,dhw->cd", weights / weights.mean(), features, features) / divisor
            wanted = np.einsum("chw,dhw->cd", painted, painted) / (1 if loss == "gram_raw" else painted[0].size)
            error = ((gram - wanted) ** 2).mean() / (1 if loss == "gram_raw" else (wanted**2).mean())
            assert found[f"style_layers/{style}/{layer}"] == pytest.approx(error, rel=1e-9)
            value += error
        values.append(value * (1 if loss == "gram_raw" else 600))
    assert found["unweighted/style"] == pytest.approx(np.average(values, weights=areas), rel=1e-9)


def shrunk(mask, shape):
    """Average a mask over the pixels that each position covers, by hand."""
    rows, columns = shape
    found = np.empty(shape)
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * mask.shape[0] // rows, -(-(i + 1) * mask.shape[0] // rows)
            left, right = j * mask.shape[1] // columns, -(-(j + 1) * mask.shape[1] // columns)
            found[i, j] = mask[top:bottom, left:right].mean()
    return found


def test_a_style_outside_its_region_has_no_gradient(masks):
    problem = posed("style=[mosaic]", f"style_masks=[{masks[0]}]", "alpha=0", "layers.style=[relu1]")
    gradient = problem.gradient(noisy(problem))
    assert gradient[..., :20].abs().max() > 0
    assert not gradient[..., 28:].any()  # where relu1 sees nothing but black


def test_masks_follow_the_jitter_and_the_margin(masks):
    jittered = (
        "jitter=4",
        "margin=6",
        "alpha=0",
        f"style_masks=[{masks[0]}]",
        "style=[mosaic]",
        "layers.style=[relu1]",
    )
    problem = posed(*jittered)
    gradient = problem.gradient(noisy(problem), (3, 2))
    assert not gradient[..., 30:41].any()  # beyond, the right margin is rolled to the left border
    assert gradient[..., 4:18].abs().max() > 0


def test_the_engines_agree_on_regions(masks):
    both = [
        posed("style=[swirls,mosaic]", f"style_masks=[{','.join(masks)}]", f"engine={engine}")
        for engine in ("plain", "fused")
    ]
    gradients = [problem.gradient(noisy(problem)) for problem in both]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-11 * float(gradients[0].abs().max()))
    assert "Guided" in both[1].engine


def test_a_guide_of_ones_changes_nothing_and_a_guide_has_the_mean_one():
    features, target = torch.rand(2, 5, 6, 7, dtype=torch.float64), torch.rand(1, 5, 8, 3, dtype=torch.float64)
    loss = GramLoss()
    whole = Guided(loss, torch.ones(1, 1, 24, 28, dtype=torch.float64))
    assert torch.allclose(whole(features, loss.target(target)), loss(features, loss.target(target)), rtol=1e-12)
    guide = guide_of(torch.rand(1, 1, 24, 28, dtype=torch.float64), (6, 7))
    assert guide.shape == (1, 1, 6, 7)
    assert guide.mean().item() == pytest.approx(1)


def test_a_loss_that_knows_no_region_is_told_apart():
    assert is_guidable(GramLoss())
    assert not is_guidable(MSELoss())


def test_what_is_protected_stays_the_content_to_the_byte(tmp_path, masks):
    left = rgb.load_mask(masks[0], (48, 32))
    problem = posed(f"content_mask={masks[0]}", "init=noise", "steps=5", "optimizer.lr=0.1")
    canvas = problem.canvas
    outcome = problem.optimize(clamp="never")
    painted, content = canvas.decode(outcome.last.pixels), problem.inputs.content
    kept = left.expand(1, 3, -1, -1) == 1
    assert torch.allclose(painted[kept], content[kept], atol=1e-15)
    assert not torch.allclose(painted[~kept], content[~kept], atol=1e-2)
    soft = (left > 0) & (left < 1)  # between, both are mixed
    share = left[soft][0].double()
    assert torch.allclose(
        painted[soft.expand(1, 3, -1, -1)],
        (share * content + (1 - share) * outcome.last.pixels)[soft.expand(1, 3, -1, -1)],
        atol=1e-12,
    )


def test_the_style_is_looked_for_only_where_something_is_painted(masks):
    protected = posed(f"content_mask={masks[0]}", "alpha=0", *LAYERS)
    region = posed("style=[swirls]", f"style_masks=[{masks[1]}]", "alpha=0", *LAYERS)
    pixels = protected.canvas.paint(noisy(protected))
    assert named(protected)["unweighted/style"] == pytest.approx(named(region, pixels)["unweighted/style"], rel=1e-9)


def test_luminance_only_keeps_the_colours_of_the_content_and_hides_them_from_the_network():
    problem = posed("color=luminance")
    inputs = problem.inputs
    for image in (inputs.content, *inputs.styles):
        assert torch.equal(image[:, :1].expand(-1, 3, -1, -1), image)
    grey, original = inputs.style[0, 0], rgb.load("coffee", 48).double()
    assert grey.mean().item() == pytest.approx(color.luminance(original).mean().item(), abs=0.02)
    painted = problem.canvas.decode(noisy(problem))
    chroma = torch.tensor([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)  # I and Q of YIQ
    assert torch.allclose(
        torch.einsum("kc,bchw->bkhw", chroma, painted), torch.einsum("kc,bchw->bkhw", chroma, original), atol=1e-12
    )
    assert torch.allclose(color.luminance(painted), color.luminance(noisy(problem)), atol=1e-12)


def test_recolored_changes_what_is_shown_and_not_what_is_optimised(masks):
    two = ("style=[swirls,mosaic]", "style_weights=[2,1]", f"style_masks=[{','.join(masks)}]")
    problem, plain = posed("color=recolored", *two), posed(*two)
    pixels, inputs = noisy(problem), problem.inputs
    assert named(problem, pixels) == named(plain, pixels)
    alone = [palette.recolored(pixels, [palette.palette(inputs.content, style)]) for style in inputs.styles]
    left = torch.from_numpy(np.asarray(Image.open(masks[0]), np.float64) / 255)
    share = 2 * left.clamp(min=1e-6) / (2 * left.clamp(min=1e-6) + (1 - left).clamp(min=1e-6))
    torch.testing.assert_close(problem.canvas.decode(pixels), share * alone[0] + (1 - share) * alone[1])


@pytest.mark.parametrize("kind", ["recolored", "luminance"])
def test_coarse_to_fine_in_a_batch_and_resumed_the_picture_has_its_colours(tmp_path, kind):
    common = (
        *("size=48", "schedule=pyramid", "schedule.from=32", "steps=3", "log_every=1", "save_every=1", f"color={kind}"),
        *("fit=square", "evaluator=none", "precision=float64", "checkpoint_steps=2", "checkpoint_seconds=0"),
    )
    jobs = [common, (*common, "content=chelsea", "style=mosaic")]
    done_together(tmp_path / "batch", *jobs)
    for number, overrides in enumerate(jobs):
        with pytest.raises(runtime.Interrupted):
            stylized(tmp_path / str(number), *overrides, stop=DiesAt(4))
        session = stylized(tmp_path / str(number), *overrides)
        for path in sorted((tmp_path / str(number)).glob("frames/*.png")):
            other = tmp_path / "batch" / str(number) / "frames" / path.name
            assert path.read_bytes() == other.read_bytes()
        result = (tmp_path / str(number) / "result.png").read_bytes()
        assert result == (tmp_path / "batch" / str(number) / "result.png").read_bytes()
        inputs, pixels = load_images(session.config, torch.device("cpu")), session.latest.step.pixels
        if kind == "recolored":
            shown = palette.recolored(pixels, [palette.palette(inputs.content, inputs.style)])
        else:
            shown = color.with_luminance(inputs.colors, color.luminance(pixels)).clamp(0, 1)
        assert result == rgb.encode(shown, shape=inputs.shape)


@pytest.mark.parametrize("kind", ["match_pca", "match_cholesky", "match_histogram"])
def test_the_style_gets_the_contents_colours_first(kind):
    matched, plain = posed(f"color={kind}").inputs, posed().inputs
    assert torch.equal(matched.content, plain.content)
    assert torch.allclose(matched.style.mean((2, 3)), plain.content.mean((2, 3)), atol=0.02)  # but for clamping
    assert not torch.allclose(plain.style.mean((2, 3)), plain.content.mean((2, 3)), atol=0.05)
    assert matched.style.min() >= 0
    assert matched.style.max() <= 1


def test_the_styles_size_and_shape_are_their_own():
    sized = posed("style=[swirls,wave]", "style_size=[64,32]").inputs
    assert [max(style.shape[2:]) for style in sized.styles] == [64, 32]
    assert sized.content.shape[2:] == (32, 48)
    assert posed("style_fit=content").inputs.style.shape == sized.content.shape
    assert posed("style_fit=square").inputs.style.shape == (1, 3, 48, 48)
    short = posed("style_fit=short", "style_size=40").inputs.style
    assert min(short.shape[2:]) == 40


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["style=[]"], "names no style image"),
        (["style=[swirls,mosaic]", "style_weights=[1]"], "style_weights has 1 entry and style 2 entries"),
        (["style=[swirls,mosaic]", "style_weights=[1,-2]"], "style_weights: -2 is no number above 0"),
        (["style=[swirls,mosaic]", "style_size=[64,1.5]"], "style_size: 1.5 is no whole number"),
        (["style_size=9999"], "style_size=9999 is out of range"),
        (["style_fit=cotnent"], "style_fit=cotnent is not one of .* Did you mean .*content"),
        (["style_fit=content", "style_size=64"], "style_size has no meaning"),
        (["style=[swirls,moziac]"], r"style\[1\]=moziac: There is no image file .* Did you mean .*mosaic"),
        (["style_masks=nowhere.png"], "style_masks=nowhere.png: There is no image file"),
        (["content_mask=nowhere.png"], "content_mask=nowhere.png: There is no image file"),
        (["color=luminence"], "color=luminence is not one of .* Did you mean .*luminance"),
        (["style_masks=coffee", "style_loss=mrf"], "cannot be confined to a region. These can: style_loss=gram"),
        (["style_masks=coffee", "tile=64"], "tile=64 .* masks"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(overrides, words):
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        composed(*overrides)


def test_a_mask_with_nowhere_to_go_is_refused(tmp_path, masks):
    Image.new("L", (48, 32)).save(tmp_path / "black.png")
    Image.new("L", (48, 32), 255).save(tmp_path / "white.png")
    with pytest.raises(UserError, match="black everywhere"):
        posed(f"style_masks=[{tmp_path}/black.png]", "style=[swirls]")
    with pytest.raises(UserError, match="nothing can be painted"):
        posed(f"content_mask={tmp_path}/white.png")


def test_a_mask_of_another_shape_is_stretched_with_a_warning(tmp_path, caplog):
    Image.new("L", (20, 20), 200).save(tmp_path / "square.png")
    mask = rgb.load_mask(str(tmp_path / "square.png"), (48, 32), (48, 32))
    assert mask.shape == (1, 1, 32, 48)
    assert torch.allclose(mask, torch.tensor(200 / 255, dtype=torch.float64))
    assert "20 x 20 pixels and is stretched to the content's 48 x 32" in caplog.text


def test_from_the_command_line_with_everything_resumed_scored_and_reproduced(tmp_path, masks):
    folder = tmp_path / "run"
    everything = (
        "style=[swirls,mosaic]", "style_weights=[2,1]", f"style_masks=[{','.join(masks)}]", "style_size=40",
        f"content_mask={masks[1]}", "color=luminance", "size=48", "steps=4", "log_every=1", f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert run(*everything).returncode == 0
    record = json.loads((folder / "run.json").read_text())
    assert set(record["further_images"]) == {"style[1]", "style_masks[0]", "style_masks[1]", "content_mask"}
    assert record["style"]["name"] == "swirls"
    assert record["scores"]["style_distance"] > 0
    header = (folder / "metrics.csv").read_text().splitlines()[0]
    assert "styles/mosaic" in header
    result = (folder / "result.png").read_bytes()
    Image.open(masks[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(masks[0])
    assert "style_masks[0] image" in refused(run(f"resume={folder}"))
    assert (folder / "result.png").read_bytes() == result
    again = reproduce(folder)
    assert again.returncode != 0
    assert "left.png" in again.stderr + again.stdout
    Image.open(masks[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(masks[0])
    again = reproduce(folder)
    assert again.returncode == 0, again.stdout + again.stderr


def reproduce(folder):
    return script(ROOT / "scripts" / "reproduce.py", folder)


def test_styles_of_equal_names_are_told_apart(tmp_path):
    for folder, name in (("x", "a"), ("y", "a"), ("x", "2_a")):
        (tmp_path / folder).mkdir(exist_ok=True)
        picture = np.random.default_rng(len(name)).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / folder / f"{name}.png")
    names = ",".join(str(tmp_path / name) for name in ("x/a.png", "y/a.png", "x/2_a.png"))
    tags = [tag for tag in named(posed(f"style=[{names}]")) if tag.startswith("styles/")]
    assert tags == ["styles/1_a", "styles/2_a", "styles/3_2_a"]


@pytest.mark.parametrize("value", ["big", "[]", "{a:1}", "-3"])
def test_a_style_size_that_is_no_size_is_one_message(value):
    with pytest.raises(ConfigError, match="style_size"):
        composed(f"style_size={value}", "schedule=pyramid")


def test_the_styles_of_a_batch_have_the_colours_of_their_own_contents():
    jobs = [composed("color=match_pca", "fit=square", f"content={name}") for name in ("coffee", "chelsea")]
    alone = [pose(job) for job in jobs]
    joint, _ = fitting.take_targets(jobs, alone[0].backbone, [one.inputs for one in alone])
    found = joint(torch.cat([noisy(one) for one in alone]), (0, 0), 0).unweighted["unweighted/style"]
    assert found.tolist() == pytest.approx([named(one)["unweighted/style"] for one in alone], rel=1e-9)


def test_a_small_white_spot_is_not_rounded_away(tmp_path):
    mask = np.zeros((640, 960), np.uint8)
    mask[100, 100] = 255
    Image.fromarray(mask).save(tmp_path / "spot.png")
    found = rgb.load_mask(str(tmp_path / "spot.png"), (48, 32))
    assert found[0, 0, 5, 5].item() == pytest.approx(1 / 400)
    assert torch.count_nonzero(found) == 1


def test_inspect_is_shown_what_the_network_sees():
    problem = posed("color=luminance", "init=content")
    canvas = problem.canvas
    torch.testing.assert_close(canvas.seen(problem.start), problem.inputs.content, rtol=0, atol=1e-12)
    assert not torch.allclose(canvas.decode(problem.start), problem.inputs.content, atol=0.1)


@pytest.mark.parametrize("loss", ["relaxed_emd", "gaussian_wasserstein"])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_style_map_without_variety_divides_by_no_rounding(loss, value):
    job = composed(f"style_loss={loss}")
    made = configuration.build(job.style_loss)
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, 8, 6, 5, generator=generator)
    found = made(features, made.target(torch.full((1, 8, 6, 5), value))).item()
    assert 0 < found < 100


def test_with_luminance_only_the_colours_of_the_pixels_do_not_count():
    problem = posed("color=luminance", "tv=1", "pixel_space=network")
    pixels = noisy(problem)
    grey = problem.space.encode(color.luminance(problem.space.decode(pixels)).expand(-1, 3, -1, -1))
    assert named(problem, pixels) == pytest.approx(named(problem, grey), rel=1e-9)


def test_the_variation_is_that_of_the_painted_picture(masks):
    problem = posed(f"content_mask={masks[0]}", "tv=1")
    pixels = noisy(problem)
    painted = problem.canvas.paint(pixels)
    down, across = painted.diff(dim=2).square().mean(), painted.diff(dim=3).square().mean()
    assert named(problem, pixels)["loss/tv"] == pytest.approx((down + across).item(), rel=1e-9)
    assert not torch.allclose(painted, pixels)


def test_a_mask_goes_by_the_shape_that_a_squeezed_picture_gets_back(masks, caplog):
    posed("fit=square", f"content_mask={masks[0]}")  # of the content's own shape
    assert "is stretched" not in caplog.text
