"""Process that waits for its parent to end, and cleans up if the parent could not do so itself.

It runs as `python -m plumb.script.cleanup_after_tuning JOURNAL SCRATCH MARK SHARED`. The parent writes to the watcher's
standard input when everything is done. If the input ends without that, the parent was killed: the watcher ends the
script's remaining processes, restores its files, and removes its temporary folder and its stores in memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys

from plumb.journal.sharing import Share


def main() -> None:
    """Wait for the parent, and do its work if it was killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return
    journal, scratch, mark, shared = sys.argv[1:]
    from plumb.host.process_control import end_marked

    end_marked(mark)
    if shared:
        Share(journal, int(shared)).leave(0.0, lambda: _put_back(journal))
    else:
        _put_back(journal)
    shutil.rmtree(scratch, ignore_errors=True)
    from plumb.runtime.store.store_folder import remove_abandoned

    remove_abandoned()


def _put_back(journal: str) -> None:
    from plumb.journal import putting_back

    if os.path.isdir(journal) and not putting_back.put_back(journal, clean=False).not_put_back:
        shutil.rmtree(journal, ignore_errors=True)


if __name__ == "__main__":
    main()
