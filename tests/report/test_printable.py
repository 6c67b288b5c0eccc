"""Terminals without the characters of a report, files whose names are no UTF-8, shells that close descriptors."""

import contextlib
import fcntl
import json
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import example_plan
import pytest

from plumb.core import events, plan
from plumb.core.files_outcome import FilesOutcome
from plumb.core.printable import ERRORS, to_json
from plumb.instrument.call_site import Site
from plumb.report.output import console, wide_console
from plumb.report.wording import command
from plumb.tuning.child_orders import Orders, Target, TuneOrders

NOT_UTF_8 = os.fsdecode(b"tr\xffain.py")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"])
def test_every_character_of_a_report_is_printed_in_any_encoding(encoding):
    text = f"█░ 3 µs · 2× → … {NOT_UTF_8} 猫"
    printed = text.encode(encoding, ERRORS).decode(encoding)
    assert "\\udcff" in printed
    if encoding == "ascii":
        assert printed == "#. 3 us - 2x -> ... tr\\udcffain.py ?"


def test_orders_bring_any_path_to_the_child():
    orders = Orders(Target(NOT_UTF_8, is_module=False), tune=TuneOrders(3.0, cache_folder=NOT_UTF_8))
    assert orders.to_argument().isascii()
    assert Orders.from_argument(orders.to_argument()) == orders


def test_events_and_plans_tell_of_any_file():
    assert "\\udcff" in str(Site(f"/home/{NOT_UTF_8}", 3, "loader"))
    sent = to_json(events.LoaderFound("loader", NOT_UTF_8, "Photos"))
    assert next(events.EventReader().feed(sent + b"\n")).site == "tr\\udcffain.py"
    changed = FilesOutcome(put_back=(f"/home/{NOT_UTF_8}",))
    assert "tr\\udcffain.py" in changed.sentences(Path("/home"), 3)[0]


@pytest.mark.parametrize(
    ("script", "is_module", "path", "typed"),
    [
        ("train.py", False, "train.plumb.json", "plumb run train.py"),
        ("train.py", False, "", "plumb run train.py"),
        ("my train.py", False, "my train.plumb.json", "plumb run 'my train.py'"),
        ("train.py", False, "out dir/p.json", "plumb run --plan 'out dir/p.json' train.py"),
        ("pkg.train", True, "train.plumb.json", "plumb run -m pkg.train"),
    ],
)
def test_commands_are_printed_as_a_shell_takes_them(script, is_module, path, typed):
    found = plan.Plan(script, {}, 1.0, 1.0, (), is_module=is_module)
    assert command("run", found, path) == typed
    assert shlex.split(typed)[-1] == script


def test_no_color_means_no_style_at_all(monkeypatch):
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    for value, styled in (("1", False), ("", True)):
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        output = console()
        with output.capture() as text:
            output.print("[bold red]bold[/]")
        assert ("\x1b[" in text.get()) is styled


def test_what_is_no_terminal_gets_whole_lines(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert wide_console().width == 120


@pytest.mark.parametrize("form", ["", "--json"])
def test_a_report_on_an_ascii_terminal_with_standard_error_and_input_closed(form, tmp_path):
    shown = example_plan.plan_of(example_plan.loader_plan(None, notes=("\u732b",)))
    plan.write(shown, tmp_path / "train.plumb.json")
    shell = f'exec "$0" -m plumb report train.plumb.json {form} 0<&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    if form:
        assert plan.decode(done.stdout) == plan.decode(plan.encode(shown))
        assert json.loads(done.stdout)["version"] == 1
    else:
        assert done.stdout.isascii()
        assert b"samples/s" in done.stdout


CLOSED = """
import os, sys
from plumb.host.standard_streams import open_missing
open_missing(tuple(map(int, sys.argv[1].split(","))))
reading, writing = os.pipe()
assert min(reading, writing) > 2, (reading, writing)
print("said", file=sys.stderr)
os.write(int(os.environ["KEPT"]), b"done")
"""


def test_what_is_opened_later_gets_no_standard_descriptor_s_number():
    reading, writing = os.pipe()
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 0,1,2 0<&- 1>&- 2>&-', sys.executable, CLOSED],
        pass_fds=[writing],
        env={**os.environ, "KEPT": str(writing)},
    )
    os.close(writing)
    with open(reading, "rb") as answer:
        assert answer.read() == b"done"
    assert done.returncode == 0


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_report_on_a_narrow_ascii_terminal_without_colour(columns, tmp_path):
    plan.write(example_plan.plan_of(example_plan.loader_plan(None)), tmp_path / "train.plumb.json")
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    given = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-m", "plumb", "report", "train.plumb.json"],
        cwd=tmp_path,
        stdin=follower,
        stdout=follower,
        env={**given, "NO_COLOR": "1", "PYTHONIOENCODING": "ascii", "TERM": "xterm-256color"},
    ) as shown:
        os.close(follower)
        printed = b""
        with contextlib.suppress(OSError):
            while part := os.read(leader, 65536):
                printed += part
    os.close(leader)
    assert shown.returncode == 0
    assert printed.isascii()
    assert b"\x1b" not in printed
    lines = printed.decode().splitlines()
    assert max(map(len, lines)) <= columns
    together = " ".join(printed.decode().split())
    assert "2 workers, prefetch 4, persistent, decode stored in memory chosen: in turns" in together
    assert "2 workers, prefetch 2 one run" in together
