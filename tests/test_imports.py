"""What is imported, and when."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import plumb"],
        ["-c", "import plumb; plumb.tuned(type('Data', (), {})); plumb.operator(lambda: 0)"],
        ["-c", "import plumb.cli.tune_command, plumb.cli.trace_command, plumb.cli.run_command"],
        ["-m", "plumb", "--help"],
        ["-m", "plumb", "tune", "--help"],
    ],
)
def test_light_commands_import_neither_torch_nor_optuna(words):
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "plumb" in imported
    assert not imported & {"torch", "optuna", "numpy", "networkx"}


@pytest.mark.slow
def test_what_is_imported_on_the_way_draws_no_random_numbers_of_the_user_s():
    script = """
import random, numpy, torch, plumb
random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
data = torch.rand(256, 8, generator=torch.Generator())
plan = plumb.tune(data, batch_size=32, budget=1)
plan.explain(), plan._repr_html_(), plumb.trace(data)
for batch in plan.loader(data, batch_size=32, generator=torch.Generator()):
    pass
print(random.random(), numpy.random.random(), torch.rand(()).item())
random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
print(random.random(), numpy.random.random(), torch.rand(()).item())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    after_plumb, without = done.stdout.splitlines()
    assert after_plumb == without


def test_public_names_are_those_that_can_be_used():
    import plumb

    for name in plumb.__all__:
        assert getattr(plumb, name).__doc__
    with pytest.raises(AttributeError):
        _ = plumb.no_such_name


def _annotations(tree):
    for node in ast.walk(tree):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            yield from map(id, ast.walk(annotation)) if annotation is not None else ()


def test_no_code_depends_on_what_a_script_has_put_in_the_place_of_torch_s_loader():
    """Modules that do more with torch's class than to name it in annotations import it from
    `instrument.torch_loader`."""
    plumb = Path(__file__).parent.parent / "plumb"
    depending = []
    for path in plumb.rglob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and any((name.asname or name.name) == "DataLoader" for name in node.names)
        }
        named = set(_annotations(tree))
        used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "DataLoader"]
        if modules == {"torch.utils.data"} and any(id(node) not in named for node in used):
            depending.append(str(path.relative_to(plumb)))
    assert depending == []


def _imported_at_once(tree):
    """The modules that a module imports when it is imported itself."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, (ast.If, ast.Try, ast.With)) and "TYPE_CHECKING" not in ast.dump(node):
            pending += node.body


def test_what_runs_on_a_plan_imports_nothing_that_only_a_tuning_needs():
    root = Path(__file__).parent.parent
    pending, met, needed = (
        ["plumb.script.plan_handler", "plumb.runtime.planned_loader", "plumb.script.loader_registry"],
        set(),
        {},
    )
    while pending:
        name = pending.pop()
        if name in met:
            continue
        met.add(name)
        path = root / name.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.exists():
            needed.setdefault(name.partition(".")[0], name)
            continue
        for found in _imported_at_once(ast.parse(file.read_text())):
            pending += [".".join(found.split(".")[:length]) for length in range(1, found.count(".") + 2)]
    assert len(met) > 100
    assert {"torch", "lmdb"} <= needed.keys()
    assert not needed.keys() & {"networkx", "optuna", "rich", "click", "libcst", "pynvml"}
