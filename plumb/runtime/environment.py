"""LMDB's files, opened with care: shared within a process, never read past their end, and made anew where damaged."""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakValueDictionary

import lmdb

from plumb.runtime.store_folder import guarded, open_private

_DATA, _LOCK = "data.mdb", "lock.mdb"
_READERS_AT_MOST = 1024
# LMDB's lock file: a line for each reader, and a few for its head.
_LOCK_BYTES = (_READERS_AT_MOST + 16) * 64
_PAGE_BYTES = 4096
_PAGES_AT_LEAST = 16
_META_PAGES = 2


class DamagedError(Exception):
    """The files are shorter than they say."""


DAMAGE = (
    DamagedError, lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError,
    lmdb.VersionMismatchError, lmdb.IncompatibleError, lmdb.BadDbiError,
)  # fmt: skip

# LMDB must not open the same files twice in a process, so those who want the same share it. The first part is the
# process's id: what a parent had open is of no use to its child.
_shared: WeakValueDictionary[tuple[int, int, int], lmdb.Environment] = WeakValueDictionary()


def open_environment(folder: Path, budget_bytes: int, lasting: bool) -> lmdb.Environment:
    """The environment in `folder`, for as long as somebody keeps it. Damaged files are replaced by empty ones.

    `lasting` is whether it must survive a crash of the system, and not only of its processes. Raises StoreError,
    OSError and lmdb.Error.
    """
    with guarded(folder.parent):
        descriptor = open_private(folder)
        try:
            try:
                return _opened(descriptor, budget_bytes, lasting)
            except DAMAGE:
                _remove_files(descriptor)
                return _opened(descriptor, budget_bytes, lasting)
        finally:
            os.close(descriptor)


def discard(environment: lmdb.Environment, folder: Path) -> None:
    """Removes the files of a damaged environment, unless somebody else has done so. Raises as `open_environment`.

    Other processes that have them open keep what they have.
    """
    with guarded(folder.parent):
        descriptor = open_private(folder)
        try:
            if os.path.samestat(os.fstat(environment.fd()), os.stat(_DATA, dir_fd=descriptor)):
                _remove_files(descriptor)
        except FileNotFoundError:
            pass
        finally:
            os.close(descriptor)


def check_size(environment: lmdb.Environment) -> None:
    """Raises DamagedError where the file ends before its last page: to read that would end the process (SIGBUS)."""
    page_bytes = environment.stat()["psize"] if _file_bytes(environment) >= _META_PAGES * _PAGE_BYTES else None
    if page_bytes is None or bytes_in_use(environment) > _file_bytes(environment):
        raise DamagedError("its data file was cut off")


def bytes_in_use(environment: lmdb.Environment) -> int:
    """The bytes up to the end of the last page that was ever used."""
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _file_bytes(environment: lmdb.Environment) -> int:
    return os.fstat(environment.fd()).st_size


def _opened(descriptor: int, budget_bytes: int, lasting: bool) -> lmdb.Environment:
    try:
        status = os.stat(_DATA, dir_fd=descriptor)
    except FileNotFoundError:
        pass
    else:
        shared = _shared.get((os.getpid(), status.st_dev, status.st_ino))
        if shared is not None:
            return shared
    _reserve_lock_file(descriptor)
    environment = lmdb.open(
        _path_of(descriptor),
        map_size=max(_PAGES_AT_LEAST, budget_bytes // _PAGE_BYTES) * _PAGE_BYTES,
        max_readers=_READERS_AT_MOST,
        sync=lasting,
        metasync=False,
        meminit=False,
        readahead=lasting,
        mode=0o600,
    )
    check_size(environment)
    environment.reader_check()
    status = os.fstat(environment.fd())
    _shared[os.getpid(), status.st_dev, status.st_ino] = environment
    return environment


def _reserve_lock_file(folder: int) -> None:
    """Gives the lock file its room: LMDB leaves holes in it, and to fill one on a full disk ends the process."""
    descriptor = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_BYTES)
    finally:
        os.close(descriptor)


def _path_of(descriptor: int) -> str:
    """A path to the very folder that was checked, whatever its name leads to by now."""
    return f"/proc/self/fd/{descriptor}"


def _remove_files(folder: int) -> None:
    for name in (_DATA, _LOCK):
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
