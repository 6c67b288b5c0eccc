"""Loaders that a framework wraps, rebuilds or iterates by itself: on whole scripts of each, where it is installed."""

import pytest

CASES = {
    "lightning": ("lightning_trainer.py", "train_loader"),
    "accelerate": ("accelerate_loop.py", "train_loader"),
    "transformers": ("hf_trainer.py", "loader"),
    "timm": ("timm_prefetcher.py", "train_loader"),
}
# Where a framework makes the loader, the report speaks of settings of its own.
SETTINGS = {"transformers": "TrainingArguments(..., dataloader_num_workers=", "timm": "create_loader(..., num_workers="}


# Each of these takes a minute: CI tunes two of them.
_NIGHTLY = ("timm", "transformers")


@pytest.mark.slow
@pytest.mark.parametrize(
    "library", [pytest.param(name, marks=pytest.mark.nightly) if name in _NIGHTLY else name for name in CASES]
)
def test_a_script_of_each_is_tuned_through_its_loop_and_runs_on_the_plan(library, plumb, script, tmp_path):
    pytest.importorskip(library)
    name, loader = CASES[library]
    ran = plumb("tune", "--budget", 12, script(name))
    assert ran.code == 0, ran.err
    found = ran.plan.loaders[0]
    assert found.name == loader
    # A loop that counts its batches is left before the end of its epoch, and may not come to what was chosen.
    was_left = any("your loop was left" in note for note in found.notes)
    assert was_left or (found.end_to_end is not None and found.step_samples_per_second > 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name.replace(".py", ".plumb.json"), name]
    assert "epoch 1 done" not in ran.err, "no epoch ends while a script is tuned"
    assert found.library == (library if library in SETTINGS else "")
    is_changed = found.expressible not in (None, found.baseline.config) and found.config != found.baseline.config
    assert (SETTINGS.get(library, "\0") in ran.out) == (is_changed and library in SETTINGS)
    again = plumb("run", name)
    assert again.code == 0, again.err
    assert "epoch" in again.out
    assert "plumb:" not in again.err
