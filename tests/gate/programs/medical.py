"""Medical segmentation: a cache filled at the start, several crops an item, and generators that the transforms hold."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

CASES, EPOCHS, CROPS, VAL_INTERVAL = 20, 3, 4, 1


class Randomizable:
    """A transform with a generator of its own, as every random transform there has."""

    def __init__(self):
        self.R = np.random.RandomState(0)

    def set_random_state(self, seed):
        self.R = np.random.RandomState(seed)
        return self


class Load:
    def __call__(self, data):
        generator = np.random.default_rng(data["case"])
        image = generator.normal(size=(1, 24, 24, 24)).astype(np.float32)
        return {**data, "image": image, "label": (image > 0.5).astype(np.int64)}


class Scale:
    def __call__(self, data):
        image = data["image"]
        return {**data, "image": (image - image.min()) / (image.max() - image.min())}


class RandCropByPosNeg(Randomizable):
    def __init__(self, size, num_samples):
        super().__init__()
        self.size, self.num_samples = size, num_samples

    def __call__(self, data):
        results = []
        for _ in range(self.num_samples):
            first = self.R.randint(0, data["image"].shape[1] - self.size, size=3)
            window = (slice(None), *(slice(begin, begin + self.size) for begin in first))
            results.append({"image": torch.from_numpy(data["image"][window].copy()), "label": data["label"][window]})
        return results


class RandFlip(Randomizable):
    def __call__(self, data):
        return {**data, "image": data["image"].flip(1)} if self.R.rand() < 0.5 else data


class Compose:
    def __init__(self, transforms: list[Callable]):
        self.transforms = transforms

    def __call__(self, data):
        for transform in self.transforms:
            data = [transform(item) for item in data] if isinstance(data, list) else transform(data)
        return data


class CacheDataset(Dataset):
    """Runs what is not random once, at the start."""

    def __init__(self, data, transform):
        self.transform = transform
        fixed = [each for each in transform.transforms if not isinstance(each, Randomizable)]
        self.cache = [Compose(fixed)(item) for item in data]
        self.random = Compose([each for each in transform.transforms if isinstance(each, Randomizable)])

    def __len__(self):
        return len(self.cache)

    def __getitem__(self, index):
        return self.random(dict(self.cache[index]))


def list_data_collate(batch):
    data = [item for sample in batch for item in sample] if isinstance(batch[0], list) else batch
    return default_collate(data)


def main():
    torch.manual_seed(0)
    files = [{"case": number} for number in range(CASES)]
    train_transforms = Compose([Load(), Scale(), RandCropByPosNeg(12, CROPS).set_random_state(3), RandFlip()])
    check_loader = DataLoader(CacheDataset(files[:1], Compose([Load(), Scale()])), batch_size=1)
    for check_data in check_loader:
        print(f"image shape: {tuple(check_data['image'].shape)}")
        break
    train_ds = CacheDataset(files[:-4], train_transforms)
    train_loader = DataLoader(train_ds, batch_size=2, shuffle=True, num_workers=0, collate_fn=list_data_collate)
    val_loader = DataLoader(CacheDataset(files[-4:], Compose([Load(), Scale()])), batch_size=1, num_workers=0)
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.PReLU(), nn.Conv3d(4, 2, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    best_metric = -1.0
    for epoch in range(EPOCHS):
        epoch_loss = 0.0
        for batch_data in train_loader:
            loss = nn.functional.cross_entropy(model(batch_data["image"]), batch_data["label"].squeeze(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            epoch_loss += loss.item()
        print(f"epoch {epoch} loss={epoch_loss:.6f}", flush=True)
        if (epoch + 1) % VAL_INTERVAL == 0:
            with torch.no_grad():
                scores = [(model(d["image"]).argmax(1) == d["label"][:, 0]).float().mean().item() for d in val_loader]
            if sum(scores) > best_metric:
                best_metric = sum(scores)
                torch.save(model.state_dict(), "best_metric_model.pth")


if __name__ == "__main__":
    main()
