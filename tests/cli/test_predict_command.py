"""`plumb predict`: what-ifs from a plan file alone."""

import json
import re

import pytest

from plumb.core import plan
from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Measured, Plan, SampleCost
from plumb.host import Limits
from plumb.model import resource_bounds
from plumb.model.inputs import Footprint, ModelInputs, SearchSpace
from plumb.model.serialization import to_plain

COST = SampleCost(2e-3, 2e-3, 0.0, 1e-5, 6e5, 0.03)
SITUATION = ModelInputs(COST, COST, Footprint(4e7, 2, 5e7, 3e8, 30), Limits(cpus=2, memory_bytes=8e9), 5000.0)


@pytest.fixture
def written(tmp_path):
    def write(**changes):
        config = Config(2, 2)
        loader = LoaderResult(
            name="train_loader",
            site="train.py:5",
            dataset="Numbers",
            batch_size=64,
            baseline=Measured(Config(), 400.0, (390.0, 410.0)),
            tuned=Measured(config, 900.0, (890.0, 910.0)),
            predicted=resource_bounds.predict(SITUATION, config),
            **{"model": to_plain(SITUATION, SearchSpace(tuple(range(5)))), **changes},
        )
        plan.write(Plan("train.py", {}, 1.0, 1.0, (loader,)), tmp_path / "train.plumb.json")

    return write


def test_it_says_what_binds_what_binds_next_and_what_to_buy(plumb, written):
    written()
    ran = plumb("predict", "train.plumb.json")
    assert ran.code == 0, ran.err
    assert "What limits it is the CPU" in ran.out
    assert "What would limit it next is" in ran.out
    assert re.search(r"Buy more cores \(twice gives [0-9,.]+ samples/s, with [0-9]+ workers\)", ran.out)


def test_another_host_changes_the_answer(plumb, written):
    written()
    ran = plumb("predict", "--cpus", 32, "--memory", "64GiB", "--step-rate", 3000, "train.plumb.json")
    assert ran.code == 0, ran.err
    assert "Buy nothing for the data: the training step limits the loop" in ran.out
    assert "900 samples/s, measured" in ran.out


def test_json_is_the_answer_and_nothing_else(plumb, written):
    written()
    answer = json.loads(plumb("predict", "--json", "--cpus", 1, "train.plumb.json").out)["train_loader"]
    assert answer["prediction"]["bottleneck"] == "cpu"
    assert answer["best"]["config"]["num_workers"] >= 1
    assert answer["purchases"][0]["what"] == "cores"


def test_a_host_too_small_for_anything_names_the_limit(plumb, written):
    written()
    ran = plumb("predict", "--memory", "1MiB", "train.plumb.json")
    assert ran.code == 0
    assert "memory" in ran.out
    assert "fits" in ran.out


@pytest.mark.parametrize("model", [None, {"situation": 3}])
def test_a_plan_without_what_the_model_needs_gives_one_line(plumb, written, model):
    written(model=model)
    ran = plumb("predict", "train.plumb.json")
    assert ran.code == 1
    assert "Tune again" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_on_its_own_host_the_plan_is_the_answer(plumb, written):
    written()
    ran = plumb("predict", "train.plumb.json")
    assert "best  2 workers, prefetch 2" in ran.out
    assert "which is what you have" in " ".join(ran.out.split())


def test_a_table_of_cores_is_printed_and_in_the_json(plumb, written):
    written()
    lines = [line.split() for line in plumb("predict", "train.plumb.json").out.splitlines()]
    (start,) = (number for number, words in enumerate(lines) if words[:1] == ["CPUs"])
    assert [words[0] for words in lines[start + 1 : start + 5]] == ["4", "8", "16", "32"]
    rows = json.loads(plumb("predict", "--json", "--cpus", 3, "train.plumb.json").out)["train_loader"]["over_cores"]
    assert [row["cpus"] for row in rows] == [4, 8, 16, 32]
    assert all(row["config"]["num_workers"] and row["limited_by"] in ("cpu", "step") for row in rows)
    rates = [row["samples_per_second"] for row in rows]
    assert rates == sorted(rates)


def test_the_sentences_never_contradict_each_other(plumb, written):
    written()
    for words in ([], ["--cpus", 16], ["--cpus", 64, "--step-rate", 1e6], ["--step-rate", 10], ["--cpus", 0.5]):
        text = " ".join(plumb("predict", *words, "train.plumb.json").out.split())
        assert ("Buy nothing for the data" in text) == ("What limits it is the training step" in text)
        assert not ("Buy nothing" in text and "more of them would help" in text)
        assert ("Buy more cores" in text) <= ("What limits it is the CPU" in text)


@pytest.mark.parametrize("command", ["predict", "tune"])
def test_a_size_without_a_unit_is_refused_with_what_to_write(plumb, written, command):
    written()
    ran = plumb(command, "--memory", 64, "train.plumb.json")
    assert ran.code == 2
    assert ran.err.splitlines()[-1].endswith("64 has no unit: write 64GiB, 64MiB or 64B")
    assert ran.out == ""


@pytest.mark.parametrize("option", ["--cpus", "--step-rate", "--memory"])
@pytest.mark.parametrize("number", ["nan", "inf", "0", "1e300"])
def test_a_number_that_can_t_be_meant_is_not_blamed_on_the_plan(plumb, written, option, number):
    written()
    ran = plumb("predict", option, number, "train.plumb.json")
    assert ran.code == 2
    assert f"Invalid value for '{option}'" in ran.err
    assert "Tune again" not in ran.err
