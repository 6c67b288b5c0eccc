"""The page: what it says, that it keeps to itself, and what a real browser makes of it."""

import itertools
import json
from dataclasses import replace
from html import unescape

import example_plan
import pytest
from chromium import Text, needs_chromium, open_page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from plumb.model.timeline import timelines
from plumb.model.whatif import AssumedHost, forecast
from plumb.report.html.page import Modelled, page
from plumb.report.perfetto import trace_events
from plumb.tracing.stored_pipeline import from_node_link


@pytest.fixture(scope="module")
def traced():
    return example_plan.graph()


@pytest.fixture(scope="module")
def simulated():
    return timelines(example_plan.SITUATION, (example_plan.BEFORE, example_plan.AFTER))


@pytest.fixture(scope="module")
def html(traced, simulated):
    """A page of two loaders: one in a loop, and one without."""
    train = example_plan.loader_plan(traced)
    alone = example_plan.loader_plan(
        traced, name="val_loader", tuned=train.baseline, end_to_end=None, model=None, step_samples_per_second=None
    )
    search_space = example_plan.FREEDOM
    modelled = Modelled(simulated, forecast(example_plan.SITUATION, search_space, AssumedHost()))
    return page(example_plan.plan_of(train, alone), {"train_loader": modelled})


def read(html):
    text = Text()
    text.feed(html)
    return text


def test_it_says_the_answer_and_every_why(html, traced):
    text = read(html).text
    for words in ("205", "880", "4.29×", "yet your loop still waited for data 41% of its time", "plumb run train.py"):
        assert words in text
    for operator in from_node_link(traced).operators:
        assert operator.name in text
    for words in ("decode stored in memory", "random numbers are drawn", "no room: shared memory", "val_loader"):
        assert words in text
    assert "A simulation, not a recording" in text
    assert "Change num_workers to 2 and store what decode returns in memory: your loop 4.3 times as fast." in text
    assert "Leave it as it is: nothing that was tried is surely faster" in text


def test_waiting_for_other_ranks_has_its_part_where_there_are_some(html, traced):
    assert "waiting for other ranks" not in html
    shown = page(example_plan.plan_of(example_plan.among_ranks(traced)), {})
    assert shown.count('class="piece ranks"') == 3, "before, after, and the legend"
    assert "waiting for other ranks" in read(shown).text


def test_it_keeps_to_itself(html):
    seen = read(html)
    assert not {"script", "iframe", "img", "object"} & set(seen.tags)
    assert all(link.startswith(("#", "data:")) for link in seen.links)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in unescape(html)


def test_operators_show_what_the_plan_does_with_them(html):
    assert html.count('class="operator stored"') == 1
    assert 'class="operator skipped"' in html
    assert "random" in html


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1) | st.just(
    "</style><script>alert(1)</script>&amp;'\""
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words, words, words, words)
def test_what_a_plan_says_is_only_text(traced, name, note, script, operator):
    graph = json.loads(json.dumps(traced))
    graph["nodes"][1] |= {"name": operator, "location": note, "kind": "read"}
    train = example_plan.loader_plan(traced)
    tried = tuple(replace(trial, outcome=note) for trial in train.trials)
    told = example_plan.loader_plan(graph, name=name, site=note, dataset=name, notes=(note,), trials=tried)
    hostile = example_plan.plan_of(told, script=script, written_files=(note,), host={"cpu_model": name})
    plain = example_plan.plan_of(example_plan.loader_plan(traced), written_files=("a",), host={"cpu_model": "a"})
    seen, expected = read(page(hostile, {})), read(page(plain, {}))
    assert sorted(seen.tags) == sorted(expected.tags)
    for text in (name, note, script, operator):
        assert text in seen.text


@pytest.mark.parametrize("left_out", ["graph", "end_to_end", "step_samples_per_second", "sample", "cost", "model"])
def test_an_older_plan_s_page_is_a_page(traced, left_out):
    text = read(page(example_plan.plan_of(example_plan.loader_plan(traced, **{left_out: None})), {})).text
    assert "train_loader" in text
    assert "What was tried" in text


def test_a_plan_without_trials_or_bounds_or_host(traced):
    bare = example_plan.loader_plan(traced, trials=(), notes=(), rewrites=example_plan.Rewrites())
    bare = replace(bare, predicted=replace(bare.predicted, bounds={}, then=None, bottleneck="the moon"))
    text = read(page(example_plan.plan_of(bare, host={}), {})).text
    assert "the moon" in text
    assert "What was tried" not in text


@needs_chromium
def test_both_colour_schemes_are_drawn_without_a_word_on_the_console(html, tmp_path):
    backgrounds = {}
    for dark in (False, True):
        seen = open_page(html, tmp_path, dark=dark, width=1280)
        assert seen.console == []
        with Image.open(seen.picture) as picture:
            backgrounds[dark] = picture.convert("L").getpixel((2, 2))
    assert backgrounds[False] > 200
    assert backgrounds[True] < 60


@needs_chromium
def test_a_browser_runs_no_script_in_it(html, tmp_path):
    seen = open_page(html.replace("</body>", "<script>alert(1)</script></body>"), tmp_path, dark=False, width=700)
    assert "Content Security Policy" in seen.console[0]


@needs_chromium
@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_overlaps_sticks_out_or_is_cut(html, traced, tmp_path, width, dark):
    seen = open_page(html, tmp_path, dark=dark, width=width, probe=True)
    assert seen.console == []
    assert (seen.probe["scrolling"], seen.probe["cut"]) == (0, 0)
    assert seen.probe["page"] <= seen.probe["window"] == width
    operators = from_node_link(traced).operators
    assert all(operator.name in seen.probe["text"] for operator in operators)
    assert len(seen.probe["operators"]) == 2 * len(operators)
    for part in (*seen.probe["operators"], *seen.probe["rows"]):
        left, top, right, bottom = part["box"]
        for box in part["words"]:
            assert left - 1 <= box[0]
            assert top - 1 <= box[1]
            assert box[2] <= right + 1
            assert box[3] <= bottom + 1
        for one, other in itertools.combinations(part["words"], 2):
            beside = one[2] <= other[0] + 1 or other[2] <= one[0] + 1
            assert beside or one[3] <= other[1] + 2 or other[3] <= one[1] + 2


def test_a_trace_holds_every_operator_and_every_worker(traced, simulated):
    plan = example_plan.plan_of(example_plan.loader_plan(traced))
    events = json.loads(json.dumps(trace_events(plan, {"train_loader": simulated})))["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["name"] for event in slices} >= {node["name"] for node in traced["nodes"]}
    rows = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert rows == {"operators", "main process", "training step", "worker 1", "worker 2"}
    assert len({event["args"]["name"] for event in events if event["name"] == "process_name"}) == 3
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in slices)
    assert {event["ph"] for event in events} == {"X", "M"}
