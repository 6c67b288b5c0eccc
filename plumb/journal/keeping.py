"""One tuning's journal from beginning to end, in the process that starts the script.

A watcher process, which outlives this process however it ends, restores the files if this process can't.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from plumb.core.errors import one_line
from plumb.core.files_outcome import FilesOutcome, UnkeptFile
from plumb.host.user_folder import make_user_folder, memory_root, open_private, user_folder
from plumb.journal import records, snapshot
from plumb.journal.recovery import hold, recover
from plumb.journal.seen import OpenFiles
from plumb.journal.sharing import Share, forget_old

_FOLDER, _PREFIX = "journals", "tuning-"
_PACKAGE_ROOT = Path(__file__).resolve().parent.parent.parent
# Every Python program of the script imports this automatically, but an environment's own sitecustomize comes first.
_SITECUSTOMIZE = '''"""Lets the programs that a script starts during a tuning write plumb's journal, too."""
import os, sys


def _start():
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or os.curdir) != here]
    this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = this
    folder = os.environ.get({variable!r})
    if not folder or not os.path.isdir(folder):
        return
    sys.path.append({root!r})
    try:
        from plumb.journal import hook

        hook.start(folder)
    except Exception:
        # Another Python, for which plumb is not made: its program must run as it would. What it changes is found by
        # comparing the folders.
        pass
    finally:
        sys.path.remove({root!r})


_start()
'''


class Keeper:
    """Folder of a journal with all that the script's processes need to write it, as a context with a watcher process.

    Args:
        folders: Folders in which the script works, to be listed for the comparison.
        ignored: Files and folders of plumb's own.
        scratch: Folder that only the script's processes use; it is removed with them.
        launch: Identifier that the ranks of one launch share, for one journal of all of them; None for a single script.

    """

    def __init__(
        self, folders: Sequence[Path], ignored: Iterable[str], scratch: str, launch: str | None = None
    ) -> None:
        self._folders, self._ignored, self._scratch = tuple(folders), tuple(ignored), scratch
        self._watcher: subprocess.Popen[bytes] | None = None
        self._share: Share | None = None
        self._listed: Collection[str] = ()
        self._alive: int | None = None
        self._is_done = False
        root = _root()
        forget_old(root)
        self.recovered = recover(root, _PREFIX)
        """Sentences on the restored files of tunings that were killed."""
        if launch is None:
            self.folder = tempfile.mkdtemp(dir=root, prefix=_PREFIX)
            self._alive = hold(self.folder)
            self._make(self.folder)
        else:
            self.folder = str(root / f"launch-{launch}")
            self._share = Share(self.folder)
            self._share.enter_journal(self._make)
        self.mark = f"{records.MARK}={os.path.basename(self.folder)}-{secrets.token_hex(4)}"
        """Entry in the environment of all processes of the script."""
        self._open_files = OpenFiles(self.folder, self._listed, self.mark if launch is None else None)

    def _make(self, folder: str) -> None:
        """Fill a new journal's folder with what the script's processes need."""
        plumbs = (*self._ignored, str(user_folder()), str(memory_root()), self._scratch, folder)
        own = sorted({os.path.realpath(path) for path in plumbs})
        with open(os.path.join(folder, records.SETTINGS), "w", encoding="utf-8") as file:
            json.dump({"ignored": own}, file)
        os.mkdir(os.path.join(folder, records.COPIES), 0o700)
        startup = Path(folder, records.STARTUP)
        startup.mkdir()
        text = _SITECUSTOMIZE.format(variable=records.VARIABLE, root=str(_PACKAGE_ROOT))
        (startup / "sitecustomize.py").write_text(text, encoding="utf-8")
        roots = sorted({os.path.realpath(folder) for folder in self._folders})
        self._listed = snapshot.take(roots, folder, frozenset(own))

    def look_at(self, pid: int) -> None:
        """Record, at intervals, which files the process and the programs that it started hold open for writing."""
        if self._open_files.look(pid) and self._alive is not None:
            os.utime(self._alive)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the environment for the script, in which its processes find the journal."""
        paths = [os.path.join(self.folder, records.STARTUP), inherited.get("PYTHONPATH", "")]
        return {
            **inherited,
            records.VARIABLE: self.folder,
            records.MARK: self.mark.partition("=")[2],
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        }

    def __enter__(self) -> Keeper:
        shared = self._share.descriptor if self._share is not None else None
        held = [descriptor for descriptor in (shared, self._alive) if descriptor is not None]
        words = [self.folder, self._scratch, self.mark, str(shared or "")]
        command = [sys.executable, "-m", "plumb.script.cleanup_after_tuning", *words]
        paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
        self._watcher = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            pass_fds=held,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        )
        return self

    def put_back(self, clean: bool, wait_seconds: float = 0.0) -> FilesOutcome:
        """Restore the script's files; none of its processes may run any more.

        If plumb itself fails, the outcome says so and the journal is left in place, so that the tuning's result is
        kept.

        Args:
            clean: Remove what the script made, too.
            wait_seconds: Seconds to wait for the other ranks of a launch. The last rank restores the files; the others
                return an empty outcome.

        """
        outcome: list[FilesOutcome] = []
        if self._share is None:
            outcome.append(self._put_back(clean))
        else:
            self._share.leave(wait_seconds, lambda: outcome.append(self._put_back(clean)))
        self._is_done = True
        return outcome[0] if outcome else FilesOutcome()

    def _put_back(self, clean: bool) -> FilesOutcome:
        from plumb.journal import putting_back

        try:
            outcome = putting_back.put_back(self.folder, clean, _printed_to())
        except Exception as error:
            why = f"plumb itself failed ({one_line(error)}); the earlier files are in {self.folder}"
            return FilesOutcome(not_put_back=(UnkeptFile("all that it changed", why),))
        if not any("content is in" in file.why for file in outcome.not_put_back):
            shutil.rmtree(self.folder, ignore_errors=True)
        return outcome

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is not None and self._watcher.stdin is not None:
            with contextlib.suppress(OSError):
                if self._is_done:
                    self._watcher.stdin.write(b"done")
                # Otherwise a signal came before the script's first message: the watcher ends the script and restores
                # the files.
                self._watcher.stdin.close()
            self._watcher.wait()
        if self._share is not None:
            self._share.close()
        if self._alive is not None:
            os.close(self._alive)


def _root() -> Path:
    """Return the folder of journals, in the user's cache folder, or else in that of temporary files."""
    try:
        root = make_user_folder() / _FOLDER
        root.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        root = Path(tempfile.gettempdir(), f"plumb-journals-{os.geteuid()}")
        root.mkdir(mode=0o700, exist_ok=True)
        os.close(open_private(root))
    return root.resolve()


def _printed_to() -> set[tuple[int, int]]:
    """Return the identities of the files that this process's own output goes to."""
    found = set()
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            found.add((status.st_dev, status.st_ino))
    return found
