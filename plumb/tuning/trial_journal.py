"""Measurements of an interrupted tuning, stored for the next one of the same script until a plan is written.

They are in a file of the user's cache folder, in a folder that only the user can write to. It is data: reading it runs
no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from plumb.core.errors import StoreError
from plumb.core.events import TrialDone
from plumb.core.plan import Trial
from plumb.core.printable import DAMAGED_JSON, to_json
from plumb.host.user_folder import open_private, open_user_folder, user_folder
from plumb.tuning.child_orders import Target

# Older measurements don't describe the present host and script.
_DAYS = 7
_DIGEST_LETTERS = 24
_FOLDER = "interrupted"


class Unfinished:
    """File of one script with its arguments; `count` is the number of configurations added by this tuning.

    If the folder can't be used, nothing is stored and nothing is reported, because it would only save time.
    """

    def __init__(self, target: Target, arguments: Sequence[str]) -> None:
        script = str(Path(target.name).resolve()) if not target.is_module else f"{Path.cwd()} -m {target.name}"
        digest = hashlib.sha256("\0".join([script, *arguments]).encode(errors="surrogateescape")).hexdigest()
        self.path = user_folder() / _FOLDER / f"{digest[:_DIGEST_LETTERS]}.jsonl"
        self.count = 0
        with contextlib.suppress(OSError):
            if time.time() - self.path.stat().st_mtime > _DAYS * 86_400:
                self.path.unlink()

    def add(self, done: TrialDone) -> None:
        """Add a trial if it can be compared with later ones."""
        if not done.comparable:
            return
        with contextlib.suppress(OSError, StoreError):
            folder = open_user_folder(_FOLDER)
            try:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(self.path.name, flags, 0o600, dir_fd=folder)
            finally:
                os.close(folder)
            try:
                os.write(file, to_json(done) + b"\n")
            finally:
                os.close(file)
            self.count += 1

    def forget(self) -> None:
        """Remove the file, because a plan has the results."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def read(path: Path, comparable: str) -> tuple[Trial, ...]:
    """Return the trials in a file that are comparable with those of a tuning; damaged ones are left out."""
    try:
        folder = open_private(path.parent)
    except (OSError, StoreError):
        return ()
    try:
        with open(os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return ()
    finally:
        os.close(folder)
    found = []
    for line in lines:
        with contextlib.suppress(*DAMAGED_JSON):
            found.append(msgspec.json.decode(line, type=TrialDone))
    return tuple(done.trial for done in found if done.comparable == comparable)
