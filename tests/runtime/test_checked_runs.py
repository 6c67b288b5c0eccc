"""Scripts on plans that are wrong for them: they train as without a plan, and the plan is marked."""

import json
import random
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from plumb.core import plan
from plumb.core.config import CacheChoice, Config, Cut, Rewrites
from plumb.core.plan import LoaderResult, Measured, Plan, Prediction
from plumb.core.plan_marks import mark_unsafe
from plumb.host.forked_trial import ChildOutcome
from plumb.instrument.rng_state import generator_states
from plumb.runtime.checks import running_checks
from plumb.runtime.plain_batches import BatchVersion
from plumb.runtime.planned_loader import PlannedLoader
from plumb.runtime.replay.sample_code import code_of_samples
from tests.parts.planned import STORE, plan_of, run_on

LINES = "plumb: "


def script(folder, code):
    (folder / "train.py").write_text(textwrap.dedent(code))


MINORITY = """
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

class Items(Dataset):
    def __init__(self):
        self.labels = [int(i % 100 == 77) for i in range(200)]

    def __len__(self):
        return 200

    def __getitem__(self, i):
        x = torch.from_numpy(np.sort(np.random.default_rng(i).random(64, dtype=np.float32)))
        if self.labels[i]:
            x = x + 0.1 * torch.randn(64)
        return x, self.labels[i], i

torch.manual_seed(0)
loader = DataLoader(Items(), batch_size=16, shuffle=True)
seen = []
for epoch in range(3):
    for x, y, i in loader:
        seen += [round(float(v), 6) for v, k in zip(x[:, 0], i) if k == 77]
print("distinct", len(set(seen)), seen, torch.rand(()).item())
"""


def test_a_minority_that_is_augmented_is_augmented_anew_in_each_epoch(tmp_path):
    script(tmp_path, MINORITY)
    plain = run_on(None, tmp_path)
    ran = run_on(plan_of(tmp_path, STORE), tmp_path)
    assert ran.out == plain.out
    assert ran.out.startswith("distinct 3")
    assert ran.err == ""


SECRETS = """
import secrets
import torch
from torch.utils.data import DataLoader, Dataset

class Items(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        # What no generator shows: each making of the last samples is another.
        return torch.full((8,), float(i)) + (secrets.randbelow(2**20) if i >= 60 else 0), i

loader = DataLoader(Items(), batch_size=8)
seen = [float(x[-1, 0]) for epoch in range(3) for x, i in loader if 63 in i]
print("distinct", len(set(seen)))
"""


def test_samples_that_are_drawn_past_all_generators_end_the_store_where_they_are_checked(tmp_path):
    script(tmp_path, SECRETS)
    planned = plan_of(tmp_path, STORE)
    ran = run_on(planned, tmp_path, PLUMB_CHECK="1")
    assert ran.out == "distinct 3\n"
    assert "batch 8 of epoch 1 can't be proven equal to" in ran.err
    assert "runs as the script has it" in ran.err


HIDDEN = {"step": 0}


class Steps(Dataset):
    """Samples that a table changes which no look at the dataset leads to."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.tensor(float(index) + vars(sys.modules[__name__])["HID" + "DEN"]["step"])


OWN = Config()


def planned_for(dataset, config, folder):
    """A loader's plan, as read from its file."""
    cut = Cut("sample", (), (), code_of_samples(dataset))
    rate = (1.0, 1.0)
    own, better = Measured(OWN, 100.0, rate), Measured(config, 200.0, rate)
    entry = LoaderResult(
        "loader", "train.py:1", "Steps", 8, own, better, Prediction(1.0, "cpu", {}), rewrites=Rewrites((cut,))
    )
    place = folder / "train.plumb.json"
    plan.write(Plan("train.py", {}, 1.0, 1.0, (entry,)), place)
    return plan.read(place).loaders[0], place


@pytest.fixture
def said(monkeypatch):
    monkeypatch.setattr(running_checks, "_say_at_the_end", lambda: None)
    monkeypatch.setattr(running_checks, "tallies", [])
    return []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_that_is_wrong_from_its_first_batch_on_is_never_delivered_from(workers, monkeypatch, tmp_path, said):
    monkeypatch.setattr("plumb.runtime.store.dataset_store.fingerprint_of_part", lambda *_: ("0123456789", False))
    cache = CacheChoice("sample", "disk", 2**22, 1.0, str(tmp_path / "stores"))
    config = Config(workers, 2 if workers else None, bool(workers), cache=cache)
    dataset = Steps()
    entry, place = planned_for(dataset, config, tmp_path)

    def epochs(step):
        monkeypatch.setitem(HIDDEN, "step", step)
        # As in another run.
        monkeypatch.setattr(running_checks, "_histories", {})
        loader = DataLoader(dataset, batch_size=8)
        planned = PlannedLoader(loader, entry, OWN)
        return [
            [batch.tolist() for batch in planned.start_unseen(loader, loader.__iter__, said.append)] for _ in range(2)
        ]

    plain = [torch.arange(8.0 * start, 8.0 * start + 8).tolist() for start in range(4)]
    assert epochs(0) == [plain, plain]
    assert said == []
    assert epochs(1) == [[[value + 1 for value in batch] for batch in plain]] * 2
    assert len(said) == 1
    assert "loader (train.py:1): batch 1 of epoch 1 differs" in said[0]
    assert "the store of values after sample" in said[0]
    assert "it was not delivered" in said[0]
    assert [(tally.equal, tally.differing) for tally in running_checks.tallies] == [(3, 0), (0, 1)]
    # The next run does not use the entry, nor does another use the store.
    marked = json.loads(place.read_text())["loaders"][0]
    assert "batch 1 of epoch 1 differs" in marked["unsafe"]
    assert any("Not used any more" in note for note in marked["notes"])
    assert plan.read(place).loaders[0].unsafe == marked["unsafe"]
    (store,) = (tmp_path / "stores").rglob("ended")
    assert not (store.parent / "data.mdb").exists()


def noisy(samples):
    return torch.stack(samples) + torch.rand(len(samples)) + np.random.random() + random.random()


def test_after_a_difference_random_numbers_are_those_of_the_script(monkeypatch, tmp_path, said):
    """The batch that was not delivered has drawn them once already."""
    dataset = Steps()
    cache = CacheChoice("sample", "disk", 2**22, 1.0, str(tmp_path / "stores"))
    entry, _ = planned_for(dataset, Config(cache=cache), tmp_path)

    def train(start):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        seen = []
        for step in range(3):
            monkeypatch.setitem(HIDDEN, "step", step)
            seen += [batch.tolist() for batch in start()]
            seen.append(torch.rand(1).item())
        return seen, generator_states([])

    loader = DataLoader(dataset, batch_size=8, shuffle=True, collate_fn=noisy)
    expected = train(lambda: iter(loader))
    planned = PlannedLoader(loader, entry, OWN)
    trained = train(lambda: planned.start_unseen(loader, loader.__iter__, said.append))
    assert "batch 1 of epoch 2 differs" in said[0]
    assert trained == expected


def test_loaders_that_are_made_anew_for_each_epoch_are_checked_as_one(monkeypatch, tmp_path, said):
    """And none of them runs on a plan that was wrong for another."""
    dataset = Steps()
    entry, place = planned_for(dataset, Config(1, 2), tmp_path)

    def epoch(entry):
        loader = DataLoader(dataset, batch_size=8)
        batches = list(PlannedLoader(loader, entry, OWN).start_unseen(loader, loader.__iter__, said.append))
        assert torch.cat(batches).tolist() == list(range(32))

    for _ in range(4):
        epoch(entry)
    (tally,) = running_checks.tallies
    assert tally.checked == tally.equal <= 4, "the first two, the first of the second epoch, and what cost allows"
    wrong = ChildOutcome(value=[BatchVersion(b"other", {})] * 2)
    monkeypatch.setattr(running_checks.PlainBatches, "in_child", lambda *arguments, **more: wrong)
    monkeypatch.setenv("PLUMB_CHECK", "1")
    monkeypatch.setattr(running_checks, "_histories", {})
    for _ in range(3):
        epoch(plan.read(place).loaders[0])
    assert (running_checks.tallies[-1].checked, running_checks.tallies[-1].differing) == (1, 1)
    assert len(set(said)) == 1


def test_a_mark_leaves_other_entries_other_keys_and_other_files_alone(tmp_path, capfd):
    entry, place = planned_for(Steps(), OWN, tmp_path)
    data = json.loads(place.read_text())
    data["loaders"].append({**data["loaders"][0], "name": "other"})
    data["of a later plumb"] = [1]
    place.write_text(json.dumps(data))
    mark_unsafe(entry, "it is wrong")
    now = json.loads(place.read_text())
    assert now["of a later plumb"] == [1]
    assert [loader.get("unsafe", "") for loader in now["loaders"]] == ["it is wrong", ""]
    # Tuned again meanwhile, for something else.
    place.write_text(json.dumps({**data, "loaders": data["loaders"][1:]}))
    mark_unsafe(entry, "it is wrong")
    assert "it is wrong" not in place.read_text()
    place.write_text("{")
    mark_unsafe(entry, "it is wrong")
    place.unlink()
    mark_unsafe(entry, "it is wrong")
    assert "can't be marked" in capfd.readouterr().err
