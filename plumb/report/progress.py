"""Progress of a tuning on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Display:
    """A live line on a terminal; elsewhere one plain line per phase. The script's output passes through."""

    def __init__(self, console: Console, quiet: bool, first: str = "starting your script") -> None:
        self._console = console
        self._quiet = quiet
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
        )
        self._task = self._progress.add_task(first, total=None)
        self._is_live = console.is_terminal and not quiet
        self._rest = b""

    def __enter__(self) -> Display:
        if self._is_live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rest:
            self._pass_on(self._rest)
        if self._is_live:
            self._progress.stop()

    def phase(self, text: str) -> None:
        """Show `text` as the present activity."""
        if self._is_live:
            self._progress.update(self._task, description=text)
        elif not self._quiet:
            self._console.print(f"plumb: {text}", markup=False, highlight=False, soft_wrap=True)

    def say(self, lines: Iterable[str]) -> None:
        """Print lines for the user, in quiet mode too."""
        for line in lines:
            self._console.print(f"plumb: {line}", markup=False, highlight=False, soft_wrap=True)

    def output(self, data: bytes) -> None:
        """Print the script's output, in whole lines only, so that it doesn't tear the progress line."""
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if cut:
            self._pass_on(self._rest + data[:cut])
            self._rest = data[cut:]
        else:
            self._rest += data

    def _pass_on(self, data: bytes) -> None:
        if self._is_live:
            # Printing through rich's console moves its live line out of the way.
            self._console.out(data.decode(errors="replace").rstrip("\r\n"), highlight=False)
        else:
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
