"""What plumb hears of loaders where scripts and libraries have put something else in the place of torch's class."""

import subprocess
import sys

import pytest

LISTEN = """
import functools, sys
class Heard:
    made = []
    def constructing(self, site, arguments):
        self.made.append(arguments.get("batch_size"))
        return {**arguments, "batch_size": 2}
    def constructed(self, loader, site):
        pass
    def iterating(self, loader, start, plain_loop):
        return start()
def listen():
    from plumb.script import interception
    interception.install(Heard())
"""
THEIRS = {
    "a subclass": """
class Theirs(plain):
    pass
torch.utils.data.DataLoader = Theirs
""",
    "a function": """
def theirs(*args, **kwargs):
    return plain(*args, **kwargs)
torch.utils.data.DataLoader = theirs
""",
    "a partial": "torch.utils.data.DataLoader = functools.partial(plain, drop_last=False)",
    "both names": """
class Theirs(plain):
    pass
import torch.utils.data.dataloader
torch.utils.data.DataLoader = torch.utils.data.dataloader.DataLoader = Theirs
""",
    "a function for both names": """
import torch.utils.data.dataloader
torch.utils.data.DataLoader = torch.utils.data.dataloader.DataLoader = lambda *args, **kwargs: plain(*args, **kwargs)
""",
    "its constructor": """
def wrapped(*args, **kwargs):
    return construct(*args, **kwargs)
construct, plain.__init__ = plain.__init__, wrapped
""",
}
USE = """
import torch.utils.data
loader = torch.utils.data.DataLoader(torch.arange(4), 4)
assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]], list(loader)
assert Heard.made == [4], Heard.made
# Plumb's own code, imported this late, and plumb's own loader work on torch's class.
import plumb, plumb.tuning.in_loop, plumb.api.tune
from plumb.runtime.loader import current_config, rebuild
assert issubclass(plumb.DataLoader, plain)
assert [batch.tolist() for batch in rebuild(loader, current_config(loader), None)] == [[0, 1], [2, 3]]
assert plumb.api.tune._loader(loader, None, {}) is loader
assert Heard.made == [4], Heard.made
"""


EACH_IN_A_FORK = """
import os, sys, traceback
# What takes long to import, but for plumb's own modules: these are to be imported anew in each fork.
import torch, networkx, numpy, optuna, msgspec, psutil
for name, code in CASES.items():
    if os.fork() == 0:
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            print(name, traceback.format_exc(), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_whatever_has_taken_the_place_of_torch_s_class_plumb_works_on_torch_s_own():
    start = "import torch.utils.data\nplain = torch.utils.data.DataLoader\n"
    cases = {}
    for name, theirs in THEIRS.items():
        cases[f"{name}, before plumb listens"] = LISTEN + start + theirs + "\nlisten()\n" + USE
        cases[f"{name}, afterwards"] = LISTEN + "listen()\n" + start + theirs + USE
    code = f"CASES = {cases!r}\n{EACH_IN_A_FORK}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
