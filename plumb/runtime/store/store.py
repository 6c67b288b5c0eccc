"""Sample store: values by keys, shared by all processes of a job, in LMDB.

Values are added until the budget is used up, and never evicted. If a store's files become unusable, training goes on:
the store turns itself off, with a reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb
import msgspec

from plumb.core.errors import StoreError
from plumb.instrument.opened_files import OpenedFile
from plumb.runtime.store.codec import decode
from plumb.runtime.store.lmdb_environment import DAMAGE, Environment, open_environment, remove_values
from plumb.runtime.store.room import Growth
from plumb.runtime.store.store_folder import end, reason_for_end

Record = tuple[bytes, bytes, Iterable[OpenedFile]]
_T = TypeVar("_T")
_LONGEST_KEY_BYTES = 400
# If less than this is free, a failed write is attributed to a full disk: part of the write may have been undone.
_SPACE_LEFT_AT_LEAST = 64 * 2**20
_HEAD = struct.Struct("<I")
# The folder's name in LMDB's own messages.
_OWN_PATHS = re.compile(r"'?/proc/self/fd/[0-9]+'?(: )?")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[OpenedFile])


class _Missing:
    """Marker for a value that is not in the store."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


@dataclass(frozen=True)
class StoreSpec:
    """Identification of a store: folder, capacity, tier ("memory" or "disk"), and fingerprint of its values' source."""

    folder: str
    budget_bytes: int
    tier: str
    fingerprint: str


def key_of(index: object) -> bytes | None:
    """Return the key of a sample's index: integers, texts and tuples of these; None for others."""
    key = _spelled(index)
    if key is None or len(key) <= _LONGEST_KEY_BYTES:
        return key
    import hashlib

    return b"#" + hashlib.blake2b(key, digest_size=32).digest()


def _spelled(index: object) -> bytes | None:
    if type(index) is int:
        return b"i%d;" % index
    if type(index) is str:
        text = index.encode("utf-8", "surrogatepass")
        return b"s%d:%b" % (len(text), text)
    if type(index) is tuple:
        parts = [_spelled(part) for part in index]
        return None if None in parts else b"(%b)" % b"".join(part for part in parts if part is not None)
    kind = type(index)
    if kind.__module__ == "numpy" and "int" in kind.__name__ and getattr(index, "shape", None) == ():
        # Differs from the key of the equal int, because a dataset may return its index.
        return b"n%b%d;" % (kind.__name__.encode(), int(index))  # type: ignore[call-overload]
    return None


class Store:
    """One process's access to a store: opens the files on first use, and never raises.

    `reason` is the failure in one line; `is_off` means that the store is no longer used at all, `is_full` that it
    accepts no more values. Only for one thread at a time. Close it before forking, because LMDB can't be used across a
    fork.
    """

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self.reason: str | None = None
        self.is_off = False
        self.is_full = False
        self._environment: Environment | None = None
        self._process = 0
        self._repairs_left = 1
        self._growth = Growth(spec.folder) if spec.tier == "memory" else None

    def get(self, key: bytes | None) -> Any:
        """Return the value of a key; MISSING if there is none, or if a file that it was made from has changed."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes | None]) -> list[Any]:
        """Return the values of several keys, as `get` does."""

        def read(environment: Environment) -> list[Any]:
            with environment.lmdb.begin(buffers=True) as transaction:
                return [MISSING if key is None else _value_in(transaction.get(key)) for key in keys]

        return self._attempt(read, [MISSING] * len(keys))

    def put(self, key: bytes, encoded: bytes, files: Iterable[OpenedFile] = ()) -> None:
        """Store one value in a transaction of its own; several at once are much cheaper."""
        self.put_many([(key, encoded, files)])

    def put_many(self, records: Iterable[Record]) -> None:
        """Store encoded values with the files that they were made from, as far as they fit.

        An existing value that was made from the same files stays.
        """
        lines = [(key, _head(files), encoded) for key, encoded, files in records]
        if lines and not self.is_full:
            self._attempt(lambda environment: self._write(environment, lines), None)

    def drop(self, reason: str) -> None:
        """End the store, and remove its values; processes that have the files open don't read them any more."""
        self.end(reason)
        with contextlib.suppress(OSError, StoreError):
            remove_values(Path(self.spec.folder))

    def end(self, reason: str) -> bool:
        """Turn the store off in all processes permanently; return whether this process was the first to do so."""
        self.is_off, self._environment = True, None
        self.reason = _ended(self.spec.folder, reason)
        try:
            return end(Path(self.spec.folder), reason)
        except OSError:
            # The folder is gone, or was never made, so no other process can have it open.
            return True

    @property
    def count(self) -> int:
        """Number of values in the store."""
        return self._attempt(lambda environment: environment.entries, 0)

    @property
    def used_bytes(self) -> int:
        """Bytes of the budget that are in use."""
        return self._attempt(lambda environment: environment.bytes_in_use, 0)

    @property
    def is_open(self) -> bool:
        """True if this process has the files open through this store."""
        return self._environment is not None and self._process == os.getpid()

    def close(self) -> None:
        """Close the files, unless another store of this process uses them; the next use reopens them."""
        self._environment = None

    def __reduce__(self) -> tuple[type[Store], tuple[StoreSpec]]:
        return Store, (self.spec,)

    def _attempt(self, action: Callable[[Environment], _T], otherwise: _T) -> _T:
        """Run an action. Replace damaged files by new ones, once; turn the store off after other failures."""
        if self.is_off:
            return otherwise
        reason = reason_for_end(self.spec.folder)
        if reason is not None:
            self.is_off, self._environment = True, None
            self.reason = _ended(self.spec.folder, reason)
            return otherwise
        try:
            return self._act(action)
        except DAMAGE as error:
            self._repair(error)
        except (lmdb.Error, OSError, StoreError) as error:
            self._turn_off(error)
        return otherwise

    def _act(self, action: Callable[[Environment], _T]) -> _T:
        if self._environment is None or self._process != os.getpid():
            self._environment, self._process, self.is_full = None, os.getpid(), False
            lasting = self.spec.tier == "disk"
            self._environment = open_environment(Path(self.spec.folder), self.spec.budget_bytes, lasting)
        self._environment.check_size()
        try:
            return action(self._environment)
        except lmdb.MapResizedError:
            # Another job on the same store has a larger budget.
            self._environment.lmdb.set_mapsize(0)
            return action(self._environment)

    def _repair(self, damage: Exception) -> None:
        environment, self._environment = self._environment, None
        if environment is None or not self._repairs_left:
            self._turn_off(damage)
            return
        self._repairs_left -= 1
        try:
            environment.discard(Path(self.spec.folder))
        except (OSError, StoreError) as error:
            self._turn_off(error)

    def _turn_off(self, error: Exception) -> None:
        self.is_off, self._environment = True, None
        detail = (error.strerror or "").lower() if isinstance(error, OSError) else _OWN_PATHS.sub("", str(error))
        self.reason = f"the sample store in {self.spec.folder} is off: {detail}"

    def _write(self, environment: Environment, lines: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        why_not = self._growth.why_not() if self._growth is not None else None
        if why_not is not None:
            self.is_full = True
            self.reason = f"the sample store in {self.spec.folder} takes no more values: {why_not}"
            return
        try:
            with environment.lmdb.begin(write=True, buffers=True) as transaction:
                for key, head, encoded in lines:
                    stored = transaction.get(key)
                    if stored is None or stored[: len(head)] != head:
                        transaction.put(key, head + encoded)
        except (lmdb.MapFullError, lmdb.TxnFullError):
            # Processes that were killed while reading reserve pages that could be reused.
            environment.lmdb.reader_check()
            if len(lines) == 1:
                self.is_full = True
                return
            half = len(lines) // 2
            self._write(environment, lines[:half])
            if not self.is_full:
                self._write(environment, lines[half:])
        except lmdb.Error:
            if not _is_disk_full(self.spec.folder):
                raise
            self.is_full = True
            self.reason = f"the sample store in {self.spec.folder} takes no more values: the disk is full"


def _ended(folder: str, reason: str) -> str:
    return f"the sample store in {folder} was ended: {reason}"


def _is_disk_full(folder: str) -> bool:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize < _SPACE_LEFT_AT_LEAST


def _head(files: Iterable[OpenedFile]) -> bytes:
    """Return the prefix of an encoded value: the files that it was made from."""
    encoded = _encoder.encode(list(files))
    return _HEAD.pack(len(encoded)) + encoded


def _value_in(stored: memoryview | None) -> Any:
    if stored is None:
        return MISSING
    try:
        start = _HEAD.size + _HEAD.unpack_from(stored)[0]
        if all(file.is_unchanged for file in _decoder.decode(stored[_HEAD.size : start])):
            return decode(stored[start:])
    except Exception:
        # For example a class that this process doesn't have: the value is made again.
        pass
    return MISSING
