"""Scripts that make their loaders in roundabout ways, for `plumb apply` after their calls were traced."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = """import torch
from torch.utils.data import DataLoader, Dataset
data = torch.arange(16)
"""
TAIL = """
for batch in loader:
    pass
"""


@dataclass(frozen=True)
class Traced:
    """Files, the script among them; what is said, what is written, and what must be named nowhere.

    `{L:TEXT}` stands for the place of the only line that has TEXT in it.
    """

    files: dict[str, str]
    said: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def script(text, **more):
    return {"script.py": HEAD + text, **more}


TRACED = {
    "alias that may be one of two classes": Traced(
        script(
            "class Again(DataLoader):\n    def __init__(self, *a, **k):\n        super().__init__(*a, **k)\n"
            "def make(d, workers):\n    kind = DataLoader if len(d) > 99 else Again\n"
            "    return kind(d, batch_size=4, num_workers=workers)\n"
            "def make_other(d, workers):\n    return Again(d, batch_size=4, num_workers=workers)\n"
            "loader = make(data, workers=0)" + TAIL
        ),
        said=("workers, a parameter of make ({L:def make(d}): pass workers=2 to it ({L:make(data, workers=0)})",),
        written=("return kind(d, batch_size=4, num_workers=workers, persistent_workers",),
        unnamed=("make_other",),
    ),
    "subclass with an option of its own": Traced(
        script(
            "class Sized(DataLoader):\n    def __init__(self, d, size=4, **more):\n        self.size_ = size\n"
            "        super().__init__(d, size, **more)\n"
            "other = [Sized(data, 8)]\nloader = Sized(data, size=4, shuffle=True)" + TAIL
        ),
        written=("loader = Sized(data, size=4, shuffle=True, num_workers=2, persistent_workers=True)",),
    ),
    "helper in another module": Traced(
        script(
            "from parts.loading import build\nloader = build(data, 0)" + TAIL,
            **{
                "parts/__init__.py": "",
                "parts/loading.py": "from torch.utils.data import DataLoader\n"
                "def unused(d, n):\n    return DataLoader(d, batch_size=4, num_workers=n)\n"
                "def build(d, n):\n    return DataLoader(d, batch_size=4, num_workers=n)\n",
            },
        ),
        said=("n, a parameter of build ({L:def build}): pass n=2 to it ({L:loader = build})",),
        unnamed=("unused",),
    ),
    "partial of a function": Traced(
        script(
            "import functools\ndef make(d, workers, size):\n    return DataLoader(d, size, num_workers=workers)\n"
            "build = functools.partial(make, workers=0)\nloader = build(data, size=4)" + TAIL
        ),
        said=("workers, a parameter of make ({L:def make}): pass workers=2 to it ({L:build = functools})",),
    ),
    "partial of the class": Traced(
        script("import functools\nmake = functools.partial(DataLoader, batch_size=4)\nloader = make(data)" + TAIL),
        written=("loader = make(data, num_workers=2, persistent_workers=True)",),
    ),
    "keywords built in steps": Traced(
        script(
            "options = {'batch_size': 4}\nif len(data) > 99:\n    options['num_workers'] = 3\n"
            "options['num_workers'] = 1\nloader = DataLoader(data, **options)" + TAIL
        ),
        said=('num_workers comes from options["num_workers"], assigned at {L:= 1}: make it 2 there',),
        unnamed=("{L:= 3}",),
    ),
    "keywords in a branch that doesn't run": Traced(
        script(
            "fast = False\noptions = {'batch_size': 4, 'num_workers': 0}\n"
            "if fast:\n    options['num_workers'] = 0 + 0\n"
            "loader = DataLoader(data, **options)" + TAIL
        ),
        said=('num_workers comes from options["num_workers"], assigned at {L:options = {}: make it 2 there',),
        unnamed=("{L:0 + 0}",),
    ),
    "dataclass with the default": Traced(
        script(
            "from dataclasses import dataclass\n@dataclass\nclass Config:\n    workers: int = 0\n    size: int = 4\n"
            "cfg = Config(size=4)\nloader = DataLoader(data, cfg.size, num_workers=cfg.workers)" + TAIL
        ),
        said=("cfg.workers, a field defined at {L:workers: int}: make it 2 there",),
    ),
    "dataclass that is given a value": Traced(
        script(
            "from settings import Config\ncfg = Config(workers=1)\n"
            "loader = DataLoader(data, 4, num_workers=cfg.workers)" + TAIL,
            **{"settings.py": "from dataclasses import dataclass\n@dataclass\nclass Config:\n    workers: int = 0\n"},
        ),
        said=("cfg.workers, passed to Config at {L:Config(workers=1)}: make it 2 there",),
        unnamed=("{L:workers: int}",),
    ),
    "class attribute": Traced(
        script(
            "class Trainer:\n    workers = 0\n    loader_class = DataLoader\n    def loader(self):\n"
            "        return self.loader_class(data, batch_size=4, num_workers=self.workers)\n"
            "loader = Trainer().loader()" + TAIL
        ),
        said=("self.workers, a field defined at {L:workers = 0}: make it 2 there",),
        written=("self.loader_class(data, batch_size=4, num_workers=self.workers,",),
    ),
    "attribute set in the constructor": Traced(
        script(
            "class Data:\n    def __init__(self, size, workers=0):\n        self.size = size\n"
            "        self.workers = workers\n    def train_dataloader(self):\n"
            "        return DataLoader(data, self.size, num_workers=self.workers)\n"
            "module = Data(4, workers=1)\nloader = module.train_dataloader()" + TAIL
        ),
        said=("workers, a parameter of Data ({L:def __init__}): pass workers=2 to it ({L:module = Data})",),
    ),
    "comprehension over splits": Traced(
        script(
            "workers = 0\nloaders = {split: DataLoader(part, batch_size=4, num_workers=workers)\n"
            "           for split, part in [('train', data), ('val', data[:8])]}\n"
            "for loader in loaders.values():\n    for batch in loader:\n        pass\n"
        ),
        said=("num_workers comes from workers, assigned at {L:workers = 0}: make it 2 there",),
        written=("DataLoader(part, batch_size=4, num_workers=workers,",),
    ),
    "factory behind a decorator": Traced(
        script(
            "import functools\ndef logged(f):\n    @functools.wraps(f)\n    def inner(*args, **kwargs):\n"
            "        return f(*args, **kwargs)\n    return inner\n"
            "@logged\ndef make(d, size, workers=0):\n    return DataLoader(d, size, num_workers=workers)\n"
            "loader = make(data, 4, 1)" + TAIL
        ),
        said=("workers, a parameter of make ({L:def make}): pass workers=2 to it",),
    ),
    "conditional branches": Traced(
        script(
            "debug = False\nif debug:\n    workers = 0\nelse:\n    workers = len(data) // 16\n"
            "loader = DataLoader(data, 4, num_workers=workers)" + TAIL
        ),
        said=("num_workers comes from workers, assigned at {L:len(data) // 16}: make it 2 there",),
        unnamed=("{L:workers = 0}",),
    ),
    "branches told apart by their values": Traced(
        script(
            "if torch.cuda.is_available() or torch.get_num_threads() < 0:\n    workers = 4\nelse:\n    workers = 0\n"
            "loader = DataLoader(data, 4, num_workers=workers)" + TAIL
        ),
        said=("num_workers comes from workers, assigned at {L:workers = 0}: make it 2 there",),
        unnamed=("{L:workers = 4}",),
    ),
    "conditional expression": Traced(
        script(
            "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--jobs', type=int, default=3)\n"
            "args = parser.parse_args()\ntrain = True\n"
            "loader = DataLoader(data, 4, num_workers=args.jobs if train else 0)" + TAIL
        ),
        said=("num_workers comes from --jobs (default 3), defined at {L:add_argument}: pass --jobs 2",),
    ),
    "all options as keywords": Traced(
        script(
            "import argparse\ndef main(jobs, size):\n    loader = DataLoader(data, size, num_workers=jobs)\n"
            "    for batch in loader:\n        pass\n"
            "parser = argparse.ArgumentParser()\nparser.add_argument('--jobs', '-j', type=int, default=1)\n"
            "parser.add_argument('--size', type=int, default=4)\nmain(**vars(parser.parse_args()))\n"
        ),
        said=("num_workers comes from --jobs (default 1), defined at {L:'--jobs'}: pass --jobs 2",),
    ),
    "options of another module": Traced(
        script(
            "from opts import parse\nargs = parse()\nloader = DataLoader(data, 4, num_workers=args.jobs)" + TAIL,
            **{
                "opts.py": "import argparse\ndef parse():\n    parser = argparse.ArgumentParser()\n"
                "    parser.add_argument('--jobs', type=int, default=4)\n    args = parser.parse_args()\n"
                "    if args.jobs > 99:\n        args.jobs = 99 // 3\n    return args\n"
            },
        ),
        said=("num_workers comes from --jobs (default 4), defined at {L:'--jobs'}: pass --jobs 2",),
        arguments=("--jobs", "1"),
    ),
    "option that the script changes": Traced(
        script(
            "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--jobs', type=int, default=8)\n"
            "args = parser.parse_args()\nargs.jobs = args.jobs // 8\n"
            "loader = DataLoader(data, 4, num_workers=args.jobs)" + TAIL
        ),
        said=("num_workers comes from args.jobs, assigned at {L:// 8}: make it 2 there",),
    ),
    "constant of another module": Traced(
        script(
            "import config\nfrom config import SIZE\nloader = DataLoader(data, SIZE, num_workers=config.WORKERS)"
            + TAIL,
            **{"config.py": "SIZE = 4\nWORKERS = 0\n"},
        ),
        said=("num_workers comes from config.WORKERS, assigned at {L:WORKERS = 0}: make it 2 there",),
    ),
    "file of settings in JSON": Traced(
        script(
            "import json\ncfg = json.load(open('conf/run.json'))\n"
            "loader = DataLoader(data, 4, num_workers=cfg['train']['workers'])" + TAIL,
            **{
                "conf/run.json": '{\n  "val": {\n    "workers": 1\n  },\n'
                '  "train": {\n    "size": 4,\n    "workers": 1\n'
                "  }\n}\n"
            },
        ),
        said=("the key workers at conf/run.json:7: make it 2 there",),
        unnamed=("run.json:3",),
    ),
    "file of settings in YAML": Traced(
        script(
            "class Bag:\n    def __init__(self, **items):\n        self.__dict__.update(items)\n"
            "lines = [line.split(':') for line in open('run.yaml').read().splitlines()]\n"
            "cfg = Bag(**{key: int(value) for key, value in lines})\n"
            "loader = DataLoader(data, cfg.size, num_workers=cfg.workers)" + TAIL,
            **{"run.yaml": "size: 4\nworkers: 1\n"},
        ),
        said=("the key workers at run.yaml:2: make it 2 there",),
    ),
    "default of a lookup": Traced(
        script("cfg = dict([('size', 4)])\nloader = DataLoader(data, 4, num_workers=cfg.get('workers', 0))" + TAIL),
        said=("num_workers comes from the default in cfg.get('workers', 0) at {L:cfg.get}: make it 2 there",),
    ),
    "lambda": Traced(
        script("make = lambda d, n=0: DataLoader(d, 4, num_workers=n)\nloader = make(data, n=1)" + TAIL),
        said=("n, a parameter of the lambda ({L:make = lambda}): pass n=2 to it ({L:loader = make})",),
    ),
    "closure": Traced(
        script(
            "def factory(workers):\n    def make(d):\n        return DataLoader(d, 4, num_workers=workers)\n"
            "    return make\nloader = factory(1)(data)" + TAIL
        ),
        said=("workers, a parameter of factory ({L:def factory}): pass workers=2 to it ({L:factory(1)})",),
    ),
    "two calls of one factory": Traced(
        script(
            "def make(d, workers):\n    return DataLoader(d, 4, num_workers=workers)\n"
            "train = make(data, 0)\nval = make(data[:8], 1)\n"
            "for loader in (train, val):\n    for batch in loader:\n        pass\n"
        ),
        said=(
            "workers, a parameter of make ({L:def make}): pass workers=2 to it ({L:train =})",
            "workers, a parameter of make ({L:def make}): pass workers=2 to it ({L:val =})",
        ),
        unnamed=("that changes",),
    ),
    "option that other loaders share": Traced(
        script(
            "import argparse\nparser = argparse.ArgumentParser()\n"
            "parser.add_argument('-j', '--jobs', type=int, default=1)\n"
            "parser.add_argument('--ranks', type=int, default=0)\nargs = parser.parse_args()\n"
            "if args.ranks:\n    args.jobs = args.jobs // args.ranks\n"
            "loader = DataLoader(data, 4, num_workers=args.jobs)\n"
            "test_loader = DataLoader(data[:4], 4, num_workers=args.jobs)" + TAIL
        ),
        said=(
            "loader ({L:loader = DataLoader(data, 4}): num_workers comes from --jobs (default 1), defined at "
            "{L:'--jobs'}: pass --jobs 2; that changes test_loader ({L:test_loader}), too",
        ),
        unnamed=("{L:// args.ranks}",),
    ),
}
