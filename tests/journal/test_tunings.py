"""Whole tunings: loops that leave their epochs by themselves, and what they save at the end of each."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import psutil
import pytest
from script_parts import PREAMBLE

LEAVES_EARLY = (
    PREAMBLE
    + """
import json, multiprocessing, tempfile
import numpy as np

def square(number):
    return number * number

if __name__ == "__main__":
    temporary = tempfile.TemporaryDirectory(prefix="users-own-")
    for number in range(4):
        np.save(os.path.join(temporary.name, f"{number}.npy"), np.ones(3))
    pool = multiprocessing.Pool(2)
    loader = DataLoader(Numbers(320), batch_size=8, shuffle=True)
    best = json.load(open("best.json"))["loss"]
    for epoch in range(1000):
        for step, (x, y) in enumerate(loader):
            train_step(x, y)
            if step == 15:
                break
        pool.map(square, range(2))
        torch.save(model.state_dict(), "best.pt")
        torch.save(model.state_dict(), "last.pt.tmp")
        os.replace("last.pt.tmp", "last.pt")
        with open("history.csv", "a") as history:
            history.write(f"{epoch},{best}\\n")
        os.makedirs("runs/1", exist_ok=True)
        json.dump({"loss": 0.0}, open("best.json", "w"))
        print("epoch", epoch, "saved", flush=True)
"""
)
FILES = {
    "best.pt": b"of an earlier training",
    "last.pt": b"its last",
    "history.csv": b"0,1\n",
    "best.json": b'{"loss": 9}',
}


@pytest.fixture
def folder(write, tmp_path: Path) -> Path:
    write("train.py", LEAVES_EARLY)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    return tmp_path


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in FILES}


# As the library of this name does, it writes from C; and it is imported by the script, after plumb itself.
SOUNDFILE = """
import ctypes

class SoundFile:
    def __init__(self, file, mode="r"):
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        libc.fclose(ctypes.c_void_p(libc.fopen(file.encode(), mode.encode())))
"""
ELSEWHERE = (
    PREAMBLE
    + """
import json, sys
import soundfile
elsewhere = sys.argv[1]
started = open(f"{elsewhere}/started.txt", "a")
if __name__ == "__main__":
    loader = DataLoader(Numbers(320), batch_size=8, shuffle=True)
    for epoch in range(1000):
        for step, (x, y) in enumerate(loader):
            train_step(x, y)
            if step == 5:
                break
        torch.save(model.state_dict(), f"{elsewhere}/best.pt")
        soundfile.SoundFile(f"{elsewhere}/sound.wav", "w")
        with open(f"{elsewhere}/history.csv", "a") as history:
            history.write(f"{epoch}\\n")
        torch.UntypedStorage.from_file(f"{elsewhere}/storage.bin", True, 16).fill_(epoch % 7)
        torch.FloatStorage.from_file(f"{elsewhere}/floats.bin", True, 4).fill_(epoch % 7)
        torch.save(model.state_dict(), f"{elsewhere}/last.pt")
        json.dump({"loss": 0.0}, open(f"{elsewhere}/best.json", "w"))
        started.write("once more")
        started.flush()
        print("epoch", epoch, "saved", flush=True)
"""
)


@pytest.mark.slow
def test_files_in_other_folders_are_put_back_whether_python_or_c_writes_them(plumb, write, tmp_path_factory):
    # Nothing but the journal knows what they were: the script's folder and the current one alone are listed before.
    write("train.py", ELSEWHERE)
    write("soundfile.py", SOUNDFILE)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    names = ["best.json", "best.pt", "floats.bin", "history.csv", "last.pt", "sound.wav", "started.txt", "storage.bin"]
    for name in names:
        (elsewhere / name).write_text(f"of an earlier training: {name}")
    ran = plumb("tune", "--budget", 3, "train.py", elsewhere, is_fork=False)
    assert ran.code == 0, ran.err
    assert "epoch 1 saved" in ran.err, "an epoch of the loop did end"
    assert {name: (elsewhere / name).read_text() for name in names} == {
        name: f"of an earlier training: {name}" for name in names
    }
    assert [Path(path).name for path in ran.plan.files.put_back] == names


@pytest.mark.slow
def test_epochs_that_end_in_a_tuning_leave_no_trace(plumb, folder, monkeypatch):
    # A short path: processes make sockets in there.
    with tempfile.TemporaryDirectory() as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        ran = plumb("tune", "--budget", 3, "--clean", "train.py", is_fork=False)
        assert ran.code == 0, ran.err
        assert not os.listdir(temporary)
    assert "epoch 0 saved" in ran.err, "an epoch of the loop did end"
    assert state(folder) == {name: (content, 10**18) for name, content in FILES.items()}
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "train.py", "train.plumb.json"])
    assert not [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]
    files = ran.plan.files
    assert [Path(path).name for path in files.put_back] == ["best.json", "best.pt", "history.csv", "last.pt"]
    assert [path.removeprefix(f"{folder}/") for path in files.cleaned] == ["runs/"]
    assert "plumb put the earlier files back" in ran.out
    kept = json.loads((folder / "train.plumb.json").read_bytes())["files"]
    assert kept["put_back"] == list(files.put_back)
    assert "plumb put the earlier files back" in plumb("report", "train.plumb.json").out


def test_a_trace_leaves_the_files_as_they_were_too(plumb, folder):
    ran = plumb("trace", "--budget", 3, "train.py", is_fork=False)
    assert ran.code == 0, ran.err
    assert state(folder) == {name: (content, 10**18) for name, content in FILES.items()}
    assert ("epoch 0 saved" in ran.err) == ("plumb put the earlier files back" in ran.err)
