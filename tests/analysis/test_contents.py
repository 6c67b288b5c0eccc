import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.apart.contents import contents_of, difference, leaves, same_totals

NUMBERS = st.lists(st.integers(-1000, 1000), min_size=1, max_size=20)


def test_leaves_are_found_in_order_whatever_holds_them():
    batch = [torch.tensor([1]), {"b": np.array([3]), "a": (torch.tensor([2]),)}]
    assert [int(array[0]) for array in leaves(batch)] == [1, 2, 3]


@given(NUMBERS)
def test_the_width_of_numbers_and_who_holds_them_make_no_difference(numbers):
    mine = contents_of([torch.tensor(numbers, dtype=torch.int64)])
    theirs = contents_of([np.array(numbers, dtype=np.int32)])
    assert difference(mine, theirs, exact=True) == ""


@given(NUMBERS, st.integers(1, 5))
def test_a_changed_value_is_told(numbers, change):
    changed = [numbers[0] + change, *numbers[1:]]
    assert difference(contents_of([np.array(numbers)]), contents_of([np.array(changed)]), exact=True)


def test_random_batches_are_alike_where_they_come_from_the_same_distribution():
    draws = np.random.default_rng(0)
    one, other = (contents_of([draws.standard_normal((64, 100))]) for _ in range(2))
    shifted = contents_of([draws.standard_normal((64, 100)) + 1])
    assert difference(one, other, exact=False) == ""
    assert "against" in difference(one, shifted, exact=False)


def test_batches_that_are_missing_or_of_another_form_are_told():
    one = contents_of([np.zeros((2, 3)), np.zeros((2, 3))])
    assert "1 batches" in difference(contents_of([np.zeros((2, 3))]), one, exact=False)
    assert "arrays" in difference(contents_of([np.zeros((2, 3, 1))] * 2), one, exact=False)


@given(st.permutations(list(range(12))), st.integers(1, 5))
def test_totals_know_neither_order_nor_padding(order, padding):
    one = contents_of([np.arange(12)])
    other = contents_of([np.pad(np.array(order), (0, padding))])
    assert same_totals(one, other)
    assert not same_totals(one, contents_of([np.arange(1, 12), np.array([12])]))
