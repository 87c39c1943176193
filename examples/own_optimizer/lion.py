"""An optimiser from outside the package: Lion, which only looks at signs (Chen et al. 2023, algorithm 2)."""

import torch


class Lion(torch.optim.Optimizer):
    """Moves each pixel by ``lr``, up or down, as the sign of an averaged gradient says.

    Args:
        params: what is optimised; the program passes it.
        lr: how far, as a share of the way from black to white.
        betas: decay of the average for the step, and of the one that is kept.
    """

    def __init__(self, params, lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas)})

    @torch.no_grad()
    def step(self, closure):
        """Take one step; ``closure()`` computes the loss and the gradient, and is called first."""
        loss = closure()
        for group in self.param_groups:
            for pixels in group["params"]:
                average = self.state[pixels].setdefault("average", torch.zeros_like(pixels))
                now, kept = group["betas"]
                pixels.sub_(torch.lerp(pixels.grad, average, now).sign(), alpha=group["lr"])
                average.lerp_(pixels.grad, 1 - kept)
        return loss
