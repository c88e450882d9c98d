"""What a training loop asks of the run that it trains; ``livt.lab.runs.OpenRun`` is one that survives a kill."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Run(Protocol):
    """An open run. ``metrics``: the rows of the complete epochs; ``saved``: how many of them the saved state holds."""

    id: str
    metrics: list[dict[str, Any]]
    saved: int

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Bring back the last saved state, if there is one."""

    def epochs(self, total: int, progress: bool) -> Iterator[int]:
        """Yield the epochs still to train, counted from 0."""

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, row: dict[str, Any], waited: float = 0.0
    ) -> None:
        """Add an epoch's metrics; ``waited`` seconds since the start went by for want of images."""

    def finish(self, weights: dict[str, Tensor], result: dict[str, Any], images: int, device: torch.device) -> None:
        """End the run with its weights and result; ``images`` were seen in training."""
