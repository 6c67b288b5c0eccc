"""A plan's entry is used for the loader that it was made for, and for no other: by scripts that change in between."""

import dataclasses
import sys

import pytest
from planned import STORE, WORKERS, only, plan_of, run_on, write

from plumb.core.identity import Facts
from plumb.instrument.dataset_facts import facts_of
from plumb.instrument.identity_difference import change_in_a_run

# `report` prints how many different values sample 5 had in three epochs, and how many samples the last epoch has made.
PARTS = """
import argparse, dataclasses, functools, os, sys
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

made = []
# Not a state that samples change.
sys.addaudithook(lambda event, details: made.append(details[0]) if event == "sample" else None)

class Items(Dataset):
    def __init__(self, length=8, augment=False):
        self.length, self.augment = length, augment
    def __len__(self):
        return self.length
    def __getitem__(self, index):
        sys.audit("sample", index)
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
    "the environment, read by each sample": Case(
        "environment variable NOISE is another text than it was",
        train("""
class Configured(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + torch.randn(4) if os.environ.get("NOISE", "off") == "on" else x), index
loader = DataLoader(Configured(), batch_size=4)
report(loader)
"""),
        environment={"NOISE": "on"},
    ),
    "the command line, read by each sample": Case(
        "sys.argv is another text than it was",
        train("""
class Configured(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + torch.randn(4) if "--augment" in sys.argv else x), index
loader = DataLoader(Configured(), batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "a library's chains within chains": Case(
        "['0']._modules['0'].training is True, the plan was made for False",
        train("""
from torch import nn
class Transformed(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return self.transform(-x), index
dataset = Transformed()
dataset.transform = nn.RReLU().train("--augment" in sys.argv)
for _ in range(5):
    dataset.transform = nn.Sequential(dataset.transform)
loader = DataLoader(dataset, batch_size=4)
report(loader)
"""),
        arguments=FLAG,
    ),
    "options in an object of a library for options": Case(
        "dataset.config.noise is True, the plan was made for False",
        {
            **train("""
sys.path.insert(0, os.path.abspath("site-packages"))
from ml_collections import ConfigDict
class Configured(Items):
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        return (x + torch.randn(4) if self.config.noise else x), index
dataset = Configured()
dataset.config = ConfigDict({"noise": "--augment" in sys.argv, "rate": len(sys.argv)})
loader = DataLoader(dataset, batch_size=4)
report(loader)
"""),
            "site-packages/ml_collections/__init__.py": """
class ConfigDict:
    def __init__(self, fields):
        object.__setattr__(self, "_fields", fields)
    def __getattr__(self, name):
        return self._fields[name]
""",
        },
        arguments=FLAG,
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


@pytest.mark.slow
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


# Scripts that make several loaders in one place: the names that they get, and what the first of them is.
SEVERAL = {
    "a helper, called twice": (
        """
def make(length, augment):
    loader = DataLoader(Items(length, augment), batch_size=4, shuffle=augment)
    return loader
val, train = make(6, False), make(8, True)
""",
        ("loader", "loader_2"),
    ),
    "helpers within helpers": (
        """
def inner(dataset):
    kwargs = dict(batch_size=4)
    loader = DataLoader(dataset, **kwargs)
    return loader
def outer(augment):
    made = inner(Items(8, augment))
    return made
val, train = outer(False), outer(True)
""",
        ("loader", "loader_2"),
    ),
    "a comprehension": (
        """
loaders = {x: DataLoader(Items(8, x == "train"), batch_size=4, shuffle=x == "train") for x in ["val", "train"]}
val, train = loaders["val"], loaders["train"]
""",
        ("loaders['val']", "loaders['train']"),
    ),
    "a list comprehension": (
        """
loaders = [DataLoader(Items(8, augment), batch_size=4) for augment in (False, True)]
val, train = loaders
""",
        ("loaders", "loaders_2"),
    ),
    "a loop": (
        """
loaders = []
for augment in (False, True):
    loaders.append(DataLoader(Items(8, augment), batch_size=4))
val, train = loaders
""",
        ("loader", "loader_2"),
    ),
    "a class": (
        """
class Data:
    def __init__(self, augment):
        self.dataset = Items(8, augment)
    def loader(self):
        return DataLoader(self.dataset, batch_size=4)
val, train = Data(False).loader(), Data(True).loader()
""",
        ("val", "train"),
    ),
    "one line": (
        "val, train = DataLoader(Items(8), batch_size=4), DataLoader(Items(8, True), batch_size=4)",
        ("val", "train"),
    ),
    "a partial": (
        """
make = functools.partial(DataLoader, batch_size=4)
both = list(map(make, [Items(8), Items(8, True)]))
val, train = both
""",
        ("both", "both_2"),
    ),
    "a lambda": (
        """
make = lambda augment: DataLoader(Items(8, augment), batch_size=4)
val = make(False)
train = make(True)
""",
        ("val", "train"),
    ),
    "one dataset for both": (
        """
dataset = Items(8)
def make(drop_last):
    return DataLoader(dataset, batch_size=3, drop_last=drop_last)
val, train = make(False), make(True)
""",
        ("val", "train"),
    ),
}
NAMED = {"one line", "a lambda", "a class", "one dataset for both", "a comprehension"}


@pytest.mark.parametrize("name", SEVERAL)
def test_loaders_that_are_made_in_one_place_have_entries_of_their_own(name, tmp_path):
    code, names = SEVERAL[name]
    write(tmp_path, train(code + "\nreport(val, 'val')\nreport(train, 'train')\n"))
    planned = plan_of(tmp_path, STORE)
    if sys.version_info >= (3, 11) or name not in NAMED:
        assert tuple(entry.name for entry in planned.loaders) == names
    assert [entry.identity.order for entry in planned.loaders] in ([1, 2], [1, 1])
    plain = run_on(None, tmp_path)
    ran = run_on(only(planned, planned.loaders[0].name), tmp_path)
    assert ran.err == ""
    of_val, of_train = ran.out.splitlines()
    assert of_val == "val distinct 1 made 0", "the store is the first loader's"
    assert of_train == plain.out.splitlines()[1], "and not the second's"


def test_the_second_of_two_has_the_plan_too(tmp_path):
    code, _ = SEVERAL["a helper, called twice"]
    write(tmp_path, train(code + "\nprint(val.num_workers, train.num_workers)\nreport(val)\nreport(train)\n"))
    planned = plan_of(tmp_path, WORKERS)
    assert run_on(only(planned, "loader_2"), tmp_path).out.startswith("0 1\n")
    assert run_on(planned, tmp_path).out.startswith("1 1\n")


def test_where_a_loader_is_left_out_the_next_one_does_not_take_its_entry(tmp_path):
    code = """
def make(length, augment):
    loader = DataLoader(Items(length, augment), batch_size=4)
    return loader
if "--no-val" not in sys.argv:
    report(make(6, False), "val")
report(make(8, True), "train")
"""
    write(tmp_path, train(code))
    planned = plan_of(tmp_path, STORE)
    ran = run_on(planned, tmp_path, "--no-val")
    assert ran.out == "train distinct 3 made 8\n"
    assert "loader (train.py:28): its dataset has 8 samples, the plan was made for 6 samples; it runs as" in ran.err


REBUILT = """
class Numbered(Items):
    epoch = 0
    def __getitem__(self, index):
        sys.audit("sample", index)
        return torch.full((4,), float(index + self.epoch)), index
seen = []
for epoch in range(3):
    dataset = Numbered()
    dataset.epoch = epoch
    loader = DataLoader(dataset, batch_size=4)
    made.clear()
    seen.append([x[:, 0].int().tolist() for x, _ in loader])
    print("workers", loader.num_workers, "made", len(made))
print(seen)
"""


def test_a_loader_that_is_made_anew_in_each_epoch_is_one_loader(tmp_path):
    write(tmp_path, train(REBUILT))
    planned = plan_of(tmp_path, WORKERS)
    assert [entry.name for entry in planned.loaders] == ["loader"]
    ran = run_on(planned, tmp_path)
    assert ran.out == run_on(None, tmp_path).out.replace("workers 0 made 8", "workers 1 made 0")
    assert ran.err == ""


def test_one_with_another_flag_in_the_place_of_one_that_was_used_is_another_loader(tmp_path):
    code = """
for augment in (False, True):
    loader = DataLoader(Items(8, augment), batch_size=4)
    report(loader, str(augment))
"""
    write(tmp_path, train(code))
    planned = plan_of(tmp_path, STORE)
    assert [(entry.name, entry.identity.order) for entry in planned.loaders] == [("loader", 1), ("loader_2", 2)]
    ran = run_on(only(planned, "loader"), tmp_path)
    assert ran.out == "False distinct 1 made 0\nTrue distinct 3 made 8\n"


def test_a_plan_of_torch_s_own_arguments_is_used_whatever_the_flags_are(tmp_path):
    code = CASES["a flag in the namespace of the arguments"].files["train.py"]
    write(tmp_path, {"train.py": code.replace("report(loader)", "print(loader.num_workers)\nreport(loader)")})
    planned = plan_of(tmp_path, WORKERS)
    ran = run_on(planned, tmp_path, "--augment")
    assert (ran.out, ran.err) == ("1\nloader distinct 3 made 0\n", "")


def test_options_that_no_sample_reads_are_no_part_of_a_dataset(tmp_path):
    code = CASES["a flag in the namespace of the arguments"].files["train.py"]
    code = code.replace("class Flagged", "parser.add_argument('--lr', type=float, default=0.1)\nclass Flagged")
    write(tmp_path, {"train.py": code})
    ran = run_on(plan_of(tmp_path, STORE), tmp_path, "--lr", "0.5")
    assert (ran.out, ran.err) == ("loader distinct 1 made 0\n", "")


UNLIKE_EACH_TIME = """
import tempfile, time, uuid, numpy, random
class Worldly(Items):
    def __init__(self):
        super().__init__()
        self.folder, self.started, self.process = tempfile.mkdtemp(), time.time(), os.getpid()
        self.data, self.names = torch.rand(8, 100), [str(uuid.uuid4()) for _ in range(64)]
        self.draws, self.cache = random.Random(), {random.random(): 1}
        self.log = os.path.join(self.folder, "log.txt")
    def __getitem__(self, index):
        sys.audit("sample", index)
        assert self.folder and self.started and self.process and self.names and self.draws and self.cache and self.log
        return self.data[index][:4], index
loader = DataLoader(Worldly(), batch_size=4)
report(loader)
os.rmdir(loader.dataset.folder)
"""


def test_what_differs_from_run_to_run_by_itself_is_no_difference(tmp_path):
    write(tmp_path, train(UNLIKE_EACH_TIME))
    ran = run_on(plan_of(tmp_path, STORE), tmp_path)
    assert (ran.out, ran.err) == ("loader distinct 1 made 0\n", "")


EDITS = {
    "a line above": ("loader = Data", "\n# a remark\nloader = Data", ""),
    "the layout": ("batch_size=4)", "batch_size = 4,\n  )", ""),
    "another batch size": ("batch_size=4", "batch_size=8", "is not in the plan"),
    "other samples": ("Items()", "Items(9)", "is not in the plan"),
    "another sampler": ("batch_size=4", "batch_size=size, shuffle=shuffled", "its sampler is RandomSampler"),
    "another class": ("Items()", "make()", "its dataset is Others, the plan was made for Items"),
    "more samples": ("Items()", "make()", "its dataset has 9 samples, the plan was made for 8"),
    "a size that is given": ("batch_size=4", "batch_size=size, shuffle=shuffled", "its batch_size is 3"),
    "workers of its own": ("batch_size=4", "batch_size=4, num_workers=n", "its num_workers is 2"),
}
BEFORE = {
    "another sampler": ("size, shuffled = 4, False", "size, shuffled = 4, True"),
    "another class": ("make = Items", "class Others(Items): pass\nmake = Others"),
    "more samples": ("make = Items", "make = functools.partial(Items, 9)"),
    "a size that is given": ("size, shuffled = 4, False", "size, shuffled = 3, False"),
    "workers of its own": ("n = 0", "n = 2"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_script_is_told_what_differs(name, tmp_path):
    old, new, says = EDITS[name]
    before, after = BEFORE.get(name, ("", ""))
    line = "loader = DataLoader(Items(), batch_size=4)"
    first = f"{before}\n{line.replace(old, new) if before else line}\n"
    second = f"{after}\n{line.replace(old, new)}\n"
    show = "print(loader.num_workers, [i.tolist() for _, i in loader] != [])\n"
    write(tmp_path, train(first + show))
    planned = plan_of(tmp_path, WORKERS)
    write(tmp_path, train(second + show))
    ran = run_on(planned, tmp_path)
    assert ran.out == ("0 True\n" if says and "num_workers" not in says else "2 True\n" if says else "1 True\n")
    assert says in ran.err if says else ran.err == ""


CHANGED_LATER = {
    "a flag": ("dataset.augment = epoch == 1", "dataset.augment is True now, it was False"),
    "a transform": ("dataset.transform = noise if epoch == 1 else None", "its samples now run noise"),
    "a class's flag": ("Changing.noisy = epoch == 1", "Changing.noisy is True now, it was False"),
}


@pytest.mark.parametrize("name", CHANGED_LATER)
def test_a_rewrite_is_given_up_where_flags_or_code_change_between_epochs(name, tmp_path):
    change, says = CHANGED_LATER[name]
    code = f"""
def noise(x):
    return x + torch.randn(4)
class Changing(Items):
    noisy, transform = False, None
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        x = x + torch.randn(4) if self.noisy else x
        return x if self.transform is None else self.transform(x), index
dataset = Changing()
loader = DataLoader(dataset, batch_size=4)
for epoch in range(4):
    {change}
    made.clear()
    x = torch.cat([x for x, _ in loader])
    print(epoch, len(made), x[:, 0].tolist() == [float(i) for i in range(8)])
"""
    write(tmp_path, train(code))
    ran = run_on(plan_of(tmp_path, STORE), tmp_path)
    # The store of the same samples in another run may still be there.
    assert ran.out.replace("0 0 True", "0 8 True") == "0 8 True\n1 8 False\n2 8 True\n3 8 True\n"
    (line,) = ran.err.splitlines()
    assert says in line


LAZY = """
class Reader:
    def __init__(self):
        self.scale, self.buffered = 1.0, True
    def read(self, x):
        return x * self.scale
class Lazy(Items):
    reader = file = None
    @functools.cached_property
    def offset(self):
        return "0"
    def __getitem__(self, index):
        x, index = super().__getitem__(index)
        if self.file is None:
            self.file = open(os.devnull)
        if self.reader is None:
            self.reader = Reader()
        return self.reader.read(x) + int(self.offset) + self.reader.buffered - 1, index
"""


@pytest.mark.parametrize("change", ["pass", "dataset.reader = Other()", "dataset.reader.buffered = 1 > 2"])
def test_what_samples_make_when_they_need_it_first_is_no_change(change):
    scope = {"__name__": "__main__"}
    exec(PARTS + LAZY + "class Other(Reader): pass\ndataset = Lazy()", scope)
    first = facts_of({"dataset": scope["dataset"]})
    _ = scope["dataset"][0]
    assert change_in_a_run(first, facts_of({"dataset": scope["dataset"]})) == ""
    exec(change, scope)
    assert bool(change_in_a_run(first, facts_of({"dataset": scope["dataset"]}))) == ("Other" in change)


CHANGES_IN_A_RUN = {
    "a flag": ({"dataset.on": "False"}, {"dataset.on": "True"}, True),
    "a flag that was empty": ({"dataset.on": "None"}, {"dataset.on": "True"}, True),
    "a flag that was not there": ({}, {"dataset.on": "True"}, True),
    "a number": ({"dataset.epoch": "1"}, {"dataset.epoch": "-2.5"}, False),
    "a number that was not there": ({}, {"dataset.epoch": "1"}, False),
    "a number that becomes a flag": ({"dataset.on": "0"}, {"dataset.on": "True"}, True),
    "another text": ({"dataset.mode": "#1"}, {"dataset.mode": "#2"}, True),
    "an item more": ({"dataset.seen[0]": "#1"}, {"dataset.seen[0]": "#1", "dataset.seen[1]": "#2"}, False),
    "another item": ({"dataset.seen[0]": "#1"}, {"dataset.seen[0]": "#2"}, True),
}


@pytest.mark.parametrize("name", CHANGES_IN_A_RUN)
def test_flags_and_texts_may_not_change_in_a_run_and_numbers_may(name):
    then, now, counts = CHANGES_IN_A_RUN[name]
    assert bool(change_in_a_run(Facts(values=then), Facts(values=now))) == counts


def test_numbers_may_change_between_epochs(tmp_path):
    code = REBUILT.replace("    dataset = Numbered()\n", "").replace("seen = []", "seen, dataset = [], Numbered()")
    write(tmp_path, train(code))
    ran = run_on(plan_of(tmp_path, STORE), tmp_path)
    assert ran.out == run_on(None, tmp_path).out
    assert ran.err == ""


ODD = """
class Loader(DataLoader):
    def __eq__(self, other):
        return isinstance(other, Loader)
    {hash}
class Odd(Dataset):
    def __init__(self, start):
        self.start = start
    def __eq__(self, other):
        return True
    def __bool__(self):
        raise RuntimeError("no truth value")
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args: name
    def __len__(self):
        raise RuntimeError("no length")
    def __getitem__(self, index):
        if index >= 4:
            raise IndexError
        return self.start + index
train = Loader(Odd(0), batch_size=2, sampler=range(4))
val = Loader(Odd(10), batch_size=2, sampler=range(4))
for epoch in range(2):
    for loader in (train, val):
        print(loader.num_workers, [batch.tolist() for batch in loader])
"""


@pytest.mark.parametrize("defined", ["", "__hash__ = DataLoader.__hash__", "__hash__ = lambda self: 7"])
def test_loaders_and_datasets_are_told_apart_by_what_they_are(defined, tmp_path):
    write(tmp_path, train(ODD.format(hash=defined)))
    planned = plan_of(tmp_path, WORKERS)
    assert [entry.name for entry in planned.loaders] == ["train", "val"]
    ran = run_on(planned, tmp_path)
    assert ran.code == 0, ran.err
    epoch = "1 [[0, 1], [2, 3]]\n1 [[10, 11], [12, 13]]\n"
    assert (ran.out, ran.err) == (epoch * 2, "")


# As accelerate, and the Trainer of transformers on top of it, build their loaders from the script's, or from theirs.
WRAPPING = """
from torch.utils.data import DataLoader
def wrapped(loader):
    return DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, num_workers=loader.num_workers)
def evaluate(dataset):
    loader = wrapped(DataLoader(dataset, batch_size=4))
    return loader.num_workers, sum(len(x) for x, _ in loader)
"""


@pytest.mark.slow
def test_loaders_that_a_library_builds_have_the_entry_of_those_that_they_are_built_from(tmp_path):
    code = """
sys.path.insert(0, os.path.abspath("site-packages"))
import wrapping
dataset, val = Items(), Items(6)
loader = DataLoader(dataset, batch_size=4)
train = wrapping.wrapped(loader)
for epoch in range(2):
    print(train.num_workers, [i.tolist() for _, i in train], wrapping.evaluate(val))
"""
    write(tmp_path, {**train(code), "site-packages/wrapping.py": WRAPPING})
    planned = plan_of(tmp_path, WORKERS)
    names = [(entry.name, entry.library, entry.identity.order) for entry in planned.loaders]
    assert names == [("loader", "", 1), ("loader_3", "wrapping", 2)]
    ran = run_on(planned, tmp_path)
    assert ran.out == "1 [[0, 1, 2, 3], [4, 5, 6, 7]] (1, 6)\n" * 2
    assert ran.err == ""


def test_a_library_s_loader_gets_back_what_the_script_gave_the_first(tmp_path):
    code = CASES["a flag in the namespace of the arguments"].files["train.py"]
    code = code.replace(
        "report(loader)", "loader = wrapping.wrapped(loader)\nreport(loader)\nprint(loader.num_workers)"
    )
    code = code.replace(
        "made = []", "sys.path.insert(0, os.path.abspath('site-packages'))\nimport wrapping\nmade = []", 1
    )
    write(tmp_path, {"train.py": code, "site-packages/wrapping.py": WRAPPING})
    config = dataclasses.replace(STORE, num_workers=1, prefetch_factor=2)
    ran = run_on(plan_of(tmp_path, config), tmp_path, "--augment")
    assert ran.out == "loader distinct 3 made 8\n0\n"
    assert "dataset.args.augment is True, the plan was made for False" in ran.err


# ---- plans of an older plumb, and entries that must not be used


def without_identity(planned):
    loaders = tuple(dataclasses.replace(entry, identity=None) for entry in planned.loaders)
    return dataclasses.replace(planned, loaders=loaders)


def test_an_older_plan_is_used_by_name_where_one_loader_fits(tmp_path):
    write(tmp_path, train("loader = DataLoader(Items(), batch_size=4)\nprint(loader.num_workers)\nreport(loader)\n"))
    planned = without_identity(plan_of(tmp_path, WORKERS))
    ran = run_on(planned, tmp_path)
    assert (ran.out, ran.err) == ("1\nloader distinct 1 made 0\n", "")


def test_an_older_plan_is_not_used_where_two_loaders_fit(tmp_path):
    code, _ = SEVERAL["a helper, called twice"]
    code += "report(val, 'val')\nreport(train, 'train')\nprint(val.num_workers, train.num_workers)\n"
    write(tmp_path, train(code))
    planned = plan_of(tmp_path, WORKERS)
    older = without_identity(dataclasses.replace(planned, loaders=planned.loaders[:1]))
    ran = run_on(older, tmp_path)
    assert ran.out == "val distinct 1 made 6\ntrain distinct 3 made 8\n0 0\n"
    assert "both fit one entry of the plan" in ran.err


def test_an_entry_that_was_found_to_be_unsafe_is_not_used(tmp_path):
    write(tmp_path, train("loader = DataLoader(Items(), batch_size=4)\nprint(loader.num_workers)\nreport(loader)\n"))
    planned = plan_of(tmp_path, WORKERS)
    entry = dataclasses.replace(planned.loaders[0], unsafe="sample 3 was another than without it")
    ran = run_on(dataclasses.replace(planned, loaders=(entry,)), tmp_path)
    assert ran.out == "0\nloader distinct 1 made 8\n"
    assert "the plan is not used any more, sample 3 was another than without it" in ran.err


def test_two_entries_for_one_loader_are_used_for_none(tmp_path):
    write(tmp_path, train("loader = DataLoader(Items(), batch_size=4)\nprint(loader.num_workers)\nreport(loader)\n"))
    planned = plan_of(tmp_path, WORKERS)
    ran = run_on(dataclasses.replace(planned, loaders=planned.loaders * 2), tmp_path)
    assert ran.out == "0\nloader distinct 1 made 8\n"
    assert "several entries of the plan fit it" in ran.err
