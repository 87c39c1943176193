"""Terms, weights and tags: the total against sums written out in NumPy."""

import numpy as np
import pytest
import torch

from nst.errors import UserError
from nst.losses import GramLoss, MSELoss, TotalVariation
from nst.losses.objective import LayerTerm, Losses, Objective

SHAPES = {"a": (3, 4, 5), "b": (4, 3, 3), "c": (2, 2, 6)}


def maps(batch, seed=0):
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.normal(size=(batch, *shape))) for name, shape in SHAPES.items()}


def picture(batch, seed=9):
    return torch.from_numpy(np.random.default_rng(seed).uniform(size=(batch, 3, 6, 5)))


def mse(features, target):
    return ((features.numpy() - target.numpy()) ** 2).mean((1, 2, 3))


def gram_mse(features, target):
    f, s = features.numpy(), target.numpy()
    gram, other = (np.einsum("bihw,bjhw->bij", m, m) / (m.shape[2] * m.shape[3]) for m in (f, s))
    return ((gram - other) ** 2).mean((1, 2))


def variation(image):
    x = image.numpy()
    return (np.diff(x, axis=2) ** 2).mean((1, 2, 3)) + (np.diff(x, axis=3) ** 2).mean((1, 2, 3))


def objective(content_weights, style_weights, combine="mean", alpha=1.0, beta=1.0, tv=0.0, scales=(1.0, 1.0)):
    """The real losses, not normalised, against the targets ``maps(1, seed=1)`` and ``maps(1, seed=2)``."""
    content = LayerTerm("content", MSELoss("none", scale=scales[0]), content_weights, combine)
    style = LayerTerm("style", GramLoss(term_norm="none", scale=scales[1]), style_weights, combine)
    requests = content.loss_requests(targets(content, maps(1, 1))) | style.loss_requests(targets(style, maps(1, 2)))
    whole = Objective(content, style, TotalVariation(), alpha, beta, tv)
    return lambda features, pixels: whole(values(requests, features), pixels)


def targets(term, features):
    return {tag: loss.target(features[layer]) for tag, (layer, loss) in term.target_requests().items()}


def values(requests, features):
    return {tag: loss(features[layer], target) for tag, (layer, loss, target) in requests.items()}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_total_is_the_weighted_sum_of_terms_for_every_image(combine, batch):
    alpha, beta, tv = 0.7, 0.03, 11.0
    losses = objective({"a": 1.0, "b": 3.0}, {"b": 2.0, "c": 0.5}, combine, alpha, beta, tv, (5.0, 300.0))(
        maps(batch), picture(batch)
    )
    f, p, s = maps(batch), maps(1, 1), maps(1, 2)
    content = 5.0 * (1.0 * mse(f["a"], p["a"]) + 3.0 * mse(f["b"], p["b"])) / (4.0 if combine == "mean" else 1.0)
    style = 300.0 * (2.0 * gram_mse(f["b"], s["b"]) + 0.5 * gram_mse(f["c"], s["c"]))
    style /= 2.5 if combine == "mean" else 1.0
    for found, expected in (
        (losses.content, alpha * content),
        (losses.style, beta * style),
        (losses.tv, tv * variation(picture(batch))),
        (losses.total, alpha * content + beta * style + tv * variation(picture(batch))),
    ):
        assert found.shape == (batch,)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_layers_are_reported_unweighted_under_their_names():
    losses = objective({"a": 1.0, "b": 3.0}, {"b": 2.0}, "sum", 0.5, 0.1, scales=(5.0, 300.0))(maps(3), picture(3))
    f, p, s = maps(3), maps(1, 1), maps(1, 2)
    expected = {
        "content_layers/a": mse(f["a"], p["a"]),
        "content_layers/b": mse(f["b"], p["b"]),
        "style_layers/b": gram_mse(f["b"], s["b"]),
    }
    terms = {"content": 5 * (expected["content_layers/a"] + 3 * expected["content_layers/b"])}
    terms["style"] = 300 * 2 * expected["style_layers/b"]
    expected |= {f"unweighted/{name}": value for name, value in terms.items()}
    assert losses.unweighted.keys() == {*expected, "unweighted/tv"}
    for tag, value in expected.items():
        np.testing.assert_allclose(losses.unweighted[tag], value, rtol=1e-12)


def test_named_gives_every_value_once_and_detached():
    value = torch.ones(3, requires_grad=True)
    losses = Losses(value * 10, value * 5, value * 3, value * 2, {"style_layers/conv1": value * 7})
    named = losses.named()
    assert {tag: v.tolist() for tag, v in named.items()} == {
        "loss/total": [10.0] * 3,
        "loss/content": [5.0] * 3,
        "loss/style": [3.0] * 3,
        "loss/tv": [2.0] * 3,
        "style_layers/conv1": [7.0] * 3,
    }
    assert not any(v.requires_grad for v in named.values())


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_a_term_without_layers_is_zero_for_every_image(combine):
    f, s = maps(3), maps(1, 2)
    losses = objective({}, {"c": 2.0}, combine)(f, picture(3))
    weight = 1.0 if combine == "mean" else 2.0
    assert losses.content.tolist() == [0.0] * 3
    assert [tag for tag in losses.unweighted if "layers/" in tag] == ["style_layers/c"]
    np.testing.assert_allclose(losses.total, weight * gram_mse(f["c"], s["c"]), rtol=1e-12)


def test_without_tv_the_variation_is_zero_for_every_image():
    losses = objective({"a": 1.0}, {}, tv=0.0)(maps(3), picture(3))
    assert losses.tv.tolist() == [0.0] * 3
    assert losses.total.tolist() == losses.content.tolist()


def test_a_layer_with_weight_zero_is_reported_but_does_not_count():
    losses = objective({"a": 1.0, "b": 0.0}, {})(maps(2), picture(2))
    np.testing.assert_allclose(losses.total, mse(maps(2)["a"], maps(1, 1)["a"]), rtol=1e-12)
    np.testing.assert_allclose(losses.unweighted["content_layers/b"], mse(maps(2)["b"], maps(1, 1)["b"]), rtol=1e-12)


def test_every_image_of_a_batch_may_have_weights_of_its_own():
    alpha, beta, tv = torch.tensor([[1.0, 0.0, 2.0], [0.3, 0.1, 0.0], [0.0, 5.0, 1.0]], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    together = objective({"a": 1.0}, {"b": weight, "c": 1.0}, "mean", alpha, beta, tv)(maps(3), picture(3))
    for i in range(3):
        weights = ({"a": 1.0}, {"b": weight[i].item(), "c": 1.0}, "mean", alpha[i].item(), beta[i].item(), tv[i].item())
        one = {name: value[i : i + 1] for name, value in maps(3).items()}
        alone = objective(*weights)(one, picture(3)[i : i + 1])
        for name, value in alone.named().items():
            np.testing.assert_allclose(together.named()[name][i], value[0], rtol=1e-12)


def test_the_gradient_of_the_total_is_that_of_the_weighted_sum():
    whole = objective({"a": 1.0}, {"a": 2.0, "b": 1.0}, "mean", 0.7, 0.3, 2.0)

    def total(pixels):
        features = {"a": pixels.sin()[:, :, :4, :5], "b": pixels.pow(2)[:, [0, 1, 2, 0], :3, :3]}
        return whole(features, pixels).total

    assert torch.autograd.gradcheck(total, picture(2).requires_grad_())


class Returns:
    """A loss that returns whatever it is told to."""

    def __init__(self, value):
        self.value = value

    def target(self, features):
        return None

    def __call__(self, features, target):
        return self.value


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (3, 4), (2,)])
@pytest.mark.parametrize("name", ["content", "style"])
def test_a_loss_that_returns_a_wrong_shape_is_named(name, shape):
    term = LayerTerm(name, Returns(torch.ones(shape)), {"relu1_1": 1.0}, "mean")
    with pytest.raises(UserError, match=rf"{name}_loss Returns .*relu1_1.*\(3,\)"):
        term(values(term.loss_requests({f"{name}_layers/relu1_1": None}), {"relu1_1": None}), torch.ones(3, 3, 4, 4))


def test_a_loss_without_a_scale_counts_once():
    term = LayerTerm("style", Returns(torch.tensor([2.0, 3.0])), {"x": 4.0}, "sum")
    value, _ = term({"style_layers/x": torch.tensor([2.0, 3.0])}, torch.ones(2, 3, 4, 4))
    assert value.tolist() == [8.0, 12.0]


def test_a_term_with_weight_zero_is_watched_but_gives_no_gradient():
    features = {name: value.requires_grad_(True) for name, value in maps(3).items()}
    losses = objective({"a": 1.0}, {"b": 1.0}, alpha=0.0, beta=2.0)(features, picture(3))
    losses.total.sum().backward()
    assert features["a"].grad is None
    assert features["b"].grad.abs().max() > 0
    np.testing.assert_allclose(losses.unweighted["unweighted/content"], mse(maps(3)["a"], maps(1, 1)["a"]), rtol=1e-12)
    assert losses.content.tolist() == [0.0] * 3
