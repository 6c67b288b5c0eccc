"""What goes wrong is said in one clear line, with the exit code that belongs to it; nothing is written or lost."""

import os
import resource
import shlex
import signal
import subprocess
import sys
import time

import click
import psutil
import pytest
from script_parts import LOOP, PREAMBLE

from plumb.cli.app import cli

WRONG = {
    "no script": ([], 2, "name a script"),
    "a script that is missing": (["missing.py"], 2, "missing.py: no such file"),
    "a folder": (["."], 2, "is a folder"),
    "a module that is missing": (["-m", "no.such.module"], 2, "no module named no.such.module"),
    "an output folder that is missing": (["--output", "no/folder/plan.json", "good.py"], 2, "no/folder"),
    "a size that is none": (["--memory", "much", "good.py"], 2, "'much' is not a size"),
    "no time": (["--budget", "0", "good.py"], 2, "0"),
    "no connection": (["--max-connections", "0", "good.py"], 2, "--max-connections"),
}


@pytest.mark.parametrize("what", WRONG)
def test_usage(what, plumb, write, tmp_path):
    words, code, message = WRONG[what]
    write("good.py", "print('never runs')")
    ran = plumb("tune", *words)
    assert ran.code == code
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert "never runs" not in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["good.py"]


# What was typed, the exit code, and what the one line says besides: a usage error of click's has its usage before it.
TYPED = [
    ("--buget 5 good.py", 2, "No such option '--buget'. Did you mean '--budget'? Write it after: ", "plumb tune"),
    ("--budget 5 good.py", 2, "No such option '--budget'. Write it after: ", "plumb trace"),
    ("tune --buget 5 good.py", 2, "No such option '--buget'. Did you mean '--budget'?"),
    ("tune --buget", 2, "No such option '--buget'. Did you mean '--budget'?"),
    ("tune --buget=5 good.py", 2, "No such option '--buget'. Did you mean '--budget'?"),
    ("tune --budget", 2, "'--budget' requires an argument"),
    ("tune --plan other.json good.py", 2, "No such option '--plan'. It is one of: ", "plumb run", "plumb apply"),
    ("trace --jsn good.py", 2, "Did you mean '--json'?"),
    ("run --pln other.json good.py", 2, "Did you mean '--plan'?"),
    ("apply --writ good.py", 2, "Did you mean '--write'?"),
    ("report --htm page.html good.plumb.json", 2, "Did you mean '--html'?"),
    ("predict --cpu 4 good.plumb.json", 2, "Did you mean '--cpus'?"),
    ("tune -x good.py", 2, "No such option '-x'."),
    ("tun good.py", 2, "No such command 'tun'. Did you mean 'tune'?"),
    ("reprot good.plumb.json", 2, "No such command 'reprot'. Did you mean 'report'?"),
    ("cache clean", 2, "No such command 'clean'. Did you mean 'clear'?"),
    ("good.py", 2, "'good.py' is a file: name a command before it", "plumb tune good.py"),
    ("polish good.py", 2, "No such command 'polish'."),
    ("tune strict.py --budget 30", 1, "--budget is an option of plumb tune: write it before the script"),
    ("tune strict.py --seed=3 --lr 1 --plain", 1, "--seed and --plain are options of plumb tune: write them before"),
    ("trace strict.py --dot", 1, "--dot is an option of plumb trace: write it before the script"),
    ("tune strict.py --plan other.json", 1, "its own message is above. Nothing was written"),
    ("tune ends.py --budget 30", 1, "its own message is above. Nothing was written"),
    ("trace ends.py", 1, "exit code 3 before a loader was traced; its own message is above\n"),
    ("trace killed.py", 1, "before a loader was traced; it was probably out of memory\n"),
    ("trace good.py", 1, "the script ended without iterating a DataLoader: it has none\n", "during the trace: ran.\n"),
    ("tune --output no/folder/plan.json good.py", 2, "no/folder is not a folder", "--output"),
    ("tune --output /proc/plan.json good.py", 2, "/proc takes no files", "--output"),
    ("tune --cache-dir /proc/samples good.py", 2, "/proc/samples takes no files", "--cache-dir"),
    ("tune --cache-dir good.py/samples good.py", 2, "good.py is not a folder", "--cache-dir"),
    ("tune --memory 10MiB good.py", 2, "more than the 10 MiB that are allowed; raise --memory"),
]


@pytest.mark.parametrize("row", TYPED, ids=[row[0] for row in TYPED])
def test_what_is_typed_wrongly_is_told_what_was_meant(row, plumb, write, tmp_path):
    words, code, *said = row
    write("good.py", "open('ran', 'w'); print('runs')")
    write("strict.py", "import argparse; argparse.ArgumentParser().parse_args()")
    write("ends.py", "import sys; sys.exit(3)")
    write("killed.py", "import os; os.kill(os.getpid(), 9)")
    ran = plumb(*words.split())
    assert ran.code == code, ran.err
    assert [part for part in said if part not in ran.err] == []
    assert "Traceback" not in ran.err
    if code == 2:
        assert not (tmp_path / "ran").exists(), "nothing was run"
    others = ("New, made", "is run for real")
    lines = [line for line in ran.err.splitlines() if not any(other in line for other in others)]
    told = [line for line in lines if line.startswith(("plumb: ", "Error: "))]
    assert len(told) == 1
    assert not words.startswith("trace") or "tuned" not in ran.err.replace("plumb tune", "")
    assert not list(tmp_path.glob("*.json"))


def every_command(command=cli, words=("plumb",)):
    """Each command with the words that call it."""
    yield " ".join(words), command
    for name, each in getattr(command, "commands", {}).items():
        yield from every_command(each, (*words, name))


@pytest.mark.parametrize(("words", "command"), list(every_command()), ids=[words for words, _ in every_command()])
def test_help_ends_with_two_examples_that_can_be_typed(words, command, plumb, write):
    shown = plumb(*words.split()[1:], "--help").out.splitlines()
    assert shown[-3].strip() == "Examples:"
    for line in shown[-2:]:
        example = line.strip()
        assert example.startswith(f"{words} ") or example == words, example
        typed = shlex.split(example.partition(" > ")[0])[1:]
        context, inner = click.Context(cli, info_name="plumb"), cli
        while isinstance(inner, click.Group):
            name, inner, typed = inner.resolve_command(context, typed)
            context = click.Context(inner, info_name=name, parent=context)
        own = {option for each in inner.params for option in each.opts}
        assert {
            word for word in typed[: typed.index("train.py") if "train.py" in typed else None] if word[:2] == "--"
        } <= own


def numbers():
    """Each option of each command that takes a number."""
    for name, command in cli.commands.items():
        for option in command.params:
            is_number = not option.is_flag if isinstance(option, click.Option) else False
            if is_number and option.type.name in ("float range", "integer range", "SIZE", "RATE", "float", "integer"):
                yield name, option.opts[0]


def test_options_with_numbers_are_found():
    assert {("tune", "--budget"), ("tune", "--seed"), ("predict", "--cpus"), ("run", "--check")} <= set(numbers())


@pytest.mark.parametrize("number", ["nan", "inf", "-5"])
@pytest.mark.parametrize(("command", "option"), list(numbers()))
def test_what_is_no_number_of_anything_is_refused_by_the_option_s_name(command, option, number, plumb, write):
    write("good.py", "print('never runs')")
    ran = plumb(command, option, number, "good.py")
    assert ran.code == 2
    assert f"Invalid value for '{option}': " in ran.err
    assert number in ran.err
    assert "never runs" not in ran.err + ran.out


def test_no_finite_number_is_refused_with_the_words_for_one_out_of_range(plumb, write):
    write("good.py", "print('never runs')")
    told = {number: plumb("tune", "--budget", number, "good.py").err for number in ("-5.0", "nan", "inf")}
    assert len({text.replace(number, "N") for number, text in told.items()}) == 1


@pytest.mark.parametrize(("text", "message"), [("x = (\n", "train.py:1 is not Python"), ("\0\1", "train.py")])
def test_not_python(text, message, plumb, write):
    write("train.py", text)
    ran = plumb("tune", "train.py")
    assert (ran.code, ran.plan) == (2, None)
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1


# Of these, what comes before a loader needs no torch, which takes longer to import than all the rest.
FAILING = {
    "raises before a loader": ("raise ValueError('the user is told this')", 1, "ValueError: the user is told this"),
    "exits before a loader": ("sys.exit('bye')", 1, "bye"),
    "crashes": ("import ctypes; ctypes.string_at(0)", 1, "SIGSEGV"),
    "is killed": ("os.kill(os.getpid(), 9)", 1, "out of memory"),
    "has no loader": ("print('nothing here')", 1, "it has none"),
    "never iterates its loader": ("loader = DataLoader(Numbers())", 1, "it constructed loader (train.py:"),
    "makes its batches by hand": (
        "def get_batch():\n    return torch.zeros(4, 8), torch.zeros(4, dtype=torch.long)\ntrain_step(*get_batch())",
        1,
        "made by hand in get_batch (train.py:",
    ),
    "has an empty dataset": ("for batch in DataLoader(Numbers(0), batch_size=4): pass", 1, "its dataset is empty"),
    "raises in its dataset": (
        """
class Broken(Numbers):
    def __getitem__(self, index):
        if index == 60:
            raise ValueError("sample 60 is broken")
        return super().__getitem__(index)
def main():
    for x, y in DataLoader(Broken(), batch_size=4):
        train_step(x, y)
main()
""",
        1,
        "ValueError: sample 60 is broken",
    ),
    "raises in its dataset, in a worker": (
        """
class Broken(Numbers):
    def __getitem__(self, index):
        if index == 60:
            raise ValueError("sample 60 is broken")
        return super().__getitem__(index)
for x, y in DataLoader(Broken(), batch_size=4, num_workers=1):
    train_step(x, y)
""",
        1,
        "ValueError: sample 60 is broken",
    ),
    "may not use the memory that it uses already": (
        "loader = DataLoader(Numbers(), batch_size=4)" + LOOP.format(loader="loader"),
        2,
        "more than the 120 MiB that are allowed",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FAILING)
def test_a_script_that_fails(what, plumb, write, tmp_path):
    text, code, message = FAILING[what]
    write("train.py", (PREAMBLE if "DataLoader" in text or "torch" in text else "import os, sys\n") + text)
    ran = plumb("tune", "--budget", 4, "--memory", "120MiB" if "may not use" in what else "64GiB", "train.py")
    assert ran.code == code, ran.err
    assert message in ran.err
    assert ran.out == ""
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["train.py"]
    if what == "raises in its dataset":
        has_no_frame_of_plumb(ran.err)


def has_no_frame_of_plumb(err):
    trace = err[err.index("Traceback") :]
    assert "/plumb/" not in trace
    assert "runpy" not in trace
    lines = [line.strip() for line in trace.splitlines() if "train.py" in line and line.strip().startswith("File")]
    assert [line.rsplit(" ", 1)[-1] for line in lines] == ["<module>", "main", "__getitem__"]


@pytest.mark.slow  # a script may always take fifteen seconds to start, and as long again while it imports
def test_an_endless_start_says_where_it_was_and_is_not_counted_from_slow_imports(plumb, write, tmp_path):
    (tmp_path / "site-packages").mkdir()
    write("site-packages/from_a_slow_disk.py", "import time; time.sleep(16)")
    text = """
import sys; sys.path.append("site-packages"); import from_a_slow_disk
loader = DataLoader(Numbers())
def wait_for_a_friend():
    while True:
        time.sleep(0.01)
wait_for_a_friend()
"""
    write("train.py", PREAMBLE + text)
    ran = plumb("tune", "--budget", 1, "train.py")
    assert ran.code == 1
    assert "it constructed loader (train.py:" in ran.err
    assert "in wait_for_a_friend" in ran.err
    assert ran.plan is None


@pytest.mark.slow
def test_running_out_of_memory_is_survived(write, tmp_path):
    text = "blocks = []\nwhile True:\n    blocks.append(bytearray(1 << 28))\n"
    write("train.py", PREAMBLE + text)
    done = subprocess.run(
        [sys.executable, "-m", "plumb", "tune", "--budget", "60", "train.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)),
        timeout=120,
    )
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
    assert "before a loader was tuned" in done.stderr


WAITING = "loader = DataLoader(Numbers(seconds=0.004), batch_size=8, num_workers=1)" + LOOP.format(loader="loader")


@pytest.mark.slow
@pytest.mark.quiet  # what others leave in shared memory can't be told from what is left here
@pytest.mark.parametrize(
    "moment",
    [
        "plumb.cli.app",
        "watching your loop",
        "trying",
        # Between these, and each takes the whole host for a while.
        *(pytest.param(moment, marks=pytest.mark.nightly) for moment in ("how fast", "what a sample costs")),
    ],
)
def test_ctrl_c_leaves_no_process_and_no_file(moment, tuning, write, tmp_path, monkeypatch):
    write("train.py", PREAMBLE + WAITING)
    if moment == "plumb.cli.app":
        monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # says when plumb itself has been imported
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    running = tuning(16, subprocess.PIPE, subprocess.PIPE)
    said = [""]
    while moment not in said[-1]:
        said.append(running.stderr.readline())
        assert said[-1] or running.poll() is None, f"the tuning ended before this moment came: {''.join(said)}"
    time.sleep(0.3)
    family = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(family, timeout=2)
    assert not alive
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]
    if os.path.isdir("/dev/shm"):
        assert set(os.listdir("/dev/shm")) <= before


def test_no_process_outlives_a_parent_that_is_killed(tuning, write):
    write("train.py", PREAMBLE + WAITING)
    running = tuning(30, subprocess.DEVNULL, subprocess.DEVNULL)
    parent = psutil.Process(running.pid)
    deadline = time.monotonic() + 60
    while len(parent.children(recursive=True)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    family = parent.children(recursive=True)
    assert len(family) >= 2
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_a_plan_that_is_damaged_or_of_another_version(plumb, write):
    write("train.py", "print('never runs')")
    for text, message in (("{", "is not a plan"), ('{"version": 9}', "version 9"), ("[]", "is not a plan")):
        write("train.plumb.json", text)
        for words in (("run", "train.py"), ("report", "train.plumb.json")):
            ran = plumb(*words)
            assert ran.code == 1
            assert message in ran.err
            assert "train.plumb.json" in ran.err
            assert "never runs" not in ran.out
            assert len(ran.err.strip().splitlines()) == 1
