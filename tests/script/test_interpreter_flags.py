"""The interpreter's options reach the script."""

import subprocess
import sys

import pytest

from plumb.script import interpreter_flags


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("-m plumb run train.py -O", ""),
        ("-O -X dev -W error::FutureWarning -m plumb run train.py", "-O -X dev -W error::FutureWarning"),
        ("-Xdev -Wignore -OO /usr/bin/plumb run train.py", "-X dev -W ignore -O -O"),
        ("-uBm plumb tune", "-u -B"),
        ("-IsE -c code", "-I -s -E"),
        ("-P --check-hash-based-pycs always plumb run", "-P --check-hash-based-pycs always"),
        ("-bb -Wonce -i plumb", "-b -b -W once"),
        ("-X", None),
        ("", ""),
    ],
)
def test_options_are_read_as_they_were_typed(words, options, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", *words.split()], raising=False)
    if options is None:
        options = " ".join(subprocess._args_from_interpreter_flags())
    assert interpreter_flags.options(interactive=False) == options.split()


def test_the_prompt_after_a_script_is_asked_for_where_it_may_come(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-iO", "-m", "plumb"], raising=False)
    assert interpreter_flags.options(interactive=True) == ["-i", "-O"]


def test_a_script_runs_under_the_options_of_the_command(write, tmp_path):
    write(
        "train.py",
        """
import sys
print(sys.flags.optimize, __debug__, sys.flags.dev_mode, sys.warnoptions, sys.flags.dont_write_bytecode,
      sys.flags.no_user_site, sys.stdout.write_through)
""",
    )
    (tmp_path / "train.plumb.json").write_text(
        '{"version": 1, "script": "train.py", "host": {}, "tuning_seconds": 0, "startup_seconds": 0, "loaders": []}'
    )
    options = ["-O", "-X", "dev", "-W", "ignore::FutureWarning", "-uBs"]

    def printed(*command):
        done = subprocess.run([sys.executable, *options, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert printed("-m", "plumb", "run", "train.py") == printed("train.py")
