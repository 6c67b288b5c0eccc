"""Deferred operators come to the same batches, whatever else happens to a sample on its way."""

import copy
import operator
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from deferred_datasets import (
    MEAN,
    Deferred,
    Odd,
    Pictures,
    Plain,
    Rows,
    batches,
    calls_of_normalize,
    cropped,
    in_place,
    loader,
    picture,
    scaled,
    to_tensor,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, default_collate

from plumb.core.config import CallStep, Deferral, DeferredStep
from plumb.instrument.recorder import SAMPLE
from plumb.rewrites.find_deferrals import find_deferral
from plumb.rewrites.validate_deferral import same_batch
from plumb.runtime.deferred.batch_recipe import BatchRecipe, Watch, chain_of
from plumb.runtime.deferred.deferred_call import DeferredCall, bitwise_equal, is_same, pack, unpack
from plumb.runtime.deferred.placeholder import Pending, VariesError, make_placeholder, pending_of, without_content
from plumb.runtime.deferred.skipped_operators import (
    CallDeferrer,
    DeferredBatch,
    DeferredSamples,
    DeferringCollate,
    Undeferred,
    run,
    visible_state,
)
from plumb.runtime.replay.substitution import SubstitutingRecorder, Tree
from plumb.tracing.capture_pass import Method


def deferral_of(dataset, collate=default_collate):
    found = find_deferral(dataset, collate, list(range(len(dataset)))[-6:])
    assert found.deferral is not None, found.reason
    return found.deferral


def seeded(make):
    random.seed(7)
    torch.manual_seed(7)
    return make()


class Scale:
    factor = 2.0

    def __call__(self, tensor):
        return tensor * self.factor


def by_hand(kind, site, name):
    """The deferral of one call in a dataset's `__getitem__`, whether or not that is a good idea."""
    entry = CallStep("plumb:sample#0", kind.__name__)
    way = (entry, CallStep(f"{kind.__module__}:{kind.__getitem__.__qualname__}#{site}", name))
    return Deferral((DeferredStep(name, way, 0),), 0)


def both(dataset, deferral, collate=default_collate, **arguments):
    """The batches of the plain loader and of the one that defers, from the same seeds."""
    plain = seeded(lambda: list(DataLoader(dataset, collate_fn=collate, **arguments)))
    return plain, seeded(lambda: batches(loader(dataset, deferral, collate, **arguments)))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "multiprocessing_context": "fork"}])
def test_the_batches_are_the_same(named, workers):
    dataset = Plain(named)
    plain, deferred = both(dataset, deferral_of(dataset), batch_size=6, shuffle=True, **workers)
    assert len(plain) == len(deferred) == 4
    assert all(map(same_batch, plain, deferred))


@pytest.mark.slow
def test_the_batches_of_spawned_workers_are_the_same():
    dataset = Plain()
    workers = {"num_workers": 1, "multiprocessing_context": "spawn", "in_order": False}
    plain, deferred = both(dataset, deferral_of(dataset), batch_size=5, **workers)
    assert all(map(same_batch, plain, deferred))


def test_deferred_operators_run_on_batches_only():
    dataset = Plain()
    deferral = deferral_of(dataset)
    deferring_loader = loader(dataset, deferral, default_collate, batch_size=5)
    calls_of_normalize.clear()
    delivered = list(deferring_loader)
    assert [shape for shape in calls_of_normalize if shape != (3, 16, 16)] == []
    assert len(calls_of_normalize) == 1, "the first sample of a process shows what the operators are"
    assert all(isinstance(batch, DeferredBatch) for batch in delivered)
    assert all(batch.batch[0].dtype == torch.uint8 for batch in delivered)


WAYS = {
    "another tensor": lambda tensor: tensor.flip(0),
    "changed in place": lambda tensor: tensor.mul_(0.5),
    "stored into": lambda tensor: tensor.index_fill_(0, torch.tensor([0]), 0.0),
    "through numpy": lambda tensor: torch.from_numpy(np.asarray(tensor) * 2),
    "copied": copy.deepcopy,
    "asked for a value": lambda tensor: tensor + float(tensor.max()),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_sample_that_takes_another_way_is_finished_with_its_batch(way):
    usual, odd = Odd(set(), None), Odd({11, 12}, WAYS[way])
    deferral = deferral_of(usual)
    assert deferral.steps[0].operator == "float"
    plain, deferred = both(odd, deferral, batch_size=4)
    assert all(map(same_batch, plain, deferred))
    kinds = [isinstance(batch, DeferredBatch) for batch in loader(odd, deferral, default_collate, batch_size=4)]
    assert kinds == [True, True, False, False, True]


def test_other_constants_are_used_where_they_were_seen():
    class Varying(Rows):
        def __getitem__(self, index):
            return self.rows[index] / (3 if index == 4 else 2)

    dataset = Varying(None, torch.arange(60.0).view(6, 10))
    plain, deferred = both(dataset, by_hand(Varying, 0, "truediv"), batch_size=2)
    assert all(map(same_batch, plain, deferred))


def test_a_batch_whose_tensors_were_changed_since_is_made_again():
    class Reusing(Rows):
        def __getitem__(self, index):
            buffer.copy_(self.rows[index])
            return scaled(buffer), index

    dataset, buffer = Reusing(None, torch.arange(60.0).view(6, 10)), torch.empty(10)
    assert [step.operator for step in deferral_of(dataset).steps] == ["tensor / 255 - 0.5"]
    deferral = by_hand(Reusing, 2, "scaled")
    deferring = Deferred(dataset, deferral)
    delivered = list(
        Undeferred(iter(DataLoader(deferring, batch_size=3, collate_fn=DeferringCollate(default_collate))), False)
    )
    assert deferring.made_again == 2
    assert all(map(same_batch, delivered, DataLoader(dataset, batch_size=3)))


def test_constants_that_change_during_an_epoch_are_learned_again():
    dataset = Rows(Scale(), torch.arange(60.0).view(6, 10))
    deferring = Deferred(dataset, deferral_of(dataset))
    iterator = Undeferred(
        iter(DataLoader(deferring, batch_size=2, collate_fn=DeferringCollate(default_collate))), False
    )
    first = next(iterator)
    dataset.function.factor = 5.0
    second, third = iterator
    assert deferring.made_again == 1
    assert torch.equal(first[0], dataset.rows[:2] * 2)
    assert torch.equal(second[0], dataset.rows[2:4] * 5)
    assert torch.equal(third[0], dataset.rows[4:] * 5)


def test_a_collate_function_that_is_no_stack_for_once_gets_finished_samples():
    def padding(samples):
        rows = [row for row, _ in samples]
        return torch.stack([row if row[0] % 40 else row * 0 for row in rows])

    dataset = Rows(scaled, torch.arange(1.0, 61.0).view(6, 10))
    deferral = deferral_of(dataset, lambda samples: torch.stack([row for row, _ in samples]))
    dataset.rows[3, 0] = 40.0
    plain, deferred = both(dataset, deferral, padding, batch_size=2)
    assert all(map(same_batch, plain, deferred))


def test_a_stand_in_tells_what_it_is_like_and_has_the_true_content():
    calls = (DeferredCall(Method("div"), (255,), {}, 0), DeferredCall(Method("sub"), (MEAN,), {}, 0))
    base = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)
    true = base.div(255).sub(MEAN)
    pending = Pending(base, calls, 2)
    tensor = make_placeholder(pending, without_content(true))
    assert (tensor.shape, tensor.dtype, tensor.ndim, len(tensor)) == (true.shape, true.dtype, 3, 3)
    assert isinstance(tensor, torch.FloatTensor)
    assert not pending.was_asked_for
    assert torch.equal(torch.stack([tensor, tensor])[1], true)
    assert pending.was_asked_for
    assert bitwise_equal(pickle.loads(pickle.dumps(tensor)), true)
    assert np.array_equal(np.asarray(tensor), true.numpy())
    tensor.add_(1)
    assert bitwise_equal(tensor + 0, true + 1)
    assert pending_of(true) is None


def test_what_was_changed_in_place_can_not_be_made():
    base = torch.ones(3)
    pending = Pending(base, (DeferredCall(Method("mul"), (2,), {}, 0),), 1)
    base.zero_()
    with pytest.raises(VariesError):
        pending.made()


def test_pinning_keeps_the_recipe_with_the_batch(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: tensor + 0)
    monkeypatch.setattr("plumb.host.pinned_memory.can_pin", lambda: True)
    batch = DeferredBatch({"x": torch.ones(2)}, 0, b"recipe")
    pinned = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert (pinned.leaf, pinned.recipe) == (0, b"recipe")
    assert pinned.batch["x"] is not batch.batch["x"]


def test_torchs_own_iterator_is_within_reach():
    dataset = Plain()
    iterator = Undeferred(iter(loader(dataset, deferral_of(dataset), default_collate, batch_size=7)), False)
    assert len(iterator) == 3
    assert iter(iterator) is iterator
    assert iterator._num_yielded == 0
    next(iterator)
    assert iterator._num_yielded == 1
    with pytest.raises(AttributeError):
        iterator.missing


def test_a_large_or_local_constant_is_not_sent_along():
    assert pack([DeferredCall(torch.add, (torch.ones(2**20),), {}, 0)]) is None
    assert pack([DeferredCall(lambda tensor: tensor, (), {}, 0)]) is None
    (call,) = unpack(pack([DeferredCall(torch.add, (torch.ones(2),), {"alpha": 2}, 0)]))
    assert torch.equal(call(torch.zeros(2)), torch.full((2,), 2.0))


def test_constants_are_the_same_bit_by_bit():
    assert is_same((1, "a", [torch.ones(2)]), (1, "a", [torch.ones(2)]))
    assert is_same({"a": float("inf")}, {"a": float("inf")})
    for left, right in [(1, 1.0), (1, True), (torch.zeros(2), -torch.zeros(2)), ([1], (1,)), (object(), object())]:
        assert not is_same(left, right)


def test_a_call_is_told_from_others_by_its_callee_and_its_constants():
    tensor = torch.ones(3)
    by_name = DeferredCall(torch.add, (), {"other": MEAN, "alpha": 2}, "input")
    assert by_name.tensor_of(torch.add, (), {"input": tensor, "other": MEAN.clone(), "alpha": 2}) is tensor
    assert by_name.tensor_of(torch.add, (), {"input": tensor, "other": MEAN}) is None
    assert by_name.tensor_of(torch.sub, (), {"input": tensor, "other": MEAN, "alpha": 2}) is None
    method = DeferredCall(Method("mul"), (2,), {}, 0)
    assert method.tensor_of(tensor.mul, (2,), {}) is tensor
    assert method.tensor_of(tensor.mul, (3,), {}) is None
    assert method.tensor_of(tensor.div, (2,), {}) is None
    assert method.tensor_of(torch.mul, (tensor, 2), {}) is None
    assert DeferredCall(Method("mul"), (MEAN,), {}, 1).tensor_of(MEAN.mul, (tensor,), {}) is tensor


def test_what_can_not_be_left_out_is_done_to_the_tensor_itself():
    class Changing(Rows):
        def __getitem__(self, index):
            row = torch.from_numpy(self.rows[index].numpy() + 0)
            row.mul_(2)
            return row

    dataset = Changing(None, torch.arange(60.0).view(6, 10))
    plain, deferred = both(dataset, by_hand(Changing, 4, "mul_"), batch_size=2)
    assert all(map(same_batch, plain, deferred))


OPERATIONS = {
    "float": DeferredCall(Method("float"), (), {}, 0),
    "double": DeferredCall(Method("double"), (), {}, 0),
    "half": DeferredCall(Method("half"), (), {}, 0),
    "divide": DeferredCall(Method("div"), (255,), {}, 0),
    "scale": DeferredCall(Method("mul"), (1 / 255,), {}, 0),
    "subtract": DeferredCall(Method("sub"), (torch.rand(3, 1, 1),), {}, 0),
    "subtract twice": DeferredCall(Method("sub"), (torch.rand(3, 1, 1),), {"alpha": 2}, 0),
    "in place": DeferredCall(Method("mul_"), (0.3,), {}, 0),
    "add": DeferredCall(Method("add"), (torch.rand(3, 5, 5),), {}, 0),
    "contiguous": DeferredCall(Method("contiguous"), (), {}, 0),
    "reverse": DeferredCall(torch.rsub, (1,), {}, 0),
    "log": DeferredCall(Method("log1p"), (), {}, 0),
    "clamp": DeferredCall(Method("clamp"), (0.1, 0.7), {}, 0),
    "widen": DeferredCall(Method("add"), (torch.rand(1, 1, 1, 1, dtype=torch.float64).expand(1, 3, 5, 5),), {}, 0),
}
DTYPES = [torch.uint8, torch.int16, torch.int64, torch.float16, torch.float32, torch.float64, torch.bool]


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=6),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.booleans(),
)
def test_any_chain_gives_the_same_bits_in_chunks(monkeypatch_chunks, names, dtype, samples, channels_last):
    calls = [OPERATIONS[name] for name in names]
    batch = (torch.rand(samples, 3, 5, 5) * 200).to(dtype)
    if channels_last:
        batch = batch.to(memory_format=torch.channels_last)
    expected = batch.clone()
    try:
        for call in calls:
            expected = call(expected)
    except RuntimeError:
        return
    recipe = BatchRecipe(pack(calls))
    for _ in range(3):
        made = recipe.run(batch.clone())
        assert bitwise_equal(made, expected)
        assert made.stride() == expected.stride()


@pytest.fixture(scope="module")
def monkeypatch_chunks():
    """Chunks of two samples or fewer, so that small batches have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plumb.runtime.deferred.batch_recipe.CHUNK_BYTES", 2 * 3 * 5 * 5 * 4)
        yield


def watched(function, batch):
    with Watch(batch) as watch:
        result = function(batch)
    return chain_of(watch, result)


def test_only_what_is_elementwise_runs_in_chunks():
    batch = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    assert len(watched(lambda tensor: (tensor.float() / 255 - MEAN) * 2, batch).operations) == 4
    assert watched(lambda tensor: tensor.float() - tensor.float().mean(), batch) is None
    assert watched(lambda tensor: tensor.float() - torch.rand(4, 1, 1, 1), batch) is None
    assert watched(lambda tensor: tensor.float() + tensor, batch) is None
    assert watched(lambda tensor: tensor[:, :1] / 2, batch) is None
    assert watched(lambda tensor: tensor, batch) is None


def test_a_device_gets_the_batch_before_its_operators():
    calls = [DeferredCall(Method("float"), (), {}, 0), DeferredCall(Method("sub"), (MEAN,), {}, 0)]
    deferred = DeferredBatch([torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8), 1], 0, pack(calls))
    recipe = BatchRecipe(deferred.recipe)
    expected = deferred.batch[0].float().sub(MEAN)
    for _ in range(2):
        made = run(deferred, recipe, torch.device("cpu"))
        assert bitwise_equal(made[0], expected)
    on_device = recipe.run(deferred.batch[0], torch.device("meta"))
    on_device = recipe.run(deferred.batch[0], torch.device("meta"))
    assert (on_device.device.type, on_device.shape, on_device.dtype) == ("meta", (4, 3, 5, 5), torch.float32)


def test_threads_may_load_the_samples_of_a_batch():
    dataset = Rows(scaled, torch.rand(40, 50))
    deferral = deferral_of(dataset)
    deferring = CallDeferrer(deferral)
    tree = Tree(step.way for step in deferral.steps)

    def load(index):
        answered = SubstitutingRecorder(tree, {tree.nodes[way]: answer for way, answer in deferring.answers.items()})
        with answered:
            return answered.enter(SAMPLE, operator.getitem, dataset, index)

    with ThreadPoolExecutor(8) as pool:
        samples = list(pool.map(load, range(40)))
    settled = deferring.settled(samples)
    assert isinstance(settled, DeferredSamples)
    (finished,) = Undeferred(iter([DeferringCollate(default_collate)(settled)]), False)
    assert same_batch(finished, default_collate([dataset[index] for index in range(40)]))


def test_in_place_operators_reach_all_who_hold_the_tensor():
    class Discarding(Pictures):
        def __getitem__(self, index):
            tensor = to_tensor(cropped(picture(index)))
            in_place(tensor)
            return tensor

    dataset = Discarding(None)
    plain, deferred = both(dataset, deferral_of(dataset), batch_size=6)
    assert all(map(same_batch, plain, deferred))


_WATCHED = """
import sys
import torch
from plumb.runtime.deferred.batch_recipe import BatchRecipe
from plumb.runtime.deferred.deferred_call import DeferredCall, pack
batch = torch.arange(12, dtype=torch.uint8).view(4, 3)
calls = pack([DeferredCall(torch.Tensor.float, (), {}, 0), DeferredCall(torch.div, (255,), {}, 0)])
assert torch.equal(BatchRecipe(calls).run(batch), batch.float() / 255)
print("torch._dynamo" in sys.modules)
"""


def test_no_batch_waits_for_torch_s_compiler_to_be_imported():
    done = subprocess.run([sys.executable, "-c", _WATCHED], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_changes_of_an_object_are_seen_in_its_visible_state():
    class Inner:
        scale = 1.0

    class Outer:
        def __init__(self):
            self.inner, self.files, self.table = Inner(), ["a"], torch.zeros(2)

    outer = Outer()
    before = visible_state(outer)
    assert visible_state(outer) == before
    for change in (
        lambda: setattr(outer.inner, "scale", 2.0),
        lambda: outer.files.append("b"),
        lambda: outer.table.add_(1),
        lambda: setattr(outer, "inner", Inner()),
    ):
        change()
        after = visible_state(outer)
        assert after != before
        before = after
