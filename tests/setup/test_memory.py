"""The memory that a run will need: counted by hand, beside torch's own record of allocations, and what is advised."""

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nst.networks import backbones
from nst.optimization.optimizers import ScipyLBFGSB
from nst.optimization.state import LossOfPicture
from nst.runtime import memory
from nst.setup import estimate
from nst.setup.estimate import Need

CPU = torch.device("cpu")
HELD = 10**9


@pytest.fixture(autouse=True)
def _a_process_of_known_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate.memory, "held_bytes", lambda device: HELD)
    monkeypatch.setattr(estimate.runtime, "peak_memory_bytes", lambda device: None)


def sgd(pixels: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(pixels, lr=1.0)


def losses(total: Tensor) -> Any:
    return SimpleNamespace(total=total.reshape(1))


def sum_of_maps(network: nn.Module, content: Tensor, style: Tensor) -> LossOfPicture:
    with torch.no_grad():
        target = network(content)
    return lambda pixels, shift, step: losses(network(pixels).sum() + 0 * target.shape[0])


def estimated(network: nn.Module, size: tuple[int, int], **options: Any) -> int:
    """Return the bytes of the pictures and maps, without slack, and without what does not depend on the size."""
    arguments: dict[str, Any] = {"assemble": sum_of_maps, "optimizer": sgd, "steps": 10, "shifts": 1}
    arguments |= {"dtype": torch.float32, "device": CPU} | options
    need = estimate.needed(backbone=network, content=size, styles=[size], **arguments)
    assert need is not None
    assert need.held == HELD
    return round((need.total - HELD - estimate.LIBRARIES) / estimate.SLACK)


@pytest.mark.parametrize("size", [(40, 30), (7, 90)])
def test_a_single_convolution_is_counted_as_by_hand(size: tuple[int, int]) -> None:
    positions = size[0] * size[1]
    # content, style and picture have 3 numbers at each position, the target and the map 8; at its worst moment, the
    # forward pass, all are alive, and the convolution works on copies of picture and map in blocks
    step = 3 + 3 + 3 + 8 + 8 + (3 + 8)
    expected = 4 * positions * (step + estimate.PICTURES * 3) + 4 * 3 * 8  # and one of the weights
    assert estimated(nn.Conv2d(3, 8, 1, bias=False), size) == pytest.approx(expected, abs=8)


def test_without_blocked_kernels_a_matrix_of_patches_is_counted() -> None:
    positions = 40 * 30
    step = 3 + 3 + 3 + 8 + 8 + 3 * 3 * 3
    expected = 8 * positions * (step + estimate.PICTURES * 3)
    network = nn.Conv2d(3, 8, 3, padding=1, bias=False).double()
    assert estimated(network, (40, 30), dtype=torch.float64) == pytest.approx(expected, abs=16)


def sum_of_squares(network: nn.Module, content: Tensor, style: Tensor) -> LossOfPicture:
    def evaluate(pixels: Tensor, shift: tuple[int, int], step: int) -> Any:
        return losses(sum((maps.square().sum() for maps in network(pixels).values()), torch.zeros(())))

    return evaluate


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("architecture", ["squeezenet1_1", "vgg16", "vgg19_bn"])
def test_a_step_is_as_large_as_torch_records_its_allocations(
    architecture: str, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch records the scratch space of a forward convolution in float64 only, and of no backward one
    scratch, forward = estimate._scratch, torch.ops.aten.convolution
    monkeypatch.setattr(estimate, "_scratch", lambda f, *rest: scratch(f, *rest) if f.overloadpacket is forward else 0)
    layers = ["conv1", "fire4", "fire6"] if architecture == "squeezenet1_1" else ["relu1_1", "conv3_1", "relu4_1"]
    network = backbones.load(architecture, "random", layers, pooling).double()
    picture = 3 * 96 * 64 * 8
    counted = estimated(network, (96, 64), assemble=sum_of_squares, dtype=torch.float64)
    counted -= (estimate.PICTURES + 2) * picture  # the recorded step has no content and no style image

    evaluate = sum_of_squares(network, torch.empty(0), torch.empty(0))
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
        pixels = torch.zeros(1, 3, 96, 64, dtype=torch.float64).requires_grad_()
        evaluate(pixels, (0, 0), 0).total.sum().backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    assert counted == pytest.approx(peak, rel=0.05)


def test_what_optimisers_keep_is_what_they_hold_after_as_many_steps() -> None:
    picture = torch.zeros(1, 3, 12, 8, requires_grad=True)
    stiffness = torch.linspace(1, 2, picture.numel()).view_as(picture)

    def held_after(optimizer: torch.optim.Optimizer, steps: int) -> int:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (stiffness * (picture - 1).square()).sum()
            loss.backward()
            return loss

        picture.data.zero_()
        for _ in range(steps):
            optimizer.step(closure)  # type: ignore[arg-type]
        state = [value for held in optimizer.state.values() for value in held.values()]
        tensors = [leaf for value in state for leaf in (value if isinstance(value, list) else [value])]
        return sum(leaf.numel() * 4 for leaf in tensors if isinstance(leaf, Tensor) and leaf.numel() > 1)

    makers: list[Callable[[list[Tensor]], torch.optim.Optimizer]] = [
        torch.optim.Adam,
        lambda pixels: torch.optim.Adam(pixels, amsgrad=True),
        sgd,
        lambda pixels: torch.optim.SGD(pixels, lr=1e-3, momentum=0.9),
        torch.optim.RMSprop,
    ]
    for make in makers:
        assert estimate.state_bytes(make, picture.numel(), torch.float32, 300) == held_after(make([picture]), 3)
    for steps in (2, 5, 9):

        def lbfgs(pixels: list[Tensor]) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(pixels, lr=0.1, max_iter=1, history_size=5)

        least = held_after(lbfgs([picture]), steps)
        told = estimate.state_bytes(lbfgs, picture.numel(), torch.float32, steps)
        assert least <= told <= least + estimate.LBFGS_COPIES * picture.numel() * 4
    doubles = estimate.state_bytes(ScipyLBFGSB(history=7), 1000, torch.float32, 300) / 8000
    assert doubles == 2 * 7 + 5 + estimate.SCIPY_COPIES


def one_target_for_each_shift(network: nn.Module, content: Tensor, style: Tensor) -> LossOfPicture:
    targets: dict[tuple[int, int], Tensor] = {}

    def evaluate(pixels: Tensor, shift: tuple[int, int], step: int) -> Any:
        with torch.no_grad():
            targets.setdefault(shift, network(content.roll(shift, (2, 3))))
        return losses(network(pixels).sum())

    return evaluate


def test_content_targets_of_every_shift_count_up_to_their_bound() -> None:
    network = nn.Conv2d(3, 8, 1, bias=False)
    target = 8 * 40 * 30 * 4
    told = {
        steps: estimated(network, (40, 30), assemble=one_target_for_each_shift, shifts=64, steps=steps)
        for steps in (2, 12, 64, 300)
    }
    assert told[12] - told[2] == pytest.approx(10 * target, abs=8)
    assert told[300] == told[64] == pytest.approx(told[2] + 62 * target, abs=8)
    bounded = estimated(
        network, (40, 30), assemble=one_target_for_each_shift, shifts=64, steps=300, targets_bytes=20 * target
    )
    assert bounded == pytest.approx(told[2] + 18 * target, abs=8)


class Stubborn(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * float(image.mean())  # a number that a tensor without values does not have


def test_what_cannot_be_rehearsed_has_no_estimate_and_the_network_stays_as_it_is() -> None:
    assert estimate.needed(sum_of_maps, Stubborn(), (8, 8), [(8, 8)], sgd, 3, 1, torch.float32, CPU) is None

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.ones(1, 3, 1, 1)  # neither parameter nor buffer
            self.convolution = nn.Conv2d(3, 4, 3)

        def forward(self, image: Tensor) -> Tensor:
            result: Tensor = self.convolution(image - self.mean)
            return result

    network = Own()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert estimated(network, (20, 20)) > 0
    assert torch.equal(torch.rand(3), drawn)
    assert {str(value.device) for value in (network.mean, *network.parameters())} == {"cpu"}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("free", [200, 900, 2_500, 4_999])
def test_the_size_advised_fits_and_the_next_one_does_not(free: int) -> None:
    need = Need(total=6_000, fixed=1_100, held=1_000)

    def needed(size: int) -> float:
        return need.fixed + (need.total - need.fixed) * (size / 1024) ** 2 - need.held

    fitting = estimate.fitting_size(1024, need, free)
    assert fitting is not None
    assert fitting % 16 == 0
    assert needed(fitting) <= free < needed(fitting + 16)


def test_advice_names_what_is_needed_what_is_free_and_a_size() -> None:
    need = Need(total=10_400_000_000, fixed=900_000_000, held=800_000_000)
    text = estimate.advice(need, 5_100_000_000, 2048)
    assert text == (
        "This run needs about 9.6 GB at size=2048; 5.1 GB are free. "
        "size=1472 would fit, or choose a smaller backbone."
    )  # fmt: skip
    assert estimate.advice(need, 9_600_000_000, 2048) is None
    nothing_fits = estimate.advice(need, 60_000_000, 2048)
    assert nothing_fits is not None
    assert "No size would fit" in nothing_fits


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        (
            "0::/job\n",
            {
                "job/memory.max": "1000000",
                "job/memory.current": "600000",
                "job/memory.stat": "anon 1\ninactive_file 50000",
                "memory.max": "max",
                "memory.current": "9",
                "memory.stat": "",
            },
            450_000,
        ),
        (
            "5:cpu,memory:/outside/container\n0::/\n",
            {
                "memory/memory.limit_in_bytes": "700000",
                "memory/memory.usage_in_bytes": "600000",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 7",
            },
            100_007,
        ),
    ],
)
def test_the_limit_of_a_container_or_batch_job_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], left: int
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    unlimited = memory.free_bytes(CPU)
    assert unlimited is not None
    assert 2**26 < unlimited < 2**50
    (tmp_path / "own").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory.free_bytes(CPU) == left
    for path in (path for path in tmp_path.rglob("memory.*max*") if path.is_file()):
        path.write_text("max")
    for path in tmp_path.rglob("memory.limit_in_bytes"):
        path.write_text(str(2**63 - 4096))
    assert memory.free_bytes(CPU) != left


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        raised_from(ValueError("the picture cannot be read"), MemoryError()),
    ],
)
def test_errors_that_say_that_memory_ran_out(error: BaseException) -> None:
    assert memory.is_out_of_memory(error)


def test_a_real_allocation_that_fails_says_so_and_other_errors_do_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert memory.is_out_of_memory(caught.value)
    hidden = ValueError("wrong")
    hidden.__context__, hidden.__suppress_context__ = MemoryError(), True
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOSPC, "No space left"), ValueError("memory"), hidden):
        assert not memory.is_out_of_memory(error)
