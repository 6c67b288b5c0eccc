"""Objects that keep their state to themselves: each use is seen, and looking at them uses nothing up."""

import csv
import hashlib
import itertools

import pytest

from plumb.instrument.hidden_progress import has_hidden_progress, is_single_pass, progress_of


def counting():
    number = 0
    while True:
        yield number
        number += 1


def delegating():
    yield from counting()


MANY = range(90, 189)
ITERATORS = {
    "a generator": counting,
    "a generator in a generator": delegating,
    "a generator expression": lambda: (each for each in MANY),
    "count": itertools.count,
    "cycle": lambda: itertools.cycle([1, 2, 3]),
    "of a list": lambda: iter(list(MANY)),
    "of a dictionary": lambda: iter(dict.fromkeys(MANY)),
    "of a set": lambda: iter(set(MANY)),
    "of a text": lambda: iter("abc" * 9),
    "backwards": lambda: reversed(list(MANY)),
    "zip": lambda: zip(MANY, MANY, strict=True),
    "map": lambda: map(str, MANY),
    "filter": lambda: filter(None, MANY),
    "enumerate": lambda: enumerate(MANY),
    "chain": lambda: itertools.chain([1] * 3, [2] * 9),
    "islice": lambda: itertools.islice(MANY, 50),
    "product": lambda: itertools.product([1, 2], [3, 4, 5]),
    "csv.reader": lambda: csv.reader(["1,2"] * 9),
}


@pytest.mark.parametrize("make", ITERATORS.values(), ids=ITERATORS)
def test_each_step_of_an_iterator_is_seen(make):
    iterator, untouched = make(), make()
    assert has_hidden_progress(type(iterator))
    assert is_single_pass(iterator)
    for _ in range(5):
        before = progress_of(iterator)
        assert progress_of(iterator) == before
        assert next(iterator) == next(untouched)
        assert progress_of(iterator) != before


@pytest.mark.parametrize("make", [hashlib.md5, hashlib.sha256, hashlib.blake2b])
def test_each_part_of_a_digest_is_seen(make):
    digest = make()
    before = progress_of(digest)
    assert progress_of(digest) == before
    digest.update(b"more")
    assert progress_of(digest) != before
    assert not is_single_pass(digest)


class Own:
    def __next__(self):
        return 1


def test_a_user_s_own_iterator_has_attributes_that_show_it():
    assert not has_hidden_progress(Own)
    assert not has_hidden_progress(list)
