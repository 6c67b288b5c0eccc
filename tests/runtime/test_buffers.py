"""Batches that come in memory that is used again are torch's own, and nobody who still holds one sees it change."""

import gc
import multiprocessing
import os
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, default_collate

from plumb.config import Config
from plumb.model import feasible
from plumb.runtime import buffers
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
    assert len(set(seen)) <= 2 * (2 + buffers.BEYOND_PREFETCH)
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
    assert len(seen) <= 2 * (2 + buffers.BEYOND_PREFETCH)


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
    assert len(seen) <= 2 * (2 + buffers.BEYOND_PREFETCH)


def broken(samples):
    raise KeyError(samples[0][1])


def test_an_error_of_the_collate_function_reaches_the_script_unchanged():
    ours = Loader(Samples(image), batch_size=3, collate_fn=broken, config=REUSING)
    with pytest.raises(KeyError, match="0"):
        next(iter(ours))


def test_the_model_counts_every_buffer():
    assert feasible._BUFFERS_BEYOND_PREFETCH == buffers.BEYOND_PREFETCH
