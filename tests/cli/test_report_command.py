"""`plumb report`: a tuned script's plan on the screen, as a page, as a trace and as JSON."""

import json

import pytest

from plumb.core import plan
from plumb.core.config import Config

SCRIPT = """
import time
import torch
from torch.utils.data import DataLoader, Dataset


class Slow(Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, index):
        return self.augment(self.fetch(index)), index % 3

    def fetch(self, index):
        time.sleep(0.002)
        return torch.full((8,), float(index))

    def augment(self, row):
        return row + torch.rand(())


train_loader = DataLoader(Slow(), batch_size=8)
model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    for x, y in train_loader:
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
"""


@pytest.mark.slow
def test_a_tuned_script_s_report_in_every_form(plumb, write, tmp_path):
    write("train.py", SCRIPT)
    tuned = plumb("tune", "--budget", 8, "--max-workers", 2, "train.py")
    loop = tuned.loader("train_loader").end_to_end
    for shares, waiting in (
        (loop.baseline_shares, loop.baseline_waiting_share),
        (loop.tuned_shares, loop.tuned_waiting_share),
    ):
        assert shares.step == pytest.approx(1 - waiting)
        assert shares.step + shares.read + shares.compute + shares.transfer == pytest.approx(1)
    assert loop.baseline_shares.read > loop.baseline_shares.compute, "it sleeps"
    assert "reading" in tuned.out
    assert "--html report.html" in tuned.out

    shown = plumb("report", "train.plumb.json")
    assert shown.code == 0
    assert shown.out.replace(" ", "").replace("\n", "") in tuned.out.replace(" ", "").replace("\n", "")

    ran = plumb("report", "train.plumb.json", "--html", "out.html", "--perfetto", "trace.json", "--json")
    assert ran.code == 0, ran.err
    assert plan.decode(ran.out.encode()) == tuned.plan
    page = (tmp_path / "out.html").read_text()
    for words in ("train_loader", "fetch", "The workers at work", "What would help next"):
        assert words in page
    names = {event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"fetch", "steps", "computes"} <= names


@pytest.fixture
def written(plumb, tmp_path):
    def put(**changes):
        (tmp_path / "train.plumb.json").write_bytes(plan.encode(plan.Plan("train.py", {}, 1.0, 1.0, (), **changes)))

    return put


def test_a_page_that_can_t_be_written_is_one_line(plumb, written):
    written()
    ran = plumb("report", "train.plumb.json", "--html", "no/folder/out.html")
    assert ran.code == 1
    assert ran.err == "plumb: no/folder/out.html: cannot be written (no such file or directory)\n"


@pytest.mark.parametrize("form", [[], ["--html", "out.html"], ["--json"]])
def test_what_is_no_plan_is_one_line(plumb, tmp_path, form):
    (tmp_path / "train.plumb.json").write_text("{}")
    ran = plumb("report", "train.plumb.json", *form)
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert "Tune again" in ran.err


@pytest.mark.parametrize("form", [[], ["--html", "out.html"], ["--perfetto", "out.json"]])
@pytest.mark.parametrize("damaged", ["graph", "model"])
def test_a_damaged_part_is_one_line(plumb, tmp_path, form, damaged):
    config = plan.Measured(Config(), 1.0, (1.0, 1.0))
    predicted = plan.Prediction(1.0, "step", {}, {"step": 1.0})
    loop = plan.EndToEnd(1.0, 1.0, (1.0, 1.0), (1.0, 1.0), 0.0, 0.0)
    loader = plan.LoaderResult("a", "b", "c", 1, config, config, predicted, end_to_end=loop, **{damaged: {"nodes": 3}})
    plan.write(plan.Plan("train.py", {}, 1.0, 1.0, (loader,)), tmp_path / "train.plumb.json")
    ran = plumb("report", "train.plumb.json", *form)
    if damaged == "model" and not form:
        assert ran.code == 0, "the screen does not need it"
    else:
        assert ran.code == 1
        assert len(ran.err.splitlines()) == 1
        assert "Tune again" in ran.err
