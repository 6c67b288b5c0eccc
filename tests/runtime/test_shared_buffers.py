"""Batches that come in memory that is used again are torch's own, and nobody who still holds one sees it change."""

import gc
import multiprocessing
import os
import random
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, default_collate

from plumb.core.config import Config
from plumb.model import constraints
from plumb.runtime import shared_buffers
from plumb.runtime.loader import Loader

LENGTH = 24
REUSING = Config(2, 2, persistent_workers=True, allocator_reuse=True)
Pair = namedtuple("Pair", "x y")


class Samples(Dataset):
    """Samples of all that is usual, whose sizes vary from batch to batch where that is asked for."""

    def __init__(self, made):
        self.made = made

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return self.made(index)


def image(index):
    return torch.full((3, 40, 30), float(index)), index


def mapping(index):
    return {
        "x": np.full((5, 2), index),
        "y": index / 2,
        "name": f"sample {index}",
        "flag": torch.tensor(index % 2 == 0),
    }


def pair(index):
    return Pair(torch.arange(index, index + 6).view(2, 3), [torch.zeros(0), torch.tensor(1j * index)])


def half(index):
    return torch.full((7,), index, dtype=torch.bfloat16), torch.full((2, 2), index, dtype=torch.float16)


def ragged(index):
    return torch.full((1 + 977 * (index % 7), 2), float(index)), index


def as_a_list(samples):
    return [x for x, _ in samples], torch.tensor([y for _, y in samples])


def padded(samples):
    return torch.nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True)


def last_in_memory(samples):
    x, y = default_collate(samples)
    return x.contiguous(memory_format=torch.channels_last), x[:, :1].expand(-1, 4, -1, -1), y


def views_of_one(samples):
    x, y = default_collate(samples)
    return x[:, :2], x[:, 2:], y


def twice_the_same(samples):
    x, y = default_collate(samples)
    return x, {"again": x}, y


def of_rare_kinds(samples):
    x, y = default_collate(samples)
    return x.to_sparse(), torch.nn.Parameter(x), torch.conj(y * 1j), x.numpy()


BATCHES = {
    "images": (image, None),
    "mappings": (mapping, None),
    "named tuples": (pair, None),
    "half precision": (half, None),
    "lists of tensors": (ragged, as_a_list),
    "padded": (ragged, padded),
    "layouts": (image, last_in_memory),
    "views of one tensor": (image, views_of_one),
    "one tensor twice": (image, twice_the_same),
    "rare kinds": (image, of_rare_kinds),
}


def loaders(name, config=REUSING, **more):
    """The loader that uses its memory again, and torch's."""
    made, collate_fn = BATCHES[name]
    given = {"batch_size": 3, "collate_fn": collate_fn, **more}
    return (
        Loader(Samples(made), config=config, **given),
        DataLoader(Samples(made), **given, **config.loader_arguments()),
    )


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert ours.dtype == theirs.dtype
        assert ours.layout == theirs.layout
        assert ours.requires_grad == theirs.requires_grad
        if theirs.layout is torch.strided:
            assert ours.stride() == theirs.stride()
        assert ours.shape == theirs.shape
        assert torch.equal(ours.to_dense(), theirs.to_dense())
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


def memory_of(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", BATCHES)
def test_batches_are_torch_s_own_however_they_are_held(name):
    ours, theirs = loaders(name)
    for _ in range(2):
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
    # All at once: more than there are buffers.
    for our, their in zip(list(ours), list(theirs), strict=True):
        assert_same(our, their)


class Subclass(torch.Tensor):
    """A tensor of a class of the user's own."""


def of_each_kind():
    """A maker for each kind of tensor, those first that can lie in a buffer."""
    rows = torch.arange(12.0).view(3, 4)
    nan = torch.tensor([0x7FC00001, 0x7F800001, -1, 0], dtype=torch.int32)
    ordinary = {
        "rows": lambda: rows.clone(),
        "scalar": lambda: torch.tensor(3.5),
        "bits of numbers that are none": lambda: nan.clone().view(torch.float32),
        "transposed": lambda: rows.clone().t(),
        "channels last": lambda: torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "sizes of one": lambda: torch.rand(1, 3, 1).transpose(0, 2),
        "empty": lambda: torch.zeros(0, 3),
        "bytes": lambda: torch.arange(7, dtype=torch.uint8),
        "flags": lambda: torch.tensor([True, False]),
        "half": lambda: torch.rand(3).bfloat16(),
        "quarter": lambda: torch.rand(4).to(torch.float8_e5m2),
        "complex": lambda: torch.rand(3, dtype=torch.complex64),
    }
    special = {
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)]),
        "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=torch.jagged),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "compressed": lambda: torch.eye(3).to_sparse_csr(),
        "meta": lambda: torch.empty(3, 2, device="meta"),
        "subclass": lambda: torch.rand(3).as_subclass(Subclass),
        "parameter": lambda: torch.nn.Parameter(torch.rand(3)),
        "with a gradient": lambda: torch.rand(3, requires_grad=True),
        "conjugated": lambda: torch.conj(torch.rand(3) * 1j),
        "negated": lambda: torch.conj(torch.rand(3) * 1j).imag,
        "expanded": lambda: torch.rand(3, 1).expand(3, 5),
        "all of one": lambda: torch.rand(1).expand(4),
        "with gaps": lambda: rows.clone()[:, ::2],
        "part of another": lambda: rows.clone()[1:],
        "overlapping": lambda: torch.arange(6.0).as_strided((3, 3), (1, 1)),
        "of four bits": lambda: torch.zeros(4, dtype=torch.uint8).view(torch.int4) if hasattr(torch, "int4") else None,
        "storage": lambda: torch.rand(3).untyped_storage(),
        "packed": lambda: torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)]),
    }
    return ordinary, special


def aliased(kind):
    """Tensors that have memory in common: a change of one is to be seen in the other."""
    rows = torch.rand(3, 4)
    return {"twice": (rows, rows), "views": (rows[:2], rows[1:]), "a view of it": (rows, rows[:, ::2])}[kind]


@settings(max_examples=2)
@given(seed=st.integers(0, 2**32))
def test_batches_of_any_kinds_arrive_as_torch_delivers_them(seed):
    """Many batches, each of some kinds: what buffers can't carry goes torch's way, and no batch after it suffers."""
    ordinary, special = of_each_kind()
    chance = random.Random(seed)
    kinds = [chance.sample(sorted({**ordinary, **special}), chance.randint(1, 3)) for _ in range(20)]
    kinds += [chance.sample(sorted(ordinary), 3) for _ in range(20)] + [["twice"], ["views"], ["a view of it"]] * 2
    chance.shuffle(kinds)

    def collate(indices):
        torch.manual_seed(indices[0])
        batch = []
        for kind in kinds[indices[0]]:
            maker = {**ordinary, **special}.get(kind)
            batch.append((kind, maker() if maker else aliased(kind)))
        return batch

    config = Config(1, 2, allocator_reuse=True)
    ours = Loader(range(len(kinds)), batch_size=1, collate_fn=collate, config=config)
    theirs = DataLoader(range(len(kinds)), batch_size=1, collate_fn=collate, **config.loader_arguments())
    with pytest.MonkeyPatch.context() as patch:
        opened = []
        receive = shared_buffers.BufferReader.opened
        patch.setattr(
            shared_buffers.BufferReader, "opened", lambda self, parcel: opened.append(1) or receive(self, parcel)
        )
        for our, their in zip(ours, theirs, strict=True):
            for (kind, one), (_, other) in zip(our, their, strict=True):
                assert_same_kind(kind, one, other)
    # Batches of ordinary tensors did come in buffers, as far as some were free.
    assert len(opened) >= 5


def assert_same_kind(kind, ours, theirs):
    if kind in ("twice", "views", "a view of it"):
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
        ours[0][-1] += 7
        theirs[0][-1] += 7
        assert_same(ours[1], theirs[1])
    elif kind == "nested":
        assert type(ours) is type(theirs)
        assert ours.is_nested
        assert_same(list(ours.unbind()), list(theirs.unbind()))
    elif kind == "jagged":
        assert type(ours) is type(theirs)
        assert_same([ours.values(), ours.offsets()], [theirs.values(), theirs.offsets()])
    elif kind == "meta":
        assert (ours.device, ours.shape, ours.stride()) == (theirs.device, theirs.shape, theirs.stride())
    elif kind == "storage":
        assert list(ours) == list(theirs)
    elif kind == "of four bits":
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    elif isinstance(ours, torch.Tensor) and ours.layout is torch.strided:
        assert type(ours) is type(theirs)
        assert (ours.dtype, ours.stride(), ours.requires_grad) == (theirs.dtype, theirs.stride(), theirs.requires_grad)
        assert (ours.is_conj(), ours.is_neg()) == (theirs.is_conj(), theirs.is_neg())
        assert as_bytes(ours) == as_bytes(theirs)
    else:
        assert_same(ours, theirs)


def as_bytes(tensor):
    return tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.slow
@settings(max_examples=8)
@given(data=st.data())
def test_what_a_loop_keeps_does_not_change(data):
    name = data.draw(st.sampled_from(["images", "named tuples", "lists of tensors", "padded"]))
    config = Config(
        data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.booleans()), allocator_reuse=True
    )
    kept = data.draw(st.sets(st.integers(0, LENGTH // 3 - 1)))
    dropped_after = data.draw(st.integers(1, 5))
    ours, theirs = loaders(name, config)
    held = []
    for _ in range(2):
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            if number in kept:
                held.append((our, their))
            assert_same(our, their)
            if number % dropped_after == 0 and held:
                assert_same(*held.pop(0))
    for our, their in held:
        assert_same(our, their)


def test_memory_is_used_again_once_nothing_refers_to_a_batch_any_more():
    ours, _ = loaders("images")
    seen = [memory_of(images) for _ in range(4) for images, _ in ours]
    assert len(set(seen)) <= 2 * (2 + shared_buffers.BEYOND_PREFETCH)
    assert len(seen) == 4 * LENGTH // 3


@pytest.mark.parametrize(
    "part",
    [lambda x: x[1], lambda x: x.numpy(), lambda x: x.view(-1)[3:], lambda x: memoryview(x.numpy())],
    ids=["a row", "an array", "a view", "a buffer of an array"],
)
def test_a_part_of_a_batch_holds_all_of_its_memory(part):
    ours, theirs = loaders("images", Config(1, 2, True, allocator_reuse=True))
    held = [part(images) for images, _ in ours]
    gc.collect()
    for _ in range(2):
        for _ in ours:
            pass
    for our, (images, _) in zip(held, theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(our), np.asarray(part(images)))


def test_what_the_script_does_to_its_batch_stays_in_it():
    ours, theirs = loaders("images", Config(1, 2, True, allocator_reuse=True))
    for _ in range(3):
        for (images, _), (expected, _) in zip(ours, theirs, strict=True):
            assert torch.equal(images, expected)
            images.mul_(-7).requires_grad_()


def test_what_a_loop_saves_for_its_gradients_is_not_written_over():
    ours, theirs = loaders("images", Config(1, 2, True, allocator_reuse=True))
    weight = torch.ones(30, requires_grad=True)
    losses = [(images * weight).sum() for images, _ in ours]
    for _ in ours:
        pass
    torch.stack(losses).sum().backward()
    assert torch.equal(weight.grad, sum(images.sum(dim=(0, 1, 2)) for images, _ in theirs))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_forked_from_the_loop_keeps_its_batch():
    ours, _ = loaders("images", Config(1, 2, True, allocator_reuse=True))
    batches = iter(ours)
    images, _ = next(batches)
    expected = images.clone()
    receiving, sending = multiprocessing.Pipe(duplex=False)
    forked = os.fork()
    if forked == 0:
        receiving.close()
        time.sleep(1)
        sending.send(torch.equal(images, expected))
        os._exit(0)
    del images
    for _ in range(3):
        for _ in batches:
            pass
        batches = iter(ours)
    assert receiving.poll(30)
    assert receiving.recv()
    os.waitpid(forked, 0)
    # The forked process's own copy did not free what is in use here, and workers have memory again for what they lost.
    seen = {memory_of(images) for _ in range(4) for images, _ in ours}
    assert len(seen) <= 2 * (2 + shared_buffers.BEYOND_PREFETCH)


def test_a_batch_outlives_its_loader():
    ours, theirs = loaders("images", Config(1, 2, False, allocator_reuse=True))
    held = next(iter(ours))
    del ours
    gc.collect()
    assert_same(held, next(iter(theirs)))


def test_several_iterators_at_once_have_memory_of_their_own():
    ours, theirs = loaders("images", Config(1, 2, False, allocator_reuse=True))
    for one, other, their in zip(ours, ours, theirs, strict=True):
        assert_same(one, their)
        assert_same(other, their)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_use_theirs_again_too(method):
    ours, theirs = loaders("mappings", multiprocessing_context=method)
    seen = set()
    for _ in range(2):
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
            seen.add(memory_of(our["x"]))
    assert len(seen) <= 2 * (2 + shared_buffers.BEYOND_PREFETCH)


def broken(samples):
    raise KeyError(samples[0][1])


def test_an_error_of_the_collate_function_reaches_the_script_unchanged():
    ours = Loader(Samples(image), batch_size=3, collate_fn=broken, config=REUSING)
    with pytest.raises(KeyError, match="0"):
        next(iter(ours))


def test_the_model_counts_every_buffer():
    assert constraints._BUFFERS_BEYOND_PREFETCH == shared_buffers.BEYOND_PREFETCH
