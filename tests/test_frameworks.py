"""Loaders that a framework wraps, rebuilds or iterates by itself: on whole scripts of each, where it is installed."""

import pytest

CASES = {
    "lightning": ("lightning_trainer.py", "train_loader"),
    "accelerate": ("accelerate_loop.py", "train_loader"),
    "transformers": ("hf_trainer.py", "loader"),
}


@pytest.mark.slow
@pytest.mark.parametrize("library", CASES)
def test_a_script_of_each_is_tuned_through_its_loop_and_runs_on_the_plan(library, plumb, script, tmp_path):
    pytest.importorskip(library)
    name, loader = CASES[library]
    ran = plumb("tune", "--budget", 20, script(name))
    assert ran.code == 0, ran.err
    found = ran.plan.loaders[0]
    assert found.name == loader
    assert found.end_to_end is not None
    assert found.step_samples_per_second > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [name.replace(".py", ".plumb.json"), name]
    assert "epoch 1 done" not in ran.err, "no epoch ends while a script is tuned"
    again = plumb("run", name)
    assert again.code == 0, again.err
    assert "epoch" in again.out
    assert "plumb:" not in again.err
