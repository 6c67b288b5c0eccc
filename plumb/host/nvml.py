"""NVML, opened for a few questions of which any may go unanswered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Nvml:
    """NVML whose every question may go unanswered: old drivers, virtual GPUs and partitions lack some."""

    module: Any

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer, or None where there is none."""
        return self.answer(question, *arguments)[0]

    def answer(self, question: str, *arguments: Any) -> tuple[Any, str | None]:
        """The answer and None, or None and why there is none."""
        try:
            return getattr(self.module, question)(*arguments), None
        except self.module.NVMLError as error:
            return None, str(error)
        except AttributeError:
            return None, "not in the installed nvidia-ml-py"


@contextmanager
def opened() -> Iterator[Nvml | str]:
    """NVML while the block lasts, or why there is none: no package, no driver, no permission."""
    try:
        import pynvml
    except ImportError:
        yield "nvidia-ml-py isn't installed"
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield str(error)
        return
    nvml = Nvml(pynvml)
    try:
        yield nvml
    finally:
        nvml.ask("nvmlShutdown")
