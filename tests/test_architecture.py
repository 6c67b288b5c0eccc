"""The house's own rules: rooms, names and docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plumb"
MODULES = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
NAMELESS = {"__init__.py", "__main__.py"}


def twice(names):
    """Those names that stand in several places, with the places."""
    places = defaultdict(set)
    for name, place in names:
        places[name].add(str(place))
    return {name: sorted(found) for name, found in places.items() if len(found) > 1}


def test_nothing_but_the_package_itself_stands_at_its_top_level():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {*NAMELESS, "py.typed"}


def test_no_module_name_stands_for_two_things():
    assert twice((path.name, path) for path in MODULES if path.name not in NAMELESS) == {}


def test_no_class_name_stands_for_two_things():
    classes = (
        (node.name, path) for path, tree in MODULES.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    # The public plan of one dataset, and what a plan's file says of one loader, are of one family.
    assert twice(classes) == {}


def test_docstrings_say_what_code_does_and_not_what_a_question_asks():
    asking = ("What", "Whether", "How")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [
        docstring
        for tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, documented) and (docstring := ast.get_docstring(node))
    ]
    found = [docstring.splitlines()[0] for docstring in docstrings if docstring.split()[0] in asking]
    assert len(found) < 0.02 * len(docstrings), found


def test_each_room_imports_only_rooms_below_it_and_no_module_imports_itself_by_others():
    pytest.importorskip("importlinter")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
