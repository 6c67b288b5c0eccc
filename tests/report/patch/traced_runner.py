"""Makes the plan of scripts as a tuning would: a process for each, in its own folder.

Standard input holds a JSON list of lists: a folder, a script's name there, and its arguments.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch.utils.data  # noqa: F401 - imported for all of them

from tests.parts.forced import record

for folder, script, *arguments in json.load(sys.stdin):
    pid = os.fork()
    if not pid:
        try:
            os.chdir(folder)
            sys.path[0] = folder
            record(script, arguments, Path(f"{Path(script).stem}.plumb.json"))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"{folder}: {script} failed")
