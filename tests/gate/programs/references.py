"""Detection references: samplers made by hand, batches grouped by shape, and a logger that wraps the loader."""

import bisect
import copy
import datetime
import os
import time
from collections import defaultdict, deque

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

IMAGES, EPOCHS = 96, 2


class SmoothedValue:
    def __init__(self, window_size=20):
        self.deque, self.total, self.count = deque(maxlen=window_size), 0.0, 0

    def update(self, value):
        self.deque.append(value)
        self.count += 1
        self.total += value

    @property
    def global_avg(self):
        return self.total / self.count


class MetricLogger:
    def __init__(self):
        self.meters = defaultdict(SmoothedValue)

    def update(self, **values):
        for name, value in values.items():
            self.meters[name].update(value)

    def log_every(self, iterable, print_freq, header):
        i, start_time, end = 0, time.time(), time.time()
        data_time = SmoothedValue()
        for obj in iterable:
            data_time.update(time.time() - end)
            yield obj
            if i % print_freq == 0 or i == len(iterable) - 1:
                meters = " ".join(f"{name}={meter.global_avg:.6f}" for name, meter in self.meters.items())
                print(f"{header} [{i}/{len(iterable)}] {meters}", flush=True)
            i += 1  # noqa: SIM113
            end = time.time()
        # Torchvision prints this; left out, since no two runs take as long.
        str(datetime.timedelta(seconds=int(time.time() - start_time)))


class GroupedBatchSampler(BatchSampler):
    """Batches of images with aspect ratios of one group."""

    def __init__(self, sampler, group_ids, batch_size):
        self.sampler, self.group_ids, self.batch_size = sampler, group_ids, batch_size

    def __iter__(self):
        buffer, given = defaultdict(list), 0
        for index in self.sampler:
            group = self.group_ids[index]
            buffer[group].append(index)
            if len(buffer[group]) == self.batch_size:
                yield buffer.pop(group)
                given += 1
        remaining = len(self) - given
        for _, rest in sorted(buffer.items(), key=lambda item: len(item[1]), reverse=True)[:remaining]:
            yield (rest * self.batch_size)[: self.batch_size]

    def __len__(self):
        return len(self.sampler) // self.batch_size


class Detection(Dataset):
    def __init__(self, count, transforms):
        self.ids, self.transforms = list(range(count)), transforms

    def __len__(self):
        return len(self.ids)

    def shape(self, index):
        return (24, 32) if index % 3 else (32, 24)

    def __getitem__(self, index):
        generator = np.random.default_rng(self.ids[index])
        image = generator.integers(0, 256, (3, *self.shape(index)), dtype=np.uint8)
        boxes = torch.from_numpy(generator.random((index % 4 + 1, 4), dtype=np.float32))
        target = {"image_id": self.ids[index], "boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}
        return self.transforms(image, target)


class ToTensor:
    def __call__(self, image, target):
        return torch.from_numpy(image).float() / 255, target


def collate_fn(batch):
    return tuple(zip(*batch))


def train_one_epoch(model, optimizer, loader, epoch):
    model.train()
    logger = MetricLogger()
    for images, targets in logger.log_every(loader, 10, f"Epoch: [{epoch}]"):
        predicted = torch.stack([model(image.mean((1, 2))) for image in images])
        wanted = torch.stack([target["boxes"].mean(0) for target in targets])
        loss = nn.functional.smooth_l1_loss(predicted, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logger.update(loss=loss.item())


@torch.inference_mode()
def evaluate(model, loader):
    logger = MetricLogger()
    for images, targets in logger.log_every(loader, 100, "Test:"):
        outputs = {target["image_id"]: model(image.mean((1, 2))) for image, target in zip(images, targets)}
        logger.update(score=float(sum(output.mean() for output in copy.deepcopy(outputs).values())))


def main():
    torch.manual_seed(0)
    dataset, dataset_test = Detection(IMAGES, ToTensor()), Detection(24, ToTensor())
    train_sampler: Sampler = RandomSampler(dataset)
    test_sampler = SequentialSampler(dataset_test)
    ratios = [dataset.shape(i)[1] / dataset.shape(i)[0] for i in range(len(dataset))]
    groups = [bisect.bisect_right([0.5, 1.0, 2.0], ratio) for ratio in ratios]
    train_batch_sampler = GroupedBatchSampler(train_sampler, groups, 4)
    data_loader = DataLoader(dataset, batch_sampler=train_batch_sampler, num_workers=2, collate_fn=collate_fn)
    data_loader_test = DataLoader(
        dataset_test, batch_size=1, sampler=test_sampler, num_workers=2, collate_fn=collate_fn
    )
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    lr_scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
    os.makedirs("out", exist_ok=True)
    for epoch in range(EPOCHS):
        train_one_epoch(model, optimizer, data_loader, epoch)
        lr_scheduler.step()
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(checkpoint, f"out/model_{epoch}.pth")
        torch.save(checkpoint, "out/checkpoint.pth")
        evaluate(model, data_loader_test)


if __name__ == "__main__":
    main()
