import numpy as np
import pytest
from torch.utils.data import Dataset, IterableDataset

from analysis.comparison import looked_at_batches
from analysis.peers.choosers import rules_of_thumb
from analysis.peers.environments import CannotRunError, Environment
from analysis.peers.jobs import job_of
from analysis.peers.libraries import LIBRARIES, tuned_by_hand
from analysis.pipelines.pipeline import Pipeline
from plumb.host import Limits


class Squares(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return np.float32(index**2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(100))


SQUARES = Pipeline("squares of a test", "nothing", Squares(), batch_size=30)


def test_everybody_is_looked_at_over_the_same_indices_that_the_dataset_has():
    batches = looked_at_batches(SQUARES)
    assert {len(batch) for batch in batches} == {30}
    assert {index for batch in batches for index in batch} <= set(range(100))


def test_libraries_that_need_indices_say_so_of_a_stream():
    stream = Pipeline("a stream", "nothing", Stream(), batch_size=30)
    for library in LIBRARIES:
        with pytest.raises(CannotRunError):
            tuned_by_hand(library, stream, 0.1, 1)


def test_an_environment_that_is_not_there_is_a_reason():
    with pytest.raises(CannotRunError, match="--install"):
        Environment("never made", ("nothing",), False).require()


def test_settings_of_libraries_fit_any_host():
    limits = Limits.detect()
    for library in LIBRARIES:
        assert library.settings(limits)


def test_a_job_reads_back_and_knows_its_full_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.peers.jobs.DATA", tmp_path)
    job = job_of(SQUARES, Limits.detect())
    assert not job.is_uneven
    assert {len(batch) for batch in job.full_batches()} == {30}
    dataset, collate = job.load()
    assert collate([dataset[2], dataset[3]]).tolist() == [4, 9]


def test_rules_of_thumb_need_no_time():
    for chooser in rules_of_thumb():
        assert chooser.choose(SQUARES, None, None).seconds == 0
