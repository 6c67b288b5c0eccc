"""The promise of live tuning: torch's own batches, each once, in order, whatever runs when."""

import contextlib
import functools
import itertools
import random
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, WeightedRandomSampler

from plumb.core.config import Config
from plumb.tuning.live import live_iterator, tuning_of
from tests.parts.live_parts import Eager, Lazy, Squares, Unsized, follow, patiently

SAMPLING = {
    "in order": lambda n, b: {"batch_size": b},
    "shuffled": lambda n, b: {"batch_size": b, "shuffle": True},
    "the last left out": lambda n, b: {"batch_size": b, "shuffle": True, "drop_last": True},
    "its own generator": lambda n, b: {
        "batch_size": b, "shuffle": True, "generator": torch.Generator().manual_seed(5)
    },
    "eager": lambda n, b: {"batch_size": b, "sampler": Eager(n)},
    "weighted": lambda n, b: {"batch_size": b, "sampler": WeightedRandomSampler([1.0] * n, n)},
    "again and again": lambda n, b: {"batch_size": b, "sampler": RandomSampler(range(n), True, n + 3)},
    "no length": lambda n, b: {"batch_size": b, "sampler": Unsized(n)},
    "batches by hand": lambda n, b: {"batch_sampler": BatchSampler(Eager(n), b, False)},
    "batches of any size": lambda n, b: {"batch_sampler": [[0, 0, 1], [2], [], [n - 1] * b] * (n // 2)},
    "single samples": lambda n, b: {"batch_size": None, "sampler": Eager(n)},
}  # fmt: skip
own_configs = st.sampled_from([Config(), Config(1, 2), Config(2, 1), Config(2, 2, persistent_workers=True)])
others = st.builds(
    lambda workers, prefetch, lasting, reuse: Config(
        workers, prefetch if workers else None, lasting and workers > 0, allocator_reuse=reuse
    ),
    st.integers(0, 2), st.integers(1, 2), st.booleans(), st.booleans(),
)  # fmt: skip
timetables = st.lists(st.tuples(st.integers(0, 50), others), max_size=3)


def collate(samples):
    return torch.stack(samples) if samples else torch.empty(0)


def taken(iterator, stop_after):
    """The batches that a loop gets that stops after some, with a draw of the training's own after each of them."""
    return [(batch.tolist(), torch.rand(1).item()) for batch in itertools.islice(iterator, stop_after)]


def loader_for(sampling, length, batch_size, own, **more):
    arguments = SAMPLING[sampling](length, batch_size)
    if arguments.get("batch_size", 1) is not None:
        arguments["collate_fn"] = collate
    return DataLoader(Squares(length), **arguments, **own.loader_arguments(), **more)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    sampling=st.sampled_from(list(SAMPLING)),
    length=st.integers(1, 60),
    batch_size=st.integers(1, 4),
    own=own_configs,
    timetable=timetables,
    stops=st.lists(st.none() | st.integers(1, 12), min_size=1, max_size=3),
)
def test_a_loop_gets_torch_s_batches_and_draws(sampling, length, batch_size, own, timetable, stops):
    torch.manual_seed(3)
    plain = loader_for(sampling, length, batch_size, own)
    expected = [taken(iter(plain), stop) for stop in stops] + [torch.rand(1).item()]
    torch.manual_seed(3)
    live = loader_for(sampling, length, batch_size, own)
    follow(live, timetable)
    assert [taken(patiently(live_iterator(live)), stop) for stop in stops] + [torch.rand(1).item()] == expected
    assert live.dataset.length == length


@pytest.mark.slow
@settings(max_examples=15)
@given(own=own_configs, timetable=timetables, turns=st.lists(st.integers(0, 2), min_size=4, max_size=60))
def test_several_iterators_at_once(own, timetable, turns):
    """As with torch, they are independent, unless workers persist: then all are one and the same."""

    def delivered(start):
        torch.manual_seed(1)
        iterators, seen = {}, []
        for turn in turns:
            if turn not in iterators:
                iterators[turn] = start()
            seen.append(next(iterators[turn], torch.empty(0)).tolist())
        return seen

    plain = loader_for("shuffled", 60, 2, own)
    live = loader_for("shuffled", 60, 2, own)
    follow(live, timetable)
    assert delivered(lambda: live_iterator(live)) == delivered(lambda: iter(plain))


@pytest.mark.slow
@settings(max_examples=15)
@given(
    own=own_configs,
    timetable=timetables,
    bad=st.sets(st.integers(0, 59), max_size=6),
)
def test_errors_of_the_dataset_come_where_they_would(own, timetable, bad):
    """And the loop may go on after them, as with torch."""

    def delivered(batches):
        seen = []
        while True:
            with contextlib.suppress(LookupError):
                batch = next(batches, None)
                if batch is None:
                    return seen
                seen += [batch.tolist()]
                continue
            seen += ["an error"]

    expected = delivered(iter(DataLoader(Squares(60, bad), batch_size=2)))
    live = DataLoader(Squares(60, bad), batch_size=2, **own.loader_arguments())
    controller = follow(live, timetable)
    assert delivered(live_iterator(live)) == expected
    assert not controller.failures


@pytest.mark.parametrize("own", [Config(), Config(2, 2)], ids=str)
def test_errors_are_those_of_the_user_s_own_configuration(own):
    """Whoever meets them first: without workers, they come without a worker's traceback in their message."""
    messages = []
    for make in (iter, live_iterator):
        loader = DataLoader(Squares(60, bad={31}), **own.loader_arguments())
        follow(loader, [(2, Config(1, 4))])
        with pytest.raises(LookupError) as raised:
            list(patiently(make(loader)) if make is live_iterator else make(loader))
        messages.append(re.sub(r"process \d", "process", str(raised.value)))
    assert messages[0] == messages[1]


@pytest.mark.slow
@pytest.mark.parametrize("own", [Config(), Config(2, 2), Config(1, 1, persistent_workers=True)], ids=str)
@pytest.mark.parametrize("fails_after", [0, 7, 40])
def test_errors_of_the_sampler_come_where_they_would(own, fails_after):
    class Failing(Eager):
        def __iter__(self):
            yield from range(fails_after)
            raise LookupError("the sampler is broken")

    def delivered(start):
        seen = []
        try:
            seen.extend(batch.tolist() for batch in start())
        except LookupError as error:
            seen.append(str(error))
        return seen

    arguments = {"batch_size": 1, "sampler": Failing(60), **own.loader_arguments()}
    live = DataLoader(Squares(60), **arguments)
    follow(live, [(2, Config(2, 4))])
    expected = delivered(functools.partial(iter, DataLoader(Squares(60), **arguments)))
    seen = delivered(lambda: live_iterator(live))
    # Torch drops the batch during which its sampler fails; here it is still delivered after the error, to who goes on.
    assert seen == expected


def test_samplers_that_draw_as_they_go_are_drawn_no_earlier_than_by_torch():
    """As long as the user's own configuration runs, which prefetches as much as torch does."""
    for own in (Config(), Config(1, 2), Config(2, 2)):
        arguments = {"batch_size": 2, "sampler": Lazy(30), **own.loader_arguments()}
        torch.manual_seed(2)
        expected = taken(iter(DataLoader(Squares(30), **arguments)), None)
        torch.manual_seed(2)
        live = DataLoader(Squares(30), **arguments)
        follow(live, [])
        assert taken(live_iterator(live), None) == expected


class Random(Squares):
    def __getitem__(self, index):
        return torch.tensor([index, random.random(), torch.rand(()).item()])


@pytest.mark.parametrize("own", [Config(), Config(2, 2), Config(2, 2, persistent_workers=True)], ids=str)
def test_on_the_user_s_own_configuration_random_samples_are_torch_s_too(own):
    """The workers' seeds are the ones that torch would have drawn, epoch by epoch."""

    def delivered(start):
        torch.manual_seed(4)
        random.seed(4)
        return [batch.tolist() for _ in range(2) for batch in start()]

    arguments = {"batch_size": 3, "shuffle": True, **own.loader_arguments()}
    live = DataLoader(Random(20), **arguments)
    follow(live, [])
    plain = DataLoader(Random(20), **arguments)
    assert delivered(lambda: live_iterator(live)) == delivered(lambda: iter(plain))


def test_workers_of_later_segments_draw_other_numbers():
    live = DataLoader(Random(60), batch_size=1, num_workers=1)
    follow(live, [(5, Config(1, 1)), (25, Config(2, 1))])
    numbers = [batch[0, 1].item() for batch in patiently(live_iterator(live))]
    assert len(set(numbers)) == 60


def test_what_is_prefetched_is_delivered_when_a_loader_is_taken_over_from(monkeypatch):
    # To check a batch is to make it again.
    monkeypatch.setenv("PLUMB_CHECK", "0")
    reads = torch.zeros(100, dtype=torch.int64).share_memory_()

    class Counted(Squares):
        def __getitem__(self, index):
            reads[index] += 1
            return super().__getitem__(index)

    live = DataLoader(Counted(100), batch_size=1, num_workers=2, prefetch_factor=4)
    controller = follow(live, [(10, Config(1, 2)), (40, Config()), (70, Config(2, 2))])
    assert len(list(patiently(live_iterator(live)))) == 100
    assert len(controller.ran) == 4
    # Where workers' samples seem to write, a few are tried once more, in a process of their own.
    assert reads.min() == 1
    assert (reads > 1).sum() <= 2


class Texts(Squares):
    def __getitem__(self, index):
        return index, lambda: str(index)


def test_batches_that_can_t_be_sent_are_made_without_workers():
    live = DataLoader(Texts(60), batch_size=2, collate_fn=list)
    controller = follow(live, [(3, Config(2, 2))])
    assert [index for batch in patiently(live_iterator(live)) for index, _ in batch] == list(range(60))
    assert controller.failures
    assert all("pickle" in reason for _, reason in controller.failures)


def test_the_loader_stays_what_it_was():
    live = DataLoader(Squares(), batch_size=2, num_workers=1)
    before = dict(vars(live))
    follow(live, [(3, Config(2, 2))])
    iterator = live_iterator(live)
    assert len(iterator) == len(live)
    for _ in iterator:
        pass
    assert vars(live) == before
    assert tuning_of(live) is tuning_of(live)


def test_torch_s_advice_on_worker_counts_is_not_given_for_plumb_s():
    live = DataLoader(Squares(60), batch_size=1)
    follow(live, [(2, Config(9, 1))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(patiently(live_iterator(live)))) == 60
