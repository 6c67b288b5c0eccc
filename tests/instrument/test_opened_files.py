"""The files that some code reads are known."""

import ctypes
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy
import pytest
from PIL import Image

from plumb.instrument.opened_files import opened_files, reads_unseen


def names(files):
    return [os.path.basename(os.fsdecode(file.path)) for file in files]


def test_what_python_opens_for_reading_is_noted(tmp_path):
    (tmp_path / "text").write_text("hello")
    numpy.save(tmp_path / "array.npy", numpy.zeros(3))
    Image.new("RGB", (2, 2)).save(tmp_path / "image.png")
    with opened_files() as files:
        for _ in range(2):
            (tmp_path / "text").read_text()
        numpy.load(tmp_path / "array.npy", mmap_mode="r")
        Image.open(tmp_path / "image.png").load()
        os.close(os.open(os.fsencode(tmp_path / "text"), os.O_RDONLY))
        (tmp_path / "written").write_text("this is no input")
    assert names(files) == ["text", "array.npy", "image.png"]
    assert all(file.is_unchanged for file in files)


def test_nothing_is_noted_outside(tmp_path):
    (tmp_path / "a").touch()
    with opened_files() as files:
        pass
    (tmp_path / "a").read_bytes()
    assert not files


def test_paths_are_whole(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    monkeypatch.chdir(tmp_path)
    with opened_files() as files:
        Path("a").read_bytes()
    monkeypatch.chdir("/")
    assert [file.path for file in files] == [os.fsencode(tmp_path / "a")]
    assert all(file.is_unchanged for file in files)


def test_changes_are_seen(tmp_path):
    path = tmp_path / "a"
    for change in (
        lambda: path.write_text("three"),
        lambda: os.utime(path, ns=(0, 1)),
        path.unlink,
    ):
        path.write_text("one")
        with opened_files() as files:
            open(path).close()
        (file,) = files
        assert file.is_unchanged
        change()
        assert not file.is_unchanged


def test_a_missing_file_that_appears_is_a_change(tmp_path):
    with opened_files() as files:
        assert not os.path.exists(tmp_path / "first")
        with pytest.raises(FileNotFoundError):
            (tmp_path / "first").read_bytes()
    (file,) = files
    assert file.is_unchanged
    (tmp_path / "first").touch()
    assert not file.is_unchanged


def test_each_thread_has_its_own(tmp_path):
    (tmp_path / "mine").touch()
    (tmp_path / "theirs").touch()
    theirs = []

    def other():
        with opened_files() as files:
            (tmp_path / "theirs").read_bytes()
        theirs.extend(files)

    with opened_files() as files:
        (tmp_path / "mine").read_bytes()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert (names(files), names(theirs)) == (["mine"], ["theirs"])


def test_an_outer_block_knows_what_the_inner_does(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    with opened_files() as outer:
        (tmp_path / "a").read_bytes()
        with opened_files() as inner:
            (tmp_path / "b").read_bytes()
        (tmp_path / "c").read_bytes()
    assert names(inner) == ["b"]
    assert sorted(names(outer)) == ["a", "b", "c"]


def test_code_and_devices_are_left_out(tmp_path):
    (tmp_path / "data.py").write_text("a data set of programs")
    code = f"""
from plumb.instrument.opened_files import opened_files, reads_unseen
with opened_files() as files:
    import wave, numpy
    open("/dev/null").close()
    open("/proc/self/stat").close()
    open({str(tmp_path / "data.py")!r}).close()
    open(0, closefd=False)
print(*(file.path for file in files))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [repr(os.fsencode(tmp_path / "data.py"))]


def test_the_hook_is_installed_once_and_only_when_it_is_needed():
    code = """
import sys
added, real = [], sys.addaudithook
sys.addaudithook = lambda hook: (added.append(hook), real(hook))
from plumb.instrument.opened_files import opened_files, reads_unseen
assert not added
for _ in range(3):
    with opened_files():
        pass
assert len(added) == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reads_of_what_python_opens_are_seen(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=numpy.uint8)).save(path)
    (tmp_path / "text").write_text("a" * 10_000)
    for waits in (False, True):
        assert not reads_unseen(lambda name: Image.open(tmp_path / name).convert("RGB"), ["image.png"], waits)
        assert not reads_unseen(lambda name: (tmp_path / name).read_text(), ["text", "text"], waits)
    assert not reads_unseen(lambda number: number * 2, [1, 2], waits=False)


def test_reads_of_what_others_opened_are_not(tmp_path):
    (tmp_path / "data").write_text("a" * 10_000)
    # A library's own code opens files without a word to Python.
    opened = ctypes.CDLL(None).open(os.fsencode(tmp_path / "data"), os.O_RDONLY)
    try:
        assert reads_unseen(lambda offset: os.pread(opened, 5_000, offset), [0, 5_000], waits=False)
    finally:
        os.close(opened)


def test_what_comes_from_a_server_is_not_seen():
    mine, servers = socket.socketpair()
    with mine, servers:

        def read(text):
            servers.sendall(text)
            return mine.recv(100)

        assert reads_unseen(read, [b"hello"], waits=True)
