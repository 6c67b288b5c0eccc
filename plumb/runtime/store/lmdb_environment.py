"""LMDB's files: shared within a process, never read past their end, and replaced if damaged."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from weakref import WeakValueDictionary, finalize

import lmdb

from plumb.core.errors import PlumbError
from plumb.host.user_folder import open_private
from plumb.runtime.store.store_folder import guarded

_DATA, _LOCK = "data.mdb", "lock.mdb"
_READERS_AT_MOST = 1024
# Size of LMDB's lock file: a line per reader, and a few for its head.
_LOCK_BYTES = (_READERS_AT_MOST + 16) * 64
_PAGE_BYTES = 4096
_PAGES_AT_LEAST = 16
_META_PAGES = 2


class DamagedError(PlumbError):
    """The files are shorter than their own header says."""


DAMAGE = (
    DamagedError, lmdb.BadDbiError, lmdb.CorruptedError, lmdb.IncompatibleError, lmdb.InvalidError,
    lmdb.PageNotFoundError, lmdb.PanicError, lmdb.VersionMismatchError,
)  # fmt: skip


class Environment:
    """An LMDB environment that is open as long as this object is referenced."""

    def __init__(self, opened: lmdb.Environment, data: int) -> None:
        self.lmdb = opened
        self._data = data
        finalize(self, os.close, data)

    @property
    def entries(self) -> int:
        """Number of values."""
        return int(self.lmdb.stat()["entries"])

    @property
    def bytes_in_use(self) -> int:
        """Bytes up to the end of the last page that was ever used."""
        return int((self.lmdb.info()["last_pgno"] + 1) * self.lmdb.stat()["psize"])

    def check_size(self) -> None:
        """Raise DamagedError if the file ends before its last page, because reading that would raise SIGBUS."""
        if self._file_bytes() < _META_PAGES * _PAGE_BYTES or self.bytes_in_use > self._file_bytes():
            raise DamagedError("its data file was cut off")

    def discard(self, folder: Path) -> None:
        """Remove the files, unless another process did so first. Raise StoreError or OSError if that fails.

        Processes that have them open keep their content.
        """
        with guarded(folder.parent):
            descriptor = open_private(folder)
            try:
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(self._data), os.stat(_DATA, dir_fd=descriptor)):
                        _remove_files(descriptor)
            finally:
                os.close(descriptor)

    def _file_bytes(self) -> int:
        return os.fstat(self._data).st_size


# LMDB must not open the same files twice in a process, so all users of the same files share one environment. A key
# begins with the process id, because a child can't use its parent's environment.
_shared: WeakValueDictionary[tuple[int, int, int], Environment] = WeakValueDictionary()


def open_environment(folder: Path, budget_bytes: int, lasting: bool) -> Environment:
    """Open the environment in `folder`, and replace damaged files by empty ones.

    Raises StoreError, OSError and lmdb.Error.

    Args:
        folder: Folder of the files.
        budget_bytes: Capacity in bytes.
        lasting: Whether it must survive a crash of the system, not only of its processes.
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


def remove_values(folder: Path) -> None:
    """Remove the files of the environment in `folder`; processes that have them open keep their content.

    Raises StoreError and OSError.
    """
    with guarded(folder.parent):
        descriptor = open_private(folder)
        try:
            _remove_files(descriptor)
        finally:
            os.close(descriptor)


def _opened(folder: int, budget_bytes: int, lasting: bool) -> Environment:
    with contextlib.suppress(FileNotFoundError):
        shared = _shared.get(_identity(os.stat(_DATA, dir_fd=folder)))
        if shared is not None:
            return shared
    _reserve_lock_file(folder)
    opened = lmdb.open(
        # A path to the very folder that was checked, even if its name leads elsewhere by now.
        f"/proc/self/fd/{folder}",
        map_size=max(_PAGES_AT_LEAST, budget_bytes // _PAGE_BYTES) * _PAGE_BYTES,
        max_readers=_READERS_AT_MOST,
        sync=lasting,
        metasync=False,
        meminit=False,
        readahead=lasting,
        mode=0o600,
    )
    data = os.open(_DATA, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    environment = Environment(opened, data)
    environment.check_size()
    opened.reader_check()
    _shared[_identity(os.fstat(data))] = environment
    return environment


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), status.st_dev, status.st_ino


def _reserve_lock_file(folder: int) -> None:
    """Allocate the lock file's space: LMDB leaves holes in it, and filling one on a full disk ends the process."""
    descriptor = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_BYTES)
    finally:
        os.close(descriptor)


def _remove_files(folder: int) -> None:
    for name in (_DATA, _LOCK):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
