"""What plumb hears of loaders where scripts and libraries have put something else in the place of torch's class."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import plumb

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


# Each way in which plumb makes a loader for itself, in the process of a session.
OWN = """
import dataclasses, time
import torch.utils.data
from torch.utils.data import DataLoader, Dataset, IterableDataset
import plumb
from plumb.core.config import Config
from plumb.runtime.loader import current_config, rebuild
from plumb.script import interception
from plumb.script.session import Session
from plumb.tuning import iterable_sharding
from plumb.tuning.epoch_rehearsal import rehearse_epochs
from tests.runtime.test_clocked_runs import entry

class Rows(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        return torch.tensor([index])

class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(64))

session = Session(lambda: None, 10.0, lambda event: None, list)
interception.install(session)
users = [DataLoader(Rows(), 2, **ARGUMENTS), DataLoader(Stream(), 2, **ARGUMENTS)]
own = current_config(users[0])
for planned in (Config(), Config(1, 2), Config(2, 2, persistent_workers=True)):
    named = dataclasses.replace(entry(planned, own), samples_per_batch=2)
    assert rehearse_epochs(users[0], named, [[0, 1], [2, 3]], 1e6) is not None
for loader in users:
    next(iter(rebuild(loader, current_config(loader), None)))
iterable_sharding._asks(users[1])
next(iter(iterable_sharding._epoch(users[1], users[1].num_workers, time.perf_counter() + 60.0)), None)
plumb.tune(Rows(), batch_size=3, budget=0.5, **ARGUMENTS)
plumb.tune(users[0], step=lambda batch: None, budget=2.0)
known = session._registry.all()
assert [each.loader() for each in known] == users, [(str(each.site), each.batches_seen) for each in known]
"""
WORKERS = {
    "none": "{}",
    "one": "{'num_workers': 1}",
    "two": "{'num_workers': 2}",
    "persistent": "{'num_workers': 1, 'persistent_workers': True}",
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", WORKERS.values(), ids=WORKERS)
def test_a_session_knows_no_loader_that_plumb_makes(arguments):
    code = OWN.replace("ARGUMENTS", arguments)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr


def test_plumb_makes_no_loader_of_torch_s_class_itself():
    package = Path(plumb.__file__).parent
    makers, classes = set(), {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("DataLoader"):
                makers.add(path.relative_to(package).as_posix())
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
                if any(base.endswith("DataLoader") for base in bases):
                    classes[node.name] = any("made_by_plumb" in ast.unparse(part) for part in node.body)
    # The one that a plan makes is the user's own.
    assert makers == {"api/tune.py"}
    assert classes == {"DataLoader": False, "TorchsLoader": True}
