"""Operators on a device, with the CPU standing in for it, and on a real one where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, Dataset, IterableDataset

from plumb.api.trace import trace
from plumb.core.device_profile import DeviceProfile, OnDevice
from plumb.tracing import capture_pass
from plumb.tracing.capture_pass import CapturedCall, Method
from plumb.tracing.device import batched_call
from plumb.tracing.device.batched_call import UnbatchableError, seconds_per_call, stack
from plumb.tracing.device.clock import Cpu, Cuda, current_gpu
from plumb.tracing.device.profile import copy_bytes_per_second, profile_device
from plumb.tracing.pipeline import Pipeline

CPU = Cpu()
SIZE = 96


def call(function: Any, *arguments: Any, **keywords: Any) -> CapturedCall:
    """One call as it is captured; the result is what the function returns for these arguments."""
    leaves, structure = tree_flatten((arguments, keywords))
    copies = tuple(leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
    result = function(*arguments, **keywords)
    return CapturedCall(function, copies, structure, tuple(tree_flatten(result)[0]))


def calls_of(function: Any, images: list[torch.Tensor]) -> list[CapturedCall]:
    return [call(function, image) for image in images]


def samples(count: int = 4, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, 100, (3, 5, 4), generator=generator).to(dtype) for _ in range(count)]


def outcome(calls: list[CapturedCall], batch_samples: int = 4) -> str | None:
    """Why the calls don't run as one batch; None where they do."""
    try:
        assert seconds_per_call(calls, CPU, batch_samples) > 0
    except UnbatchableError as error:
        return str(error)
    return None


def normalise(image: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    return (image / 255 - mean) / 0.25


class Normalise:
    def __init__(self) -> None:
        self.mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
        self.seen = 0

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return image - self.mean


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(0.5))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.factor


def flipped_and_size(image: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"image": image.flip(-1), "sum": image.sum((-1, -2, -3))}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (normalise, None),
        (Normalise(), None),
        (Scale(), None),
        (Method("float"), None),
        (lambda x: x.movedim(-3, -1), None),
        (lambda x: x.flip(-1), None),
        (flipped_and_size, None),
        (lambda x: x.mul_(2), None),
        (lambda x: x - x.mean((-1, -2, -3), keepdim=True), None),
        (lambda x: x.permute(1, 2, 0), "raises RuntimeError"),
        (lambda x: x - x.mean(), "differs"),
        (lambda x: x.flip(0), "differs"),
        (lambda x: x.sum(), "differs"),
        (lambda x: x.reshape(-1), "differs"),
        (lambda x: x[0], "differs"),
        (lambda x: x.tolist(), "no tensor"),
        (lambda x: (x, x) if x.dim() == 4 else x, "differs"),
    ],
)
def test_operators_on_a_batch(function: Callable[..., Any], reason: str | None) -> None:
    assert outcome(calls_of(function, samples())) == reason


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_and_bools_must_be_equal(dtype: torch.dtype) -> None:
    given_samples = samples(dtype=dtype)
    assert outcome(calls_of(lambda x: x.roll(1, -1), given_samples)) is None

    def off_by_one_in_a_batch(x: torch.Tensor) -> torch.Tensor:
        return x.logical_not() if x.dim() == 4 else x.bool()

    assert outcome(calls_of(off_by_one_in_a_batch, given_samples)) == "differs"


def test_floats_are_equal_within_their_tolerance_and_no_further() -> None:
    def off_in_a_batch(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: x * (1 + by) if x.dim() == 4 else x * 1.0

    near, far = off_in_a_batch(1e-7), off_in_a_batch(1e-3)
    assert outcome(calls_of(near, samples())) is None
    assert outcome(calls_of(far, samples())) == "differs"
    assert outcome(calls_of(far, samples(dtype=torch.bfloat16))) is None
    assert outcome(calls_of(near, samples(dtype=torch.float64))) is None
    assert outcome(calls_of(off_in_a_batch(1e-5), samples(dtype=torch.float64))) == "differs"


def test_not_a_number_equals_itself() -> None:
    assert outcome(calls_of(lambda x: x / 0 * 0, samples())) is None


def test_another_dtype_differs() -> None:
    assert outcome(calls_of(lambda x: x.double() if x.dim() == 4 else x, samples())) == "differs"


def test_constant_arguments_stay_as_they_are() -> None:
    mean = torch.tensor([0.1, 0.2, 0.3, 0.4])
    calls = [call(torch.sub, image, mean.clone(), alpha=2) for image in samples()]
    batch, constant, alpha = stack(calls, CPU.torch_device)
    assert batch.shape == (4, 3, 5, 4)
    assert constant.shape == (4,)
    assert alpha == 2
    assert outcome(calls) is None


def test_equal_samples_are_stacked_all_the_same() -> None:
    image = samples(1)[0]
    assert outcome([call(normalise, image)] * 3) is None
    assert outcome([call(normalise, image)]) is None


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([call(torch.roll, image, number) for number, image in enumerate(samples())], "arguments vary"),
        ([call(normalise, torch.ones(3, size, 4)) for size in (5, 6)], "shapes vary"),
        ([call(torch.neg, torch.ones(3, dtype=dtype)) for dtype in (torch.int32, torch.int64)], "arguments vary"),
        ([call(function, torch.ones(3)) for function in (torch.neg, torch.abs)], "arguments vary"),
        ([call(torch.cat, [torch.ones(3)] * count) for count in (2, 3)], "arguments vary"),
    ],
)
def test_calls_that_are_not_alike(calls: list[CapturedCall], reason: str) -> None:
    assert outcome(calls) == reason


def test_a_callee_that_holds_tensors_is_left_as_it_was() -> None:
    step = Normalise()
    moved = batched_call.on_device(step, torch.device("meta"))
    assert (moved.mean.device.type, step.mean.device.type) == ("meta", "cpu")
    module = Scale()
    assert batched_call.on_device(module.forward, torch.device("meta")).__self__.factor.device.type == "meta"
    assert module.factor.device.type == "cpu"
    assert batched_call.on_device(torch.neg, torch.device("meta")) is torch.neg


def test_what_fails_only_when_it_is_timed_is_no_error() -> None:
    class Once:
        batches = 0

        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            self.batches += image.dim() == 4
            if self.batches > 1:
                raise OSError("closed")
            return image * 2

    step = Once()
    assert outcome(calls_of(step, samples())) == "raises OSError"


shapes = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)
dtypes = st.sampled_from([torch.uint8, torch.int32, torch.bool, torch.float16, torch.float32, torch.float64])


@given(shape=shapes, dtype=dtypes, count=st.integers(1, 5), batch=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_what_works_on_each_element_works_on_any_batch(
    shape: tuple[int, ...], dtype: torch.dtype, count: int, batch: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 50, shape, generator=generator).to(dtype) for _ in range(count)]
    assert outcome(calls_of(lambda x: x.to(torch.float32) * 0.5 + 1, images), batch) is None


@given(shape=shapes, count=st.integers(2, 5), seed=st.integers(0, 2**16))
def test_stacking_keeps_each_sample_in_its_place(shape: tuple[int, ...], count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 3, shape, generator=generator) for _ in range(count)]
    (batch,) = stack([call(torch.neg, image) for image in images], CPU.torch_device)
    if any(not torch.equal(image, images[0]) for image in images) or len({image.shape for image in images}) > 1:
        assert [part.tolist() for part in batch] == [image.tolist() for image in images]


@given(value=st.floats(0.5, 2), where=st.integers(0, 3))
def test_one_wrong_sample_is_enough_to_differ(value: float, where: int) -> None:
    def wrong_in_a_batch(x: torch.Tensor) -> torch.Tensor:
        made = x * 2
        if x.dim() == 4:
            made[where] += value
        return made

    assert outcome(calls_of(wrong_in_a_batch, samples())) == "differs"


def test_the_standing_in_cpu_has_a_bandwidth_and_no_pinned_memory() -> None:
    rate = copy_bytes_per_second(CPU, 1 << 20, pinned=False)
    assert rate is not None
    assert rate > 0
    assert copy_bytes_per_second(CPU, 1 << 20, pinned=True) is None


def test_memory_that_cannot_be_had_is_no_error() -> None:
    assert copy_bytes_per_second(CPU, 1 << 60, pinned=False) is None


def pixels(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 255, (3, SIZE, SIZE)).astype("int32")


class Images(Dataset[torch.Tensor]):
    """Steps of much the same cost, so that each of them is an operator."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> torch.Tensor:
        array = pixels(index)
        shifted = array % 251
        image = torch.exp(torch.from_numpy(shifted) / 255)
        image = torch.softmax(image, 0)
        image = image.repeat(1, 2, 1)
        return torch.bernoulli(image)


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Any:
        for index in range(20):
            array = pixels(index)
            yield array % 251


class Groups(Images):
    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [torch.from_numpy(array % 251) for array in map(pixels, indices)]


def result_of(profile: DeviceProfile, pipeline: Pipeline, name: str) -> OnDevice:
    (found,) = (operator.id for operator in pipeline.operators if operator.name == name)
    return profile.operators[found]


def test_a_traced_pipeline() -> None:
    loader = DataLoader(Images(), batch_size=4)
    pipeline = trace(loader)
    before = torch.get_rng_state()
    profile = profile_device(loader, pipeline, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(profile.operators) == {operator.id for operator in pipeline.operators}
    assert (profile.device, profile.reason, profile.batch_samples, profile.gpu) == ("CPU", None, 4, None)
    assert profile.copy_bytes == 4 * 3 * 2 * SIZE * SIZE * 4
    expected = {
        "array % 251": None,
        "torch.exp": None,
        "torch.softmax": "differs",
        "repeat": "raises RuntimeError",
        "torch.bernoulli": "random",
        "default_collate": "makes the batch",
    }
    assert {name: result_of(profile, pipeline, name).reason for name in expected} == expected
    assert all((found.device_seconds is None) == (found.reason is not None) for found in profile.operators.values())


@pytest.mark.parametrize("dataset", [Stream(), Groups()])
def test_streams_and_groups(dataset: Dataset[Any]) -> None:
    pipeline = trace(dataset, batch_size=4)
    profile = profile_device(dataset, pipeline, CPU)
    assert result_of(profile, pipeline, "array % 251").reason is None


def test_the_plain_data_of_a_profile_is_json() -> None:
    dataset = Groups()
    profile = profile_device(dataset, trace(dataset), CPU)
    assert json.loads(json.dumps(profile.to_dict())) == profile.to_dict()
    assert json.loads(json.dumps(DeviceProfile.none("no driver").to_dict()))["reason"] == "no driver"


def test_a_batch_that_does_not_fit_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch, "stack", fail)
    assert outcome(calls_of(normalise, samples())) == "raises OutOfMemoryError"


def test_what_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_pass, "OPERATOR_BYTES", 1000)
    dataset = Groups()
    pipeline = trace(dataset)
    assert result_of(profile_device(dataset, pipeline, CPU), pipeline, "array % 251").reason == "too large to keep"


def test_operators_that_are_not_seen_again() -> None:
    pipeline = trace(Groups())
    profile = profile_device(Stream(), pipeline, CPU)
    assert result_of(profile, pipeline, "array % 251").reason == "not seen"


class Loop(Images):
    """An operator that runs often, one on sparse tensors, one on an array that is no tensor."""

    def __getitem__(self, index: int) -> torch.Tensor:
        image = torch.from_numpy(pixels(index))
        # Large enough for each to take longer than recording it.
        large = image.repeat(1, 4, 4)
        for shift in range(12):
            large = large.roll(shift, -1)
        image = large[:, :SIZE, :SIZE].contiguous()
        sparse = torch.sparse.mm(image[0].float().to_sparse(), image[1].float())
        masked = np.ma.masked_array(large.numpy(), large.numpy() > 9, copy=True)
        return torch.cat([sparse.flatten(), torch.from_numpy(masked.filled(0)).flatten()])


@pytest.mark.slow
def test_operators_that_run_often_or_on_other_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    def counted(calls: list[CapturedCall], *arguments: Any) -> float:
        kept.append(len(calls))
        return seconds_per_call(calls, *arguments)

    monkeypatch.setattr(capture_pass, "OPERATOR_CALLS", 5)
    monkeypatch.setattr("plumb.tracing.device.profile.seconds_per_call", counted)
    pipeline = trace(Loop())
    reasons = {name: found.reason for name, found in profile_device(Loop(), pipeline, CPU).operators.items()}
    assert max(kept) == 5
    assert reasons["roll"] == "arguments vary"
    assert reasons["to_sparse"] == reasons["np.ma.masked_array"] == "no tensor"
    assert str(reasons["torch.sparse.mm"]).startswith("raises")


def test_operators_that_never_return() -> None:
    class Failing(Images):
        def __getitem__(self, index: int) -> torch.Tensor:
            try:
                return torch.linalg.cholesky(-torch.eye(SIZE))
            except RuntimeError:
                return torch.zeros(1)

    pipeline = trace(Failing())
    profile = profile_device(Failing(), pipeline, CPU)
    assert result_of(profile, pipeline, "torch.linalg.cholesky").reason == "not seen"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_loaded() -> None:
    class Untouchable(Images):
        def __getitem__(self, index: int) -> torch.Tensor:
            raise AssertionError

    profile = profile_device(Untouchable(), trace(Groups()))
    assert profile == DeviceProfile.none(str(current_gpu()))
    assert profile.reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_gpu() -> None:
    device = current_gpu()
    assert isinstance(device, Cuda)
    for function, reason in ((normalise, "raises RuntimeError"), (Normalise(), None), (Scale(), None)):
        calls = calls_of(function, samples())
        if reason is None:
            assert seconds_per_call(calls, device, 8) > 0
        else:
            with pytest.raises(UnbatchableError, match=reason):
                seconds_per_call(calls, device, 8)
    loader = DataLoader(Images(), batch_size=16)
    pipeline = trace(loader)
    profile = profile_device(loader, pipeline)
    assert result_of(profile, pipeline, "array % 251").device_seconds
    assert result_of(profile, pipeline, "torch.softmax").reason == "differs"
    assert profile.pinned_bytes_per_second
    assert profile.pageable_bytes_per_second
    assert profile.gpu is not None
    assert profile.gpu.memory_total_bytes or profile.gpu.reasons["memory_total_bytes"]
    assert json.dumps(profile.to_dict())
