"""What is optimised: what is kept between runs, tiles where memory is short, and the step replayed from a recording."""

import functools
import logging

import pytest
import torch
from cachetools import LRUCache
from problems import CPU, composed, pose

from nst import runtime
from nst.engines import replay
from nst.engines.fused import Fused
from nst.errors import ConfigError, UserError
from nst.networks import backbones, weights
from nst.runtime import memory
from nst.setup import fitting, objective
from nst.setup.check import check
from nst.setup.inputs import load_images
from nst.setup.network import load_network
from nst.setup.objective import PictureLoss

TINY = ("size=64", "steps=2")
pytestmark = pytest.mark.usefixtures("nothing_kept")


def posed(*overrides):
    return pose(composed(*TINY, *overrides))


def value(problem, shift=(0, 0)):
    return problem.evaluate(shift=shift).total.item()


def count(monkeypatch, owner, name):
    """Count the calls of a function or method."""
    calls, original = [], getattr(owner, name)

    def counted(*arguments, **named):
        calls.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_runs_of_a_process_share_network_and_targets(monkeypatch):
    loads = count(monkeypatch, weights, "load")
    taken = count(monkeypatch, Fused, "targets")
    value(posed("beta=0.1"), (1, 2))
    begun = len(taken)
    second = posed("beta=0.2", "seed=1")
    value(second, (1, 2))
    assert len(loads) == 1
    rehearsed = [arguments for arguments in taken[begun:] if not arguments[1].is_meta]
    assert rehearsed == []  # the content image at both shifts and the style image had been seen
    third = posed("style=hatching")
    assert [arguments[1].is_meta for arguments in taken[begun:]].count(False) == 1  # the other style image
    assert value(third) != value(second)


@pytest.mark.parametrize(
    "other",
    ["pooling=max", "layers.style=[fire2]", "precision=float64", "margin=0", "style_loss.gram_norm=CN", "size=72"],
)
def test_what_is_kept_is_never_taken_for_something_else(other):
    shared = "style_loss.term_norm=none"  # so that the size of the targets shows
    value(posed(shared))
    after = value(posed(shared, other))
    fitting.forget()
    assert after == value(posed(shared, other))


def test_weights_that_change_on_disk_are_loaded_again(tmp_path, folder=None):
    from safetensors.torch import save_file

    layers = ["relu1", "fire2", "fire3", "fire4"]
    chosen = ["layers.content=[fire4]", "layers.style=[relu1,fire2]", "backbone.preprocessing=none"]
    found = []
    for seed in (0, 1):
        network = backbones.load("squeezenet1_1", "random", layers, seed=seed)
        tensors = {
            f"features.{name.removeprefix('stack.')}": t.contiguous() for name, t in network.state_dict().items()
        }
        save_file(tensors, tmp_path / "own.safetensors")
        found.append(value(posed(*chosen, f"backbone.weights='{folder or tmp_path}/own.safetensors'")))
    assert found[0] != found[1]


def test_a_folder_of_weights_may_be_named_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    test_weights_that_change_on_disk_are_loaded_again(tmp_path, "~")


def test_tf32_has_targets_of_its_own(monkeypatch):
    taken = count(monkeypatch, Fused, "targets")
    try:
        for allowed in (False, True, False):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            value(posed())
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert [arguments[1].is_meta for arguments in taken].count(False) == 4  # content and style, twice


def test_what_is_kept_longest_unused_goes_and_what_is_too_large_is_not_kept():
    cache = LRUCache(10, len)
    for name in ("aaaa", "bbbb"):
        assert objective.cached(cache, name, lambda name=name: name) == name
    objective.cached(cache, "aaaa", lambda: pytest.fail("it is kept"))
    objective.cached(cache, "cccc", lambda: "cccc")
    assert set(cache) == {"aaaa", "cccc"}  # b was used longest ago
    assert objective.cached(cache, "large", lambda: "x" * 99) == "x" * 99
    assert set(cache) == {"aaaa", "cccc"}


def test_a_picture_too_large_for_the_memory_is_computed_in_tiles(monkeypatch, caplog):
    chosen = composed(*TINY, "size=900", "precision=float32", "jitter=0")
    runtime.prepare("cpu", "float32")  # from here on the peak counts
    whole = pose(chosen)
    room = int(0.8 * whole.fit.need.further)
    assert whole.engine == "fused"
    fitting.forget()
    monkeypatch.setattr(memory, "free_bytes", lambda device: room)
    runtime.prepare("cpu", "float32")
    with caplog.at_level(logging.INFO):
        tiled = pose(chosen)
    assert tiled.engine in {f"fused, in tiles of {side} pixels" for side in fitting.TILES if side < 900}
    assert "with the same gradient" in caplog.text
    assert tiled.fit.need.further <= room
    assert value(tiled) == pytest.approx(value(whole), rel=1e-5)
    caplog.clear()
    posed("size=900", "tile=none")
    assert "are free" in caplog.text  # the warning
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000)
    assert pose(chosen).engine == "fused"  # nothing would fit


class Median:
    def __init__(self, **ignored):
        pass

    def target(self, features):
        return features.flatten(2).median(2).values

    def __call__(self, features, target):
        return (features.flatten(2).median(2).values - target).square().mean(1)


def test_a_loss_that_cannot_be_tiled_says_so(monkeypatch, caplog):
    own = "style_loss={_target_: test_setup.Median}"
    with pytest.raises(UserError, match=r"tile=64: Median is no function of sums .* Use tile=none"):
        posed(own, "tile=64")
    with pytest.raises(ConfigError, match=r"style_loss: Median is no function of sums .* tile=none"):
        check(composed(*TINY, own, "tile=64"))
    need = posed(own).fit.need
    monkeypatch.setattr(memory, "free_bytes", lambda device: need.further // 2)
    with caplog.at_level(logging.INFO):
        assert posed(own).engine == "fused, Median under autograd"
    assert "not computed in tiles: Median is no function of sums over positions" in caplog.text


class AsOnGPU(PictureLoss):
    """Takes the CPU for a GPU."""

    @property
    def device(self):
        return torch.device("cuda")

    @device.setter
    def device(self, value):
        pass


def on_a_gpu(*overrides):
    config = composed(*TINY, "cuda_graph=true", *overrides)
    return AsOnGPU([config], load_network(config, CPU), [load_images(config, CPU)])


@pytest.mark.parametrize("recorder", ["as it is", "cannot"])
def test_a_replayed_step_is_the_step(recorder, monkeypatch):
    """Without a GPU the recording is played by a stand-in, which overwrites its results as a graph does."""
    chosen = "precision=float64", "beta=0.1", "tv=0.3"
    problem = posed(*chosen)
    calls = []

    def record(function, sample):
        if recorder == "cannot":
            return None
        memory_of_graph = []

        def play(*arguments):
            calls.append(arguments)
            total, values = function(*arguments)
            if not memory_of_graph:
                memory_of_graph.append(values)
            memory_of_graph[0].copy_(values)
            return total, memory_of_graph[0]

        return play

    monkeypatch.setattr(replay, "Replay", functools.partial(replay.Replay, record=record))
    replayed = on_a_gpu(*chosen)
    seen = []
    for step, shift in enumerate(((0, 0), (3, 1), (7, 7))):
        results = []
        for losses_of in (problem.losses, replayed):
            pixels = (problem.start + 0.1).requires_grad_(True)
            losses = losses_of(pixels, shift, step)
            (gradient,) = torch.autograd.grad(losses.total.sum(), pixels)
            results.append((losses, gradient))
        (expected, wanted), (found, gradient) = results
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-14)
        seen.append((expected.named(), found))
    for expected, found in seen:  # earlier ones have not been overwritten
        assert list(found.named()) == list(expected)
        for tag, number in expected.items():
            torch.testing.assert_close(found.named()[tag], number, rtol=1e-10, atol=1e-14)
    assert len(calls) == (3 if recorder == "as it is" else 0)


@pytest.mark.parametrize(
    ("overrides", "recorded"),
    [
        ((), True),
        (("style_loss=mrf",), True),
        (("cuda_graph=false",), False),
        (("style_loss=gaussian_wasserstein",), False),  # waits for the device
        (("style_loss=sliced_wasserstein",), False),  # draws at each step
        (("content_loss=self_similarity",), False),
    ],
)
def test_what_waits_for_the_device_or_draws_is_not_recorded(overrides, recorded, monkeypatch):
    made = count(monkeypatch, replay, "Replay")
    on_a_gpu(*overrides)
    assert bool(made) == recorded


def test_an_image_is_told_from_others_once_whatever_the_shifts(monkeypatch):
    asked = count(monkeypatch, objective, "_identity")
    problem = posed()
    for shift in ((0, 0), (1, 2), (3, 1), (7, 7), (5, 0)):
        value(problem, shift)
    assert len(asked) == 2  # content and style
