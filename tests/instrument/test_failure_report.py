"""Failures that are put into plumb: the training goes on, the tuning keeps what it has, a report is written."""

import inspect
import os
import re

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import plumb
from plumb.api.dataloader import DataLoader as PlumbsLoader
from plumb.core import events, log
from plumb.core.config import Config
from plumb.core.errors import TuningError, UsersError
from plumb.core.plan import LoaderResult, Measured, Prediction
from plumb.instrument import failure_report
from plumb.instrument.call_site import Site
from plumb.runtime.planned_loader import PlannedLoader
from plumb.script import interception
from plumb.script.session import Session


class BugError(Exception):
    pass


def broken(*_, **__):
    """Fails as plumb's own code does: the innermost call is of a file of plumb's."""
    code = compile("raise error", inspect.getsourcefile(plumb), "exec")
    exec(code, {"error": BugError("in /home/someone/secret.py")})


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(failure_report, "_said", set())
    monkeypatch.delenv("PLUMB_LOG", raising=False)
    log.configure()


def reports(cache_home):
    return [file.read_text() for file in sorted((cache_home / "plumb" / "failures").glob("*.txt"))]


def plan_entry(**tuned):
    measured = Measured(Config(), 1.0, (1.0, 1.0)), Measured(Config(**tuned), 2.0, (2.0, 2.0))
    return LoaderResult("secret_loader", "secret.py:1", "SecretRows", 4, *measured, Prediction(1.0, "cpu", {}))


def test_a_report_holds_what_helps_and_nothing_of_the_user_s(cache_home, capsys):
    def users_function():
        secret_value = 1
        broken(secret_value)

    try:
        users_function()
    except BugError as error:
        failure_report.say(error, "the training goes on", plan_entry(num_workers=3, prefetch_factor=2))
        failure_report.say(error, "the training goes on")
    said = capsys.readouterr().err
    assert said.count("plumb: plumb itself failed (BugError: in /home/someone/secret.py); the training goes on.") == 1
    [report] = reports(cache_home)
    assert f"torch {torch.__version__.split('+')[0]}" in report
    assert "plumb/__init__.py:1 in <module>" in report
    assert "the user's code:" in report
    assert '"num_workers": 3' in report
    assert "BugError: in PATH" in report
    assert "secret" not in report.lower()
    path = re.search(r"is in (\S+)", said)[1]
    assert oct(plain_mode(path)) == "0o600"


def plain_mode(path):
    return os.stat(path).st_mode & 0o777


def test_where_no_report_can_be_written_the_line_is_said_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(failure_report, "_written", lambda text: (_ for _ in ()).throw(OSError("no room")))
    failure_report.say(BugError("x"), "the training goes on")
    assert capsys.readouterr().err == "plumb: plumb itself failed (BugError: x); the training goes on.\n"


def test_old_reports_make_room(monkeypatch, cache_home):
    monkeypatch.setattr(failure_report, "_KEPT", 3)
    for number in range(6):
        failure_report.say(BugError("x"), str(number))
    assert len(reports(cache_home)) == 3


# ---- loaders under an interception


class Handler:
    """Stands for what applies a plan, or tunes; one of its methods fails."""

    def __init__(self, broken_method):
        self.calls = []
        if broken_method:
            setattr(self, broken_method, broken)

    def constructing(self, site, arguments):
        return arguments

    def constructed(self, loader, site):
        pass

    def iterating(self, loader, start, plain_loop):
        self.calls.append("iterating")
        return start()

    def read_by_dataset(self, loader):
        self.calls.append("given back")


@pytest.mark.parametrize("method", ["constructing", "constructed", "iterating", "read_by_dataset", None])
def test_loaders_run_as_the_script_has_them(method, capsys):
    handler = Handler(method)
    listener = interception._Listener(handler)
    loader = DataLoader(torch.arange(4), batch_size=2)
    site = Site("train.py", 1, "loader")
    arguments = {"batch_size": 2}
    assert listener.constructing(site, arguments) is arguments
    listener.constructed(loader, site)
    plain = DataLoader.__iter__
    for _ in range(2):
        batches = listener.iterated(loader, plain, plain, inspect.currentframe())
        assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3]]
    said = capsys.readouterr().err
    assert ("runs as" in said or "run as" in said) is (method in ("constructing", "constructed", "iterating"))
    assert said.count("\n") <= 1


def test_a_tuning_that_has_lost_sight_of_a_loader_ends():
    handler, ended = Handler("iterating"), []
    handler.fail = ended.append
    loader = DataLoader(torch.arange(4))
    interception._Listener(handler).iterated(loader, DataLoader.__iter__, None, inspect.currentframe())
    assert [type(error) for error in ended] == [BugError]


def test_what_the_script_s_own_loader_raises_is_the_script_s(capsys):
    def raising(loader):
        raise KeyError("the user's")

    loader = DataLoader(torch.arange(4))
    with pytest.raises(KeyError, match="the user's"):
        interception._Listener(Handler(None)).iterated(loader, raising, raising, inspect.currentframe())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("tune", [False, True, "live"])
def test_plumb_s_loader_runs_on_its_own_arguments(tune, monkeypatch, capsys):
    monkeypatch.setattr("plumb.api.self_tuning.find_or_tune", broken)
    monkeypatch.setattr("plumb.tuning.live.live_iterator", broken)
    loader = PlumbsLoader(torch.arange(4), batch_size=2, tune=tune)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]
    assert capsys.readouterr().err.count("plumb itself failed") == 1


# ---- in the middle of an epoch


class Rows(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        if index == 13:
            raise KeyError("the user's")
        return index


class SomeRows(Rows):
    def __getitem__(self, index):
        return index


STEPS = {
    "before a batch": "plumb.runtime.guards.guard.Guards.batch_wanted",
    "after a batch": "plumb.runtime.guards.guard.Guards.batch_read",
    "at a switch": "plumb.runtime.epoch.epoch_iterator.EpochIterator._switch",
    "in a segment": "plumb.runtime.epoch.segment.LoaderSegment.__next__",
    "when it is counted": "plumb.runtime.epoch.epoch_iterator.EpochIterator._heed",
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("users", [0, 1])
def test_an_epoch_goes_on_with_every_sample_once(step, users, monkeypatch, capsys):
    name = STEPS[step]
    loader = DataLoader(SomeRows(), batch_size=2, shuffle=True, num_workers=users)
    torch.manual_seed(0)
    plain = [batch.tolist() for _ in range(2) for batch in loader]
    own = Config(num_workers=users, prefetch_factor=2 if users else None)
    planned = PlannedLoader(loader, plan_entry(fetch_threads=2), own)
    owner, method = name.rpartition(".")[0].rpartition(".")[2], name.rpartition(".")[2]
    module = __import__(name.rpartition(".")[0].rpartition(".")[0], fromlist=[owner])
    works = getattr(getattr(module, owner), method)
    calls = []

    def sometimes(*arguments):
        calls.append(1)
        return broken() if len(calls) == 4 else works(*arguments)

    monkeypatch.setattr(getattr(module, owner), method, sometimes)
    torch.manual_seed(0)
    seen = [batch.tolist() for _ in range(2) for batch in planned.start_unseen(loader, lambda: iter(loader), print)]
    assert len(calls) >= 4
    assert seen == plain
    assert "as the script has it" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("users", "method", "after"), [(0, "open", 0), (0, "__next__", 3), (1, "__next__", 3)])
def test_where_nothing_of_plumb_s_can_read_torch_s_own_iterator_does(users, method, after, monkeypatch, capsys):
    from plumb.runtime.epoch.segment import LoaderSegment

    loader = DataLoader(SomeRows(), batch_size=2, shuffle=True, num_workers=users)
    torch.manual_seed(0)
    plain = [batch.tolist() for _ in range(2) for batch in loader], torch.rand(1).item()
    own = Config(num_workers=users, prefetch_factor=2 if users else None)
    planned = PlannedLoader(loader, plan_entry(fetch_threads=2), own)
    works, calls = getattr(LoaderSegment, method), []

    def no_more(*arguments):
        calls.append(1)
        return broken() if len(calls) > after else works(*arguments)

    monkeypatch.setattr(LoaderSegment, method, no_more)
    torch.manual_seed(0)
    seen = [batch.tolist() for _ in range(2) for batch in planned.start_unseen(loader, lambda: iter(loader), print)]
    assert (seen, torch.rand(1).item()) == plain
    assert "as the script has it" in "".join(capsys.readouterr())


def test_an_error_of_the_user_s_dataset_is_raised_as_it_is(capsys):
    loader = DataLoader(Rows(), batch_size=2)
    planned = PlannedLoader(loader, plan_entry(fetch_threads=2), Config())
    batches, seen = planned.start_unseen(loader, lambda: iter(loader), print), []
    with pytest.raises(KeyError, match="the user's"):
        seen.extend(batch.tolist() for batch in batches)
    assert "plumb itself failed" not in capsys.readouterr().err


# ---- a tuning


class Over(BaseException):
    pass


class Work:
    """Tunes loaders; those that are named fail."""

    only_one = False

    def __init__(self, failing):
        self.failing = failing

    def run_in_loop(self, known, loader, loop, own, deadline):
        yield next(own)
        return self.run_alone(known, loader, 1.0)

    def run_alone(self, known, loader, seconds):
        error = self.failing.get(known.name)
        if error is broken:
            broken()
        if error is not None:
            raise error
        return events.Phase(f"{known.name} is tuned")


def tuned(failing, monkeypatch):
    """What a tuning of three loaders tells, of which the first trains."""
    told = []
    session = Session(lambda: Work(failing), 10.0, told.append, lambda: None)
    monkeypatch.setattr(session, "end_script", lambda: (_ for _ in ()).throw(Over()))
    loaders = {name: DataLoader(torch.arange(8)) for name in ("train", "valid", "test")}
    for line, (name, loader) in enumerate(loaders.items()):
        session.constructed(loader, Site("train.py", line, name))
    loader = loaders["train"]
    batches = session.iterating(loader, lambda: DataLoader.__iter__(loader), plain_loop=True)

    def train():
        for _ in batches:
            session._signals.count += 1

    with pytest.raises(Over):
        train()
    kinds = (events.Warned, events.Failed, events.Phase)
    return [(type(event).__name__, event.text) for event in told if isinstance(event, kinds)]


def test_where_one_loader_fails_the_others_are_tuned(monkeypatch):
    told = tuned({"train": broken}, monkeypatch)
    assert [kind for kind, _ in told] == ["Warned", "Phase", "Phase"]
    assert told[0][1].startswith("train (train.py:0) was not tuned: plumb itself failed (BugError: in")
    assert "A report for its makers is in " in told[0][1]


@pytest.mark.parametrize("error", [broken, TuningError("no room", 2), UsersError(KeyError("the user's"))])
def test_where_another_fails_what_was_tuned_is_kept(error, monkeypatch):
    told = tuned({"valid": error}, monkeypatch)
    assert [kind for kind, _ in told] == ["Phase", "Warned", "Phase"]
    assert told[1][1].startswith("valid (train.py:1) was not tuned: ")
    assert ("plumb itself failed" in told[1][1]) is (error is broken)


@pytest.mark.slow
def test_where_all_fail_the_first_reason_is_that_of_the_tuning(monkeypatch):
    told = tuned({"train": broken, "valid": TuningError("no room", 2), "test": broken}, monkeypatch)
    assert [kind for kind, _ in told] == ["Warned", "Warned", "Warned", "Failed"]
    assert told[-1][1].startswith("plumb itself failed (BugError")


def test_the_session_s_own_failure_ends_the_tuning_and_not_with_a_traceback(monkeypatch):
    monkeypatch.setattr("plumb.tuning.measure.known_loader.KnownLoader.note_batch", broken)
    told = tuned({}, monkeypatch)
    assert [kind for kind, _ in told] == ["Failed"]
    assert "nothing changed" in told[0][1]


def test_an_error_that_the_loop_is_to_see_is_seen(monkeypatch):
    with pytest.raises(KeyError, match="the user's"):
        tuned({"train": UsersError(KeyError("the user's"))}, monkeypatch)


def test_a_command_that_fails_says_so_in_one_line(monkeypatch, capsys):
    from plumb.cli import app

    monkeypatch.setattr("plumb.cli.report_command.report", broken)
    monkeypatch.setattr("sys.argv", ["plumb", "report", "train.plumb.json"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "plumb itself failed (BugError" in said
    assert "Traceback" not in said
