"""What scripts do: each row is a small training script that does one such thing, and prints what it saw."""

from __future__ import annotations

from dataclasses import dataclass, field

PREAMBLE = """
import contextlib, itertools, multiprocessing, os, signal, sys, tempfile, threading, time, warnings
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset

class Rows(Dataset):
    def __init__(self, length=16):
        self.length = length
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        return torch.full((2,), float(index))

weights = torch.ones(2, requires_grad=True)

def step(batch):
    loss = (weights * batch).sum()
    weights.grad = None
    loss.backward()
    with torch.no_grad():
        weights.sub_(0.001 * weights.grad)

def train(loader, epochs=2):
    for epoch in range(epochs):
        for batch in loader:
            step(batch)
            print(epoch, batch[:, 0].int().tolist(), flush=True)
"""


@dataclass(frozen=True)
class Row:
    """A script, and how it is started: with more words, with these descriptors closed, in this environment.

    `plan` is what `plumb run` is given: workers, which may last, threads, or the script's own configuration.
    `trace_says` is what `plumb trace` says of a script that it can't trace; without, it traces the script. `run_says`
    is a line that `plumb run` must print. `file` is the script's name.
    """

    code: str
    words: tuple[str, ...] = ()
    closed: tuple[int, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    given: str = ""
    plan: str = "workers"
    run_says: str = ""
    trace_says: str = ""
    file: str = "train.py"
    preamble: str = PREAMBLE
    is_module: bool = False
    modes: tuple[str, ...] = ("run",)


TRAIN = "loader = DataLoader(Rows(), batch_size=4, shuffle=True)\ntrain(loader)\n"
SEEDED = "torch.manual_seed(0)\n"

ROWS = {
    # ---- how scripts are written and started
    "a plain script": Row(SEEDED + TRAIN, modes=("run", "trace", "live")),
    "arguments of its own": Row("print(sys.argv[1:])\n" + TRAIN, words=("--plan", "x", "-O", "a b", "--", "")),
    "a path with spaces and other letters": Row(TRAIN, file="my tr\u00e4in.py"),
    "a path with bytes that are no UTF-8": Row(TRAIN, file="tr\udcffain.py", modes=("run", "trace")),
    "a source in Latin-1": Row("print('gr\u00fcn')\n" + TRAIN, preamble="# coding: latin-1" + PREAMBLE),
    "a module of a package": Row("from . import train as imported\n" + TRAIN, is_module=True, file="train.py"),
    "a terminal of ASCII": Row(TRAIN, env={"PYTHONIOENCODING": "ascii"}),
    "standard input that is read": Row("print(input())\n" + TRAIN, given="hello\n"),
    "standard input and error closed": Row(TRAIN, closed=(0, 2), modes=("run", "trace")),
    "all standard streams closed": Row(TRAIN, closed=(0, 1, 2)),
    "output of its own": Row("sys.stdout = open(1, 'w', buffering=1, closefd=False)\n" + TRAIN),
    "no standard error": Row("sys.stderr = None\n" + TRAIN, modes=("run", "trace")),
    "another folder": Row("os.makedirs('elsewhere', exist_ok=True)\nos.chdir('elsewhere')\n" + TRAIN),
    "an empty environment": Row("os.environ.clear()\n" + TRAIN),
    "warnings that are errors": Row("warnings.simplefilter('error')\n" + TRAIN, modes=("run", "trace")),
    "few descriptors": Row("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n" + TRAIN),
    # ---- how scripts end
    "an exit code": Row(TRAIN + "sys.exit(3)\n"),
    "an error": Row(TRAIN + "raise ValueError('the end')\n"),
    "no way to finish": Row(TRAIN + "sys.stdout.flush()\nos._exit(5)\n"),
    "killed by a signal of its own": Row(TRAIN + "os.kill(os.getpid(), signal.SIGTERM)\n"),
    "left by break": Row(
        SEEDED
        + """
loader = DataLoader(Rows(), batch_size=4, shuffle=True)
for epoch in range(3):
    for number, batch in enumerate(loader):
        step(batch)
        print(batch[:, 0].tolist())
        if number == 1:
            break
""",
        modes=("run", "live"),
    ),
    "an atexit function and a temporary folder": Row(
        "import atexit\natexit.register(print, 'at exit')\nfolder = tempfile.TemporaryDirectory()\n" + TRAIN
    ),
    "workers that last to the end": Row(TRAIN, plan="lasting workers"),
    "a stream whose workers last to the end": Row(
        "class Stream(IterableDataset):\n    def __iter__(self):\n"
        "        yield from torch.arange(20.0).repeat(2, 1).T\n"
        "loader = DataLoader(Stream(), batch_size=4, num_workers=2)\ntrain(loader)\n",
        plan="lasting workers",
    ),
    # ---- processes, threads, signals
    "spawned workers and no main guard": Row(
        "multiprocessing.set_start_method('spawn', force=True)\n" + TRAIN, run_says="run the script once more"
    ),
    "spawned workers by a choice after the loader is made": Row(
        "loader = DataLoader(Rows(), batch_size=4)\nmultiprocessing.set_start_method('spawn', force=True)\n"
        "train(loader)\n",
        run_says="run the script once more",
    ),
    "a start method that is set after the loader": Row(
        "loader = DataLoader(Rows(), batch_size=4)\nmultiprocessing.set_start_method('fork')\ntrain(loader)\n"
    ),
    # A pool renews workers that are ended; after a tuning they are found by their environment, which a fork has not.
    "an open pool": Row(
        "pool = multiprocessing.get_context('fork').Pool(1)\nprint(pool.map(abs, [-1]))\n" + TRAIN,
        modes=("run", "live"),
    ),
    "threads": Row(
        "done = threading.Event()\nwaiting = threading.Thread(target=done.wait, daemon=True)\nwaiting.start()\n" + TRAIN
    ),
    "a loop in a thread": Row(
        "loader = DataLoader(Rows(), batch_size=4)\nthread = threading.Thread(target=train, args=(loader,))\n"
        "thread.start()\nthread.join()\n",
        modes=("run", "trace", "live"),
    ),
    "an alarm": Row(
        "signal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n"
        + TRAIN
        + "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    ),
    "children that are waited for by a handler": Row(
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n" + TRAIN, plan="threads"
    ),
    # ---- loaders
    "a subclass without a hash": Row(
        "class Mine(DataLoader):\n    def __eq__(self, other):\n        return True\n"
        "loader = Mine(Rows(), batch_size=4)\ntrain(loader)\n",
        modes=("run", "trace"),
    ),
    "a subclass with a length and a truth value that raise": Row(
        "class Mine(DataLoader):\n    def __len__(self):\n        raise RuntimeError('not yet')\n"
        "    def __bool__(self):\n        raise RuntimeError('neither')\n"
        "loader = Mine(Rows(), batch_size=4)\ntrain(loader)\n",
        modes=("run", "trace"),
    ),
    "a replaced class": Row(
        "class Counting(DataLoader):\n    def __iter__(self):\n        print('an epoch')\n"
        "        return super().__iter__()\ntorch.utils.data.DataLoader = Counting\n"
        "loader = torch.utils.data.DataLoader(Rows(), batch_size=4)\ntrain(loader)\n",
        modes=("run", "trace"),
    ),
    "a function in the place of the class": Row(
        "plain = DataLoader\ntorch.utils.data.DataLoader = lambda *a, **k: plain(*a, **k)\n"
        "loader = torch.utils.data.DataLoader(Rows(), batch_size=4)\ntrain(loader)\n"
    ),
    "pinned memory without an accelerator": Row(
        "warnings.simplefilter('ignore')\nloader = DataLoader(Rows(), batch_size=4, pin_memory=True)\ntrain(loader)\n",
        modes=("run", "trace", "tune"),
    ),
    "a loader within a dataset": Row(
        """
class Queue(Dataset):
    batches = None
    def __len__(self):
        return 16
    def __getitem__(self, index):
        if self.batches is None:
            self.batches = iter(DataLoader(Rows(64)))
        return next(self.batches)[0]
loader = DataLoader(Queue(), batch_size=4)
train(loader, 1)
""",
        plan="own",
        modes=("run", "trace"),
    ),
    "an iterator for each batch": Row(
        SEEDED + "loader = DataLoader(Rows(), batch_size=4, shuffle=True)\nfor number in range(4):\n"
        "    batch = next(iter(loader))\n    step(batch)\n    print(batch[:, 0].tolist())\n"
    ),
    "two loaders that are zipped": Row(
        SEEDED + "one, two = (DataLoader(Rows(), batch_size=4, shuffle=True) for _ in range(2))\n"
        "for left, right in zip(one, two):\n    step(left + right)\n"
        "    print(left[:, 0].tolist(), right[:, 0].tolist())\n"
    ),
    "a loader that saves its place": Row(
        "warnings.simplefilter('ignore')\ntry:\n"
        "    from torchdata.stateful_dataloader import StatefulDataLoader as Saving\n"
        "except ImportError:\n    Saving = DataLoader\n"
        "torch.manual_seed(0)\nloader = Saving(Rows(), batch_size=4, shuffle=True)\ntrain(loader)\n"
        "if Saving is not DataLoader:\n    print(sorted(loader.state_dict()))\n",
        modes=("run", "trace"),
    ),
    # ---- batches
    "batches that can't be pickled": Row(
        "loader = DataLoader(Rows(), batch_size=4, collate_fn=lambda rows: (torch.stack(rows), lambda: len(rows)))\n"
        "for batch, later in loader:\n    step(batch)\n    print(batch[:, 0].tolist(), later())\n",
        run_says="as the script has it",
        modes=("run", "live"),
    ),
    "batches that lead back to themselves": Row(
        "def around(rows):\n    batch = {'x': torch.stack(rows)}\n    batch['all'] = batch\n    return batch\n"
        "loader = DataLoader(Rows(), batch_size=4, collate_fn=around)\n"
        "for batch in loader:\n    step(batch['all']['x'])\n    print(batch['x'][:, 0].tolist())\n",
        plan="threads",
        modes=("run", "trace"),
    ),
    "batches of words and nothing": Row(
        "loader = DataLoader([None, 'a', 3, 'b'], batch_size=2, collate_fn=list)\n"
        "for batch in loader:\n    step(torch.ones(1, 2))\n    print(batch)\n",
        modes=("run", "trace"),
    ),
    # ---- datasets
    "a dataset without a length": Row(
        "class Found:\n    def __getitem__(self, index):\n        return torch.full((2,), float(index))\n"
        "loader = DataLoader(Found(), batch_size=4, sampler=[3, 1, 2, 0, 5])\ntrain(loader)\n",
        modes=("run", "trace"),
    ),
    "a dictionary of rows": Row(
        "rows = {name: torch.full((2,), float(ord(name))) for name in 'abcdefgh'}\n"
        "loader = DataLoader(rows, batch_size=4, sampler=list('hgfedcba'))\ntrain(loader)\n",
        modes=("run", "trace"),
    ),
    "a dataset of one row": Row("loader = DataLoader(Rows(1), batch_size=4)\ntrain(loader, 3)\n"),
    "an empty dataset": Row(
        "loader = DataLoader(Rows(0), batch_size=4)\ntrain(loader)\n",
        trace_says="has no batches: its dataset is empty",
        modes=("run", "trace"),
    ),
    "a stream without a length": Row(
        "class Stream(IterableDataset):\n    def __iter__(self):\n"
        "        yield from torch.arange(20.0).repeat(2, 1).T\n"
        "loader = DataLoader(Stream(), batch_size=4)\nprint(sum(len(batch) for batch in loader))\ntrain(loader)\n",
        plan="threads",
        modes=("run", "trace"),
    ),
    "a stream that is shorter than a batch, and does not train": Row(
        "class Stream(IterableDataset):\n    def __iter__(self):\n        yield torch.ones(2)\n"
        "loader = DataLoader(Stream(), batch_size=4)\nprint([len(batch) for batch in loader])\n",
        plan="threads",
        modes=("run", "trace"),
    ),
    "a dataset that raises": Row(
        "class Broken(Rows):\n    def __getitem__(self, index):\n        if index == 9:\n"
        "            raise KeyError('row nine')\n        return super().__getitem__(index)\n"
        "loader = DataLoader(Broken(), batch_size=4)\ntrain(loader)\n",
        modes=("run", "live"),
    ),
    "samples that raise, and a loop that goes on with the next batch": Row(
        SEEDED
        + """
class Broken(Rows):
    def __getitem__(self, index):
        if index % 7 == 2:
            raise ValueError(f"row {index}")
        return super().__getitem__(index)
loader = DataLoader(Broken(64), batch_size=4)
for epoch in range(2):
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            break
        except ValueError as error:
            print(error)
            continue
        step(batch)
        print(batch[:, 0].tolist())
""",
        modes=("run", "live", "tune"),
    ),
    "samples that raise, and a loop that goes on with the next epoch": Row(
        SEEDED
        + """
class Broken(Rows):
    def __getitem__(self, index):
        if index == 9:
            raise ValueError("row 9")
        return super().__getitem__(index)
loader = DataLoader(Broken(), batch_size=4, shuffle=True)
for epoch in range(4):
    try:
        train(loader, 1)
    except ValueError as error:
        print(error)
""",
        modes=("run", "live", "tune"),
    ),
    "data in a temporary folder around it all": Row(
        """
class Files(Rows):
    def __getitem__(self, index):
        return torch.load(f"{folder}/{index}")
with tempfile.TemporaryDirectory() as folder:
    for index in range(16):
        torch.save(torch.full((2,), float(index)), f"{folder}/{index}")
    loader = DataLoader(Files(), batch_size=4)
    print(sum(batch.sum().item() for batch in loader))
print(os.path.exists(folder))
""",
        modes=("run", "tune"),
    ),
    "a sampler that raises": Row(
        "class Half(Sampler):\n    def __init__(self):\n        pass\n    def __iter__(self):\n"
        "        yield from range(9)\n        raise KeyError('no more')\n"
        "loader = DataLoader(Rows(), batch_size=4, sampler=Half())\ntrain(loader)\n",
    ),
    # ---- no loaders
    "batches that are made by hand": Row(
        "def get_batch():\n    return torch.ones(4, 2)\nfor number in range(9):\n    step(get_batch())\n"
        "    print(number)\n",
        trace_says="made by hand in get_batch",
        modes=("run", "trace"),
    ),
    "no torch at all": Row(
        "print('nothing to load')\n",
        preamble="",
        trace_says="ended without iterating a DataLoader: it has none",
        modes=("run", "trace"),
    ),
}
