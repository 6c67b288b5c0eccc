"""A plan's entry is used for the loader that it was made for, and for no other: by scripts that change in between."""

import dataclasses

import pytest
from planned import STORE, plan_of, run_on, write

# `report` prints how many different values sample 5 had in three epochs, and how many samples the last epoch has made.
PARTS = """
import argparse, dataclasses, functools, os, sys
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

made = []

class Items(Dataset):
    def __init__(self, length=8, augment=False):
        self.length, self.augment = length, augment
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        made.append(index)
        x = torch.full((4,), float(index))
        return (x + torch.randn(4) if self.augment else x), index

def report(loader, name="loader"):
    seen = []
    for epoch in range(3):
        made.clear()
        seen += [tuple(row.tolist()) for x, i in loader for row, index in zip(x, i) if index == 5]
    print(name, "distinct", len(set(seen)), "made", len(made))
"""
AUGMENTED = "loader distinct 3 made 8\n"


@dataclasses.dataclass(frozen=True)
class Case:
    """A script that augments under `changes`: other arguments, other files or another environment.

    `says` is what the line has that names the change.
    """

    says: str
    files: dict[str, str]
    edited: dict[str, str] = dataclasses.field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def train(code):
    return {"train.py": PARTS + code}


FLAG = ("--augment",)
CASES = {
    "a module's flag": Case(
        "AUGMENT is True, the plan was made for False",
        train("""
AUGMENT = "--augment" in sys.argv
class Flagged(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + torch.randn(4) if AUGMENT else x), index
loader = DataLoader(Flagged(), batch_size=4, shuffle=True)
report(loader)
"""),
        arguments=FLAG,
    ),
    "a flag in the namespace of the arguments": Case(
        "dataset.args.augment is True, the plan was made for False",
        train("""
parser = argparse.ArgumentParser()
parser.add_argument("--augment", action="store_true")
class Flagged(Items):
    def __init__(self, args):
        super().__init__()
        self.args = args
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + torch.randn(4) if self.args.augment else x), index
loader = DataLoader(Flagged(parser.parse_args()), batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "a helper that is edited": Case(
        "the code of helpers.finish is not what it was",
        {
            **train("""
import helpers
class Helped(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return helpers.finish(x), index
loader = DataLoader(Helped(), batch_size=4)
report(loader)
"""),
            "helpers.py": "import torch\ndef finish(x):\n    return x\n",
        },
        {"helpers.py": "import torch\ndef finish(x):\n    return x + torch.randn(4)\n"},
    ),
    "a helper that is defined in another way": Case(
        "the code of finish is not what it was",
        train("""
if "--augment" in sys.argv:
    def finish(x):
        return x + 0.1 * torch.randn(4)
else:
    def finish(x):
        return x
class Helped(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return finish(x), index
loader = DataLoader(Helped(), batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "a transform two modules away": Case(
        "the code of lib.steps.jitter is not what it was",
        {
            **train("""
from lib.transforms import Chain
class Transformed(Items):
    transform = Chain()
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return self.transform(x), index
loader = DataLoader(Transformed(), batch_size=4)
report(loader)
"""),
            "lib/__init__.py": "",
            "lib/transforms.py": """
from . import steps
class Chain:
    def __call__(self, x):
        return steps.jitter(x)
""",
            "lib/steps.py": "import torch\ndef jitter(x):\n    return x\n",
        },
        {"lib/steps.py": "import torch\ndef jitter(x):\n    return x + torch.rand(4)\n"},
    ),
    "a helper that is imported when it is needed": Case(
        "the code of module late is not what it was",
        {
            **train("""
class Late(Items):
    def __getitem__(self, index):
        from late import finish
        x, index = super().__getitem__(index)
        return finish(x), index
loader = DataLoader(Late(), batch_size=4)
report(loader)
"""),
            "late.py": "import torch\ndef finish(x):\n    return x\n",
        },
        {"late.py": "import torch\ndef finish(x):\n    return x + torch.randn(4)\n"},
    ),
    "the environment, read at import": Case(
        "settings.AUGMENT is another text than it was",
        {
            **train("""
import settings
class Configured(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + torch.randn(4) if settings.AUGMENT == "on" else x), index
loader = DataLoader(Configured(), batch_size=4)
report(loader)
"""),
            "settings.py": "import os\nAUGMENT = os.environ.get('AUGMENT', 'off')\n",
        },
        environment={"AUGMENT": "on"},
    ),
    "a dataclass of options": Case(
        "dataset.options.noise is 1.0, the plan was made for 0.0",
        train("""
@dataclasses.dataclass
class Options:
    noise: float = 1.0 if "--augment" in sys.argv else 0.0
class Configured(Items):
    options = None
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + self.options.noise * torch.randn(4) if self.options.noise else x), index
dataset = Configured()
dataset.options = Options()
loader = DataLoader(dataset, batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "a class's flag": Case(
        "Flagged.noisy is True, the plan was made for False",
        train("""
class Flagged(Items):
    noisy = "--augment" in sys.argv
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + torch.randn(4) if self.noisy else x), index
loader = DataLoader(Flagged(), batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "a closure": Case(
        "dataset.transform.<scale> is 1, the plan was made for 0",
        train("""
def noisy(scale):
    return lambda x: x + scale * torch.randn(4) if scale else x
class Transformed(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return self.transform(x), index
dataset = Transformed()
loader = DataLoader(dataset, batch_size=4)
# As timm has it: after the loader is made.
dataset.transform = noisy(int("--augment" in sys.argv))
report(loader)
"""),
        arguments=FLAG,
    ),
    "a partial, deep inside": Case(
        "dataset.datasets[0].dataset.transform.keywords['scale'] is 1, the plan was made for 0",
        train("""
def noisy(x, scale):
    return x + scale * torch.randn(4) if scale else x
class Transformed(Items):
    def __init__(self, transform):
        super().__init__()
        self.transform = transform
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return self.transform(x), index
inner = Transformed(functools.partial(noisy, scale=int("--augment" in sys.argv)))
loader = DataLoader(ConcatDataset([Subset(inner, range(8))]), batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "one of many parts": Case(
        "augment is True, the plan was made for False",
        train("""
class Part(Items):
    pass
parts = [Part(1, "--augment" in sys.argv) for _ in range(64)]
class Whole(Items):
    parts = parts
    def __getitem__(self, index):
        x, _ = self.parts[index][0]
        return x, index
loader = DataLoader(Whole(), batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "a default of a function": Case(
        "<default 0> is True, the plan was made for False",
        train("""
def finish(x, noisy="--augment" in sys.argv):
    return x + torch.randn(4) if noisy else x
class Helped(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return finish(x), index
loader = DataLoader(Helped(), batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "slots": Case(
        "dataset.options.noisy is True, the plan was made for False",
        train("""
class Options:
    __slots__ = ("noisy", "other")
    def __init__(self, noisy):
        self.noisy = noisy
class Slotted(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + torch.randn(4) if self.options.noisy else x), index
dataset = Slotted()
dataset.options = Options("--augment" in sys.argv)
loader = DataLoader(dataset, batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "a decorated helper": Case(
        "the code of helpers.finish is not what it was",
        {
            **train("""
from helpers import finish
class Helped(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return finish(x), index
loader = DataLoader(Helped(), batch_size=4)
report(loader)
"""),
            "helpers.py": "import torch, contextlib\n@torch.no_grad()\ndef finish(x):\n    return x\n",
        },
        {"helpers.py": "import torch, contextlib\n@torch.no_grad()\ndef finish(x):\n    return x + torch.randn(4)\n"},
    ),
    "the collate function's partial": Case(
        "collate_fn.keywords['scale'] is 1, the plan was made for 0",
        train("""
def collate(samples, scale):
    x, i = torch.utils.data.default_collate(samples)
    return x + scale * torch.randn(4), i
scale = int("--augment" in sys.argv)
loader = DataLoader(Items(), batch_size=4, collate_fn=functools.partial(collate, scale=scale))
report(loader)
"""),
        arguments=FLAG,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_is_used_for_the_code_and_the_flags_that_it_was_found_for(name, tmp_path):
    case = CASES[name]
    write(tmp_path, case.files)
    planned = plan_of(tmp_path, STORE)
    same = run_on(planned, tmp_path)
    assert (same.out, same.err) == ("loader distinct 1 made 0\n", ""), "the store is used"
    write(tmp_path, case.edited)
    other = run_on(planned, tmp_path, *case.arguments, **case.environment)
    assert other.code == 0, other.err
    assert other.out == AUGMENTED
    (line,) = other.err.splitlines()
    assert line.startswith("plumb: loader (train.py:")
    assert case.says in line
    assert line.endswith("it runs as the script has it. Tune again to renew the plan.")
