"""Commands run as forks of one process that has imported torch and plumb already: only these imports are saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_ANSWERS_AFTER_SECONDS = 5.0
_STREAMS = ("in", "out", "err")


class ForkedCommands:
    """Runner of commands, one at a time; its process is started with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        words: list[str],
        folder: Path,
        environ: Mapping[str, str],
        given: str = "",
        closed: Iterable[int] = (),
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run `plumb WORDS` in a folder, or a script if the first word is "python".

        A command that takes longer than `timeout` seconds ends by SIGALRM.
        """
        streams = {name: folder.parent / f"{folder.name}.{name}" for name in _STREAMS}
        streams["in"].write_text(given)
        job = {
            "words": words,
            "folder": str(folder),
            "environ": dict(environ),
            "closed": list(closed),
            "timeout": int(timeout),
            "streams": [str(path) for path in streams.values()],
        }
        process = self._started()
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        code = json.loads(process.stdout.readline())["code"]
        out, err = (streams[name].read_text(errors="replace") for name in ("out", "err"))
        for path in streams.values():
            path.unlink()
        return subprocess.CompletedProcess(words, code, out, err)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(30)

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            command = [sys.executable, str(Path(__file__).with_name("command_forks.py"))]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PLUMB": "off"}
            )
        return self._process
