"""`plumb apply`: the plan's arguments reach the source, and nothing else in it changes."""

import ast
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from apply_scripts import ELSEWHERE, SPELLED_OUT
from hypothesis import given, settings
from hypothesis import strategies as st

from plumb.core import plan
from plumb.core.config import CacheChoice, Config
from plumb.core.plan import LoaderResult, Measured, PlainMeasured, Plan, Prediction, Trial
from plumb.report.patch.patch import patch
from plumb.report.patch.source_file import PARAMETERS

WANTED = Config(num_workers=2, prefetch_factor=4, persistent_workers=True)
UNTUNED = Config()
RUN = "plumb run script.py"
RUNNER = Path(__file__).with_name("apply_runner.py")


def planned(config, name="loader", site="script.py:1", batch_size=None, before=UNTUNED, trials=()):
    return LoaderResult(
        name=name,
        site=site,
        dataset="Tensor",
        batch_size=batch_size,
        baseline=Measured(before, 100.0, (90.0, 110.0)),
        tuned=Measured(config, 200.0, (190.0, 210.0)),
        predicted=Prediction(200.0, "cpu", {"cpu": 1.0}),
        trials=trials,
    )


def plan_of(*loaders):
    return Plan("script.py", {}, 1.0, 1.0, tuple(loaders))


def applied(folder, source, *loaders):
    """The source after its patch, and what was said with it."""
    script = folder / "script.py"
    script.write_bytes(source.encode())
    made = patch(plan_of(*loaders), script, folder, RUN)
    return next((file.after.decode() for file in made.files if file.path == script), source), made


def run_all(scripts, *words):
    """What torch was given for each loader of each script, a list of a path and its arguments."""
    done = subprocess.run(
        [sys.executable, str(RUNNER), *words], input=json.dumps(scripts), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CASES = {**SPELLED_OUT, **ELSEWHERE}


@pytest.fixture(scope="session")
def stories(once):
    """For each case: the script before and after its patch, what was said, and what its loaders were given each time.

    The plan has the names and sites that plumb itself sees when the scripts run.
    """
    return once("stories", _stories)


def _stories(folder):
    folders = {name: folder / name for name in CASES}
    for name, case in CASES.items():
        folders[name].mkdir()
        (folders[name] / "script.py").write_text(case.source)
    before = run_all([[str(folder / "script.py")] for folder in folders.values()], "construct")
    stories, runs = {}, []
    for (name, case), loaders in zip(CASES.items(), before, strict=True):
        sites = [
            planned(
                WANTED,
                loader["name"],
                loader["site"],
                loader["batch_size"],
                Config(loader["num_workers"], loader["prefetch_factor"], loader["persistent_workers"]),
            )
            for loader in loaders
        ]
        after, made = applied(folders[name], case.source, *sites)
        for file in made.files:
            file.write()
        stories[name] = {"after": after, "made": made, "plans": sites}
        runs.append(("loaders", name, [str(folders[name] / "script.py")]))
        if case.advice:
            followed = folders[name] / "followed.py"
            followed.write_text(after.replace(*case.follow) if case.follow else after)
            runs.append(("followed", name, [str(followed), *case.arguments]))
    given = run_all([words for _, _, words in runs])
    for (kind, name, _), loaders in zip(runs, given, strict=True):
        stories[name][kind] = loaders
    return stories


def as_planned(loader):
    return Config(loader["num_workers"], loader["prefetch_factor"], loader["persistent_workers"]) == WANTED


@pytest.mark.slow
@pytest.mark.parametrize("name", SPELLED_OUT)
def test_what_is_spelled_out_is_written_and_the_script_runs_with_it(name, stories):
    story = stories[name]
    assert story["loaders"]
    assert all(as_planned(loader) for loader in story["loaders"])
    assert story["made"].problems == ()
    assert not [line for line in story["made"].remarks if not line.startswith("persistent_workers=True (")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_comes_from_elsewhere_is_left_there_and_doing_what_is_said_gives_the_plan(name, stories):
    story = stories[name]
    said = [line for line in story["made"].remarks if not line.startswith("persistent_workers=True (")]
    assert len(said) == len(CASES[name].advice)
    for line, advice in zip(said, CASES[name].advice, strict=True):
        assert advice in line
    # The patched script runs even for a user who does nothing of what is said.
    assert not any(as_planned(loader) for loader in story["loaders"])
    assert all(as_planned(loader) for loader in story["followed"])


# All that the plan wants goes through something that the call only passes on.
UNTOUCHED = ("keywords_that_change", "keywords_of_the_function", "expression")


def without_arguments(source):
    """The syntax of a script, without the arguments of its loaders."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(r"DataLoader|DL|Quick|__init__|make", ast.unparse(node.func)):
            node.args, node.keywords = [], []
    return ast.dump(tree)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_diff_touches_only_the_arguments(name, stories):
    before, story = CASES[name].source, stories[name]
    lines = [line for file in story["made"].files for line in file.diff().splitlines()[2:] if line[0] in "+-"]
    assert lines or name in UNTOUCHED
    for line in lines:
        assert re.search(r"num_workers|prefetch|persist|DataLoader|DL|Quick|make|batch_size|shuffle|__init__", line)
    assert without_arguments(before) == without_arguments(story["after"])
    changed_lines = len(before.splitlines()) - sum(line[0] == "-" for line in lines)
    kept = [line for line in before.splitlines() if line in story["after"].splitlines()]
    assert len(kept) >= changed_lines


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_second_time_changes_nothing(name, stories, tmp_path):
    _, made = applied(tmp_path, stories[name]["after"], *stories[name]["plans"])
    assert made.files == ()


LAYOUTS = [
    (
        "loader = DataLoader(\n    data,\n    num_workers=1,  # a guess\n    shuffle=True,  # why\n)  # end\n",
        "loader = DataLoader(\n    data,\n    num_workers=2,  # a guess\n    shuffle=True,  # why\n"
        "    prefetch_factor=4,\n    persistent_workers=True,\n)  # end\n",
    ),
    (
        "loader = DataLoader(data,\n                    num_workers=1)\n",
        "loader = DataLoader(data,\n                    num_workers=2,\n                    prefetch_factor=4,\n"
        "                    persistent_workers=True)\n",
    ),
    (
        "loader = DataLoader(\n\tdata,\n\tnum_workers = 2  # last\n\t# below\n)\n",
        "loader = DataLoader(\n\tdata,\n\tnum_workers = 2,  # last\n\tprefetch_factor = 4,\n"
        "\tpersistent_workers = True\n\t# below\n)\n",
    ),
    (
        "loader = DataLoader(data,)\n",
        "loader = DataLoader(data, num_workers=2, prefetch_factor=4, persistent_workers=True,)\n",
    ),
    (
        "loader = DataLoader(data,num_workers=1,**{})\n",
        "loader = DataLoader(data,num_workers=2,**{})\n",
    ),
    (
        "loader = DataLoader(\r\n    data,\r\n)\r\n",
        "loader = DataLoader(\r\n    data,\r\n    num_workers=2,\r\n    prefetch_factor=4,\r\n"
        "    persistent_workers=True,\r\n)\r\n",
    ),
    (
        "if data:\n\tloader = DataLoader(data, batch_size=4, shuffle=False, drop_last=False)\n",
        "if data:\n\tloader = DataLoader(data, batch_size=4, shuffle=False, drop_last=False,\n"
        "\t                    num_workers=2,\n\t                    prefetch_factor=4,\n"
        "\t                    persistent_workers=True)\n",
    ),
]
IMPORT = "from torch.utils.data import DataLoader\n"


@pytest.mark.parametrize(("before", "after"), LAYOUTS)
def test_arguments_are_written_as_the_call_is(before, after, tmp_path):
    assert applied(tmp_path, IMPORT + before, planned(WANTED, site="script.py:2"))[0] == IMPORT + after


REMOVALS = [
    (
        "loader = DataLoader(\n    data,  # all\n    num_workers=4,\n    prefetch_factor=8,  # many\n"
        "    persistent_workers=True,\n)\n",
        "loader = DataLoader(\n    data,  # all\n    num_workers=0,\n)\n",
    ),
    (
        "loader = DataLoader(data, num_workers=4,  # some\n    persistent_workers=True)\n",
        "loader = DataLoader(data, num_workers=0  # some\n    )\n",
    ),
    (
        "loader = DataLoader(data, prefetch_factor=3, num_workers=4, multiprocessing_context='fork', timeout=5)\n",
        "loader = DataLoader(data, num_workers=0)\n",
    ),
    (
        "loader = DataLoader(data, 1, False, None, None, 4, None, False, False, 30, None, 'fork')\n",
        "loader = DataLoader(data, 1, False, None, None, 0, None, False, False, 0, None, None)\n",
    ),
]


@pytest.mark.parametrize(("before", "after"), REMOVALS)
def test_without_workers_goes_what_torch_takes_only_with_them(before, after, tmp_path):
    loader = planned(Config(), site="script.py:2", before=Config(4, 2))
    assert applied(tmp_path, IMPORT + before, loader)[0] == IMPORT + after


def test_what_torch_wants_together_waits_for_what_comes_from_elsewhere(tmp_path):
    source = IMPORT + "depth = 4\nloader = DataLoader(data, num_workers=2, prefetch_factor=depth)\n"
    after, made = applied(tmp_path, source, planned(Config(), site="script.py:3", before=Config(2, 4)))
    assert after == source
    assert "prefetch_factor comes from depth, assigned at script.py:2: take it out" in made.remarks[0]
    assert "num_workers=0" in made.remarks[1]


# ---- which call is meant


def test_a_loader_is_found_by_its_name_when_lines_have_moved(tmp_path):
    source = IMPORT + "\n\nval = DataLoader(data)\ntrain = DataLoader(data)\n"
    loaders = [planned(WANTED, "train", "script.py:4"), planned(Config(1, 2), "val", "script.py:3")]
    after, made = applied(tmp_path, source, *loaders)
    assert "train = DataLoader(data, num_workers=2" in after
    assert "val = DataLoader(data, num_workers=1)" in after
    assert made.problems == ()


def test_a_loader_with_another_name_is_the_only_one_left(tmp_path):
    source = IMPORT + "val = DataLoader(data)\n\ntraining = DataLoader(data)\n"
    loaders = [planned(WANTED, "train", "script.py:9"), planned(Config(), "val", "script.py:2")]
    assert "training = DataLoader(data, num_workers=2" in applied(tmp_path, source, *loaders)[0]


PROBLEMS = {
    "may be any of lines 2, 3": "a = DataLoader(data)\nb = DataLoader(data)\n",
    "no call that makes it": "loader = data\n",
    "has batch_size=8, the plan was made for 4": "loader = DataLoader(data, batch_size=8)\n",
    "positional arguments of its own": "from monai.data import FastLoader\nloader = FastLoader(data, 4)\n",
    "is not Python": "loader = DataLoader(\n",
    "nested too deeply": f"x = {'+'.join('1' * 600)}\nloader = DataLoader(data)\n",
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_where_it_is_not_clear_what_to_change_one_line_says_so(problem, tmp_path):
    source = IMPORT + PROBLEMS[problem]
    after, made = applied(tmp_path, source, planned(WANTED, site="script.py:9", batch_size=4))
    assert after == source
    assert [problem in line and "\n" not in line for line in made.problems] == [True]


def test_one_problem_does_not_keep_the_other_loaders_from_their_patch(tmp_path):
    source = IMPORT + "train = DataLoader(data)\n"
    after, made = applied(tmp_path, source, planned(WANTED, "train"), planned(WANTED, "gone", "lost.py:3"))
    assert "num_workers=2" in after
    assert "lost.py" in made.problems[0]


def test_two_loaders_of_one_call_must_agree(tmp_path):
    source = IMPORT + "def make(d):\n    return DataLoader(d)\na = make(1)\nb = make(2)\n"
    both = [planned(WANTED, "a", "script.py:3"), planned(Config(1, 2), "b", "script.py:3")]
    after, made = applied(tmp_path, source, *both)
    assert after == source
    assert "a and b are made by the same call (line 3)" in made.problems[0]
    after, made = applied(tmp_path, source, both[0], planned(WANTED, "b", "script.py:3"))
    assert "DataLoader(d, num_workers=2, prefetch_factor=4, persistent_workers=True)" in after


def test_one_flag_for_two_loaders_is_pointed_out(tmp_path):
    source = IMPORT + 'parser.add_argument("--workers", default=0)\nargs = parser.parse_args()\n'
    source += "a = DataLoader(1, num_workers=args.workers)\nb = DataLoader(2, num_workers=args.workers)\n"
    loaders = [planned(Config(2, 2), "a", "script.py:4"), planned(Config(1, 2), "b", "script.py:5")]
    _, made = applied(tmp_path, source, *loaders)
    assert [line for line in made.remarks if "a and b share --workers" in line and RUN in line]


def test_the_file_is_looked_for_below_the_script_but_not_in_packages(tmp_path):
    for folder in ("parts/deep", "env/lib/site-packages/parts", ".old"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "data.py").write_text(IMPORT + "loader = DataLoader(data)\n")
    _, made = applied(tmp_path, "import parts\n", planned(WANTED, site="data.py:2"))
    assert [file.path for file in made.files] == [tmp_path / "parts/deep/data.py"]
    (tmp_path / "parts/data.py").write_text(IMPORT + "loader = DataLoader(data)\n")
    _, made = applied(tmp_path, "import parts\n", planned(WANTED, site="data.py:2"))
    assert "may be made in any of" in made.problems[0]


# ---- what torch has no words for

BEYOND = [
    Config(2, 2, fetch_threads=16),
    Config(2, 2, cache=CacheChoice("decode", "memory", 1 << 20, 1.0)),
    Config(2, 2, deferred=("normalize",)),
    Config(2, 2, allocator_reuse=True),
    Config(2, 2, worker_torch_threads=4),
]


@pytest.mark.parametrize("config", BEYOND)
def test_a_part_of_a_configuration_is_not_written_for_the_whole(config, tmp_path):
    source = IMPORT + "loader = DataLoader(data)\n"
    after, made = applied(tmp_path, source, planned(config, site="script.py:2"))
    assert after == source
    assert str(config) in made.remarks[0]
    assert made.remarks[1].strip() == RUN


def test_the_best_that_was_measured_without_plumb_s_runtime_is_written(tmp_path):
    trials = (
        Trial(Config(1, 2), 1.0, 150.0, (120.0, 180.0), "measured"),
        Trial(Config(3, 2), 1.0, 160.0, (105.0, 190.0), "measured"),
        Trial(Config(2, 8), 1.0, 155.0, (140.0, 180.0), "measured"),
        Trial(Config(4, 2), None, None, None, "out of memory"),
        Trial(BEYOND[0], 1.0, 200.0, (190.0, 210.0), "measured"),
    )
    source = IMPORT + "loader = DataLoader(data)\n"
    after, made = applied(tmp_path, source, planned(BEYOND[0], site="script.py:2", trials=trials))
    assert "DataLoader(data, num_workers=2, prefetch_factor=8)" in after
    assert made.remarks[1].strip() == RUN


@pytest.mark.parametrize("config", BEYOND)
def test_the_plain_part_of_a_plan_is_written_and_what_the_rest_adds_is_said(config, tmp_path):
    plain = PlainMeasured(Config(2, 8), 150.0, (145.0, 155.0))
    source = IMPORT + "loader = DataLoader(data)\n"
    loader = dataclasses.replace(planned(config, site="script.py:2"), plain=plain)
    after, made = applied(tmp_path, source, loader)
    assert "DataLoader(data, num_workers=2, prefetch_factor=8)" in after
    assert made.problems == ()
    assert "num_workers=2, prefetch_factor=8, 1.50 times as fast as now" in made.remarks[0]
    assert f"all of {config}: 200 samples/s, 1.33 times as fast as that, with" in made.remarks[0]
    assert made.remarks[1].strip() == RUN


def test_where_plain_arguments_are_no_better_than_the_users_nothing_is_written(tmp_path):
    plain = PlainMeasured(UNTUNED, 100.0, (90.0, 110.0))
    source = IMPORT + "loader = DataLoader(data)\n"
    loader = dataclasses.replace(planned(BEYOND[1], site="script.py:2"), plain=plain)
    after, made = applied(tmp_path, source, loader)
    assert after == source
    assert "no arguments of torch's own were measured to be better than yours" in made.remarks[0]


# ---- properties

values = {
    "batch_size": st.sampled_from(["1", "4", "None"]),
    "shuffle": st.sampled_from(["True", "False"]),
    "num_workers": st.sampled_from(["0", "1", "3", "count", "counts['n']"]),
    "pin_memory": st.sampled_from(["False", "pin"]),
    "drop_last": st.just("False"),
    "prefetch_factor": st.sampled_from(["None", "2", "5"]),
    "persistent_workers": st.sampled_from(["True", "False"]),
    "timeout": st.sampled_from(["0", "7"]),
}
configs = st.builds(
    lambda workers, prefetch, persistent: Config(workers, prefetch if workers else None, persistent and workers > 0),
    st.integers(0, 3),
    st.sampled_from([2, 4]),
    st.booleans(),
)
gaps = st.sampled_from([" ", "", "\n    ", "  # a word\n    ", "\n    # above\n    ", "\n\n  "])


@st.composite
def calls(draw):
    """A call of DataLoader in any layout, that torch takes with the variables of HEAD."""
    given = {name: draw(value) for name, value in values.items() if draw(st.booleans())}
    if given.get("batch_size") == "None":
        given.pop("drop_last", None)
    if given.get("num_workers", "0") == "0":
        given = {k: v for k, v in given.items() if k not in ("prefetch_factor", "persistent_workers", "timeout")}
    order = draw(st.permutations(sorted(given)))
    equal = draw(st.sampled_from(["=", " = "]))
    words = ["data", *(f"{name}{equal}{given[name]}" for name in order)]
    if draw(st.booleans()) and not given.keys() - {"num_workers"}:
        words = ["data", "1", "False", "None", "None", given.get("num_workers", "0")]
    text = draw(st.sampled_from(["", "\n    ", "  # first\n    "]))
    for word in words[:-1]:
        text += word + "," + draw(gaps)
    text += words[-1] + draw(st.sampled_from(["", ",", "\n", ",\n", ",  # last\n", "  # last\n  "]))
    return f"DataLoader({text})"


HEAD = IMPORT + "data, count, counts, pin = [1] * 8, 2, {'n': 2}, False\n"
around = st.sampled_from(["", "\n\n", "x = (1,  2)\n", "def f( ):\n\treturn  'ä'\n", "# DataLoader(num_workers=3)\n"])


@pytest.mark.slow
@settings(max_examples=60)
@given(calls(), configs, around, around)
def test_any_call_becomes_what_the_plan_says_and_stays_so(tmp_path_factory, call, config, before, after):
    folder = tmp_path_factory.getbasetemp()
    head, tail = HEAD + before + "loader = ", "\n" + after
    source = head + call + tail
    loader = planned(config, site=f"script.py:{head.count(chr(10)) + 1}", before=Config(7, 2))
    patched, made = applied(folder, source, loader)
    assert made.problems == ()
    assert patched.startswith(head + "DataLoader(")
    assert patched.endswith(")" + tail)
    if config.num_workers:
        assert re.findall("#.*", source) == re.findall("#.*", patched)
    names = {}
    exec(patched, names)
    made_with = names["loader"]
    if "count" not in call:
        assert made_with.num_workers == config.num_workers
        assert made_with.persistent_workers == config.persistent_workers
        assert made_with.prefetch_factor == config.prefetch_factor
        assert made_with.timeout == 0 or config.num_workers
    else:
        assert ("num_workers comes from" in "".join(made.remarks)) == (config.num_workers != 2)
    assert applied(folder, patched, loader)[0] == patched


def test_positional_arguments_are_torch_s():
    from torch.utils.data import DataLoader

    parameters = inspect.signature(DataLoader.__init__).parameters.values()
    assert tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)[1:] == PARAMETERS


# ---- the command


@pytest.fixture
def apply(plumb, write, tmp_path):
    def apply(source, *words, config=WANTED, script="script.py"):
        plan.write(plan_of(planned(config, site="script.py:2")), tmp_path / "script.plumb.json")
        write("script.py", source)
        return plumb("apply", script, *words)

    return apply


LOADER = IMPORT + "loader = DataLoader(data)\n"


def test_the_diff_is_what_is_printed_and_git_takes_it(apply, tmp_path):
    ran = apply(LOADER.rstrip("\n"))
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert (tmp_path / "script.py").read_text() == LOADER.rstrip("\n")
    subprocess.run(["git", "apply", "-"], input=ran.out, text=True, cwd=tmp_path, check=True)
    assert "num_workers=2" in (tmp_path / "script.py").read_text()


def test_writing_keeps_permissions_and_links_and_says_so_in_one_line(apply, plumb, tmp_path):
    apply(LOADER)
    target = tmp_path / "script.py"
    target.chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    target.rename(tmp_path / "elsewhere" / "real.py")
    target.symlink_to("elsewhere/real.py")
    ran = plumb("apply", "--write", "script.py")
    assert (ran.code, ran.out) == (0, "plumb: wrote script.py\n")
    assert target.is_symlink()
    assert os.stat(target).st_mode & 0o777 == 0o755
    assert "num_workers=2" in target.read_text()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["real.py"]
    again = plumb("apply", "--write", "script.py")
    assert again.code == 0
    assert again.out.startswith("plumb: nothing to change")
    assert len(again.out.splitlines()) == 1


def test_a_terminal_gets_colours(apply, tmp_path):
    apply(LOADER)
    ours, theirs = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = [sys.executable, "-m", "plumb", "apply", "script.py"]
    subprocess.run(command, cwd=tmp_path, stdout=theirs, stderr=subprocess.DEVNULL, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "\x1b[32m+loader" in shown
    assert "\x1b[31m-loader" in shown


def test_a_plan_that_changes_nothing_says_so(apply):
    ran = apply(LOADER, config=Config())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "plumb: nothing to change: script.plumb.json keeps the script's own arguments\n"


def test_modules_and_plans_elsewhere(apply, plumb, tmp_path):
    apply(LOADER)
    (tmp_path / "script.plumb.json").rename(tmp_path / "other.json")
    ran = plumb("apply", "-m", "script", "--plan", "other.json", "--write")
    assert ran.out == "plumb: wrote script.py\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [(("none.py",), 2, "none.py"), ((), 2, "SCRIPT"), (("script.py", "--plan", "none.json"), 1, "plumb tune")],
)
def test_bad_input_gives_one_clear_line(words, code, message, plumb, write):
    write("script.py", LOADER)
    ran = plumb("apply", *words)
    assert ran.code == code
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_a_loader_that_is_gone_is_exit_code_1(apply):
    ran = apply("print()\n")
    assert ran.code == 1
    assert ran.err.startswith("plumb: loader (script.py:2): ")
    assert len(ran.err.splitlines()) == 1
