"""Samples with a cut in them: the same values, random numbers and exceptions, and nothing run that need not be."""

import copy
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import cut_datasets
import numpy as np
import pytest
from cut_datasets import Chain, Chained, Clip, Failing, Guarded, Helped, Inline, InPlace, Jittered, Measuring, Scaled
from cutting import found, seen

from plumb.core.config import Cut
from plumb.instrument.values import digest
from plumb.runtime.replay.replay import Replay, ReplayError
from plumb.runtime.replay.skipped_value import SkippedUsed, SkippedValue


@pytest.fixture(scope="module")
def cut_of():
    """The cuts of a dataset, found once."""
    known = {}

    def find(dataset):
        name = type(dataset).__name__
        if name not in known:
            known[name] = {after: candidate.cut for after, candidate in found(dataset)[0].items()}
            assert known[name]
        return known[name]

    return find


def chained():
    return Chained([Scaled(2.0), Scaled(0.5), Jittered(), Scaled(3.0)])


def kept(replay, index):
    """The cut's value as it was when it was kept."""
    values = []
    replay.sample_keeping(index, lambda value: values.append(copy.deepcopy(value)))
    assert len(values) == 1
    return values[0]


@pytest.mark.slow
@pytest.mark.parametrize("make", [Inline, Helped, InPlace, chained, Clip, Guarded])
def test_all_ways_to_read_a_sample_give_the_same_and_draw_the_same(cut_of, make):
    dataset = make()
    for cut in cut_of(dataset).values():
        replay = Replay(dataset, cut)
        for index in (0, 5, 11):
            value = kept(replay, index)
            plain = seen(index, dataset.__getitem__, index)
            assert seen(index, replay.sample_keeping, index, id) == plain
            assert seen(index, replay.sample_from, index, copy.deepcopy(value)) == plain
            assert digest(replay.prefix(index)) == digest(value)


def test_a_prefix_draws_nothing_and_runs_the_users_cleanup(cut_of):
    dataset = Guarded()
    (cut,) = [cut for cut in cut_of(dataset).values() if cut.way[-1].name == "sort"]
    _, before = seen(3, int)
    assert seen(3, Replay(dataset, cut).prefix, 2)[1] == before
    assert dataset.log[-1] == 2


def test_what_feeds_a_cut_is_not_run(cut_of, monkeypatch):
    dataset = Inline()
    cut = cut_of(dataset)["np.clip"]
    replay = Replay(dataset, cut)
    value = kept(replay, 4)

    def generated(index):
        pytest.fail("was run")

    monkeypatch.setattr(cut_datasets, "generated", generated)
    replay.sample_from(4, value)


def test_a_value_is_kept_before_the_users_code_changes_it(cut_of):
    replay = Replay(InPlace(), cut_of(InPlace())["np.sort"])
    value = kept(replay, 1)
    assert np.array_equal(value, np.sort(cut_datasets.generated(1)))
    first = replay.sample_from(1, value.copy())
    assert not np.array_equal(first, value)


def test_the_users_exceptions_come_out_as_they_are(cut_of):
    dataset = Failing()
    replay = Replay(dataset, _load_cut(dataset))
    for read, index, kind in [
        (lambda index: replay.sample_keeping(index, id), 3, KeyError),
        (replay.prefix, 3, KeyError),
        (lambda index: replay.sample_keeping(index, id), 5, ZeroDivisionError),
        (lambda index: replay.sample_from(index, np.zeros(9)), 5, ZeroDivisionError),
    ]:
        with pytest.raises(kind) as plain:
            dataset[index]
        with pytest.raises(kind) as replayed:
            read(index)
        assert replayed.value.args == plain.value.args
        lines = [frame.line for frame in traceback.extract_tb(replayed.value.__traceback__)]
        assert traceback.extract_tb(plain.value.__traceback__)[-1].line in lines
        assert replay.prefix(7) is not None  # and the next sample is read as if nothing had happened


def _load_cut(dataset):
    """The cut behind `load`, found on a dataset of the same code that doesn't fail."""
    plain = copy.copy(dataset)
    plain.__class__ = type("Failing", (Failing,), {"__len__": lambda self: 3})
    (cut,) = [item.cut for item in found(plain, samples=3)[0].values() if item.cut.way[-1].name == "load"]
    return cut


def test_a_cut_that_is_not_reached_once_is_an_error(cut_of):
    dataset = Clip()
    way = cut_of(dataset)["np.stack"].feeds[0]
    for read in (lambda replay: replay.sample_keeping(0, id), lambda replay: replay.sample_from(0, np.ones(4))):
        with pytest.raises(ReplayError, match="3 times"):
            read(Replay(dataset, Cut("frame", way)))
    lost = Cut("lost", (*way[:1], way[1].__class__("nowhere:f#1", "f")))
    with pytest.raises(ReplayError, match="0 times"):
        Replay(dataset, lost).sample_keeping(0, id)
    with pytest.raises(ReplayError):
        Replay(dataset, lost).prefix(0)


def test_a_skipped_value_that_is_needed_is_an_error(cut_of):
    dataset = Measuring()
    cut = next(cut for cut in cut_of(dataset).values() if len(cut.feeds) == 3)
    with pytest.raises(ReplayError, match="needed behind it"):
        Replay(dataset, cut).sample_from(0, np.zeros(10))


def test_a_skipped_value_is_missed_even_where_the_users_code_swallows_all_exceptions(cut_of):
    class Careless(Measuring):
        def __getitem__(self, index):
            values = np.sort(cut_datasets.generated(index))
            short = np.sort(cut_datasets.smoothed(values))
            try:
                return cut_datasets.jittered(short) * values.shape[0]
            except BaseException:
                return short

    dataset = Careless()
    cut = next(item.cut for item in found(dataset)[0].values() if len(item.cut.feeds) == 3)
    with pytest.raises(ReplayError, match="needed behind it"):
        Replay(dataset, cut).sample_from(0, np.zeros(10))


@pytest.mark.parametrize(
    "use",
    [
        lambda value: value.shape,
        lambda value: value + 1,
        lambda value: 1 - value,
        lambda value: value @ value,
        lambda value: value[0],
        lambda value: value == 0,
        lambda value: bool(value),
        lambda value: len(value),
        lambda value: list(value),
        lambda value: f"{value}",
        lambda value: isinstance(value, np.ndarray),
        lambda value: hasattr(value, "shape"),
        lambda value: np.asarray(value),
        lambda value: np.zeros(3) + value,
        lambda value: value(1),
        lambda value: value.sort(),
        lambda value: {value: 1},
        lambda value: copy.copy(value),
        lambda value: pickle.dumps(value),
        lambda value: setattr(value, "a", 1),
    ],
)
def test_any_use_of_a_skipped_value_is_noticed_even_where_it_is_swallowed(use):
    noted = []
    with pytest.raises(SkippedUsed):
        use(SkippedValue({"sort"}, lambda: noted.append(1)))
    assert noted


def test_the_whole_sample_is_a_cut_as_well():
    dataset = Inline()
    replay = Replay(dataset, Cut("whole", ()))
    kept_value = []
    assert seen(0, replay.sample_keeping, 1, kept_value.append) == seen(0, dataset.__getitem__, 1)
    assert replay.sample_from(1, kept_value[0]) is kept_value[0]
    assert seen(0, replay.prefix, 1) == seen(0, dataset.__getitem__, 1)


def test_further_calls_are_answered_wherever_they_are_reached(cut_of):
    dataset = chained()
    cut = cut_of(dataset)["Scaled"]
    last = (*cut.way[:-1], cut.way[-1].__class__(cut.way[-1].site, "Scaled", "steps[3]"))
    replay = Replay(dataset, cut, {last: lambda function, arguments, keywords: ("answered", arguments[0]["y"])})
    value = kept(replay, 2)
    assert replay.sample(2) == replay.sample_keeping(2, id) == replay.sample_from(2, value) == ("answered", 2)
    assert digest(replay.prefix(2)) == digest(value)
    assert Replay(dataset, None, {last: lambda *_: 7}).sample(0) == 7
    assert seen(1, Replay(dataset, None).sample, 0) == seen(1, dataset.__getitem__, 0)


def test_a_step_is_told_by_its_place_even_where_others_are_alike(cut_of):
    """Equal steps, and one step under two names, in lists of several lengths."""
    step = Scaled(2.0)
    for place in range(3):
        steps = [Scaled(1.0 + number) for number in range(4)]
        steps[place] = step
        dataset = Chained(steps)
        way = (*cut_of(chained())["Scaled"].way[:-1],)
        site = cut_of(chained())["Scaled"].way[-1].site
        cut = Cut("x", (*way, cut_of(chained())["Scaled"].way[-1].__class__(site, "Scaled", f"steps[{place}]")))
        replay = Replay(dataset, cut)
        expected = Chain(steps[: place + 1])(dataset.load(3))
        for _ in range(2):
            assert digest(replay.prefix(3)) == digest(expected)


def test_a_step_that_is_handed_to_a_helper_is_told_by_its_place():
    class Handing(Chained):
        def apply(self, step, sample):
            return step(sample)

        def __getitem__(self, index):
            sample = self.load(index)
            for step in self.transform.steps:
                sample = self.apply(step, sample)
            return sample

    dataset = Handing([Scaled(2.0), Scaled(0.5), Jittered()])
    for item in found(dataset)[0].values():
        replay = Replay(dataset, item.cut)
        for index in range(3):
            assert seen(5, replay.sample_from, index, kept(replay, index)) == seen(5, dataset.__getitem__, index)


def test_no_value_of_a_sample_is_kept_alive(cut_of):
    for dataset in (Clip(), Inline(), chained()):
        for cut in cut_of(dataset).values():
            replay = Replay(dataset, cut)
            kept_alive = []

            def keep(value, kept_alive=kept_alive):
                kept_alive.append(weakref.ref(value["x"] if isinstance(value, dict) else value))

            for index in range(3):
                replay.sample_keeping(index, keep)
                value = replay.prefix(index)
                keep(value)
                replay.sample_from(index, value)
                del value
            assert [reference() for reference in kept_alive] == [None] * 6


def test_threads_read_at_once(cut_of):
    dataset = Inline()
    replay = Replay(dataset, cut_of(dataset)["np.sort"])
    expected = [digest(np.sort(cut_datasets.generated(index))) for index in range(12)]
    start = threading.Barrier(6)

    def read(number):
        start.wait()
        return [digest(replay.prefix(index)) for index in range(12)]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, range(6))) == [expected] * 6


SPAWNED = """
    import multiprocessing
    import sys
    sys.path[:0] = {paths!r}
    import numpy as np
    from torch.utils.data import Dataset

    class Own(Dataset):
        def __len__(self):
            return 8

        def load(self, index):
            return np.sort(np.random.default_rng(index).random(50_000))

        def __getitem__(self, index):
            return self.load(index) + np.random.random()

    def read(replay, queue):
        queue.put(float(replay.prefix(3)[0]))
        np.random.seed(0)
        queue.put(float(replay.sample_from(3, np.zeros(2))[0]))

    if __name__ == "__main__":
        from cutting import found
        from plumb.runtime.replay.replay import Replay

        cut = next(item.cut for item in found(Own())[0].values() if item.cut.way[-1].name == "load")
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        replay = Replay(Own(), cut)
        replay.prefix(0)
        process = context.Process(target=read, args=(replay, queue))
        process.start()
        got = queue.get(timeout=60), queue.get(timeout=60)
        process.join()
        np.random.seed(0)
        assert got == (float(Own().load(3)[0]), np.random.random()), got
        print("the same")
"""


@pytest.mark.slow
def test_a_replay_of_the_scripts_own_dataset_goes_to_a_spawned_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SPAWNED).format(paths=sys.path))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "the same\n", done.stderr
