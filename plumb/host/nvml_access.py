"""Access to NVML for queries that may each be unsupported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Nvml:
    """NVML, in which old drivers, virtual GPUs and partitions don't support every query."""

    module: Any

    def ask(self, question: str, *arguments: Any) -> Any:
        """Return the result of a query, or None if it fails."""
        return self.answer(question, *arguments)[0]

    def answer(self, question: str, *arguments: Any) -> tuple[Any, str | None]:
        """Return the result of a query and None, or None and the reason of the failure."""
        try:
            return getattr(self.module, question)(*arguments), None
        except self.module.NVMLError as error:
            return None, str(error)
        except AttributeError:
            return None, "not in the installed nvidia-ml-py"


@contextmanager
def open_nvml() -> Iterator[Nvml | str]:
    """Provide NVML inside the context, or the reason for its absence: no package, no driver, no permission."""
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
