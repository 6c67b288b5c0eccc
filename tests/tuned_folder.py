"""A folder of the user's in which programs run as a tuned script does."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from plumb.core.files_outcome import FilesOutcome
from plumb.journal.keeping import Keeper

OLD = 1_600_000_000_000_000_000


class Tuned:
    """A folder of the user's, and programs that run in it as a tuned script does."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self._scratch = scratch
        scratch.mkdir()

    def file(self, name: str, content: bytes = b"the user's own") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(OLD, OLD))
        return path

    def run(self, code: str, clean: bool = False, exit_code: int = 0) -> FilesOutcome:
        keeper = Keeper((self.folder,), (), str(self._scratch))
        done = subprocess.run(
            [sys.executable, "-c", f"import os, sys, shutil\nfrom pathlib import Path\n{code}"],
            cwd=self.folder, env=keeper.environment(os.environ), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == exit_code, done.stderr
        outcome = keeper.put_back(clean)
        assert not Path(keeper.folder).exists()
        return outcome

    def state(self) -> dict[str, object]:
        """Everything below the folder: content, mode and time of files, targets of links, modes of folders."""
        found: dict[str, object] = {}
        for path in sorted(self.folder.rglob("*")):
            name, status = str(path.relative_to(self.folder)), path.lstat()
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_dir():
                found[name] = stat.S_IMODE(status.st_mode)
            else:
                found[name] = (path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        return found
