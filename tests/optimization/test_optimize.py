"""The loop: what a step is, and that every optimiser does what the library it comes from does."""

import functools
import io
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from nst.losses.objective import Losses
from nst.optimization.loop import optimize
from nst.optimization.optimizers import KerasAdam, ScipyLBFGSB
from nst.optimization.schedule import Restart
from nst.optimization.state import Callback, Diverged, Options, at_size

SHAPE = (1, 3, 2, 2)
OPTIMIZERS = {
    "adam": functools.partial(torch.optim.Adam, lr=0.02),
    "sgd": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "lbfgs": functools.partial(torch.optim.LBFGS, lr=0.1, tolerance_grad=0.0, tolerance_change=0.0),
    "wolfe": functools.partial(
        torch.optim.LBFGS, max_eval=1000, tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe"
    ),
    "scipy": ScipyLBFGSB(block=7),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def start(shape=SHAPE, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape)).to(dtype)


def rosenbrock(pixels):
    """One value per image; its only minimum is at all ones."""
    x = pixels.flatten(1)
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def rosenbrock_numpy(pixels):
    x = pixels.reshape(len(pixels), -1)
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def parabola(pixels):
    """One value per image; stretched, with its minimum at 0.5."""
    weights = torch.linspace(0.5, 3.0, pixels[0].numel(), dtype=pixels.dtype)
    return (weights * (pixels.flatten(1) - 0.5) ** 2).sum(1)


class Recorder:
    """A loss that remembers every picture, shift and step it was asked for, and what it answered."""

    def __init__(self, function, bad_from=None, bad=float("nan")):
        self.function, self.bad_from, self.bad = function, bad_from, bad
        self.pixels, self.shifts, self.steps, self.totals = [], [], [], []

    def __call__(self, pixels, shift, step):
        total = self.function(pixels)
        if self.bad_from is not None and len(self.pixels) + 1 >= self.bad_from:
            total = total * self.bad
        self.pixels.append(pixels.detach().clone())
        self.shifts.append(shift)
        self.steps.append(step)
        self.totals.append(total.detach().clone())
        return Losses(total, total, torch.zeros_like(total), torch.zeros_like(total))


class Watcher(Callback):
    """Keeps every step, and every state that is offered, as a file would: by how many steps had been seen."""

    def __init__(self):
        self.seen, self.states = [], {}

    def step(self, step):
        self.seen.append(step)

    def between(self, take_state):
        if take_state is not None:
            self.states[len(self.seen)] = saved_and_loaded(take_state())


def saved_and_loaded(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def descend(make, function, steps, pixels=None, watcher=None, state=None, **options):
    """Return the outcome, the steps handed out, and the recorder."""
    losses = function if isinstance(function, Recorder) else Recorder(function)
    watcher = watcher or Watcher()
    pixels = start() if pixels is None else pixels
    outcome = optimize(pixels, losses, make, Options(steps, **options), watcher, state)
    return outcome, watcher.seen, losses


# ---------------------------------------------------------------- what a step is


@every_optimizer
def test_steps_run_from_the_start_to_n_and_the_last_is_marked(name):
    outcome, seen, _ = descend(OPTIMIZERS[name], rosenbrock, 9)
    assert [step.index for step in seen] == list(range(10))
    assert [step.last for step in seen] == [False] * 9 + [True]
    assert torch.equal(seen[0].pixels, start())
    assert outcome.last.pixels is seen[-1].pixels
    assert outcome.reason == "all 9 steps done"


@every_optimizer
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_the_losses_of_a_step_are_those_of_its_own_picture(name, dtype, tolerance):
    _, seen, _ = descend(OPTIMIZERS[name], rosenbrock, 9, start((1, 3, 2, 3), dtype=dtype))
    for step in seen:
        np.testing.assert_allclose(
            step.losses.total.detach(), rosenbrock_numpy(step.pixels.double().numpy()), rtol=tolerance
        )
    for before, after in itertools.pairwise(seen):
        assert not torch.equal(before.pixels, after.pixels)


@every_optimizer
def test_evaluations_count_every_call_up_to_the_step_and_the_final_one(name):
    _, seen, evaluate = descend(OPTIMIZERS[name], rosenbrock, 9)
    for step in seen:
        assert torch.equal(evaluate.pixels[step.evaluations - 1], step.pixels)
    assert seen[0].evaluations == 1
    assert seen[-1].evaluations == len(evaluate.pixels)
    if name in ("adam", "sgd", "lbfgs"):
        assert [step.evaluations for step in seen] == list(range(1, 11))


@every_optimizer
def test_the_start_is_not_touched_and_pictures_handed_out_stay_as_they_were(name):
    pixels, copies = start(), []
    watcher = Watcher()
    watcher.step = lambda step: (watcher.seen.append(step), copies.append(step.pixels.clone()))
    _, seen, _ = descend(OPTIMIZERS[name], rosenbrock, 9, pixels, watcher)
    assert torch.equal(pixels, start())
    assert not pixels.requires_grad
    assert all(torch.equal(step.pixels, copy) for step, copy in zip(seen, copies, strict=True))
    assert not any(step.pixels.requires_grad for step in seen)


@every_optimizer
def test_every_optimizer_brings_the_loss_down(name):
    outcome, seen, _ = descend(OPTIMIZERS[name], parabola, 15)
    assert outcome.last.losses.total < 0.9 * seen[0].losses.total


@every_optimizer
@pytest.mark.filterwarnings("error")
def test_no_optimizer_warns_the_user(name):
    torch.set_warn_always(True)  # else torch warns only once in a process, perhaps in another test
    try:
        descend(OPTIMIZERS[name], rosenbrock, 3)
    finally:
        torch.set_warn_always(False)


@every_optimizer
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["step", "between"])
def test_what_the_callback_raises_comes_out(name, error, where):
    class Raises(Watcher):
        def step(self, step):
            super().step(step)
            if where == "step" and step.index == 2:
                raise error("enough")

        def between(self, take_state):
            if where == "between" and len(self.seen) == 3:
                raise error("enough")

    watcher = Raises()
    with pytest.raises(error, match="enough"):
        descend(OPTIMIZERS[name], rosenbrock, 9, watcher=watcher)
    assert [step.index for step in watcher.seen] == [0, 1, 2]


@every_optimizer
def test_what_the_losses_raise_comes_out(name):
    def losses(pixels, shift, step):
        raise KeyError("no such layer")

    with pytest.raises(KeyError, match="no such layer"):
        optimize(start(), losses, OPTIMIZERS[name], Options(9))


@every_optimizer
def test_every_evaluation_knows_its_step(name):
    outcome, seen, losses = descend(OPTIMIZERS[name], rosenbrock, 9)
    assert losses.steps == sorted(losses.steps)
    assert (losses.steps[0], losses.steps[-1], losses.steps.count(9)) == (0, 9, 1)
    assert len(losses.steps) == outcome.last.evaluations
    if name == "scipy":  # of each block, which has at least seven evaluations, the first step
        assert 3 <= len(set(losses.steps)) < 9
    else:
        assert [losses.steps[step.evaluations - 1] for step in seen] == list(range(10))


@every_optimizer
def test_numbers_are_wanted_of_the_start_every_few_steps_and_the_last(name):
    _, seen, _ = descend(OPTIMIZERS[name], rosenbrock, 9, log_every=4)
    assert [step.index for step in seen if step.logged] == [0, 4, 8, 9]


# ---------------------------------------------------------------- the same as the library's own loop


def test_adam_is_a_plain_torch_loop():
    pixels = start().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.02)
    path = [pixels.detach().clone()]
    for _ in range(12):
        optimizer.zero_grad()
        rosenbrock(pixels).sum().backward()
        optimizer.step()
        path.append(pixels.detach().clone())
    _, seen, _ = descend(OPTIMIZERS["adam"], rosenbrock, 12)
    assert len(seen) == len(path)
    assert all(torch.equal(step.pixels, expected) for step, expected in zip(seen, path, strict=True))


@pytest.mark.parametrize(("name", "function"), [("lbfgs", parabola), ("wolfe", parabola), ("wolfe", rosenbrock)])
def test_lbfgs_step_by_step_is_one_call_of_torch_with_max_iter_20(name, function):
    pixels = start().requires_grad_()
    optimizer = OPTIMIZERS[name]([pixels], max_iter=20)

    def closure():
        optimizer.zero_grad()
        loss = function(pixels).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.state[pixels]["n_iter"] == 20
    outcome, seen, _ = descend(OPTIMIZERS[name], function, 20)
    assert len(seen) == 21
    torch.testing.assert_close(outcome.last.pixels, pixels.detach(), rtol=1e-9, atol=1e-12)


def test_a_line_search_counts_more_evaluations_than_iterations():
    outcome, _, _ = descend(OPTIMIZERS["wolfe"], rosenbrock, 12)
    assert outcome.last.index == 12
    assert outcome.last.evaluations > 13


def value_and_gradient(flat):
    pixels = torch.from_numpy(flat.copy()).reshape(SHAPE).requires_grad_()
    total = rosenbrock(pixels).sum()
    total.backward()
    return total.item(), pixels.grad.numpy().ravel()


def scipy_path(x0, bounds=None, **options):
    """Return SciPy's own iterates, the start included, and its result."""
    path = [x0.numpy().ravel()]
    options = {"maxcor": 20, "ftol": 1e-9, "gtol": 0.0, "maxfun": 10_000} | options
    result = minimize(value_and_gradient, x0.numpy().ravel(), jac=True, method="L-BFGS-B", bounds=bounds,
                      callback=lambda x: path.append(x.copy()), options=options)  # fmt: skip
    return path, result


@pytest.mark.parametrize("bounded", [False, True])
def test_scipy_within_a_block_is_scipy_called_directly(bounded):
    bounds = (torch.full((1, 3, 1, 1), -0.5, dtype=torch.float64), torch.full((1, 3, 1, 1), 0.6, dtype=torch.float64))
    x0 = start().clamp(-0.5, 0.6)
    path, _ = scipy_path(x0, [(-0.5, 0.6)] * 12 if bounded else None, maxiter=12)
    _, seen, _ = descend(ScipyLBFGSB(block=10_000), rosenbrock, 12, x0, bounds=bounds,
                         clamp="step" if bounded else "never")  # fmt: skip
    assert len(path) == len(seen) == 13
    for step, expected in zip(seen, path, strict=True):
        np.testing.assert_allclose(step.pixels.numpy().ravel(), expected, rtol=1e-12, atol=1e-12)


def test_scipy_history_and_tolerances_reach_scipy():
    path, result = scipy_path(start(), maxcor=3, ftol=1e-4, gtol=1e-3)
    outcome, seen, _ = descend(ScipyLBFGSB(history=3, block=10_000, ftol=1e-4, gtol=1e-3), rosenbrock, 500)
    assert result.success
    assert outcome.last.index == len(path) - 1 < 500
    np.testing.assert_allclose(seen[-1].pixels.numpy().ravel(), path[-1], rtol=1e-12, atol=1e-12)
    assert f"after {len(path) - 1} iterations" in outcome.reason
    assert "CONVERGENCE" in outcome.reason
    assert [step.index for step in seen] == list(range(len(path)))


def test_scipy_in_restarted_blocks_still_converges():
    outcome, seen, evaluate = descend(ScipyLBFGSB(block=20, ftol=0.0), rosenbrock, 400)
    assert len(evaluate.pixels) > 20 * 8
    assert sorted({step.index for step in seen}) == list(range(outcome.last.index + 1))
    torch.testing.assert_close(outcome.last.pixels, torch.ones(SHAPE, dtype=torch.float64), rtol=0, atol=1e-6)
    losses = [step.losses.total.item() for step in seen]
    assert all(after <= before for before, after in itertools.pairwise(losses))


def test_scipy_keeps_its_bounds_at_every_evaluation():
    black, white = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in ([-0.9, -0.5, 0], [0.2, 0.6, 0.4]))
    x0 = torch.maximum(torch.minimum(start(), white), black)
    outcome, _, evaluate = descend(ScipyLBFGSB(), rosenbrock, 30, x0, bounds=(black, white), clamp="step")
    assert all(((p >= black) & (p <= white)).all() for p in evaluate.pixels)
    assert ((outcome.last.pixels == white) | (outcome.last.pixels == black)).any()


def test_scipy_moves_a_start_outside_its_bounds_inside():
    bounds = torch.zeros(1, 3, 1, 1, dtype=torch.float64), torch.ones(1, 3, 1, 1, dtype=torch.float64)
    _, _, evaluate = descend(ScipyLBFGSB(), rosenbrock, 3, start() * 3, bounds=bounds, clamp="step")
    assert all(((p >= 0) & (p <= 1)).all() for p in evaluate.pixels)


@pytest.mark.parametrize("options", [{"history": 0}, {"block": 1}, {"ftol": -1e-9}, {"gtol": -1.0}])
def test_scipy_refuses_arguments_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ScipyLBFGSB(**options)


# ---------------------------------------------------------------- when it cannot go on


@pytest.mark.parametrize("name", ["lbfgs", "wolfe", "scipy"])
def test_a_stalled_quasi_newton_method_stops_with_a_reason(name):
    minimum = torch.full(SHAPE, 0.5, dtype=torch.float64)
    outcome, seen, _ = descend(OPTIMIZERS[name], parabola, 50, minimum)
    assert "after 0 iterations" in outcome.reason
    assert "L-BFGS" in outcome.reason
    assert outcome.last.index == 0
    assert len(seen) <= 2
    assert seen[-1].last
    assert torch.equal(outcome.last.pixels, minimum)


@every_optimizer
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_raises_with_the_best_picture_so_far(name, bad):
    evaluate = Recorder(rosenbrock, bad_from=6, bad=bad)
    with pytest.raises(Diverged, match=r"NaN or infinite at step \d+ \(evaluation 6\)") as raised:
        descend(OPTIMIZERS[name], evaluate, 30)
    assert len(evaluate.pixels) == 6
    best = int(torch.cat(evaluate.totals[:5]).argmin())
    assert torch.equal(raised.value.best, evaluate.pixels[best])


def test_the_best_picture_need_not_be_the_latest():
    evaluate = Recorder(parabola, bad_from=8)
    with pytest.raises(Diverged) as raised:
        descend(functools.partial(torch.optim.Adam, lr=0.9), evaluate, 30)
    best = int(torch.cat(evaluate.totals[:7]).argmin())
    assert best < 6
    assert torch.equal(raised.value.best, evaluate.pixels[best])


@every_optimizer
def test_a_start_that_gives_no_number_has_no_best_picture(name):
    with pytest.raises(Diverged, match="start image") as raised:
        descend(OPTIMIZERS[name], Recorder(rosenbrock, bad_from=1), 30)
    assert raised.value.best is None


@every_optimizer
def test_a_final_picture_that_gives_no_number_is_noticed_too(name):
    count = len(descend(OPTIMIZERS[name], rosenbrock, 5)[2].pixels)
    evaluate = Recorder(rosenbrock, bad_from=count)
    with pytest.raises(Diverged) as raised:
        descend(OPTIMIZERS[name], evaluate, 5)
    assert raised.value.best is not None


# ---------------------------------------------------------------- clamping


def box(dtype=torch.float64):
    return torch.zeros(1, 3, 1, 1, dtype=dtype), torch.full((1, 3, 1, 1), 0.3, dtype=dtype)


def is_inside(pixels):
    return bool(((pixels >= 0) & (pixels <= 0.3)).all())


@every_optimizer
def test_clamp_never_leaves_the_bounds_alone(name):
    outcome, _, _ = descend(OPTIMIZERS[name], parabola, 60, start() * 0.1 + 0.15, bounds=box(), clamp="never")
    assert not is_inside(outcome.last.pixels)


@every_optimizer
def test_clamp_step_keeps_every_picture_inside(name):
    _, seen, _ = descend(OPTIMIZERS[name], parabola, 60, start() * 0.1 + 0.15, bounds=box(), clamp="step")
    assert all(is_inside(step.pixels) for step in seen)
    np.testing.assert_allclose(seen[-1].pixels, 0.3, atol=0.02)


@every_optimizer
def test_clamp_end_touches_the_final_picture_only_and_evaluates_it(name):
    options = {"bounds": box(), "pixels": start() * 0.1 + 0.15}
    _, free, _ = descend(OPTIMIZERS[name], parabola, 60, clamp="never", **options)
    _, seen, _ = descend(OPTIMIZERS[name], parabola, 60, clamp="end", **options)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(free[:-1], seen[:-1], strict=True))
    assert any(not is_inside(step.pixels) for step in seen[:-1])
    final = seen[-1].pixels.numpy()
    np.testing.assert_array_equal(final, np.clip(free[-1].pixels.numpy(), 0, 0.3))
    weights = np.linspace(0.5, 3.0, 12)
    np.testing.assert_allclose(seen[-1].losses.total, (weights * (final.ravel() - 0.5) ** 2).sum(), rtol=1e-12)


def test_clamping_uses_each_channels_own_bounds_in_either_order():
    black = torch.tensor([0.0, 0.4, -0.2], dtype=torch.float64).view(1, 3, 1, 1)
    white = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(1, 3, 1, 1)
    low, high = np.array([0.0, 0.2, -0.2]), np.array([0.1, 0.4, 0.3])
    outcome, _, _ = descend(
        functools.partial(torch.optim.Adam, lr=1e-9), parabola, 1, start(), bounds=(black, white), clamp="end"
    )
    expected = np.clip(start().numpy(), low.reshape(1, 3, 1, 1), high.reshape(1, 3, 1, 1))
    np.testing.assert_allclose(outcome.last.pixels, expected, atol=1e-8)


# ---------------------------------------------------------------- jitter


def shifts(jitter, seed, steps=200):
    _, _, evaluate = descend(OPTIMIZERS["adam"], parabola, steps, jitter=jitter, seed=seed)
    return evaluate.shifts


def test_jitter_shifts_every_step_within_its_range_and_not_the_final_picture():
    drawn = shifts(4, seed=0)
    assert drawn[-1] == (0, 0)
    assert len(drawn) == 201
    assert {rows for rows, _ in drawn[:-1]} == {columns for _, columns in drawn[:-1]} == {0, 1, 2, 3}
    assert len(set(drawn)) == 16


def test_jitter_is_seeded_and_does_not_touch_the_global_generator():
    torch.manual_seed(1)
    first = shifts(4, seed=7, steps=20)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert shifts(4, seed=7, steps=20) == first
    assert torch.equal(torch.rand(3), expected)
    assert shifts(4, seed=8, steps=20) != first


@every_optimizer
def test_without_jitter_nothing_is_shifted(name):
    _, _, evaluate = descend(OPTIMIZERS[name], parabola, 5)
    assert set(evaluate.shifts) == {(0, 0)}


def test_a_step_is_evaluated_with_one_shift_even_in_a_line_search():
    _, seen, evaluate = descend(OPTIMIZERS["wolfe"], rosenbrock, 4, jitter=30)
    starts = [step.evaluations - 1 for step in seen]
    for begin, end in itertools.pairwise(starts):
        assert len(set(evaluate.shifts[begin:end])) == 1


# ---------------------------------------------------------------- further ways to clamp


def wide_box():
    return torch.full((1, 3, 1, 1), -0.2, dtype=torch.float64), torch.full((1, 3, 1, 1), 0.3, dtype=torch.float64)


def test_clamp_evaluation_is_a_clamp_inside_of_the_closure():
    """As PyTorch's tutorial has it, with L-BFGS in calls of twenty iterations and a last clamp."""
    expected = start().requires_grad_()
    make = functools.partial(torch.optim.LBFGS, lr=0.1, tolerance_grad=0.0, tolerance_change=0.0)
    optimizer = make([expected], max_iter=5)

    def closure():
        with torch.no_grad():
            expected.clamp_(-0.2, 0.3)
        optimizer.zero_grad()
        loss = parabola(expected).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        expected.clamp_(-0.2, 0.3)
    assert optimizer.state[expected]["n_iter"] == 5
    outcome, seen, evaluate = descend(make, parabola, 5, bounds=wide_box(), clamp="evaluation")
    torch.testing.assert_close(outcome.last.pixels, expected.detach(), rtol=1e-12, atol=1e-12)
    assert all(bool(((p >= -0.2) & (p <= 0.3)).all()) for p in evaluate.pixels)
    assert all(torch.equal(evaluate.pixels[step.evaluations - 1], step.pixels) for step in seen)
    assert len(set(outcome.last.pixels.flatten().tolist())) > 2  # not all of them at a bound
    free, _, _ = descend(make, parabola, 5, bounds=wide_box(), clamp="end")
    assert not torch.equal(free.last.pixels, outcome.last.pixels)


def test_clamp_until_frees_the_last_pictures():
    """As CS231n's assignment has it: each picture of a step below a number is clamped before it is evaluated."""
    pixels = start().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.1)
    path = []
    for t in range(20):
        if t < 13:
            pixels.data.clamp_(-0.2, 0.3)
        path.append(pixels.detach().clone())
        optimizer.zero_grad()
        parabola(pixels).sum().backward()
        optimizer.step()
    make = functools.partial(torch.optim.Adam, lr=0.1)
    outcome, seen, _ = descend(make, parabola, 20, bounds=wide_box(), clamp="evaluation", clamp_until=13)
    assert all(torch.equal(step.pixels, expected) for step, expected in zip(seen, path, strict=False))
    assert torch.equal(outcome.last.pixels, pixels.detach())
    assert not bool((outcome.last.pixels <= 0.3).all())


def test_clamp_step_until_keeps_the_pictures_before_and_frees_those_after():
    make = functools.partial(torch.optim.Adam, lr=0.1)
    _, seen, _ = descend(make, parabola, 20, start() * 0.1, bounds=wide_box(), clamp="step", clamp_until=13)
    inside = [bool(((step.pixels >= -0.2) & (step.pixels <= 0.3)).all()) for step in seen]
    assert inside == [True] * 13 + [False] * 8
    _, ended, _ = descend(make, parabola, 20, start() * 0.1, bounds=wide_box(), clamp="step", clamp_until=21)
    assert bool((ended[-1].pixels <= 0.3).all())


def test_clamp_block_clips_after_every_block_as_fast_ai_does():
    x, left, count = start().numpy().ravel(), [], []
    for _ in range(4):
        options = {"maxcor": 5, "maxfun": 8, "ftol": 0.0, "gtol": 0.0}
        result = minimize(value_and_gradient, x, jac=True, method="L-BFGS-B", options=options, callback=count.append)
        left.append(result.x)
        x = np.clip(result.x, -0.2, 0.3)
    assert any(not np.array_equal(found, np.clip(found, -0.2, 0.3)) for found in left[:-1])
    make = ScipyLBFGSB(history=5, block=8, ftol=0.0)
    outcome, _, _ = descend(make, rosenbrock, len(count), bounds=wide_box(), clamp="block")
    np.testing.assert_allclose(outcome.last.pixels.numpy().ravel(), x, rtol=1e-10, atol=1e-12)


def test_what_is_pending_between_two_blocks_is_not_clipped_in_the_state():
    options, watcher = {"bounds": wide_box(), "clamp": "block"}, Watcher()
    make = ScipyLBFGSB(history=5, block=8, ftol=0.0)
    _, seen, _ = descend(make, rosenbrock, 20, watcher=watcher, **options)
    states = watcher.states.items()
    count, state = next((n, state) for n, state in states if not torch.equal(state["pending_pixels"], state["pixels"]))
    _, rest, _ = descend(make, rosenbrock, 20, state=state, **options)
    assert [step.index for step in rest] == [step.index for step in seen[count:]]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(rest, seen[count:], strict=True))


@pytest.mark.parametrize(
    "asked", [{"average": 0.9}, {"clip_gradient": 1.0}, {"clamp": "evaluation"}, {"lr_schedule": lambda o: None}]
)
def test_scipy_refuses_what_it_cannot_do(asked):
    with pytest.raises(ValueError, match="SciPy"):
        descend(ScipyLBFGSB(), rosenbrock, 3, bounds=box(), **asked)


# ---------------------------------------------------------------- averages, rates, clipping, stopping


def test_the_average_is_that_of_all_iterates_the_start_among_them():
    decay = 0.8
    _, plain, _ = descend(OPTIMIZERS["adam"], rosenbrock, 12)
    outcome, seen, evaluate = descend(OPTIMIZERS["adam"], rosenbrock, 12, average=decay)
    iterates = np.stack([step.pixels.numpy() for step in plain])
    for n, step in enumerate(seen):
        weights = decay ** np.arange(n, -1, -1)
        expected = (weights / weights.sum()) @ iterates[: n + 1].reshape(n + 1, -1)
        np.testing.assert_allclose(step.pixels.numpy().ravel(), expected, rtol=1e-12, atol=1e-12)
    for step, of_iterate in zip(seen[:-1], plain[:-1], strict=True):
        assert torch.equal(step.losses.total, of_iterate.losses.total)
    expected = rosenbrock_numpy(outcome.last.pixels.numpy())
    np.testing.assert_allclose(outcome.last.losses.total, expected, rtol=1e-12)
    assert torch.equal(evaluate.pixels[-1], outcome.last.pixels)
    assert not np.allclose(expected, plain[-1].losses.total)


def test_a_learning_rate_falls_by_hand_as_by_torch():
    sgd, rates = functools.partial(torch.optim.SGD, lr=0.02), functools.partial(
        torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.5
    )  # fmt: skip
    x = start().numpy()
    path = [x]
    weights = np.linspace(0.5, 3.0, 12).reshape(SHAPE)
    for index in range(10):
        x = x - 0.02 * 0.5 ** (index // 3) * 2 * weights * (x - 0.5)
        path.append(x)
    _, seen, _ = descend(sgd, parabola, 10, lr_schedule=rates)
    for step, expected in zip(seen, path, strict=True):
        np.testing.assert_allclose(step.pixels, expected, rtol=1e-12)
    assert [step.rate for step in seen] == pytest.approx([0.02 * 0.5 ** (index // 3) for index in range(11)])
    assert {step.rate for step in descend(sgd, parabola, 3)[1]} == {None}


RATES = {
    "step": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3),
    "exponential": functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
    "cosine": functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=12),
    "linear": functools.partial(torch.optim.lr_scheduler.LinearLR, total_iters=8),
    "one cycle": functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=13),
    "restart": functools.partial(Restart, milestones=[4, 9], gamma=0.5),
}


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("after", [1, 4, 11])
@pytest.mark.filterwarnings("error")
def test_rates_and_averages_carry_on_from_a_state(name, after):
    options, watcher = {"lr_schedule": RATES[name], "average": 0.9, "jitter": 3}, Watcher()
    whole, seen, _ = descend(OPTIMIZERS["adam"], rosenbrock, 12, watcher=watcher, **options)
    outcome, rest, _ = descend(OPTIMIZERS["adam"], rosenbrock, 12, state=watcher.states[after], **options)
    assert torch.equal(outcome.last.pixels, whole.last.pixels)
    assert [step.rate for step in rest] == [step.rate for step in seen[after:]]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(rest, seen[after:], strict=True))
    assert len({step.rate for step in seen}) > 2


def test_a_state_of_an_earlier_version_is_carried_on_with():
    watcher = Watcher()
    whole, _, _ = descend(OPTIMIZERS["adam"], rosenbrock, 9, jitter=3, watcher=watcher)
    state = watcher.states[5]
    state["shifts"] = state["shifts"].flatten()
    state["progress"]["finite"] = state["progress"]["finite"].squeeze()
    again, _, _ = descend(OPTIMIZERS["adam"], rosenbrock, 9, jitter=3, state=state)
    assert torch.equal(again.last.pixels, whole.last.pixels)


def test_a_restart_is_a_new_optimizer_with_another_rate():
    pixels = start().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.1)
    for t in range(12):
        optimizer.zero_grad()
        rosenbrock(pixels).sum().backward()
        if t == 7:
            optimizer = torch.optim.Adam([pixels], lr=0.02)
        optimizer.step()
    make = functools.partial(torch.optim.Adam, lr=0.1)
    outcome, _, _ = descend(make, rosenbrock, 12, lr_schedule=functools.partial(Restart, milestones=[7], gamma=0.2))
    torch.testing.assert_close(outcome.last.pixels, pixels.detach(), rtol=1e-12, atol=1e-12)


def test_keras_adam_adds_epsilon_before_the_correction():
    lr, beta1, beta2, eps = 0.02, 0.99, 0.999, 0.1
    x, m, v = start().numpy(), 0.0, 0.0
    weights = np.linspace(0.5, 3.0, 12).reshape(SHAPE)
    for t in range(1, 9):
        gradient = 2 * weights * (x - 0.5)
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        x = x - lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps)
    options = {"lr": lr, "betas": (beta1, beta2), "eps": eps}
    outcome, _, _ = descend(functools.partial(KerasAdam, **options), parabola, 8)
    np.testing.assert_allclose(outcome.last.pixels, x, rtol=1e-12)
    other, _, _ = descend(functools.partial(torch.optim.Adam, **options), parabola, 8)
    assert float((other.last.pixels - outcome.last.pixels).abs().max()) > 1e-3


@pytest.mark.parametrize(("pixels", "is_clipped"), [(0.5 + 0.01 * start(), False), (40 * start(), True)])
def test_gradients_that_are_too_long_are_clipped(pixels, is_clipped):
    sgd = functools.partial(torch.optim.SGD, lr=0.01)
    _, seen, _ = descend(sgd, parabola, 1, pixels, clip_gradient=0.25)
    gradient = 2 * np.linspace(0.5, 3.0, 12).reshape(SHAPE) * (pixels.numpy() - 0.5)
    norm = np.linalg.norm(gradient)
    assert bool(norm > 0.25 * 12) is is_clipped
    gradient *= min(0.25 * 12 / norm, 1)
    np.testing.assert_allclose(seen[1].pixels, pixels.numpy() - 0.01 * gradient, rtol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "lbfgs", "scipy"])
def test_it_stops_after_the_first_step_that_changes_little(name):
    make = functools.partial(torch.optim.SGD, lr=0.05) if name == "sgd" else OPTIMIZERS[name]
    _, seen, _ = descend(make, parabola, 60)
    pictures = [step.pixels.numpy() for step in seen]
    changes = [np.linalg.norm(b - a) / np.linalg.norm(b) for a, b in itertools.pairwise(pictures)]
    threshold = sorted(changes)[len(changes) // 2] * 1.0001
    expected = 1 + next(index for index, change in enumerate(changes) if change < threshold)
    assert 1 < expected < len(changes)
    outcome, stopped, _ = descend(make, parabola, 60, stop_change=threshold)
    assert [step.index for step in stopped] == list(range(expected + 1))
    assert torch.equal(outcome.last.pixels, seen[expected].pixels)
    assert f"step {expected} changed the picture by less than stop_change=" in outcome.reason


# ---------------------------------------------------------------- from scale to scale


def smooth(pixels):
    """A loss that makes sense at every size."""
    wanted = torch.linspace(0, 1, pixels.shape[3], dtype=pixels.dtype)
    return (pixels - wanted).square().mean((1, 2, 3)) + (pixels[:, :, 1:] - pixels[:, :, :-1]).square().mean((1, 2, 3))


def resized(picture, mode):
    return torch.nn.functional.interpolate(picture, (6, 9), mode=mode)


@pytest.mark.parametrize("carry", [True, False])
def test_the_next_scale_is_torchs_adam_on_what_was_resampled(carry):
    pixels = start((1, 3, 4, 6)).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.05)

    def five_steps():
        for _ in range(5):
            optimizer.zero_grad()
            smooth(pixels).sum().backward()
            optimizer.step()

    five_steps()
    state = optimizer.state[pixels]
    moments = resized(state["exp_avg"], "bicubic"), resized(state["exp_avg_sq"], "bilinear"), state["step"]
    pixels = resized(pixels.detach(), "bicubic").requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.05)
    if carry:
        keys = ("exp_avg", "exp_avg_sq", "step")
        optimizer.state[pixels] |= dict(zip(keys, moments, strict=True))
    five_steps()

    make = functools.partial(torch.optim.Adam, lr=0.05)
    small, before, _ = descend(make, smooth, 5, start((1, 3, 4, 6)), is_last=False)
    state = saved_and_loaded(at_size(small.state, (6, 9), Options(10), carry))
    large, after, _ = descend(make, smooth, 10, torch.zeros(1, 3, 6, 9, dtype=torch.float64), state=state)
    torch.testing.assert_close(large.last.pixels, pixels.detach(), rtol=1e-12, atol=1e-12)
    assert [step.index for step in before + after] == list(range(11))
    assert [step.evaluations for step in before + after] == [1, 2, 3, 4, 5, *range(7, 13)]
    seconds = [step.seconds for step in before + after]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("name", ["lbfgs", "scipy"])
def test_quasi_newton_methods_begin_each_scale_afresh(name):
    small, before, _ = descend(OPTIMIZERS[name], smooth, 5, start((1, 3, 4, 6)), is_last=False)
    state = at_size(small.state, (6, 9), Options(10), carry=False)
    like = torch.zeros(1, 3, 6, 9, dtype=torch.float64)
    large, after, _ = descend(OPTIMIZERS[name], smooth, 10, like, state=state)
    fresh, expected, _ = descend(OPTIMIZERS[name], smooth, 5, resized(small.last.pixels, "bicubic"))
    assert torch.equal(large.last.pixels, fresh.last.pixels)
    assert [step.index for step in before + after] == list(range(11))
    assert [step.evaluations - after[0].evaluations for step in after] == [step.evaluations - 1 for step in expected]


def test_second_moments_stay_positive_where_a_picture_would_not():
    square = torch.zeros(1, 3, 8, 8)
    square[:, :, 4, 4] = 1
    other = square.clone()
    other[:, :, 0, 0] = -1e-6
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "v": square, "m": other}}, "param_groups": [{"lr": 1}]}
    progress = {"step": 3, "best_loss": torch.zeros(1)}
    state = {"pixels": square, "shifts": None, "progress": progress, "optimizer": optimizer}
    larger = at_size(state, (13, 13), Options(10), carry=True)["optimizer"]
    moments = larger["state"][0]
    assert bool((moments["v"] >= 0).all())
    assert bool((moments["m"] < -1e-3).any())
    assert larger["param_groups"] == [{"lr": 1}]
    assert moments["step"] == 3


@pytest.mark.parametrize(
    ("clamp", "until", "inside"), [("step", None, True), ("never", None, False), ("step", 3, False)]
)
def test_what_resampling_throws_over_the_bounds_is_clamped_like_the_picture_it_comes_from(clamp, until, inside):
    picture = (torch.arange(64).reshape(1, 1, 8, 8) % 9 < 4).double().expand(1, 3, 8, 8)
    state = {"pixels": picture, "shifts": None, "progress": {"step": 3, "best_loss": torch.zeros(1)}}
    bounds = torch.zeros(1, 3, 1, 1, dtype=torch.float64), torch.ones(1, 3, 1, 1, dtype=torch.float64)
    options = Options(10, clamp=clamp, bounds=bounds, clamp_until=until)
    larger = at_size(state, (13, 13), options, carry=False)["pixels"]
    assert bool(((larger >= 0) & (larger <= 1)).all()) is inside


def test_a_scale_that_gives_no_number_at_once_leaves_the_picture_it_began_with():
    small, _, _ = descend(OPTIMIZERS["adam"], smooth, 5, start((1, 3, 4, 6)), is_last=False)
    state = at_size(small.state, (6, 9), Options(10), carry=True)
    with pytest.raises(Diverged, match="step 5") as raised:
        like = torch.zeros(1, 3, 6, 9, dtype=torch.float64)
        descend(OPTIMIZERS["adam"], Recorder(smooth, bad_from=1), 10, like, state=state)
    assert torch.equal(raised.value.best, state["pixels"])


# ---------------------------------------------------------------- units of the rate


UNIT = torch.tensor([255.0, 200.0, 4.0], dtype=torch.float64).view(1, 3, 1, 1)


@pytest.mark.parametrize("clamp", ["never", "step", "evaluation"])
@pytest.mark.parametrize("name", ["adam", "sgd", "lbfgs", "wolfe"])
def test_with_a_unit_an_optimiser_takes_the_steps_it_takes_where_the_range_is_one(name, clamp):
    bounds = box()
    plain, seen, _ = descend(OPTIMIZERS[name], parabola, 20, start() * 0.1 + 0.15, bounds=bounds, clamp=clamp)
    scaled, others, _ = descend(
        *(OPTIMIZERS[name], lambda pixels: parabola(pixels / UNIT), 20, (start() * 0.1 + 0.15) * UNIT),
        **{"bounds": tuple(bound * UNIT for bound in bounds), "clamp": clamp, "unit": UNIT},
    )
    assert torch.allclose(scaled.last.pixels / UNIT, plain.last.pixels, rtol=0, atol=1e-9)
    for step, other in zip(seen, others, strict=True):
        assert torch.allclose(other.losses.total, step.losses.total, rtol=1e-7, atol=1e-12)
    alone, _, _ = descend(OPTIMIZERS[name], lambda pixels: parabola(pixels / UNIT), 20, (start() * 0.1 + 0.15) * UNIT)
    assert not torch.allclose(alone.last.pixels / UNIT, plain.last.pixels, rtol=0, atol=1e-4)


def test_with_a_unit_a_descent_is_carried_on_to_the_same_bytes():
    watcher = Watcher()
    whole, _, _ = descend(OPTIMIZERS["adam"], rosenbrock, 9, watcher=watcher, unit=UNIT)
    again, _, _ = descend(OPTIMIZERS["adam"], rosenbrock, 9, state=watcher.states[5], unit=UNIT)
    assert torch.equal(again.last.pixels, whole.last.pixels)
