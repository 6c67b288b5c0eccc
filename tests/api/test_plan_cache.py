"""Kept plans: `@plumb.tuned` and `plumb.DataLoader` take one for the code and the flags that it was made for alone."""

import dataclasses

import pytest
from planned import STORE, WORKERS, run_tuning_itself, write

import plumb

# `report` prints how many different values sample 5 had in three epochs, and how many samples the last epoch has made.
PARTS = """
import os, sys
import torch
from torch.utils.data import DataLoader, Dataset
import plumb
made = []
# Not a state that samples change.
sys.addaudithook(lambda event, details: made.append(details[0]) if event == "sample" else None)
AUGMENT = "--augment" in sys.argv

def report(loader):
    seen = []
    for epoch in range(3):
        made.clear()
        seen += [tuple(row.tolist()) for x, i in loader for row, index in zip(x, i) if index == 5]
    print("distinct", len(set(seen)), "made", len(made))

@plumb.tuned
class Items(Dataset):
    def __init__(self, augment=False):
        # Processes share a store of the same samples: no other test's dataset has these.
        self.augment, self.folder = augment, os.getcwd()
    def __len__(self):
        return 8
    def __getitem__(self, index):
        sys.audit("sample", index)
        x = torch.full((4,), float(index))
        return (x + torch.randn(4) if self.augment else finish(x)), index

def finish(x):
    return x
"""
CHANGES = {
    "a helper": """
if AUGMENT:
    def finish(x):
        return x + torch.randn(4)
report(DataLoader(Items(), batch_size=4))
""",
    "a flag of the module": """
def finish(x):
    return x + torch.randn(4) if AUGMENT else x
report(DataLoader(Items(), batch_size=4))
""",
    "a flag of the dataset": "report(DataLoader(Items(AUGMENT), batch_size=4))",
    "a closure": """
def noise(scale):
    return lambda x: x + scale * torch.randn(4) if scale else x
finish = noise(float(AUGMENT))
report(DataLoader(Items(), batch_size=4))
""",
    "the collate function": """
def collate(samples):
    x, i = torch.utils.data.default_collate(samples)
    return (x + torch.randn(4) if AUGMENT else x), i
report(DataLoader(Items(), batch_size=4, collate_fn=collate))
""",
    "a helper, for a loader of plumb's": """
if AUGMENT:
    def finish(x):
        return x + torch.randn(4)
report(plumb.DataLoader(Items(), batch_size=4))
""",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_kept_plan_is_for_its_code_and_flags(name, tmp_path):
    write(tmp_path, {"train.py": PARTS + CHANGES[name]})
    first = run_tuning_itself(tmp_path, STORE)
    assert first.out == "distinct 1 made 0\n", first.err
    assert "tuning it once" in first.err
    again = run_tuning_itself(tmp_path, None)
    assert (again.out, again.err) == ("distinct 1 made 0\n", ""), "the plan is kept"
    other = run_tuning_itself(tmp_path, None, "--augment")
    assert other.out == "distinct 3 made 8\n"
    assert "not in this test" in other.err, "it has no plan"


LATER = {
    "a dataset's flag": ("dataset.augment = epoch == 1", "dataset.augment is True now, it was False"),
    "a helper": ("finish = noise if epoch == 1 else finish", "its samples now run noise"),
}


@pytest.mark.parametrize("kind", ["DataLoader", "plumb.DataLoader"])
@pytest.mark.parametrize("name", LATER)
def test_a_dataset_that_changes_between_epochs_leaves_its_plan(name, kind, tmp_path):
    change, says = LATER[name]
    code = f"""
def noise(x):
    return x + torch.randn(4)
dataset = Items()
loader = {kind}(dataset, batch_size=4)
for epoch in range(4):
    {change}
    made.clear()
    x = torch.cat([x for x, _ in loader])
    print(epoch, len(made), x[:, 0].tolist() == [float(i) for i in range(8)], loader.num_workers)
"""
    write(tmp_path, {"train.py": PARTS + code})
    ran = run_tuning_itself(tmp_path, STORE)
    steady = "True" if name == "a dataset's flag" else "False"
    assert ran.out == f"0 8 True 0\n1 8 False 0\n2 8 {steady} 0\n3 8 {steady} 0\n", ran.err
    assert says in ran.err.splitlines()[1]


def test_one_dataset_s_answer_is_not_another_s_with_other_flags(tmp_path):
    code = """
dataset = Items()
for augment in (False, True, False):
    dataset.augment = augment
    report(DataLoader(dataset, batch_size=4))
"""
    write(tmp_path, {"train.py": PARTS + code})
    ran = run_tuning_itself(tmp_path, STORE)
    assert ran.out.splitlines() == ["distinct 1 made 0", "distinct 3 made 8", "distinct 1 made 0"], ran.err


def test_a_loader_that_is_made_in_each_epoch_is_tuned_once_whatever_its_numbers_are(tmp_path):
    code = """
dataset = Items()
for epoch in range(3):
    dataset.augment = epoch
    loader = plumb.DataLoader(dataset, batch_size=4)
    list(loader)
    print(loader.num_workers)
"""
    write(tmp_path, {"train.py": PARTS + code})
    ran = run_tuning_itself(tmp_path, WORKERS)
    assert ran.out == "1\n1\n1\n"
    assert ran.err.count("tuning it once") == 1


def test_a_plan_object_is_for_the_code_and_flags_that_it_was_made_for(tmp_path):
    code = """
from plumb.api.in_process import tune_here
from plumb.instrument.call_site import Site
found = plumb.LoaderPlan(tune_here(DataLoader(Items(), batch_size=4), Site("train.py", 1, "Items"), None))
report(found.loader(Items()))
report(found.loader(Items(augment=True)))
"""
    write(tmp_path, {"train.py": PARTS + code})
    ran = run_tuning_itself(tmp_path, STORE)
    assert ran.out == "distinct 1 made 0\ndistinct 3 made 8\n", ran.err
    assert "dataset.augment is True, the plan was made for False" in ran.err


def test_a_kept_plan_that_was_found_to_be_unsafe_is_neither_used_nor_made_again(tmp_path, cache_home):
    write(tmp_path, {"train.py": PARTS + "loader = DataLoader(Items(), batch_size=4)\nreport(loader)\n"})
    run_tuning_itself(tmp_path, STORE)
    (file,) = (cache_home / "plumb" / "plans").iterdir()
    found = plumb.core.plan.read(file)
    entry = dataclasses.replace(found.loaders[0], unsafe="a stored sample was another")
    plumb.core.plan.write(dataclasses.replace(found, loaders=(entry,)), file)
    ran = run_tuning_itself(tmp_path, STORE)
    assert ran.out == "distinct 1 made 8\n"
    (line,) = ran.err.splitlines()
    assert "is not used any more: a stored sample was another; the loader runs as the script has it" in line
