"""Identity of a loader: the statement that makes it, its dataset, its code and its arguments.

It is plain data, as in a plan file. `instrument/identity_of_loader.py` makes it from a loader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plumb.core.identity import Facts, Identity

# First characters of numbers, as opposed to flags: `instrument/dataset_facts.py` writes values as `repr` does.
_DIGITS = frozenset("0123456789")
# The fact of an object that can grow is its class, followed by this.
_SIZE = " of "
_CACHED = "functools.cached_property"
_COLLATE = "collate_fn"
_CALLABLE = ("function ", "class ", "method", "partial")


def difference_of_loaders(planned: Identity, found: Identity) -> str:
    """Return the difference of a loader from the planned one, facts aside, in words; empty if there is none."""
    if found.dataset != planned.dataset:
        return f"its dataset is {_last(found.dataset)}, the plan was made for {_last(planned.dataset)}"
    if found.length != planned.length:
        return f"its dataset has {_samples(found.length)}, the plan was made for {_samples(planned.length)}"
    for name in sorted(planned.arguments.keys() | found.arguments.keys()):
        then, now = planned.arguments.get(name, "not set"), found.arguments.get(name, "not set")
        if then != now:
            return f"its {name} is {now}, the plan was made for {then}"
    if (found.place, found.order) != (planned.place, planned.order):
        return "it is made elsewhere in the script"
    return ""


def difference_of_facts(then: Facts, now: Facts, values_count: bool = True) -> str:
    """Return the change of a dataset since `then`, in words that follow a loader's name; empty if there is none.

    With `values_count=False`, flags, numbers and texts may differ.
    """
    for path in _changed(then.code, now.code):
        if path in then.code and path in now.code:
            return f"the code of {_shown(path)} is not what it was when the plan was made"
        return f"its samples {'now run' if path in now.code else 'no longer run'} {_shown(path)}"
    for path in _changed(then.kinds, now.kinds):
        before, after = then.kinds.get(path, "not there"), now.kinds.get(path, "not there")
        return f"{_shown(path)} is {after}, the plan was made for {before}"
    reordered = _reordered_by_hash(then.values, now.values)
    for path in _changed(then.values, now.values) if values_count else ():
        if path not in reordered:
            return _of_value(path, then.values.get(path), now.values.get(path))
    return ""


def _reordered_by_hash(then: Mapping[str, str], now: Mapping[str, str]) -> frozenset[str]:
    """Return the paths of texts in lists of the collate function that differ in their order only.

    A list made from a set of texts has another order in each run, as Python's hashes of texts differ. Rewrites make
    samples; what collates them runs anew for each batch.
    """
    lists: dict[str, list[str]] = {}
    for path in _changed(then, now):
        if path.startswith(_COLLATE) and path.endswith("]"):
            lists.setdefault(path.rpartition("[")[0], []).append(path)
    return frozenset(
        path
        for paths in lists.values()
        if all(_is_text(facts.get(path)) for path in paths for facts in (then, now))
        and sorted(then[path] for path in paths) == sorted(now[path] for path in paths)
        for path in paths
    )


def _is_text(fact: str | None) -> bool:
    return fact is not None and fact.startswith(("#", "'", '"'))


def change_in_a_run(first: Facts, now: Facts) -> str:
    """Return the script's change since its first epoch that a rewrite can't follow, in words; empty if there is none.

    Numbers may change from epoch to epoch, and collections may grow.
    """
    for path in _changed(first.code, now.code):
        if path in first.code and path in now.code:
            return f"the code of {_shown(path)} has changed"
        return f"its samples {'now run' if path in now.code else 'no longer run'} {_shown(path)}"
    before, after = {**first.values, **first.kinds}, {**now.values, **now.kinds}
    made = tuple(path for path in after if _is_made_when_needed(path, before, after, first, now))
    for path in _changed(before, after):
        then, since = before.get(path), after.get(path)
        within = path in made or path.startswith(tuple(f"{each}{sign}" for each in made for sign in ".["))
        if not within and not _may_change(then, since, path):
            return _of_value(path, then, since, "it was", " now")
    return ""


def _may_change(then: str | None, since: str | None, path: str) -> bool:
    """Return whether a fact may differ between two epochs of a run: a number, a size, an item of a collection."""
    if all(fact is None or _is_number(fact) for fact in (then, since)):
        return True
    if then is not None and since is not None and then.partition(_SIZE)[0] == since.partition(_SIZE)[0]:
        return _SIZE in then or _SIZE in since
    return "[" in path and (then is None or since is None)


def _is_made_when_needed(
    path: str, before: Mapping[str, str], after: Mapping[str, str], first: Facts, now: Facts
) -> bool:
    """Return whether an attribute was empty in the first epoch and now has a value that samples create on demand.

    Such values are a file, a collection, an object of a class that this code names, or the value of a cached property;
    neither functions nor objects with options that the loop has set count.
    """
    then, since = before.get(path), after[path]
    if then is None:
        # The attribute may be empty in the class at first.
        name = path.rpartition(".")[2]
        of_classes = {fact for other, fact in before.items() if other.endswith(f".{name}")}
        if _CACHED in of_classes:
            return True
        then = "None" if "None" in of_classes else None
    if then != "None" or path not in now.kinds or since.startswith(_CALLABLE):
        return False
    has_options = any(other.startswith((f"{path}.", f"{path}[")) for other in after)
    return not has_options or f"class {since}" in first.kinds


def without_numbers(facts: Facts, constants: bool = False) -> Facts:
    """Return the facts that stay constant while a training changes numbers and fills collections.

    With `constants`, the numbers in defaults and closures are kept.
    """
    return Facts(
        facts.code,
        {path: kind.partition(_SIZE)[0] for path, kind in facts.kinds.items()},
        {path: value for path, value in facts.values.items() if (constants and "<" in path) or not _is_number(value)},
    )


def _of_value(
    path: str, then: str | None, now: str | None, before: str = "the plan was made for", now_word: str = ""
) -> str:
    """Return the difference of a value in words; `before` introduces the earlier value."""
    shown = _shown(path)
    if then is None:
        return f"{shown} is set{now_word} and was not before"
    if now is None:
        return f"{shown} was set before and is not{now_word}"
    if then.startswith("#") or now.startswith("#"):
        return f"{shown} is another text{now_word} than it was"
    return f"{shown} is {now}{now_word}, {before} {then}"


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Return the paths with different facts, the shortest first, because those are nearest to the dataset."""
    paths = (path for path in then.keys() | now.keys() if then.get(path) != now.get(path))
    return iter(sorted(paths, key=lambda path: (len(path), path)))


def _is_number(value: str) -> bool:
    return value.lstrip("-")[:1] in _DIGITS or value in ("inf", "-inf", "nan")


def _shown(path: str) -> str:
    return path.removeprefix("__main__.")


def _last(name: str) -> str:
    return name.rpartition(":")[2].rpartition(".")[2]


def _samples(length: int | None) -> str:
    return "no length" if length is None else f"{length:,} samples"
