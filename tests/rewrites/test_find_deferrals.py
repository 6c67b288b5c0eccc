"""Which operators are found to be the same on a batch, and why others are not."""

import random

import numpy as np
import pytest
import torch
from deferred_datasets import (
    Joint,
    Odd,
    Pictures,
    Plain,
    Rows,
    cropped,
    in_place,
    picture,
    scaled,
    standardized,
    to_tensor,
)
from torch.utils.data import Subset, default_collate

from plumb.core.config import CallStep
from plumb.rewrites.find_deferrals import find_deferral
from plumb.runtime.replay.sample_code import code_on

transforms = pytest.importorskip("torchvision.transforms")
v2 = pytest.importorskip("torchvision.transforms.v2")

INDICES = list(range(6))
STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIRST = transforms.Compose([cropped, transforms.ToTensor(), transforms.Normalize(*STATISTICS)])
SECOND = v2.Compose([
    v2.ToImage(), v2.RandomCrop(16), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*STATISTICS)
])  # fmt: skip


def found(dataset, collate=default_collate):
    result = find_deferral(dataset, collate, INDICES)
    assert result.deferral is not None, result.reason
    return result


def operators(result):
    return [step.operator for step in result.deferral.steps]


def reason(dataset, collate=default_collate):
    result = find_deferral(dataset, collate, INDICES)
    assert result.deferral is None
    return result.reason


def test_the_first_version_of_torchvision_is_followed_into_its_functions():
    result = found(Pictures(FIRST))
    assert operators(result) == ["contiguous", "to", "div", "Normalize"]
    assert result.deferral.leaf == 0
    assert result.saved_bytes == 3 * 3 * 16 * 16


def test_the_second_version_of_torchvision_needs_no_following():
    assert operators(found(Pictures(SECOND))) == ["ToDtype", "Normalize"]


def test_a_transform_of_the_whole_sample_is_followed_to_where_it_takes_a_tensor():
    assert [step.argument for step in found(Joint(SECOND)).deferral.steps] == [0, 0]


def test_plain_code_is_taken_as_the_user_named_it():
    result = found(Plain())
    assert operators(result)[-2:] == ["pixels.permute(2, 0, 1).contiguous().float() / 255", "normalize"]
    assert result.deferral.steps[-1].way[-1].name == "normalize"


def test_leaves_are_numbered_as_torch_flattens_them():
    assert found(Plain(named=True)).deferral.leaf == 1
    assert found(Subset(Plain(), range(3, 15))).deferral.leaf == 0


def test_what_can_not_be_pickled_is_taken_apart():
    local = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda tensor: tensor * 2 - 1)])
    assert operators(found(Pictures(local)))[-2:] == ["tensor * 2", "tensor * 2 - 1"]


def test_operators_that_change_their_argument_are_deferred_but_for_the_first():
    assert operators(found(Pictures(lambda image: in_place(to_tensor(image)))))[-1] == "in_place"
    assert reason(Pictures(lambda image: torch.from_numpy(np.array(image, np.float32)).mul_(2)))


def test_a_list_of_tuples_may_be_stacked_by_hand():
    def collate(samples):
        return torch.stack([picture for picture, _ in samples]), torch.tensor([label for _, label in samples])

    assert operators(found(Plain(), collate))[-1] == "normalize"


def test_padding_with_zeros_is_not_the_same_before_and_after():
    def padding(samples):
        batch = torch.zeros(len(samples), 3, 20, 16)
        for row, (tensor, _) in zip(batch, samples, strict=True):
            row[:, : tensor.shape[1]] = tensor
        return batch, torch.tensor([label for _, label in samples])

    assert "something looks" in reason(Plain(), padding)


def test_a_list_instead_of_a_batch_is_left_alone():
    assert reason(Plain(), list)


def test_the_structure_of_the_batch_may_not_move_the_leaf():
    def turned(samples):
        pictures, labels = default_collate(samples)
        return labels, pictures

    assert reason(Plain(), turned)


def test_constants_of_one_sample_can_not_be_used_for_another():
    class Scaled(Pictures):
        def __getitem__(self, index):
            return to_tensor(picture(index)) * (index + 1.0), index

    assert "constants that vary" in reason(Scaled(None))


def test_a_random_operator_at_the_end_stays_where_it_is():
    def noisy(image):
        return torch.nn.functional.dropout(to_tensor(image), 0.5)

    assert "random" in reason(Pictures(noisy))


def test_random_operators_before_do_not_matter():
    state = random.getstate(), torch.get_rng_state()
    assert found(Pictures(FIRST))
    assert random.getstate() == state[0]
    assert torch.equal(torch.get_rng_state(), state[1])


def test_each_sample_of_its_own_statistics_is_not_the_same_on_a_batch():
    assert "standardized gives other values" in reason(Pictures(lambda image: standardized(to_tensor(image))))


def test_an_operator_that_looks_at_what_would_be_deferred_ends_the_suffix():
    class Watched(Pictures):
        def __getitem__(self, index):
            tensor = to_tensor(picture(index))
            bright = tensor.mean() > 0.6
            return (tensor / 2).double(), bool(bright)

    assert operators(found(Watched(None))) == ["tensor / 2", "double"]


def test_two_views_in_one_sample_are_left_alone():
    assert reason(Pictures(lambda image: [to_tensor(cropped(image)) for _ in range(2)]))


def test_a_buffer_that_is_used_again_is_noticed():
    class Reusing(Rows):
        def __init__(self, rows):
            super().__init__(None, rows)
            self.buffer = np.empty(rows.shape[1], dtype=np.float32)

        def __getitem__(self, index):
            self.buffer[:] = self.rows[index].numpy()
            return torch.from_numpy(self.buffer) * 2

    assert reason(Reusing(torch.arange(60.0).view(6, 10)))


def test_samples_that_never_repeat_can_not_be_compared():
    class Own(Rows):
        generator = np.random.default_rng(0)

        def __getitem__(self, index):
            return scaled(torch.from_numpy(self.generator.random(8, dtype=np.float32)))

    assert "repeat" in reason(Own(None, list(range(6))))


def test_more_bytes_before_than_after_is_not_worth_it():
    def narrowed(image):
        return to_tensor(image).to(torch.float64).sum(dim=0).half()

    assert "half" not in str(find_deferral(Pictures(narrowed), default_collate, INDICES).deferral)


def test_a_dataset_that_loads_groups_is_left_alone():
    class Grouped(Plain):
        def __getitems__(self, indices):
            return [self[index] for index in indices]

    assert "several samples" in reason(Grouped())


def test_the_digest_tells_whether_the_code_on_the_ways_is_the_same(tmp_path, monkeypatch):
    def digest(scale):
        (tmp_path / "users_module.py").write_text(f"def final(tensor):\n    return tensor / {scale}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "users_module", raising=False)
        __import__("importlib").invalidate_caches()
        users = __import__("users_module")
        dataset = Rows(users.final, torch.arange(60.0).view(6, 10))
        way = (
            CallStep("plumb:sample#0", "Rows", ""),
            CallStep("deferred_datasets:Rows.__getitem__#0", "final", "function"),
        )
        return code_on((way,), dataset, 0)

    assert digest("2.0") == digest("2.0")
    assert digest("2.0") != digest("3.00")


@pytest.mark.parametrize("odd", [{0}, {3}])
def test_samples_that_take_several_ways_share_only_their_end(odd):
    result = found(Odd(odd, lambda tensor: tensor.flip(0)))
    assert operators(result) == ["scaled"]
