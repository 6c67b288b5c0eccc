"""Identity of a loader: where it is made, over which dataset, with which code and arguments."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Place:
    """A user's statement that makes loaders, independent of its line.

    `scope` is the function around it. `library` is the package that makes the loader for that statement, if any.
    """

    file: str
    scope: str
    statement: str
    library: str = ""


@dataclass(frozen=True)
class Facts:
    """Facts that determine a dataset's samples, each with the path that leads to it, such as `dataset.transform.size`.

    `code` has digests of functions; `kinds` has classes, lengths, shapes and versions of packages; `values` has flags,
    numbers and texts. The contents of large collections and arrays are left out.
    """

    code: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """Identity of one loader of a script. `order` counts the loaders made at its place, from 1.

    `length` is the dataset's when the loader was made; None if it has none. `facts` are those of the first iteration;
    None for a loader that was not iterated.
    """

    place: Place
    order: int
    dataset: str
    length: int | None
    arguments: dict[str, str]
    facts: Facts | None = None
