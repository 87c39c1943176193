"""What is optimised: pixels, a Laplacian pyramid, Fourier coefficients; each beside NumPy, SciPy and torch's own."""

import functools
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kill_and_resume
import numpy as np
import pytest
import torch
from batches import done_together, rows
from problems import composed, posed, stylized
from torch.nn import functional as nnf

from nst.errors import ConfigError
from nst.images.bands import finest_band, resized
from nst.losses.objective import Losses
from nst.optimization import schedule
from nst.optimization.loop import optimize
from nst.optimization.optimizers import ScipyLBFGSB
from nst.optimization.parameterization import COLORS, Fourier, Laplacian, Parameterization, Pixels
from nst.optimization.state import Callback, Options, State
from nst.runs import checkpoint
from nst.setup import check

KINDS: dict[str, Parameterization] = {
    "pixels": Pixels(),
    "laplacian": Laplacian(3),
    "deep": Laplacian(9),
    "fourier": Fourier(),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
SIZES = [(33, 47), (32, 48), (16, 17), (7, 2), (1, 5)]
OPTIMIZERS: dict[str, Any] = {
    "adam": functools.partial(torch.optim.Adam, lr=0.02),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=0.005),
    "sgd": functools.partial(torch.optim.SGD, lr=0.001, momentum=0.9),
    "lbfgs": functools.partial(torch.optim.LBFGS, lr=0.5, tolerance_grad=0.0, tolerance_change=0.0),
    "wolfe": functools.partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"),
    "scipy": ScipyLBFGSB(block=5),
}


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, shape)).to(dtype)


# ---------------------------------------------------------------- the coefficients


@every_kind
@pytest.mark.parametrize("size", SIZES)
def test_the_picture_of_the_coefficients_of_a_picture_is_that_picture(kind: str, size: tuple[int, int]) -> None:
    picture = pictures(2, 3, *size)
    made = KINDS[kind].picture(KINDS[kind].coefficients(picture), size)
    torch.testing.assert_close(made, picture, rtol=0, atol=1e-12)


@every_kind
def test_both_ways_are_linear(kind: str) -> None:
    a, b = pictures(1, 3, 9, 8), pictures(1, 3, 9, 8, seed=1)
    one, two, both = (KINDS[kind].coefficients(picture) for picture in (a, b, 2 * a - 3 * b))
    for first, second, mixed in zip(one, two, both, strict=True):
        torch.testing.assert_close(mixed, 2 * first - 3 * second)
    free = [torch.randn_like(tensor) for tensor in one]  # also those that are no picture's own
    mixed = KINDS[kind].picture([2 * f + t for f, t in zip(free, one, strict=True)], (9, 8))
    torch.testing.assert_close(mixed, 2 * KINDS[kind].picture(free, (9, 8)) + a)


@every_kind
@pytest.mark.parametrize("size", [(5, 6), (4, 7)])
def test_the_gradient_with_respect_to_the_coefficients(kind: str, size: tuple[int, int]) -> None:
    made = KINDS[kind]
    coefficients = [tensor.detach().requires_grad_() for tensor in made.coefficients(pictures(1, 3, *size))]
    assert torch.autograd.gradcheck(lambda *given: made.picture(given, size), coefficients)


@pytest.mark.parametrize("size", SIZES)
def test_the_bands_are_those_of_interpolation(size: tuple[int, int]) -> None:
    picture = current = pictures(1, 3, *size)
    for band in Laplacian(4).coefficients(picture)[:-1]:
        small = nnf.interpolate(current, [max(side // 2, 1) for side in current.shape[2:]], mode="bilinear")
        expected = current - nnf.interpolate(small, current.shape[2:], mode="bilinear")
        torch.testing.assert_close(band, expected, rtol=0, atol=1e-12)
        current = small
    torch.testing.assert_close(Laplacian(4).coefficients(picture)[-1], current, rtol=0, atol=1e-12)
    torch.testing.assert_close(finest_band(picture), Laplacian(1).coefficients(picture)[0])


@pytest.mark.parametrize("corners", [False, True])
def test_resizing_is_interpolation(corners: bool) -> None:
    maps = pictures(2, 5, 9, 14)
    for size in ((4, 7), (20, 5), (9, 14), (1, 1)):
        expected = nnf.interpolate(maps, size, mode="bilinear", align_corners=corners)
        torch.testing.assert_close(resized(maps, size, corners), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 5)])
def test_fourier_said_again_in_numpy(size: tuple[int, int]) -> None:
    height, width = size
    whole = np.fft.fft2(np.random.default_rng(0).normal(size=(3, height, width)), norm="ortho")  # of a real picture
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    falloff = 1 / np.maximum(frequency, 1 / max(size))
    falloff /= np.sqrt(np.mean(falloff**2))
    colors = np.array(COLORS) / np.linalg.norm(COLORS, axis=0).max()
    expected = np.einsum("ij,jhw->ihw", colors, np.fft.ifft2(whole * falloff, norm="ortho").real)
    half = torch.view_as_real(torch.from_numpy(whole[None, :, :, : width // 2 + 1].copy()))
    np.testing.assert_allclose(Fourier().picture([half], size)[0].numpy(), expected, atol=1e-9)


def test_levels_must_be_a_count() -> None:
    with pytest.raises(ValueError, match="levels"):
        Laplacian(0)


# ---------------------------------------------------------------- the descent


class Keeps(Callback):
    """Keeps every state that is offered, and the pictures."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.pictures: list[torch.Tensor] = []

    def step(self, step: Any) -> None:
        self.pictures.append(step.pixels.clone())

    def between(self, take_state: Callable[[], State] | None) -> None:
        if take_state is not None:  # as a file keeps it
            torch.save(take_state(), buffer := io.BytesIO())
            buffer.seek(0)
            self.states.append(torch.load(buffer, weights_only=True))


WANTED = pictures(1, 3, 6, 9, seed=5)


def parabola(pixels: torch.Tensor, shift: Any, step: int) -> Losses:
    weights = torch.linspace(0.5, 2.0, pixels[0].numel(), dtype=pixels.dtype)
    total = (weights * (pixels - WANTED.to(pixels)).square().flatten(1)).sum(1)
    return Losses(total, total, torch.zeros_like(total), torch.zeros_like(total))


def descend(kind: str, name: str, state: State | None = None, **options: Any) -> tuple[Any, Keeps]:
    given = {"steps": 40, "parameterization": KINDS[kind], **options}
    keeps = Keeps()
    return optimize(pictures(1, 3, 6, 9), parabola, OPTIMIZERS[name], Options(**given), keeps, state), keeps


@every_kind
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_gets_nearer_with_each(kind: str, name: str) -> None:
    outcome, keeps = descend(kind, name, steps=300)
    first = float(parabola(pictures(1, 3, 6, 9), None, 0).total)
    torch.testing.assert_close(keeps.pictures[0], pictures(1, 3, 6, 9))
    assert float(outcome.last.losses.total) < first / 2


@pytest.mark.parametrize("kind", ["laplacian", "fourier"])
@pytest.mark.parametrize("unit", [None, 0.3])
def test_a_step_is_that_of_the_optimiser_on_the_coefficients(kind: str, unit: float | None) -> None:
    size, made, scale = (6, 9), KINDS[kind], unit or 1.0
    given = {"unit": None if unit is None else torch.full((1, 3, 1, 1), unit, dtype=torch.float64)}
    outcome, _ = descend(kind, "adam", steps=5, **given)
    mine = [tensor.detach().requires_grad_() for tensor in made.coefficients(pictures(1, 3, *size) / scale)]
    adam = torch.optim.Adam(mine, lr=0.02)
    for _ in range(5):
        adam.zero_grad()
        parabola(made.picture(mine, size) * scale, None, 0).total.sum().backward()
        adam.step()
    torch.testing.assert_close(outcome.last.pixels, (made.picture(mine, size) * scale).detach())


@every_kind
@pytest.mark.parametrize("moment", ["step", "evaluation", "end"])
def test_what_is_clamped_stays_in_its_bounds_and_the_coefficients_follow(kind: str, moment: str) -> None:
    bounds = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    outcome, keeps = descend(kind, "sgd", clamp=moment, bounds=bounds)
    assert 0.4 <= outcome.last.pixels.min() <= outcome.last.pixels.max() <= 0.6
    if moment == "step":
        for picture in keeps.pictures[1:]:
            torch.testing.assert_close(picture, picture.clamp(*bounds), rtol=0, atol=1e-12)
        if kind != "pixels":
            last = keeps.states[-1]
            made = KINDS[kind].picture(last["coefficients"], (6, 9))
            torch.testing.assert_close(made, last["pixels"], rtol=0, atol=1e-12)


@every_kind
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_carried_on_from_any_state_it_is_the_same_to_the_bit(kind: str, name: str) -> None:
    options: dict[str, Any] = {"steps": 12}
    if name in ("adam", "sgd"):
        options |= {"clamp": "step", "bounds": (torch.tensor(0.3), torch.tensor(0.7)), "jitter": 3}
    whole, keeps = descend(kind, name, **options)
    assert len(keeps.states) >= (2 if name == "scipy" else 11)
    for state in keeps.states:
        again, _ = descend(kind, name, state, **options)
        assert torch.equal(again.last.pixels, whole.last.pixels)


def test_scipys_bounds_are_of_pixels() -> None:
    with pytest.raises(ValueError, match="clamp=step"):
        descend("laplacian", "scipy", clamp="step", bounds=(torch.tensor(0.0), torch.tensor(1.0)))


# ---------------------------------------------------------------- as a run

TINY = ("size=40", "steps=4", "log_every=1", "evaluator=none", "device=cpu", "layers.style=[conv1,fire3]")


@pytest.mark.parametrize("kind", ["laplacian", "fourier"])
@pytest.mark.parametrize("more", [("optimizer=adam",), ("optimizer=lbfgs",), ("optimizer=lbfgsb", "clamp=block")])
def test_a_run_killed_at_any_step_carries_on_to_the_same_bytes(
    tmp_path: Path, kind: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*TINY, f"parameterization={kind}", *more, "schedule=pyramid", "schedule.sizes=[32,40]",
                 "checkpoint_steps=1", "checkpoint_seconds=0")  # fmt: skip
    arguments += ("optimizer.block=2",) if "lbfgsb" in more[0] else ()
    stylized(tmp_path / "whole", *arguments)
    checkpoint.remove(tmp_path / "whole")
    save, copies = checkpoint.save, []

    def dying(folder: Path, content: dict[str, Any], *name: str) -> None:
        save(folder, content, *name)
        copies.append(shutil.copytree(folder, tmp_path / f"killed{len(copies)}"))

    monkeypatch.setattr(checkpoint, "save", dying)
    stylized(tmp_path / "out", *arguments)
    monkeypatch.setattr(checkpoint, "save", save)
    assert len(copies) > 2
    for copy in copies:
        stylized(copy, *arguments)
        checkpoint.remove(copy)
        assert kill_and_resume.differences(tmp_path / "whole", copy) == []


@pytest.mark.parametrize("kind", ["laplacian", "fourier"])
def test_three_in_a_batch_are_three_alone(tmp_path: Path, kind: str) -> None:
    jobs = [
        (*TINY, f"parameterization={kind}", "optimizer=adam", "precision=float64", *own)
        for own in (("beta=0.01",), ("beta=1", "init=noise", "seed=2"), ("beta=0.1", "style=mosaic"))
    ]
    done_together(tmp_path / "batch", *jobs)
    for number, job in enumerate(jobs):
        stylized(tmp_path / f"alone{number}", *job)
        ours, alone = tmp_path / "batch" / str(number), tmp_path / f"alone{number}"
        for row, expected in zip(rows(ours), rows(alone), strict=True):
            assert row == pytest.approx(expected, rel=1e-9, abs=1e-15)
        assert (ours / "result.png").read_bytes() == (alone / "result.png").read_bytes()


def test_tiles_go_with_it() -> None:
    common = ("size=96", "steps=3", "precision=float64", "parameterization=laplacian", "optimizer=adam", "jitter=0")
    whole, tiled = (posed(*common, f"tile={tile}").optimize().last.pixels for tile in ("none", "64"))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("parameterization=laplacian", "optimizer=lbfgsb"), r"clamp=step bounds pixels, and Laplacian has other"),
        (("parameterization=fourier", "pixel_space=network"), r"which must be RGB: use pixel_space=unit"),
        (("parameterization=laplacian", "parameterization.levels=0"), r"levels=0 must be a whole number from 1"),
        (("parameterization=laplacian", "+parameterization.level=3"), r"no argument of Laplacian 'level'"),
        (
            ("parameterization=fourier", "optimizer=adam", "schedule=pyramid", "schedule.optimizer=carry"),
            r"coefficients of Fourier means nothing at another size",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(typed: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check.check(composed(*typed))


def test_auto_begins_the_optimiser_anew_where_it_must() -> None:
    given = ("optimizer=adam", "schedule=pyramid", "schedule.optimizer=auto")
    assert schedule.carries(composed(*given))
    assert not schedule.carries(composed(*given, "parameterization=laplacian"))
