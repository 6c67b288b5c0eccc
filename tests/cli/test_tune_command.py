"""`plumb tune` on whole scripts, in processes of their own: what is found, chosen and why, and what is left alone."""

import json
import subprocess
import sys

import optuna
import pytest
from script_parts import LOOP, PREAMBLE

from plumb.core.plan import decode

# Each is a way in which real scripts make and use their loaders; the training loader's name comes first.
KINDS = {
    "positional arguments": ("loader", "loader = DataLoader(Numbers(), 8, True)" + LOOP.format(loader="loader")),
    "a subclass with a signature of its own": (
        "train_loader",
        """
class FolderLoader(DataLoader):
    def __init__(self, folder, size, **kwargs):
        super().__init__(Numbers(), batch_size=size, **kwargs)
train_loader = FolderLoader("somewhere", 8, shuffle=True)
"""
        + LOOP.format(loader="train_loader"),
    ),
    "an infinite loader whose constructor starts it": (
        "train_loader",
        """
class Repeat:
    def __init__(self, sampler):
        self.sampler = sampler
    def __len__(self):
        return len(self.sampler)
    def __iter__(self):
        while True:
            yield from iter(self.sampler)
class InfiniteLoader(DataLoader):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "batch_sampler", Repeat(self.batch_sampler))
        self.iterator = super().__iter__()
    def __len__(self):
        return len(self.batch_sampler.sampler)
    def __iter__(self):
        for _ in range(len(self)):
            yield next(self.iterator)
train_loader = InfiniteLoader(Numbers(), batch_size=8, num_workers=1)
"""
        + LOOP.format(loader="train_loader"),
    ),
    "functools.partial": (
        "train_loader",
        "make = functools.partial(DataLoader, batch_size=8)\ntrain_loader = make(Numbers())"
        + LOOP.format(loader="train_loader"),
    ),
    "a factory, named by its caller": (
        "loader",
        """
def build(dataset):
    return DataLoader(dataset, batch_size=8, shuffle=True)
def main():
    loader = build(Numbers())
    for x, y in loader:
        train_step(x, y)
main()
""",
    ),
    "a dictionary of loaders": (
        "loaders['train']",
        """
loaders = {
    "train": DataLoader(Numbers(), batch_size=8, shuffle=True),
    "val": DataLoader(Numbers(), batch_size=8),
}
"""
        + LOOP.format(loader="loaders['train']"),
    ),
    "rebuilt every epoch": (
        "loader",
        """
while True:
    loader = DataLoader(Numbers(), batch_size=8, shuffle=True)
    for i, (x, y) in enumerate(loader):
        train_step(x, y)
        if i == 3:
            break
""",
    ),
    "a while loop over iter and next": (
        "loader",
        """
loader = DataLoader(Numbers(), batch_size=8)
batches = iter(loader)
while True:
    try:
        x, y = next(batches)
    except StopIteration:
        batches = iter(loader)
        continue
    train_step(x, y)
""",
    ),
    "a thread that fetches ahead": (
        "loader",
        """
loader = DataLoader(Numbers(), batch_size=8)
ahead = queue.Queue(2)
def fetch():
    while True:
        for batch in loader:
            ahead.put(batch)
threading.Thread(target=fetch, daemon=True).start()
while True:
    train_step(*ahead.get())
""",
    ),
    "gradient accumulation": (
        "loader",
        """
loader = DataLoader(Numbers(), batch_size=4)
for i, (x, y) in enumerate(itertools.chain.from_iterable(itertools.repeat(loader))):
    nn.functional.cross_entropy(model(x), y).backward()
    if i % 100 == 99:
        optimizer.step()
""",
    ),
    "a bare except around every step": (
        "loader",
        """
loader = DataLoader(Numbers(), batch_size=8)
while True:
    try:
        for x, y in loader:
            train_step(x, y)
    except:
        pass
""",
    ),
    "batches made by the dataset": (
        "loader",
        """
class Batches(Numbers):
    def __getitem__(self, index):
        return torch.zeros(8, 8), torch.zeros(8, dtype=torch.long)
loader = DataLoader(Batches(), batch_size=None)
"""
        + LOOP.format(loader="loader"),
    ),
    "batches of varying length": (
        "loader",
        "loader = DataLoader(Numbers(), batch_sampler=[[1, 2, 3], [4], [5, 6]])" + LOOP.format(loader="loader"),
    ),
    "a dictionary that the loop takes apart": (
        "loader",
        """
def collate(samples):
    return {"inputs": torch.stack([x for x, _ in samples]), "labels": torch.tensor([y for _, y in samples])}
loader = DataLoader(Numbers(), batch_size=8, collate_fn=collate)
while True:
    for batch in loader:
        labels = batch.pop("labels")
        train_step(batch.pop("inputs"), labels)
""",
    ),
    "a check of the validation loader first": (
        "train_loader",
        """
train_loader = DataLoader(Numbers(), batch_size=8, shuffle=True)
val_loader = DataLoader(Numbers(32), batch_size=8)
def evaluate():
    with torch.no_grad():
        for x, y in val_loader:
            model(x)
evaluate()
for epoch in range(1000):
    for x, y in train_loader:
        train_step(x, y)
    evaluate()
""",
    ),
    "a dataset that gets its transform late": (
        "loader",
        """
class Late(Numbers):
    transform = None
    def __getitem__(self, index):
        return self.transform(super().__getitem__(index))
dataset = Late()
loader = DataLoader(dataset, batch_size=8)
dataset.transform = lambda sample: sample
"""
        + LOOP.format(loader="loader"),
    ),
    "two loaders zipped": (
        "labelled",
        """
labelled = DataLoader(Numbers(), batch_size=8, shuffle=True)
unlabelled = DataLoader(Numbers(128), batch_size=8, shuffle=True)
while True:
    for (x, y), _ in zip(labelled, unlabelled):
        train_step(x, y)
""",
    ),
}


# Each is a tuning of some seconds.
_KINDS_EACH_NIGHT = (
    "functools.partial",
    "a factory, named by its caller",
    "gradient accumulation",
    "batches of varying length",
    "a dictionary that the loop takes apart",
    "a dataset that gets its transform late",
    "a while loop over iter and next",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=pytest.mark.nightly) if name in _KINDS_EACH_NIGHT else name for name in KINDS]
)
def test_the_training_loader_is_found_by_its_name_and_tuned(kind, plumb, write):
    name, code = KINDS[kind]
    write("train.py", PREAMBLE + code)
    ran = plumb("tune", "--budget", 2, "train.py")
    assert ran.code == 0, ran.err
    found = ran.loader(name)
    assert found.site.startswith("train.py:")
    assert ran.plan.loaders[0] is found, "the training loader is tuned first"
    assert found.end_to_end is not None, "and through its own loop"
    assert found.baseline.samples_per_second > 0
    assert "Traceback" not in ran.err


SIMPLE = """
def child():
    other_loader = DataLoader(Numbers(16), batch_size=8)
    for x, y in other_loader:
        pass
    os._exit(7 if type(iter(other_loader)).__module__.startswith("plumb") else 0)
import sibling
print("argv", sys.argv, "name", __name__, "file", __file__, "path0", sys.path[0], "cwd", os.getcwd())
print("main", sys.modules["__main__"].__dict__ is globals(), "lr", os.environ.get("OMP_NUM_THREADS"))
pid = os.fork()
if not pid:
    child()
print("child", os.waitpid(pid, 0)[1])

marked_loader = DataLoader(Numbers(), batch_size=8)
"""


def _simple(folder):
    """The folder, all that is printed, and the plan: of a script in a folder below, whose report goes to a file."""
    (folder / "sub").mkdir()
    (folder / "sub" / "sibling.py").write_text("VALUE = 42")
    (folder / "sub" / "train.py").write_text(PREAMBLE + SIMPLE + LOOP.format(loader="marked_loader"))
    command = [sys.executable, "-m", "plumb", "tune", "--budget", "1", "sub/train.py", "--lr", "0.1", "--budget", "9"]
    with open(folder / "report.txt", "w") as report:
        subprocess.run(command, cwd=folder, stdout=report, stderr=report, check=True)
    return folder, (folder / "report.txt").read_text(), decode((folder / "train.plumb.json").read_bytes())


@pytest.fixture
def simple(once):
    return once("tune_simple", _simple)


@pytest.mark.slow
def test_the_site_is_the_line_of_the_construction(simple):
    _, _, plan = simple
    lines = (PREAMBLE + SIMPLE).splitlines()
    line = 1 + next(number for number, text in enumerate(lines) if text.startswith("marked_loader"))
    assert plan.loaders[0].name == "marked_loader"
    assert plan.loaders[0].site == f"train.py:{line}"
    assert plan.loaders[0].dataset == "Numbers"
    assert plan.loaders[0].batch_size == 8


def test_where_the_report_goes_is_not_taken_for_the_script_s(simple):
    _, text, _ = simple
    assert "marked_loader  train.py:" in text
    assert "The script wrote" not in text


def test_loaders_of_child_processes_are_left_alone(simple):
    _, text, plan = simple
    assert "child 0\n" in text
    assert [found.name for found in plan.loaders] == ["marked_loader"]


def test_the_script_finds_itself_as_python_would_have_started_it(simple):
    folder, text, _ = simple
    expected = (
        f"argv ['sub/train.py', '--lr', '0.1', '--budget', '9'] name __main__ file {folder}/sub/train.py "
        f"path0 {folder}/sub cwd {folder}"
    )
    assert expected in text
    assert "main True" in text


@pytest.mark.slow
def test_waiting_samples_get_workers_and_the_loop_confirms_it_in_a_study(plumb, write, tmp_path):
    # Waiting for far longer than a busy machine takes for a step, lest the step be what decides.
    code = "train_loader = DataLoader(Numbers(2000, seconds=0.01), batch_size=16, shuffle=True)"
    write("train.py", PREAMBLE + code + LOOP.format(loader="train_loader"))
    ran = plumb("tune", "--budget", 20, "--no-cache", "--study", "sqlite:///study.db", "train.py")
    found = ran.loader("train_loader")
    assert found.baseline.config.num_workers == 0
    at_once = max(found.tuned.config.num_workers, 1) * found.tuned.config.fetch_threads
    assert at_once > 2, f"of samples that wait, more are made at once than there are cores: {found.notes}"
    assert found.tuned.interval[0] > found.baseline.interval[1]
    assert found.end_to_end.tuned_interval[0] > found.end_to_end.baseline_interval[1]
    assert found.sample.wait_seconds > found.sample.cpu_seconds
    assert any(trial.config == found.tuned.config for trial in found.trials)
    assert found.predicted.then is None or found.predicted.then in found.predicted.bounds
    assert 0 < found.cost.seconds < ran.plan.tuning_seconds
    assert found.cost.samples > 0
    assert found.cost.cpu_seconds > 0
    assert "training steps pay that back" in ran.out
    assert plumb("predict", "--cpus", 64, "train.plumb.json").code == 0
    assert "plumb run train.py" in ran.out
    assert "Traceback" not in ran.err
    assert (tmp_path / "study.db").exists()
    assert not any("study.db" in file for file in ran.plan.written_files), "it is no file of the script's"
    assert optuna.get_all_study_names(f"sqlite:///{tmp_path}/study.db")[0].startswith("train:train_loader [")


@pytest.mark.slow
def test_a_loop_that_does_not_wait_is_left_as_it_is(plumb, write):
    code = """
loader = DataLoader(Numbers(seconds=0.0), batch_size=1)
while True:
    for x, y in loader:
        train_step(x, y)
        time.sleep(0.3)
"""
    write("train.py", PREAMBLE + code)
    ran = plumb("tune", "--budget", 8, "train.py")
    found = ran.loader("loader")
    assert found.tuned.config == found.baseline.config
    assert any("nothing to gain" in note for note in found.notes)
    assert [trial.config for trial in found.trials] == [found.baseline.config], "nothing else needs to be tried"
    assert "Leave it as it is: your loop waits for data " in ran.out


@pytest.mark.slow
def test_an_iterable_dataset_keeps_its_worker_count(plumb, write):
    code = """
class Stream(IterableDataset):
    def __iter__(self):
        for index in range(64):
            time.sleep(0.002)
            yield torch.full((8,), float(index)), index % 3
loader = DataLoader(Stream(), batch_size=8)
"""
    write("train.py", PREAMBLE + code + LOOP.format(loader="loader"))
    ran = plumb("tune", "--budget", 4, "train.py")
    found = ran.loader("loader")
    assert {trial.config.num_workers for trial in found.trials} == {0}
    assert any("iterable" in note for note in found.notes)


SHARDED = """
class Stream(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, 96, step):
            time.sleep(0.004)
            yield torch.full((8,), float(index)), index % 3
loader = DataLoader(Stream(), batch_size=8)
"""


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [False, True])
def test_an_iterable_dataset_that_shards_itself_gets_workers_only_where_the_order_may_change(allowed, plumb, write):
    write("train.py", PREAMBLE + SHARDED + LOOP.format(loader="loader"))
    ran = plumb("tune", "--budget", 24, *["--allow-reorder"] * allowed, "train.py")
    found = ran.loader("loader")
    assert any("the same samples in another order" in note for note in found.notes), found.notes
    assert any("--allow-reorder would" in note for note in found.notes) is not allowed
    tried = {trial.config.num_workers for trial in found.trials if trial.outcome != "measured, to calibrate"}
    may_be_tried = set(found.model["freedom"]["num_workers"])
    assert tried <= may_be_tried
    # One worker alone delivers in the order in which none does.
    assert (max(may_be_tried) > 1) is allowed


@pytest.mark.slow
@pytest.mark.nightly
def test_a_validation_loader_that_is_not_reached_is_tuned_on_its_own(plumb, write):
    code = """
train_loader = DataLoader(Numbers(), batch_size=8, shuffle=True)
val_loader = DataLoader(Numbers(32), batch_size=8)
"""
    write("train.py", PREAMBLE + code + LOOP.format(loader="train_loader"))
    ran = plumb("tune", "--budget", 24, "train.py")
    assert [loader.name for loader in ran.plan.loaders] == ["train_loader", "val_loader"], ran.err
    val = ran.loader("val_loader")
    assert val.step_samples_per_second is None
    assert val.end_to_end is None
    assert any("on its own" in note for note in val.notes)
    assert ran.loader("train_loader").step_samples_per_second > 0


@pytest.mark.slow
def test_a_checkpoint_of_every_epoch_stays_as_it_was(plumb, write, tmp_path):
    code = """
loader = DataLoader(Numbers(24), batch_size=8, num_workers=1)
with open("log.txt", "w") as log:
    for epoch in range(1000):
        for x, y in loader:
            train_step(x, y)
        torch.save(model.state_dict(), "model.pt")
        with open("epochs.txt", "a") as file:
            file.write("epoch done")
"""
    write("train.py", PREAMBLE + code)
    (tmp_path / "model.pt").write_bytes(b"the user's own")
    ran = plumb("tune", "--budget", 4, "train.py")
    assert ran.code == 0, ran.err
    assert (tmp_path / "model.pt").read_bytes() == b"the user's own"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "model.pt", "train.plumb.json", "train.py"]
    assert [path.rsplit("/", 1)[-1] for path in ran.plan.written_files] == ["log.txt"], "what it did write is listed"
    assert "log.txt" in ran.out


@pytest.mark.slow
def test_a_loop_that_counts_its_batches_is_left_before_its_epoch_ends(plumb, write, tmp_path):
    # Some batches are left when the loop has been looked at, and too few for its step, on a slow host as well.
    code = """
loader = DataLoader(Numbers(200, seconds=0.003), batch_size=8)
for epoch in range(1000):
    batches = iter(loader)
    for _ in range(len(loader)):
        train_step(*next(batches))
    torch.save(model.state_dict(), "model.pt")
"""
    write("train.py", PREAMBLE + code)
    ran = plumb("tune", "--budget", 10, "train.py")
    assert ran.code == 0, ran.err
    loader = ran.loader("loader")
    assert loader.step_samples_per_second is not None
    # Unless the windows told enough before its batches were used up.
    was_left = any("so that its epoch did not end" in note for note in loader.notes)
    assert was_left or (loader.end_to_end is not None and loader.end_to_end.gain is not None)
    # A loop that was left before it had what was chosen says nothing of how fast it would be.
    unchanged, in_loop = loader.tuned.config == loader.baseline.config, loader.end_to_end
    assert unchanged or in_loop is None or in_loop.tuned != in_loop.baseline
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.slow
def test_a_script_that_counts_its_steps_is_not_broken_by_more_of_them(plumb, write):
    code = """
loader = DataLoader(Numbers(24), batch_size=8)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=2 * len(loader))
for epoch in range(2):
    for x, y in loader:
        train_step(x, y)
        schedule.step()
"""
    write("train.py", PREAMBLE + code)
    ran = plumb("tune", "--budget", 5, "train.py")
    assert ran.code == 0, ran.err
    assert any("your loop ended" in note for note in ran.loader("loader").notes)
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_a_script_without_training_is_tuned_for_what_it_iterates(plumb, write):
    code = """
loader = DataLoader(Numbers(), batch_size=8)
with torch.no_grad():
    for x, y in loader:
        model(x)
print("predictions done")
"""
    write("predict.py", PREAMBLE + code)
    ran = plumb("tune", "--budget", 3, "predict.py")
    assert ran.code == 0, ran.err
    assert "predictions done" in ran.err, "the script came to its end first"
    assert any("without a step rate" in note for note in ran.loader("loader").notes)


@pytest.mark.slow
def test_workers_that_are_spawned_import_the_script_again(plumb, write):
    """However long each start of workers takes, the tuning ends in time, and says where there was too little."""
    code = """
if __name__ == "__main__":
    train_loader = DataLoader(Numbers(seconds=0.002), batch_size=8, num_workers=1, multiprocessing_context="spawn")
    for epoch in range(1000):
        for x, y in train_loader:
            train_step(x, y)
else:
    time.sleep(6)
"""
    write("train.py", PREAMBLE + code)
    ran = plumb("tune", "--budget", 6, "train.py")
    assert ran.code == 0, ran.err
    found = ran.loader("train_loader")
    assert found.baseline.config.num_workers == 1
    assert found.tuned.config == found.baseline.config
    assert any("s that were left did not suffice" in note for note in found.notes)


@pytest.mark.slow
def test_a_dataset_that_cannot_be_pickled_is_never_given_spawned_workers(plumb, write):
    code = """
if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    dataset = Numbers(seconds=0.002)
    dataset.key = lambda index: index
    loader = DataLoader(dataset, batch_size=8)
    for epoch in range(1000):
        for x, y in loader:
            train_step(x, y)
"""
    write("train.py", PREAMBLE + code)
    ran = plumb("tune", "--budget", 6, "train.py")
    assert ran.code == 0, ran.err
    found = ran.loader("loader")
    assert found.tuned.config.num_workers == 0
    assert all(trial.config.num_workers == 0 for trial in found.trials)
    assert any("Python starts them by spawn, and the dataset can't be pickled" in note for note in found.notes)


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_never_run_again_by_a_worker(plumb, write, tmp_path):
    code = """
with open("starts.txt", "a") as file:
    file.write("started\\n")
torch.multiprocessing.set_start_method("forkserver", force=True)
loader = DataLoader(Numbers(seconds=0.002), batch_size=8)
"""
    write("train.py", PREAMBLE + code + LOOP.format(loader="loader"))
    ran = plumb("tune", "--budget", 4, "train.py")
    assert ran.code == 0, ran.err
    assert (tmp_path / "starts.txt").read_text() == "started\n"
    assert {trial.config.num_workers for trial in ran.loader("loader").trials} == {0}
    assert any("__main__" in note for note in ran.loader("loader").notes)


def _module(folder):
    """Standard output and error, and the plan, of a module that is tuned with --json."""
    project = folder / "project"
    project.mkdir()
    (project / "__init__.py").write_text("")
    (project / "data.py").write_text(PREAMBLE)
    code = """
from .data import *
print("package", __package__, "spec", __spec__.name, "argv", sys.argv[1:])
loader = DataLoader(Numbers(), batch_size=8)
"""
    (project / "train.py").write_text(code + LOOP.format(loader="loader"))
    words = ["tune", "--budget", "1", "--json", "-m", "project.train", "--epochs", "3"]
    command = [sys.executable, "-m", "plumb", *words]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    (file,) = folder.glob("*.plumb.json")
    return ran.stdout, ran.stderr, decode(file.read_bytes())


@pytest.mark.slow
def test_a_module_is_run_as_with_minus_m(once):
    _, err, plan = once("tune_module", _module)
    assert "package project spec project.train argv ['--epochs', '3']" in err
    assert plan.loaders[0].name == "loader"
    assert plan.loaders[0].site.startswith("train.py:")


@pytest.mark.slow
def test_json_is_the_plan_and_nothing_else(once):
    out, err, plan = once("tune_module", _module)
    printed = json.loads(out)
    assert printed["version"] == 1
    assert printed["loaders"][0]["name"] == "loader"
    assert decode(out.encode()) == plan
    assert "package project" in err, "what the script prints goes elsewhere"


@pytest.mark.slow
def test_limits_that_are_asked_for_are_kept(plumb, write):
    code = "loader = DataLoader(Numbers(2000, seconds=0.004), batch_size=16)"
    write("train.py", PREAMBLE + code + LOOP.format(loader="loader"))
    ran = plumb("tune", "--budget", 6, "--max-workers", 2, "train.py")
    assert max(trial.config.num_workers for trial in ran.loader("loader").trials) <= 2


def test_a_study_that_cannot_be_opened_is_said_before_the_script_starts(plumb, write, tmp_path):
    write("train.py", "open('started.txt', 'w')")
    ran = plumb("tune", "--study", "nonsense", "train.py")
    assert ran.code == 2
    assert "sqlite:///tuning.db" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "started.txt").exists()
