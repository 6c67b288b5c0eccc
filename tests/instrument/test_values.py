"""Looking at values: parts, descriptions, digests."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from plumb.instrument.values import Description, describe, digest, has_identity, is_lazy_image, parts
from plumb.rewrites.find_cuts import find_cuts
from plumb.tracing.tracer import trace

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary())
VALUES = st.recursive(
    LEAVES, lambda c: st.one_of(st.lists(c), st.tuples(c, c), st.dictionaries(st.text(), c)), max_leaves=8
)


class Hostile:
    """Raises whenever it is looked at."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    @property
    def shape(self):
        raise RuntimeError("shape")


@given(VALUES)
def test_equal_values_have_equal_digests(value):
    assert digest(value) == digest(value)
    assert describe(value).type == type(value).__name__
    assert next(iter(parts(value))) is value


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        ([1, 2], [2, 1]),
        ([[1], 2], [[1, 2]]),
        ({"a": 1}, {"b": 1}),
        (np.zeros(4), np.zeros(4, dtype=np.float32)),
        (np.zeros((2, 2)), np.zeros(4)),
        (torch.zeros(4), torch.zeros(2, 2)),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))),
    ],
)
def test_other_values_have_other_digests(left, right):
    assert digest(left) is not None
    assert digest(left) != digest(right)


def test_what_cannot_be_compared_has_no_digest(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as lazy:
        assert is_lazy_image(lazy)
        assert digest(lazy) is None
        assert is_lazy_image(lazy)
        assert describe(lazy) == Description("JpegImageFile", (8, 8, 3), "RGB", 0)
    assert digest(np.array([object()])) is None
    assert digest(iter([])) is None
    with open(tmp_path / "a.jpg") as file:
        assert digest([1, file]) is None


def test_values_that_resist_are_described_by_their_type():
    assert describe(Hostile()) == Description("Hostile", None, None, 0)
    assert digest(Hostile()) is None
    assert len(list(parts(Hostile()))) == 1


def test_descriptions_count_bytes():
    assert describe(torch.zeros(2, 3)) == Description("Tensor", (2, 3), "float32", 24, "cpu")
    array = describe(np.zeros((2, 3), dtype=np.uint8))
    assert (array.type, array.shape, array.dtype, array.size_bytes) == ("ndarray", (2, 3), "uint8", 6)
    assert describe(Image.new("L", (4, 2))) == Description("Image", (2, 4), "L", 8)
    assert describe({"image": torch.zeros(4), "label": 3}).size_bytes == 16 + 8
    assert describe(b"12345").size_bytes == 5


def test_shared_values_are_not_followed():
    shared = [None, True, 3, "label", b"ab", (), int, len, ...]
    assert not any(has_identity(value) for value in shared)
    assert all(has_identity(value) for value in ([], {}, 0.5, 1000, "a longer text", np.zeros(1), torch.zeros(1)))


def test_parts_go_through_containers_and_objects():
    class Sample:
        def __init__(self):
            self.image = torch.zeros(1)
            self.more = {"mask": np.zeros(1)}

    sample = Sample()
    found = [id(part) for part in parts([sample])]
    assert id(sample.image) in found
    assert id(sample.more["mask"]) in found
    cycle = []
    cycle.append(cycle)
    assert len(list(parts(cycle))) == 1


LARGE = 24 * 2**20


@pytest.mark.parametrize(
    "made", [np.frombuffer, lambda content: torch.frombuffer(content, dtype=torch.uint8), bytes, memoryview]
)
def test_large_values_are_told_by_blocks_where_that_is_allowed(made):
    content = bytearray(LARGE)
    before = digest(made(content), large_by_blocks=True)
    assert before == digest(made(content), large_by_blocks=True)
    whole = digest(made(content))
    content[-1] = 1
    assert digest(made(content), large_by_blocks=True) != before
    assert digest(made(content)) != whole


def test_all_of_a_large_value_is_looked_at_where_that_is_not_allowed():
    array = np.zeros(LARGE, dtype=np.uint8)
    before = digest(array), digest(array, large_by_blocks=True)
    array[2**20 + 1] = 1
    assert digest(array) != before[0]
    assert digest(array, large_by_blocks=True) == before[1]


class Mapped(torch.utils.data.Dataset):
    """Rows of a file that is larger than any memory."""

    def __init__(self, path):
        with open(path, "wb") as file:
            file.truncate(2**38)
        self.path = path
        self.rows = np.memmap(path, dtype=np.float32, mode="r").reshape(-1, 64)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        again = np.memmap(self.path, dtype=np.float32, mode="r").reshape(-1, 64)
        return torch.from_numpy(self.rows[index] + again[-index])


def test_a_dataset_that_maps_a_huge_file_is_traced(tmp_path):
    traced = trace(torch.utils.data.DataLoader(Mapped(tmp_path / "rows.bin"), batch_size=8), 8)
    assert any("torch.from_numpy" in operator.name for operator in traced.pipeline.operators)
    found = find_cuts(traced)
    assert "Nothing is stored after np.memmap: what it returns is larger than 1 GiB." in found.reasons
    assert any(candidate.cut.after == "torch.from_numpy" for candidate in found.candidates)
