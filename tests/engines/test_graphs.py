"""Recording the step as a CUDA graph: what can be tested without a GPU. test_cuda.py runs the rest on one."""

import logging

import pytest
import torch

from nst.engines import graphs


@pytest.mark.parametrize("shifts", [[(0, 0)], [(3, 5), (0, 1)], [(6, 0), (2, 2), (7, 8)]])
def test_rolling_by_indices_is_rolling_with_its_gradient(shifts):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(len(shifts), 3, 7, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    indices = graphs.roll_indices(shifts, 7, 9, image.device)
    found = graphs.roll(image, indices)
    expected = torch.cat([image[i : i + 1].roll(shift, dims=(2, 3)) for i, shift in enumerate(shifts)])
    assert torch.equal(found, expected)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    assert torch.equal(torch.autograd.grad(found, image, weight)[0], torch.autograd.grad(expected, image, weight)[0])
    assert torch.autograd.gradcheck(lambda picture: graphs.roll(picture, indices), image)


def squares(pixels, target):
    total = (pixels - target).square().sum((1, 2, 3))
    return total, total.detach()[None]


def sample():
    return torch.ones(2, 3, 4, 4, requires_grad=True), torch.zeros(2, 3, 4, 4)


def test_a_recorded_function_is_used(monkeypatch, caplog):
    calls = []

    def recorder(function, given):
        return lambda *arguments: calls.append(arguments) or function(*arguments)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    recorded = graphs.record(squares, sample())
    total, _ = recorded(*sample())
    assert total.tolist() == [48.0, 48.0]
    assert len(calls) == 2  # once to compare, with other pictures than those that were recorded
    assert not torch.equal(calls[0][0], calls[1][0])
    assert not caplog.records


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted when stream is capturing"), AssertionError()])
def test_what_cannot_be_recorded_is_run_as_it_is(error, monkeypatch, caplog):
    def recorder(function, given):
        raise error

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    with caplog.at_level(logging.INFO):
        assert graphs.record(squares, sample()) is None
    assert "not recorded as a CUDA graph" in caplog.text


def test_a_recording_that_gives_other_losses_is_not_used(monkeypatch, caplog):
    def recorder(function, given):
        return lambda *arguments: tuple(value * 2 for value in function(*arguments))

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    assert graphs.record(squares, sample()) is None
    assert "does not give the same losses" in caplog.text


@pytest.mark.parametrize("frozen", ["losses", "gradient"])
def test_a_recording_that_is_frozen_is_not_used(monkeypatch, caplog, frozen):
    """It answers what it was recorded with, whatever it is given: right for that, and wrong for anything else."""

    def recorder(function, given):
        def replayed(*arguments):
            if frozen == "losses":
                return tuple(value + 0 * arguments[0].sum() for value in function(*given))
            total, seen = function(*arguments)
            return total.detach() + (given[0].detach() * (arguments[0] - arguments[0].detach())).sum((1, 2, 3)), seen

        return replayed

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    assert graphs.record(squares, sample()) is None
    assert "does not give the same losses or gradient" in caplog.text
