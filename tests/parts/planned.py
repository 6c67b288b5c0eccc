"""Plans without a tuning: a script is run as it stands, and what is known of its loaders becomes their entries.

Scripts run in forks of the test's own process, which has imported torch already.
"""

import dataclasses
import os
import pickle
import sys
import threading
import traceback
from pathlib import Path

import torch
import torch.utils.data

from plumb.core import plan
from plumb.core.config import CacheChoice, Config, Cut, Rewrites
from plumb.core.errors import TuningError
from plumb.core.plan import LoaderResult, Measured, Plan, Prediction
from plumb.instrument.identity_of_loader import facts_of_loader, identity_of, place_of
from plumb.runtime.loader import current_config
from plumb.runtime.replay.sample_code import code_of_samples
from plumb.script import interception
from plumb.script.child import run_script
from plumb.script.loader_registry import Registry
from plumb.script.plan_handler import PlanHandler
from plumb.tuning.child_orders import Target
from plumb.tuning.measure.known_loader import KnownLoader

WORKERS = Config(num_workers=1, prefetch_factor=2)
STORE = Config(cache=CacheChoice("sample", "memory", 2**24, 1.0))
_RATE = (90.0, 110.0)


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a script has printed."""

    code: int
    out: str
    err: str


def entry_for(known, loader, config):
    """An entry of a plan for a loader, with a store of whole samples to choose."""
    found = known.identity
    return LoaderResult(
        name=known.name,
        site=str(known.site),
        dataset=type(loader.dataset).__name__,
        batch_size=loader.batch_size,
        baseline=Measured(current_config(loader), 100.0, _RATE),
        tuned=Measured(config, 100.0, _RATE),
        predicted=Prediction(100.0, "cpu", {"cpu": 1.0}),
        rewrites=Rewrites(cuts=(_whole(loader),)),
        library=known.site.library,
        identity=found,
    )


class Recorded:
    """An `interception.Handler` that makes entries of the loaders that a script iterates."""

    def __init__(self, config):
        self.config, self.registry, self.entries = config, Registry(), {}

    def constructing(self, site, arguments):
        return arguments

    def constructed(self, loader, site):
        self.registry.add(loader, site)

    def iterating(self, loader, start, plain_loop):
        known = self.registry.iterated(loader)
        known.epochs_begun += 1
        self.entries.setdefault(known.name, entry_for(known, loader, self.config))
        return start()


def plan_of(folder, config, *arguments, **environment):
    """A plan that has `config` for every loader that `train.py` in `folder` iterates."""

    def record(result):
        handler = Recorded(config)
        interception.install(handler)
        _raise(run_script(Target("train.py", False), list(arguments)))
        result.write_bytes(pickle.dumps(tuple(handler.entries.values())))

    result = folder / "entries.pickle"
    ran = forked(folder, lambda: record(result), environment)
    assert ran.code == 0, ran.err
    # As its file gives it back.
    return plan.decode(plan.encode(Plan("train.py", {}, 1.0, 1.0, pickle.loads(result.read_bytes()))))


def run_live(folder, config, **environment):
    """What `train.py` prints where its live loaders change over to `config` after their second batch."""

    def run():
        import plumb.tuning.live
        from tests.parts.live_parts import follow, patiently

        begin, following = plumb.tuning.live.live_iterator, {}

        def steered(loader):
            if id(loader) not in following:
                steering = following[id(loader)] = follow(loader, [(2, config)])
                steering.rewrites = Rewrites(cuts=(_whole(loader),))
            return patiently(begin(loader))

        plumb.tuning.live.live_iterator = steered
        error = run_script(Target("train.py", False), [])
        for steering in following.values():
            used = "changed over" if config in steering.ran else "stayed"
            print(f"live: {used}, {[reason for _, reason in steering.failures]}", file=sys.stderr)
        _raise(error)

    return forked(folder, run, environment)


def run_tuning_itself(folder, config, *arguments, **environment):
    """What `train.py` prints, where tuning itself finds `config` for any loader, or nothing where that is None."""

    def tuned(loader, site, options, step=None):
        if config is None:
            raise TuningError("not in this test", 1)
        identity = dataclasses.replace(identity_of(loader, place_of(site), 1), facts=facts_of_loader(loader))
        entry = entry_for(KnownLoader(site.name, site, None, loader.batch_size, identity=identity), loader, config)
        return plan.decode(plan.encode(Plan("", {}, 1.0, 1.0, (entry,))))

    def run():
        import plumb.api.in_process

        plumb.api.in_process.tune_here = tuned
        _raise(run_script(Target("train.py", False), list(arguments)))

    return forked(folder, run, environment)


def only(planned, *names):
    """The same plan, which changes nothing for any other loader than those called `names`."""
    loaders = [
        entry if entry.name in names else dataclasses.replace(entry, tuned=entry.baseline) for entry in planned.loaders
    ]
    return dataclasses.replace(planned, loaders=tuple(loaders))


def run_on(planned, folder, *arguments, **environment):
    """What `train.py` in `folder` prints on a plan; without a plan where that is None."""

    def run():
        if planned is not None:
            interception.install(PlanHandler(planned))
        _raise(run_script(Target("train.py", False), list(arguments)))

    return forked(folder, run, environment)


def forked(folder, work, environment):
    """What some work in a fork of this process prints, with `folder` as its current one."""
    files = [folder / name for name in ("out.txt", "err.txt")]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        codes = []

        def attempt():
            try:
                work()
            except BaseException:
                traceback.print_exc()
                codes.append(1)

        try:
            for file, stream, descriptor in zip(files, ("stdout", "stderr"), (1, 2), strict=True):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
                setattr(sys, stream, os.fdopen(descriptor, "w", buffering=1, closefd=False))
            # What other tests have installed in this process does not count in a fork of it.
            interception._installed.clear()
            os.chdir(folder)
            # What is tested is whether a plan is used, and not what is found wrong with it afterwards.
            os.environ.update({"PLUMB_CHECK": "0", **environment})
            sys.path.insert(0, str(folder))
            torch.set_num_threads(1)
            # In a thread there are no frames of the tests' own, which would name the loaders.
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(sum(codes))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ran(code, *(file.read_text() for file in files))


def write(folder, files):
    """Writes modules into a folder."""
    for name, text in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _whole(loader):
    return Cut("sample", (), (), code_of_samples(loader.dataset))


def _raise(error):
    if error is not None:
        raise error
