"""Environments for libraries whose dependencies don't go together, each made once, in `analysis/data/venvs`."""

import importlib.metadata
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from analysis.images import ROOT
from analysis.pipelines.pipeline import DATA
from analysis.results import say

_FOLDER = DATA / "venvs"
_PATIENCE_SECONDS = 1800
_BUILD_TOOLS = ("setuptools<81", "wheel")


class CannotRunError(Exception):
    """Why a peer can't run here, in one line."""


@dataclass(frozen=True)
class Environment:
    """An environment with `packages`.

    `sees_ours` adds this environment's packages, torch among them, behind its own; then `packages` should name all that
    they lack, as pip is told to leave dependencies alone. `lacking` says what else the system must have.
    """

    name: str
    packages: tuple[str, ...]
    sees_ours: bool
    has_dependencies: bool = True
    lacking: str = ""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return _FOLDER / self.name / "bin" / "python"

    @property
    def is_made(self) -> bool:
        """True if the environment is complete."""
        return self._stamp.exists() and self._stamp.read_text() == repr(self)

    def require(self) -> None:
        """Raise CannotRunError if the environment is missing."""
        if not self.is_made:
            raise CannotRunError("not installed: python -m analysis --install")

    def make(self) -> None:
        """Make the environment if it is missing. Raise CannotRunError with pip's last line if that fails."""
        if self.is_made:
            return
        say(f"peers: making an environment for {self.name}")
        folder = _FOLDER / self.name
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], self.lacking)
        if self.sees_ours:
            site = next(folder.glob("lib/python*/site-packages"))
            (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--constraint", str(_constraints())]
        apart = []
        if not self.has_dependencies:
            # What is built against our torch can't be built apart, so its build tools must be here.
            _run([*pip, *_BUILD_TOOLS], self.lacking)
            apart = ["--no-deps", "--no-build-isolation"]
        _run([*pip, *apart, *self.packages], self.lacking)
        self._stamp.write_text(repr(self))

    @property
    def _stamp(self) -> Path:
        return _FOLDER / self.name / "made"


def _constraints() -> Path:
    """No other build of torch than ours may come in."""
    path = _FOLDER / "constraints.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"torch=={importlib.metadata.version('torch').partition('+')[0]}\n")
    return path


def _run(command: list[str], lacking: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_PATIENCE_SECONDS)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if "rror" in line] or ["pip failed"]
        hint = f"; it needs {lacking}" if lacking else ""
        raise CannotRunError(f"not installed: {lines[-1].strip()}{hint}")
