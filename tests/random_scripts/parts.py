"""The parts of a random script's source, each following one or two of the recipe's choices."""

from __future__ import annotations

# ruff: noqa: E501
from textwrap import indent

from tests.random_scripts.recipe import Recipe

_WRITE_DATA = """
if not os.path.exists("data.bin"):
    np.arange(SAMPLES * 4, dtype=np.float32).reshape(SAMPLES, 4).tofile("data.bin")
"""

_READING = {
    "memory": "ROWS = torch.arange(SAMPLES * 4, dtype=torch.float32).reshape(SAMPLES, 4)\n",
    "mmap": 'ROWS = np.memmap("data.bin", dtype=np.float32, mode="r", shape=(SAMPLES, 4))\n',
    "handle at start": 'FILE = open("data.bin", "rb")\n',
    "closure": """
def reader():
    file = open("data.bin", "rb")

    def read(index):
        file.seek(index * 16)
        return file.read(16)

    return read


READ = reader()
""",
    "cached": """
@functools.lru_cache(maxsize=None)
def opened(path):
    return open(path, "rb")
""",
}

_READ = {
    "memory": "return ROWS[index].clone()",
    "mmap": "return torch.from_numpy(np.array(ROWS[index]))",
    "open": 'with open("data.bin", "rb") as file:\n    file.seek(index * 16)\n    data = file.read(16)',
    "handle at start": "FILE.seek(index * 16)\ndata = FILE.read(16)",
    "closure": "data = READ(index)",
    "cached": 'file = opened("data.bin")\nfile.seek(index * 16)\ndata = file.read(16)',
    "lazy handle": (
        'if self.file is None:\n    self.file = open("data.bin", "rb")\nself.file.seek(index * 16)\ndata = self.file.read(16)'
    ),
}


def reading(recipe: Recipe) -> str:
    """Where the samples' data come from, at module level."""
    data = "" if recipe.reading == "memory" else _WRITE_DATA
    return data + _READING.get(recipe.reading, "")


def _read_method(recipe: Recipe) -> str:
    body = _READ[recipe.reading]
    if not body.startswith("return"):
        body += "\nreturn torch.frombuffer(bytearray(data), dtype=torch.float32)"
    return f"def read(self, index):\n{indent(body, '    ')}\n"


_COUNTED = {
    "count": "self.count += 1",
    "count in value": "self.count += 1\nvalue = value + self.count",
    "seen": "self.seen.append(index)",
    "memo": "if index not in self.memo:\n    self.memo[index] = value\nvalue = self.memo[index].clone()",
    "attribute": "value = value * self.scale",
    "attribute in loop": "value = value + self.progress",
    "list": "value = value + OFFSETS[0]",
    "array": "value = value + float(self.weights[index % 3])",
    "tensor": "value = value * self.factor",
    "tensor in loop": "value = value + self.factor",
    "global": "value = value * SCALE",
    "transform": "value = self.transform(value)",
    "buffer in loop": "value = value + self.buffer[-1] + len(self.buffer)",
}

_DRAWN = {
    "torch": "value = value + torch.rand(4)",
    "numpy": "value = value + float(np.random.rand())",
    "python": "value = value + random.random()",
    "own": "value = value + float(self.generator.random())",
    "by class": "if index % 5 == 0:\n    value = value + torch.rand(4)",
}

_INIT = """\
def __init__(self):
    self.file = None
    self.count = 0
    self.seen = []
    self.memo = {}
    self.scale = 1.0
    self.progress = 0.0
    self.weights = np.zeros(3)
    self.factor = torch.ones(())
    self.buffer = [0.0]
    self.transform = Scale()
    self.generator = np.random.default_rng(7)
"""

_FORMS = {
    "tuple": "return index, value",
    "dict": 'return {"index": index, "value": value, "label": index % 3}',
    "namedtuple": "return Pair(index, value)",
    "strings": 'return index, f"name {index}", value',
    "nested": 'return {"index": index, "more": [value, {"twice": value * 2, "text": str(index)}]}',
    "dataclass": "return Record(index, value)",
}

_KINDS = """
Pair = collections.namedtuple("Pair", "index value")


@dataclasses.dataclass
class Record:
    index: int
    value: torch.Tensor

    def pin_memory(self):
        return self


class Scale:
    factor = 1.0

    def __call__(self, value):
        return value * self.factor


def spend(microseconds):
    until = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < until:
        pass
"""


def _make_sample(recipe: Recipe) -> str:
    lines = ["value = self.read(index)"]
    if recipe.sample_microseconds:
        lines.append(f"spend({recipe.sample_microseconds})")
    if recipe.ends.endswith("in sample"):
        lines.append("if index == SAMPLES // 2:\n    raise ValueError(f'sample {index} is damaged')")
    lines.append(_COUNTED.get(recipe.state, ""))
    lines.append(_DRAWN.get(recipe.randomness, ""))
    lines.append(_FORMS[recipe.sample])
    return f"def sample(self, index):\n{indent(chr(10).join(filter(None, lines)), '    ')}\n"


_ACCESS = {
    "map": "def __len__(self):\n    return SAMPLES\n\ndef __getitem__(self, index):\n    return self.sample(int(index))\n",
    "getitems": (
        "def __len__(self):\n    return SAMPLES\n\ndef __getitem__(self, index):\n    return self.sample(int(index))\n\n"
        "def __getitems__(self, indices):\n    return [self.sample(int(index)) for index in indices]\n"
    ),
    "batched": (
        "def __len__(self):\n    return SAMPLES\n\ndef __getitem__(self, indices):\n"
        "    pairs = [self.sample(int(index)) for index in indices]\n"
        "    return torch.tensor([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])\n"
    ),
    "iterable": (
        "def __len__(self):\n    return SAMPLES\n\ndef __iter__(self):\n    worker = get_worker_info()\n"
        "    first, every = (worker.id, worker.num_workers) if worker else (0, 1)\n"
        "    for index in range(first, SAMPLES, every):\n        yield self.sample(index)\n"
    ),
    "generator": "def __iter__(self):\n    for index in range(SAMPLES):\n        yield self.sample(index)\n",
}


def samples(recipe: Recipe) -> str:
    """The dataset, and the function that makes it."""
    if recipe.dataset == "tensors":
        made = "return TensorDataset(torch.arange(SAMPLES), ROWS)"
        return f"{_KINDS}\n\ndef make_dataset():\n    {made}\n\n\ndef kept(dataset):\n    return len(dataset)\n"
    base = "IterableDataset" if recipe.is_stream else "Dataset"
    access = _ACCESS.get(recipe.dataset, _ACCESS["map"])
    body = "\n".join([_INIT, _read_method(recipe), _make_sample(recipe), access])
    made = {
        "subset": "return Subset(Samples(), list(range(SAMPLES - 1, -1, -1)))",
        "concat": "return ConcatDataset([Samples(), Samples()])",
    }.get(recipe.dataset, "return Samples()")
    inner = {"subset": "dataset.dataset", "concat": "dataset.datasets[0]"}.get(recipe.dataset, "dataset")
    shown = f"return {inner}.count, {inner}.seen[-8:], {inner}.scale, {inner}.progress"
    return (
        f"{_KINDS}\n\nclass Samples({base}):\n{indent(body, '    ')}\n\ndef make_dataset():\n    {made}\n\n\n"
        f"def inner(dataset):\n    return {inner}\n\n\ndef kept(dataset):\n    {shown}\n"
    )


_COLLATES = {
    "function": "def join(samples):\n    indices, values = zip(*samples)\n    return torch.tensor(indices), torch.stack(values)\n",
    "objects": (
        "def join(samples):\n"
        "    return Record(torch.tensor([sample.index for sample in samples]), torch.stack([s.value for s in samples]))\n"
    ),
    "partial": (
        "def join_with(factor, samples):\n    indices, values = zip(*samples)\n"
        "    return torch.tensor(indices), torch.stack(values) * factor\n\n\njoin = functools.partial(join_with, 2.0)\n"
    ),
    "lambda": "join = lambda samples: (torch.tensor([s[0] for s in samples]), torch.stack([s[1] for s in samples]))\n",
    "class": (
        "class Join:\n    shift = 0.0\n\n    def __call__(self, samples):\n        indices, values = zip(*samples)\n"
        "        return {'index': torch.tensor(indices), 'value': torch.stack(values) + self.shift}\n\n\njoin = Join()\n"
    ),
    "list": (
        "def join(samples):\n    return [torch.tensor([index for index, _ in samples])] + [value for _, value in samples]\n"
    ),
    "ragged": (
        "def join(samples):\n    cut = [value[: index % 4 + 1] for index, value in samples]\n"
        "    padded = nn.utils.rnn.pad_sequence(cut, batch_first=True)\n"
        "    return torch.tensor([index for index, _ in samples]), padded, [len(each) for each in cut]\n"
    ),
    "nested tensors": (
        "def join(samples):\n    cut = [value[: index % 4 + 1] for index, value in samples]\n"
        "    return torch.tensor([index for index, _ in samples]), torch.nested.nested_tensor(cut)\n"
    ),
}


def collating(recipe: Recipe) -> str:
    """The collate function, if it is the script's own."""
    return _COLLATES.get(recipe.collate, "join = None\n")


_ORDER_CLASSES = {
    "own sampler": """
class Order(Sampler):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(np.random.permutation(self.count).tolist())
""",
    "epoch sampler": """
class Order(Sampler):
    def __init__(self, count):
        self.count = count
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.count

    def __iter__(self):
        generator = torch.Generator()
        generator.manual_seed(self.epoch)
        return iter(torch.randperm(self.count, generator=generator).tolist())
""",
    "batch sampler": """
class Batches:
    def __init__(self, count, size):
        self.count, self.size = count, size

    def __len__(self):
        return self.count // self.size

    def __iter__(self):
        order = np.random.permutation(self.count).tolist()
        for number in range(len(self)):
            yield order[number * self.size : (number + 1) * self.size]
""",
}


def order(recipe: Recipe) -> str:
    """The sampler's class, if it is the script's own."""
    return _ORDER_CLASSES.get(recipe.order, "")


def _order_arguments(recipe: Recipe) -> list[str]:
    if recipe.dataset == "batched":
        inner = {
            "shuffle": "RandomSampler(dataset)",
            "own generator": "RandomSampler(dataset, generator=torch.Generator().manual_seed(5))",
            "own sampler": "Order(len(dataset))",
            "epoch sampler": "Order(len(dataset))",
            "weighted": "WeightedRandomSampler([1.0, 2.0] * (len(dataset) // 2), len(dataset))",
        }.get(recipe.order, "SequentialSampler(dataset)")
        return [f"sampler=BatchSampler({inner}, BATCH, False)", "batch_size=None"]
    sizes = [] if recipe.order == "batch sampler" else ["batch_size=BATCH"]
    return sizes + {
        "shuffle": ["shuffle=True"],
        "own generator": ["shuffle=True", "generator=torch.Generator().manual_seed(5)"],
        "own sampler": ["sampler=Order(len(dataset))"],
        "epoch sampler": ["sampler=Order(len(dataset))"],
        "weighted": ["sampler=WeightedRandomSampler([1.0, 2.0] * (len(dataset) // 2), len(dataset))"],
        "batch sampler": ["batch_sampler=Batches(len(dataset), BATCH)"],
    }.get(recipe.order, [])


def _arguments(recipe: Recipe) -> str:
    given = ["dataset", *_order_arguments(recipe)]
    if recipe.num_workers:
        given.append(f"num_workers={recipe.num_workers}")
        given += [f"prefetch_factor={recipe.prefetch_factor}"] if recipe.prefetch_factor else []
        given += ["persistent_workers=True"] if recipe.persistent_workers else []
        given += ["worker_init_fn=seed_worker"] if recipe.worker_init else []
    given += ["pin_memory=True"] if recipe.pin_memory else []
    given += ["drop_last=True"] if recipe.drop_last else []
    given += ["collate_fn=join"] if recipe.collate != "default" else []
    return ", ".join(given)


_PLACES = {
    "function": "def make_loader(dataset):\n    loader = DataLoader({arguments})\n    return loader\n",
    "factory": (
        "def loader_over(dataset, **more):\n    return DataLoader({arguments}, **more)\n\n\n"
        "def make_loader(dataset):\n    return loader_over(dataset)\n"
    ),
    "class": (
        "class Trainer:\n    def __init__(self, dataset):\n        self.loader = DataLoader({arguments})\n\n\n"
        "def make_loader(dataset):\n    return Trainer(dataset).loader\n"
    ),
    "subclass": (
        "class OwnLoader(DataLoader):\n    def __init__(self, dataset, name):\n        super().__init__({arguments})\n"
        "        self.name = name\n\n    def __iter__(self):\n        for batch in super().__iter__():\n            yield batch\n\n\n"
        "def make_loader(dataset):\n    return OwnLoader(dataset, 'train')\n"
    ),
    "partial": (
        "make = functools.partial(DataLoader, {options})\n\n\ndef make_loader(dataset):\n    return make(dataset)\n"
    ),
}
_INIT_WORKER = "def seed_worker(number):\n    np.random.seed(torch.initial_seed() % 2**32)\n\n\n"


def place(recipe: Recipe) -> str:
    """The function that makes a loader, where the script has one."""
    arguments = _arguments(recipe)
    options = arguments.removeprefix("dataset, ")
    where = recipe.place
    if where == "partial" and "dataset" in options:
        where = "function"
    text = _PLACES.get(where, "").format(arguments=arguments, options=options)
    return _INIT_WORKER + text if recipe.worker_init else text


def _new_loader(recipe: Recipe) -> str:
    return "make_loader(dataset)" if recipe.place in _PLACES else f"DataLoader({_arguments(recipe)})"


def make(recipe: Recipe) -> str:
    """How the loaders are made before the first epoch."""
    lines = ["dataset = make_dataset()"]
    if recipe.place == "comprehension":
        lines += [
            "datasets = {'train': dataset, 'val': make_dataset()}",
            f"loaders = {{name: DataLoader({_arguments(recipe)}) for name, dataset in datasets.items()}}",
            "loader, other = loaders['train'], loaders['val']",
        ]
    else:
        if recipe.place != "anew":
            lines.append(f"loader = {_new_loader(recipe)}")
        if recipe.loop in ("zip", "validation"):
            lines += ["other = (lambda dataset: " + _new_loader(recipe) + ")(make_dataset())"]
    if recipe.loop == "cycle":
        if recipe.place == "anew":
            lines.append(f"loader = {_new_loader(recipe)}")
        lines.append("stream = cycle(loader)")
    return "\n".join(lines)


_INNER_CHANGES = {
    "attribute": "inner(dataset).scale = 1.0 + epoch",
    "list": "OFFSETS[0] = 10.0 * epoch",
    "array": "inner(dataset).weights[:] = epoch",
    "tensor": "inner(dataset).factor.mul_(2.0)",
    "global": "globals()['SCALE'] = 1.0 + epoch",
    "transform": "inner(dataset).transform.factor = 1.0 + epoch",
    "collate attribute": "join.shift = 10.0 * epoch",
}


def changes_between(recipe: Recipe) -> str:
    """What the script changes before each epoch."""
    lines = []
    if recipe.place == "anew" and recipe.loop != "cycle":
        lines.append(f"loader = {_new_loader(recipe)}")
    if recipe.order == "epoch sampler" and not recipe.is_stream:
        sampler = "loader.sampler.sampler" if recipe.dataset == "batched" else "loader.sampler"
        lines.append(f"{sampler}.set_epoch(epoch)")
    lines.append(_INNER_CHANGES.get(recipe.state, ""))
    return "\n".join(filter(None, lines))


def changes_in_step(recipe: Recipe) -> str:
    """What the loop changes in each step, and draws."""
    change = {
        "attribute in loop": "inner(DATASET()).progress = float(STEPS)",
        "tensor in loop": "inner(DATASET()).factor.add_(1.0)",
        "buffer in loop": "inner(DATASET()).buffer.append(round(loss, 3))",
    }.get(recipe.state, "")
    change = change.replace("DATASET()", "sys.modules['__main__'].dataset")
    drawn = {"torch": "loss = loss + torch.rand(1).item()", "numpy": "loss = loss + np.random.rand()"}
    drawn["python"] = "loss = loss + random.random()"
    return "\n".join(filter(None, [change, drawn.get(recipe.draws_in_loop, "")]))


_LOOP_HELPERS = {
    "cycle": "def cycle(loader):\n    while True:\n        for batch in loader:\n            yield batch\n",
    "progress": (
        "def progress(batches):\n    for number, batch in enumerate(batches):\n        yield batch\n"
        "        if number % 5 == 0:\n            sys.stderr.write('.')\n"
    ),
    "one ahead": (
        "def one_ahead(batches):\n    iterator = iter(batches)\n    try:\n        current = next(iterator)\n"
        "    except StopIteration:\n        return\n    for following in iterator:\n        yield current\n"
        "        current = following\n    yield current\n"
    ),
    "thread": (
        "def ahead(batches):\n    ready = queue.Queue(2)\n\n    def fill():\n        for batch in batches:\n"
        "            ready.put(batch)\n        ready.put(None)\n\n    thread = threading.Thread(target=fill, daemon=True)\n"
        "    thread.start()\n    while (batch := ready.get()) is not None:\n        yield batch\n    thread.join()\n"
    ),
}


def loops(recipe: Recipe) -> str:
    """The function that the loop takes its batches through, if any."""
    return _LOOP_HELPERS.get(recipe.loop, "")


_FOR = "for number, batch in enumerate({batches}):\n    losses.append(step(epoch, number, batch))"
_BODIES = {
    "progress": _FOR.format(batches="progress(loader)"),
    "one ahead": _FOR.format(batches="one_ahead(loader)"),
    "thread": _FOR.format(batches="ahead(loader)"),
    "break": _FOR.format(batches="loader") + "\n    if number == 3:\n        break",
    "next of iter": "for number in range(4):\n    losses.append(step(epoch, number, next(iter(loader))))",
    "while": (
        "iterator, number = iter(loader), 0\nwhile True:\n    try:\n        batch = next(iterator)\n"
        "    except StopIteration:\n        break\n    losses.append(step(epoch, number, batch))\n    number += 1"
    ),
    "zip": (
        "for number, (batch, second) in enumerate(zip(loader, other)):\n    take('other', epoch, number, second)\n"
        "    losses.append(step(epoch, number, batch))"
    ),
    "cycle": "for number in range(5):\n    losses.append(step(epoch, number, next(stream)))",
    "validation": (
        _FOR.format(batches="loader")
        + "\n    if number % 3 == 1:\n        for count, second in enumerate(other):\n            take('val', epoch, count, second)"
        "\n            if count == 2:\n                break"
    ),
}


def loop(recipe: Recipe) -> str:
    """One epoch's loop."""
    body = _BODIES.get(recipe.loop, _FOR.format(batches="loader"))
    if recipe.place == "comprehension" and recipe.loop not in ("zip", "validation"):
        body += "\nfor count, second in enumerate(other):\n    take('val', epoch, count, second)"
    if recipe.ends == "caught in sample":
        return f"try:\n{indent(body, '    ')}\nexcept ValueError as error:\n    print('e', type(error).__name__)"
    return body


_FILES = {
    "checkpoint": "torch.save({'epoch': epoch, 'model': MODEL.state_dict()}, 'last.pt')",
    "csv": "with open('log.csv', 'a') as log:\n    log.write(f'{epoch},{len(losses)}\\n')",
    "best": "if not losses or min(losses) < 1e9:\n    np.save('best.npy', np.array([epoch, len(losses)]))",
    "json": "with open('history.json', 'w') as log:\n    json.dump({'epoch': epoch, 'steps': STEPS}, log)",
    "atomic": (
        "with open('state.tmp', 'w') as state:\n    state.write(str(STEPS))\nos.replace('state.tmp', 'state.txt')"
    ),
    "rotated": (
        "if os.path.exists('model.pt'):\n    os.rename('model.pt', 'model.old.pt')\n"
        "torch.save(MODEL.state_dict(), 'model.pt')"
    ),
}


def files(recipe: Recipe) -> str:
    """What is written at the end of an epoch."""
    return _FILES.get(recipe.files, "")


def ending(recipe: Recipe) -> str:
    """How the script ends."""
    return {
        "exit 0": "sys.exit(0)",
        "exit 3": "print('e exits')\nsys.exit(3)",
        "error": "raise RuntimeError('the end')",
    }.get(recipe.ends, "print('e ends')")
