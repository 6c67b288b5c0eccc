"""Backward passes and optimizer steps, which distinguish a training loop from other loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class TrainingSignals:
    """Counter of this process's backward passes and optimizer steps that calls `heard` after each."""

    def __init__(self, heard: Callable[[], None] | None = None) -> None:
        import torch.autograd
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.count = 0
        self._heard = heard
        backward = torch.autograd.backward

        def counted_backward(*args: Any, **kwargs: Any) -> None:
            self._signal()
            return backward(*args, **kwargs)

        def stepped(*_: Any) -> None:
            self._signal()

        torch.autograd.backward = counted_backward
        register_optimizer_step_post_hook(stepped)

    def _signal(self) -> None:
        self.count += 1
        if self._heard is not None:
            self._heard()
