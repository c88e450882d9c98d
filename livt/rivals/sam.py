"""SAM, sharpness-aware minimisation (Foret et al., ICLR 2021): the gradient of where the loss is worst close by.

A step takes two passes: from the weights w with gradient g to w + rho g / ||g||, and with the gradient there, from w.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from livt.config import StageConfig
from livt.optim import take_step


class Ascent(torch.optim.Optimizer):
    """Moves parameters uphill to the distance ``rho``, until the optimiser that it is made for takes its own step.

    The norm of the gradient is over all parameters together, before weight decay (the paper's Eq. 2 with p = 2). A
    gradient of zero moves nothing.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rho: float) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        super().__init__([{"params": parameters, "lr_scale": 1.0}], {})
        self.rho, self._before = rho, list[tuple[Tensor, Tensor]]()
        optimizer.register_step_pre_hook(self._undo)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the parameters that have a gradient."""
        assert closure is None
        own = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in own]).norm()
        share = torch.where(norm > 0, self.rho / norm, torch.zeros_like(norm))
        self._before = [(p, p.clone()) for p in own]
        for p in own:
            p.add_(share * p.grad)

    @torch.no_grad()
    def _undo(self, *_: Any) -> None:
        for p, before in self._before:
            p.copy_(before)  # to subtract again would not give it back to the last digit
        self._before = []


@contextmanager
def without_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation use a batch's statistics, and not add them to its running ones."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def sam_step(
    optimizer: torch.optim.Optimizer,
    ascent: Ascent | None,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    parts: Iterable[tuple[Tensor, Tensor]],
    *,
    lr: float,
    settings: StageConfig,
    model: nn.Module,
) -> Tensor:
    """Update the parameters once, as :func:`livt.optim.take_step` does; without ``ascent`` it is that.

    prepare: what makes what the loss takes of a part, as mixing; both passes see the same. Running statistics are those
    of the first pass, and so is the mean loss that is returned.
    """
    kept: list[tuple[Tensor, Tensor]] = []

    def first(images: Tensor, labels: Tensor) -> Tensor:
        part = prepare(images, labels)
        kept.append(part)
        return loss_of(*part)

    if ascent is None:
        return take_step(optimizer, first, parts, lr=lr, settings=settings, model=model)
    loss = take_step(ascent, first, parts, lr=lr, settings=settings, model=model)
    with without_statistics(model):
        take_step(optimizer, loss_of, kept, lr=lr, settings=settings, model=model)
    return loss
