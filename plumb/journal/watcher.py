"""A process that waits for its parent to end, and cleans up after it where the parent could not do so itself.

Run as `python -m plumb.journal.watcher JOURNAL SCRATCH`. The parent writes to the watcher's standard input when
everything is done. If the input ends without that, the parent was killed: the watcher ends what is left of the script,
puts its files back, and removes its temporary folder and its stores in memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys


def main() -> None:
    """Wait for the parent, and do its work where it is dead."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read():
        return
    journal, scratch = sys.argv[1:]
    if os.path.isdir(journal):
        from plumb.journal import records, restore
        from plumb.processes import end_marked

        end_marked(f"{records.VARIABLE}={journal}")
        outcome = restore.put_back(journal, clean=False)
        if not outcome.not_put_back:
            shutil.rmtree(journal, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    from plumb.runtime.store_folder import remove_abandoned

    remove_abandoned()


if __name__ == "__main__":
    main()
