"""Small scripts whose lines no plan may change, and what they print: one for each way in which a plan could be wrong.

In each, `tuned` marks datasets, and `DataLoader` is the loader of the way in which the script is run. `train` makes a
step of each batch, so that a loop is a training.
"""

from __future__ import annotations

import dataclasses

from plumb.core.config import CacheChoice, Config

PREAMBLE = """
import collections, functools, os, random, time
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
"""
STORE = CacheChoice("sample", "memory", 2**24, 1.0)
WORKERS = Config(2, 2, persistent_workers=True)
STORED = Config(2, 2, persistent_workers=True, cache=STORE)
STORED_HERE = Config(cache=STORE)
REUSING = Config(2, 2, persistent_workers=True, allocator_reuse=True)
THREADS = Config(fetch_threads=8)


@dataclasses.dataclass(frozen=True)
class Script:
    """A script, what it must print, if that is no chance, and the configurations that it is to print the same on."""

    code: str
    prints: str = ""
    configs: tuple[Config, ...] = (WORKERS, STORED, STORED_HERE)


SCRIPTS = {
    "a rare class is augmented": Script(
        """
@tuned
class Items(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, i):
        x = torch.full((4,), float(i))
        return (x + torch.rand(4) if i == 37 else x), i
loader, seen = DataLoader(Items(), batch_size=4, shuffle=True), []
for epoch in range(3):
    for x, i in loader:
        seen += [tuple(row.tolist()) for row, index in zip(x, i) if index == 37]
print("distinct", len(set(seen)))
""",
        "distinct 3\n",
    ),
    "a handle behind a cache, and a first look at the data": Script(
        """
with open("numbers", "wb") as file:
    file.write(b"".join(i.to_bytes(4, "little") for i in range(256)))
@functools.lru_cache
def opened(path):
    return open(path, "rb", buffering=0)
@tuned
class Records(Dataset):
    def __len__(self):
        return 256
    def __getitem__(self, i):
        file = opened("numbers")
        file.seek(4 * i)
        return i, int.from_bytes(file.read(4), "little")
dataset = Records()
dataset[0]
loader = DataLoader(dataset, batch_size=8, shuffle=True)
for epoch in range(3):
    print("wrong", sum(int((i != found).sum()) for i, found in loader))
""",
        "wrong 0\n" * 3,
    ),
    "a generator of the dataset's own": Script(
        """
class Noise:
    def __init__(self):
        self.rng = np.random.default_rng(0)
    def __call__(self, x):
        return x + self.rng.standard_normal()
@tuned
class Rows(Dataset):
    def __init__(self):
        self.noise = Noise()
    def __len__(self):
        return 96
    def __getitem__(self, i):
        return self.noise(0.0)
loader, every = DataLoader(Rows(), batch_size=8, shuffle=True), set()
for epoch in range(3):
    for draws in loader:
        every |= set(draws.tolist())
    print("draws", len(every))
""",
        "draws 96\ndraws 192\ndraws 288\n",
    ),
    "what a script changes between epochs": Script(
        """
class Scale:
    factor = 0
    def __call__(self, x):
        return x * 0 + self.factor
class Chain:
    def __init__(self, *steps):
        self.steps = list(steps)
    def __call__(self, x):
        for step in self.steps:
            x = step(x)
        return x
OFFSETS = {"all": 0}
@tuned
class Items(Dataset):
    def __init__(self):
        self.labels, self.weights, self.transform = [0] * 32, np.zeros(32), Chain(Scale())
    def __len__(self):
        return 32
    def __getitem__(self, i):
        return self.labels[i], float(self.weights[i]), self.transform(torch.ones(())), OFFSETS["all"]
class Collate:
    size = 0
    def __call__(self, samples):
        columns = [torch.as_tensor([float(sample[k]) for sample in samples]) for k in range(4)]
        return *columns, torch.full((len(samples),), float(self.size))
dataset, collate = Items(), Collate()
loader = DataLoader(Subset(dataset, range(32)), batch_size=4, collate_fn=collate)
for epoch in range(3):
    seen = [set() for _ in range(5)]
    for batch in loader:
        for found, column in zip(seen, batch):
            found |= set(column.tolist())
    print(seen)
    dataset.labels[:] = [epoch + 1] * 32
    dataset.weights[:] = epoch + 1
    dataset.transform.steps[0].factor = OFFSETS["all"] = collate.size = epoch + 1
""",
        "".join(f"{[{float(epoch)}] * 5}\n" for epoch in range(3)),
    ),
    "what the loop changes while an epoch runs": Script(
        """
@tuned
class Rows(Dataset):
    progress = 0
    def __len__(self):
        return 64
    def __getitem__(self, i):
        return torch.tensor(float(self.progress))
dataset = Rows()
loader = DataLoader(dataset, batch_size=4, shuffle=True)
for epoch in range(3):
    late = 0
    for seen in loader:
        late += int((seen != dataset.progress).sum())
        dataset.progress += 1
    print("late", late)
""",
        "late 0\n" * 3,
    ),
    "experience that the loop collects": Script(
        """
@tuned
class Replay(Dataset):
    def __init__(self):
        self.buffer = collections.deque([0] * 8, maxlen=64)
    def __len__(self):
        return 64
    def __getitem__(self, i):
        return self.buffer[-1 - i % 8]
replay, step = Replay(), 0
loader = DataLoader(replay, batch_size=4)
for epoch in range(3):
    ages = []
    for newest in loader:
        ages.append(step - int(newest.max()))
        step += 1
        replay.buffer.append(step)
    print(sorted(set(ages)))
""",
        "[0, 1, 3, 4]\n[0, 4]\n[0, 4]\n",
    ),
    "what samples count, and the loop reads": Script(
        """
class Running:
    n = 0
    def __call__(self, x):
        self.n += 1
        return x + self.n
@tuned
class Rows(Dataset):
    def __init__(self):
        self.norm = Running()
    def __len__(self):
        return 32
    def __getitem__(self, i):
        return self.norm(torch.zeros(()))
dataset = Rows()
loader = DataLoader(dataset, batch_size=4, shuffle=True)
for epoch in range(3):
    total = sum(int(x.sum()) for x in loader)
    print(dataset.norm.n, total)
""",
        "32 528\n64 1552\n96 2576\n",
    ),
    "a sampler that waits for the losses": Script(
        """
class ByLoss(Sampler):
    def __init__(self):
        self.weights, self.asked = torch.ones(64), 0
    def __len__(self):
        return 64
    def __iter__(self):
        for _ in range(64):
            self.asked += 1
            yield int(torch.multinomial(self.weights, 1))
@tuned
class Rows(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, i):
        return i
sampler = ByLoss()
loader = DataLoader(Rows(), batch_size=4, sampler=sampler)
for epoch in range(3):
    sampler.asked = given = ahead = 0
    for i in loader:
        given += len(i)
        ahead = max(ahead, sampler.asked - given)
        sampler.weights[i] = torch.rand(len(i)) + 1e-3
    print("ahead", ahead)
""",
        "ahead 0\n" * 3,
    ),
    "an iterator that is begun before the model is made": Script(
        """
@tuned
class Rows(Dataset):
    def __len__(self):
        return 24
    def __getitem__(self, i):
        return i
torch.manual_seed(0)
loader = DataLoader(Rows(), batch_size=4, shuffle=True)
for epoch in range(3):
    batches = iter(loader)
    weight = torch.rand(())
    print(f"{weight:.6f}", [batch.tolist() for batch in batches])
"""
    ),
    "two loaders in step": Script(
        """
@tuned
class Rows(Dataset):
    def __len__(self):
        return 16
    def __getitem__(self, i):
        return i
torch.manual_seed(0)
labelled, unlabelled = Rows(), Rows()
labelled = DataLoader(labelled, batch_size=4, shuffle=True)
unlabelled = DataLoader(unlabelled, batch_size=4, shuffle=True)
for epoch in range(3):
    print([(a.tolist(), b.tolist()) for a, b in zip(labelled, unlabelled)])
print(f"{torch.rand(()):.6f}")
"""
    ),
    "one handle, and a wait between seeking and reading": Script(
        """
with open("bytes", "wb") as file:
    file.write(bytes(range(96)))
@tuned
class Records(Dataset):
    file = None
    def __len__(self):
        return 96
    def __getitem__(self, i):
        if self.file is None:
            self.file = open("bytes", "rb", buffering=0)
        self.file.seek(i)
        time.sleep(0.0005)
        return i, self.file.read(1)[0]
loader = DataLoader(Records(), batch_size=8, shuffle=True)
for epoch in range(2):
    print("wrong", sum(int((i != found).sum()) for i, found in loader))
""",
        "wrong 0\n" * 2,
        (WORKERS, STORED, STORED_HERE, THREADS),
    ),
    "archives under a split": Script(
        """
import zipfile
for k in range(3):
    with zipfile.ZipFile(f"{k}.zip", "w") as archive:
        for i in range(32):
            archive.writestr(str(i), bytes([k, i]) * 50)
@tuned
class Archive(Dataset):
    def __init__(self, k):
        self.k, self.archive = k, zipfile.ZipFile(f"{k}.zip")
        self.archive.read("0")
    def __len__(self):
        return 32
    def __getitem__(self, i):
        k, number = self.archive.read(str(i))[:2]
        return self.k * 32 + i, k * 32 + number
train, _ = torch.utils.data.random_split(torch.utils.data.ConcatDataset(map(Archive, range(3))), [80, 16])
loader = DataLoader(train, batch_size=8, shuffle=True)
for epoch in range(2):
    print("wrong", sum(int((i != found).sum()) for i, found in loader))
""",
        "wrong 0\n" * 2,
        (WORKERS, STORED, STORED_HERE, THREADS),
    ),
    "a queue that hands out parts of its own list": Script(
        """
@tuned
class Queue(Dataset):
    def __init__(self):
        self.waiting, self.made = [], 0
    def __len__(self):
        return 48
    def __getitem__(self, i):
        if not self.waiting:
            self.waiting = [torch.tensor(self.made + k) for k in range(12)]
            self.made += 12
        return self.waiting.pop()
loader = DataLoader(Queue(), batch_size=4)
for epoch in range(3):
    seen = sorted(value for batch in loader for value in batch.tolist())
    print(len(set(seen)), seen[0], seen[-1])
""",
        "48 0 47\n48 48 95\n48 96 143\n",
    ),
    "nested tensors": Script(
        """
@tuned
class Lengths(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return torch.ones(i + 1)
def collate(samples):
    return torch.nested.nested_tensor(samples)
loader = DataLoader(Lengths(), batch_size=4, collate_fn=collate)
for epoch in range(2):
    print([(batch.is_nested, [int(row.sum()) for row in batch.unbind()]) for batch in loader])
""",
        "[(True, [1, 2, 3, 4]), (True, [5, 6, 7, 8])]\n" * 2,
        (WORKERS, REUSING),
    ),
    "batches that are kept where few files may be open": Script(
        """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 100,) * 2)
@tuned
class Rows(Dataset):
    def __len__(self):
        return 256
    def __getitem__(self, i):
        return i, torch.full((2,), float(i))
loader, kept = DataLoader(Rows(), batch_size=2, shuffle=True), []
for epoch in range(2):
    kept += list(loader)
    print(len(kept), sum(int(i.sum()) for i, _ in kept) == (epoch + 1) * sum(range(256)))
""",
        "128 True\n256 True\n",
        (WORKERS, REUSING),
    ),
}
