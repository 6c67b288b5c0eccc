"""Stored values come back exactly, and share memory with nothing."""

import collections
import dataclasses
import pathlib
import subprocess
import sys

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from plumb.runtime.store.codec import EncodeError, decode, encode

Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Annotation:
    label: int
    box: object


class Marked(torch.Tensor):
    """A tensor of a class of its own."""


def restored(value):
    """The value as it comes back, after the bytes that it came from were overwritten."""
    store = bytearray(encode(value))
    value = decode(memoryview(store).toreadonly())
    store[:] = b"\xff" * len(store)
    return value


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, numpy.ndarray):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.tobytes() == right.tobytes()
        assert left.flags.writeable == right.flags.writeable
    elif isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape, left.requires_grad) == (right.dtype, right.shape, right.requires_grad)
        assert bits(left) == bits(right)
        assert set(left.__dict__) == set(right.__dict__)
    elif isinstance(left, Image.Image):
        assert (left.mode, left.size, left.info) == (right.mode, right.size, right.info)
        assert left.tobytes() == right.tobytes()
        if left.mode in ("P", "PA"):
            assert left.palette.mode == right.palette.mode
            assert left.getpalette("RGBA") == right.getpalette("RGBA")
            assert left.convert("RGBA").tobytes() == right.convert("RGBA").tobytes()
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif dataclasses.is_dataclass(left):
        assert_same(vars(left), vars(right))
    else:
        assert repr(left) == repr(right)


def bits(tensor):
    if tensor.is_sparse:
        return bits(tensor.to_dense())
    tensor = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.reshape(-1))
    return plain.view(torch.uint8).numpy().tobytes()


class MarkedArray(numpy.ndarray):
    """An array of a class of its own."""


LAYOUTS = [
    lambda array: array,
    lambda array: array.T,
    lambda array: array[::-1] if array.ndim else array,
    lambda array: array[..., ::2] if array.ndim else array,
    lambda array: array[1:, ...] if array.ndim else array,
    lambda array: numpy.asfortranarray(array),
    lambda array: numpy.moveaxis(array, 0, -1) if array.ndim else array,
    lambda array: numpy.broadcast_to(array, (2, *array.shape)),
]
DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(min_len=1),
    hnp.unicode_string_dtypes(min_len=1),
    st.just(numpy.dtype([("a", "<i4"), ("b", ">f8", (2,))])),
)
arrays = st.builds(
    lambda array, layout, writable: set_writable(layout(array), writable),
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
    st.sampled_from(LAYOUTS),
    st.booleans(),
)


def set_writable(array, writable):
    if array.flags.writeable:
        array.flags.writeable = writable
    return array


TENSOR_DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.float8_e5m2,
]  # fmt: skip
TENSOR_LAYOUTS = [
    lambda tensor: tensor,
    lambda tensor: tensor.permute(tuple(reversed(range(tensor.dim())))),
    lambda tensor: tensor[..., ::2] if tensor.dim() else tensor,
    lambda tensor: tensor[1:] if tensor.dim() else tensor,
    lambda tensor: tensor.movedim(0, -1) if tensor.dim() else tensor,
    lambda tensor: tensor.expand(2, *tensor.shape),
    lambda tensor: tensor.conj() if tensor.is_complex() else tensor,
]


@st.composite
def tensors(draw):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    dtype = draw(st.sampled_from(TENSOR_DTYPES))
    size = int(numpy.prod(shape)) * dtype.itemsize
    raw = numpy.frombuffer(draw(st.binary(min_size=size, max_size=size)), numpy.uint8).copy()
    raw = raw & 1 if dtype is torch.bool else raw
    tensor = torch.from_numpy(raw).view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    return draw(st.sampled_from(TENSOR_LAYOUTS))(tensor)


MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
]


@st.composite
def images(draw):
    mode, size = draw(st.sampled_from(MODES)), draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    image = Image.new(mode, size)
    content = image.tobytes()
    image.frombytes(draw(st.binary(min_size=len(content), max_size=len(content))))
    if mode in ("P", "PA"):
        kind = draw(st.sampled_from(["RGB", "RGBA"]))
        colors = draw(st.integers(1, 256)) * len(kind)
        image.putpalette(draw(st.binary(min_size=colors, max_size=colors)), kind)
    image.info = draw(st.dictionaries(st.sampled_from(["dpi", "transparency"]), st.integers(0, 255)))
    return image


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers())
values = st.recursive(
    st.one_of(plain, arrays, tensors(), images(), st.just(pathlib.Path("a/b"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        st.builds(Point, inner, inner),
        st.builds(Annotation, st.integers(), inner),
    ),
    max_leaves=6,
)


@given(values)
@settings(max_examples=200)
def test_values_come_back_exactly(value):
    assert_same(restored(value), value)


@given(tensors())
def test_tensors_without_gaps_keep_their_strides(tensor):
    dense = tensor.resolve_conj().clone()
    assert restored(dense).stride() == dense.stride()


@given(values)
def test_what_is_encoded_may_be_changed_right_after(value):
    before = encode(value)
    copy = bytes(before)
    if isinstance(value, numpy.ndarray) and value.flags.writeable and value.size:
        value.view(numpy.uint8 if value.flags.c_contiguous and value.ndim else value.dtype)[...] = numpy.zeros((), "u1")
    elif isinstance(value, torch.Tensor) and value.is_contiguous():
        value.zero_()
    elif isinstance(value, Image.Image):
        value.paste(0, (0, 0, *value.size))
    assert before == copy


@given(st.one_of(arrays, tensors()))
def test_what_comes_back_owns_its_memory(value):
    value = restored(value)
    if isinstance(value, torch.Tensor):
        value.resize_(100)
        value.fill_(1)
    elif value.flags.writeable:
        value[...] = numpy.zeros((), value.dtype)


def test_a_tensor_is_the_same_after_it_was_encoded():
    tensor = torch.ones(3)
    encode(tensor)
    assert tensor.resize_(100).shape == (100,)


def test_only_the_content_of_a_view_is_stored():
    assert len(encode(torch.zeros(1_000_000)[:10])) < 1000
    assert len(encode(numpy.zeros(1_000_000)[:10])) < 1000


def test_tensors_of_other_kinds():
    marked = torch.ones(2, 3).as_subclass(Marked)
    marked.format = "xyxy"
    assert restored(marked).format == "xyxy"
    for tensor in (
        marked,
        torch.eye(3).to_sparse(),
        torch.ones(2, requires_grad=True),
        torch.nn.Parameter(torch.ones(2)),
    ):
        assert_same(restored(tensor), tensor)


def test_arrays_of_other_kinds():
    masked = numpy.ma.masked_array([1.0, 2.0], [True, False])
    assert restored(masked).mask.tolist() == [True, False]
    objects = numpy.array([{"a": 1}, None], dtype=object)
    assert restored(objects).tolist() == objects.tolist()
    marked = numpy.array([1, 2]).view(MarkedArray)
    again = restored(marked)
    again[0] = 5  # of a class that is not known here, and still writable
    assert (type(again), again.tolist()) == (MarkedArray, [5, 2])


def test_what_users_put_on_an_image_stays():
    image = Image.new("RGB", (2, 2))
    image.caption = "a cat"
    assert restored(image).caption == "a cat"
    assert restored(Image.new("RGB", (0, 3))).size == (0, 3)


def test_one_object_met_twice_comes_back_as_one():
    tensor = torch.ones(3)
    first, second = restored((tensor, tensor))
    assert first is second


@pytest.mark.parametrize("make", [lambda: torch.arange(12.0).reshape(3, 4), lambda: numpy.arange(12.0).reshape(3, 4)])
def test_parts_of_one_array(make):
    table = make()
    apart = table[:, :3], table[:, 3]
    assert_same(restored(apart), apart)
    with pytest.raises(EncodeError, match="share memory"):
        encode((table, table[0]))


def test_what_can_not_be_stored(tmp_path):
    for value in (lambda: 0, (index for index in range(3)), open(__file__), [sys]):  # noqa: SIM115
        with pytest.raises(EncodeError, match="can't be pickled"):
            encode(value)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    lazy = Image.open(tmp_path / "a.png")
    with pytest.raises(EncodeError, match="not decoded"):
        encode({"image": lazy})
    assert lazy.tile, "and it was not decoded by asking"


def test_damage_never_becomes_a_value():
    data = encode(Annotation(1, torch.ones(3)))
    for end in range(0, len(data), 7):
        with pytest.raises(Exception):  # noqa: B017
            decode(memoryview(data)[:end])


def test_nothing_is_imported_for_plain_values():
    code = "import sys; from plumb.runtime.store.codec import *; decode(memoryview(encode({'a': (1, 'b')})))"
    code += "; assert not {'numpy', 'torch', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
