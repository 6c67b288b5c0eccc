"""Small pipelines of real libraries; each test is skipped where its library is missing."""

import io
import itertools
import tarfile

import networkx as nx
import numpy as np
import pytest
import torch
from sample_datasets import write_pictures
from torch.utils.data import DataLoader, Dataset, Subset

from plumb.api.trace import trace


def names(pipeline):
    return [operator.name for operator in pipeline.operators]


def by_name(pipeline, name):
    return next(operator for operator in pipeline.operators if operator.name == name)


def is_chain(pipeline, *expected):
    """Whether these operators follow one another, whatever stands between them."""
    graph = pipeline.graph
    assert set(expected) <= set(graph)
    return all(nx.has_path(graph, a, b) for a, b in itertools.pairwise(expected))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name in ("cats", "dogs"):
        (root / name).mkdir()
        write_pictures(root / name, count=6)
        for mask in (root / name).glob("*.png"):
            mask.unlink()
    return root


class Arrays(Dataset):
    """Pictures in memory, with a transform in albumentations' keyword style."""

    def __init__(self, transform):
        self.transform = transform
        self.pictures = np.random.default_rng(0).integers(0, 255, (8, 256, 256, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        picture = self.pictures[index].copy()
        transformed = self.transform(image=picture, mask=picture[..., 0])
        return np.ascontiguousarray(transformed["image"]), np.ascontiguousarray(transformed["mask"])


def test_torchvision_first_transforms(folder):
    torchvision = pytest.importorskip("torchvision")
    transforms = torchvision.transforms
    steps = [
        transforms.RandomResizedCrop(160),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.2] * 3),
    ]
    dataset = torchvision.datasets.ImageFolder(str(folder), transforms.Compose(steps))
    pipeline = trace(dataset, samples=8)
    chain = ["open", "Image.open", "convert", "RandomResizedCrop", "RandomHorizontalFlip", "ToTensor", "Normalize"]
    assert names(pipeline) == [*chain, "default_collate"]
    assert is_chain(pipeline, *chain, "default_collate")
    kinds = [operator.kind for operator in pipeline.operators]
    assert kinds == ["read", "read", "decode", "transform", "transform", "convert", "transform", "collate"]
    assert by_name(pipeline, "convert").deterministic is True
    assert by_name(pipeline, "RandomResizedCrop").random
    assert by_name(pipeline, "Normalize").deterministic is False
    assert by_name(pipeline, "RandomResizedCrop").within == ("ImageFolder", "Compose")


def test_torchvision_second_transforms_with_nested_choices(folder):
    torchvision = pytest.importorskip("torchvision")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    steps = [
        v2.ToImage(),
        v2.RandomResizedCrop(160, antialias=True),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4), v2.GaussianBlur(5)], p=0.5),
        v2.RandomOrder([v2.RandomPosterize(4, p=1.0), v2.RandomSolarize(128, p=1.0)]),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.2] * 3),
    ]
    dataset = torchvision.datasets.ImageFolder(str(folder), v2.Compose(steps))
    pipeline = trace(DataLoader(Subset(dataset, range(12)), batch_size=4), samples=12)
    assert is_chain(pipeline, "convert", "ToImage", "RandomResizedCrop", "ColorJitter", "GaussianBlur", "ToDtype")
    assert 0 < by_name(pipeline, "ColorJitter").visit_ratio < 1
    assert by_name(pipeline, "GaussianBlur").within[-1] == "RandomApply"
    assert {"RandomPosterize", "RandomSolarize"} <= set(names(pipeline)) or "RandomOrder" in names(pipeline)
    assert nx.is_directed_acyclic_graph(pipeline.graph)


def test_torchvision_random_choice(folder):
    torchvision = pytest.importorskip("torchvision")
    transforms = torchvision.transforms
    choice = transforms.RandomChoice(
        [transforms.GaussianBlur(9), transforms.RandomRotation(20), transforms.Resize(400)]
    )
    steps = [transforms.ToTensor(), choice, transforms.CenterCrop(200)]
    pipeline = trace(torchvision.datasets.ImageFolder(str(folder), transforms.Compose(steps)), samples=12)
    ratios = [by_name(pipeline, name).visit_ratio for name in ("GaussianBlur", "RandomRotation", "Resize")]
    assert sum(ratios) == pytest.approx(1)


def test_a_sequential_of_modules():
    class Signals(Dataset):
        steps = torch.nn.Sequential(torch.nn.Conv1d(1, 8, 31), torch.nn.ReLU(), torch.nn.AvgPool1d(4))

        def __len__(self):
            return 6

        def __getitem__(self, index):
            with torch.no_grad():
                return self.steps(torch.full((1, 20_000), float(index)))

    pipeline = trace(Signals(), samples=6)
    assert is_chain(pipeline, "Conv1d", "ReLU", "AvgPool1d", "default_collate")


def test_modules_with_hooks_are_called_as_they_are():
    seen = []
    module = torch.nn.Sequential(torch.nn.Conv1d(1, 8, 31), torch.nn.ReLU())
    module.register_forward_hook(lambda *arguments: seen.append(1))

    class Signals(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            with torch.no_grad():
                return module(torch.full((1, 20_000), float(index)))

    pipeline = trace(Signals(), samples=4)
    assert "Sequential" in names(pipeline)
    assert seen


@pytest.mark.slow
def test_albumentations():
    pytest.importorskip("cv2")
    albumentations = pytest.importorskip("albumentations")
    steps = [
        albumentations.RandomCrop(192, 192),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.GaussianBlur(p=1.0),
        albumentations.Normalize(),
    ]
    pipeline = trace(Arrays(albumentations.Compose(steps)), samples=8)
    assert is_chain(pipeline, "RandomCrop", "GaussianBlur", "Normalize", "default_collate")
    assert by_name(pipeline, "RandomCrop").deterministic is False
    assert "Compose" in by_name(pipeline, "Normalize").within


@pytest.mark.slow
def test_monai_dictionaries():
    transforms = pytest.importorskip("monai.transforms")
    data = pytest.importorskip("monai.data")
    volumes = np.random.default_rng(0).random((6, 1, 48, 48, 24), dtype=np.float32)
    items = [{"image": volume, "label": (volume > 0.5).astype(np.float32)} for volume in volumes]
    steps = [
        transforms.ScaleIntensityd(keys=["image"]),
        transforms.RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=0),
        transforms.RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=1),
        transforms.RandGaussianNoised(keys=["image"], prob=1.0),
    ]
    pipeline = trace(data.Dataset(items, transforms.Compose(steps)), samples=6)
    chain = ["ScaleIntensityd", "RandFlipd", "RandFlipd#2", "RandGaussianNoised"]
    assert is_chain(pipeline, *chain, "default_collate")
    assert by_name(pipeline, "ScaleIntensityd").deterministic is True
    assert all(pipeline.graph.nodes[name]["operator"].random for name in chain[1:])


@pytest.mark.slow
@pytest.mark.quiet
def test_hugging_face_set_transform():
    datasets = pytest.importorskip("datasets")
    rows = [{"signal": np.arange(4000, dtype=np.float64).tolist(), "label": i} for i in range(24)]
    dataset = datasets.Dataset.from_list(rows)

    def filtered(signal):
        values = np.asarray(signal)
        for _ in range(5):
            values = np.convolve(values, np.ones(512) / 512, mode="same")
        return torch.from_numpy(values)

    def transform(batch):
        return {"signal": [filtered(signal) for signal in batch["signal"]], "label": batch["label"]}

    dataset.set_transform(transform)
    pipeline = trace(DataLoader(dataset, batch_size=8), samples=16)
    user = next(o for o in pipeline.operators if o.name in ("filtered", "np.convolve"))
    assert "transform" in user.within
    assert user.location.startswith(__file__)
    assert nx.has_path(pipeline.graph, user.id, "default_collate")


def test_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "pictures.tar"
    write_pictures(tmp_path)
    with tarfile.open(path, "w") as archive:
        for number in range(12):
            content = (tmp_path / f"{number}.jpg").read_bytes()
            member = tarfile.TarInfo(f"{number:03d}.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    def picture(content):
        return np.asarray(image.open(io.BytesIO(content)).convert("RGB"))

    def scaled(pixels):
        return torch.from_numpy(pixels / 255.0)

    dataset = webdataset.WebDataset(str(path), shardshuffle=False).to_tuple("jpg")
    pipeline = trace(dataset.map_tuple(picture).map_tuple(scaled), samples=10)
    decoded = "picture" if "picture" in pipeline.graph else "convert"
    assert is_chain(pipeline, decoded, "scaled", "default_collate")
    assert by_name(pipeline, "scaled").location.startswith(__file__)
    assert sum(operator.read_bytes or 0 for operator in pipeline.operators) > 0


def test_torch_geometric_does_its_work_in_collate():
    data = pytest.importorskip("torch_geometric.data")
    loader = pytest.importorskip("torch_geometric.loader")
    graphs = [
        data.Data(x=torch.rand(500, 64), edge_index=torch.randint(0, 500, (2, 4000)), y=torch.tensor([i]))
        for i in range(16)
    ]
    pipeline = trace(loader.DataLoader(graphs, batch_size=8), samples=16)
    assert pipeline.dataset == "list"
    collating = [operator for operator in pipeline.operators if operator.kind == "collate"]
    assert collating
    assert any("Collater" in operator.within for operator in collating)
    assert pipeline.hottest().kind == "collate"


def test_a_neighbour_sampler_as_collate_function():
    class Neighbours:
        def __init__(self):
            self.neighbours = torch.randint(0, 2000, (2000, 50))
            self.features = torch.rand(2000, 256)

        def sample(self, nodes):
            order = torch.rand(len(nodes), 50).argsort(dim=1)
            return self.neighbours[nodes].gather(1, order[:, :20])

        def __call__(self, indices):
            nodes = torch.tensor(indices)
            first = self.sample(nodes)
            second = self.sample(first.flatten())
            reached = torch.unique(second)
            return self.features[reached], reached

    pipeline = trace(DataLoader(range(2000), batch_size=16, collate_fn=Neighbours()), samples=32)
    assert pipeline.dataset == "range"
    assert is_chain(pipeline, "torch.unique", "features[reached]")
    assert all(o.kind == "collate" for o in pipeline.operators if o.within and o.within[0] == "Neighbours")
    sampling = [operator for operator in pipeline.operators if "sample" in (operator.name, *operator.within)]
    assert any(operator.random for operator in sampling)


def test_reads_of_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "values.h5"
    with h5py.File(path, "w") as file:
        file["values"] = np.random.default_rng(0).random((16, 400, 400), dtype=np.float32)

    class Stored(Dataset):
        file = None

        def __len__(self):
            return 16

        def __getitem__(self, index):
            if self.file is None:
                self.file = h5py.File(path)
            values = self.file["values"][index]
            return torch.from_numpy(np.log(values + 1))

    pipeline = trace(Stored(), samples=8)
    read = by_name(pipeline, "file['values'][index]")
    assert read.kind == "read"
    assert read.output_bytes == 400 * 400 * 4
    assert read.read_bytes is None or read.read_bytes >= 400 * 400 * 4
    assert is_chain(pipeline, "file['values'][index]", "np.log", "default_collate")


def test_reads_of_a_memory_map(tmp_path):
    path = tmp_path / "values.bin"
    np.random.default_rng(0).random((16, 500_000)).tofile(path)
    mapped = np.memmap(path, dtype=np.float64, mode="r", shape=(16, 500_000))

    class Mapped(Dataset):
        def __len__(self):
            return 16

        def __getitem__(self, index):
            window = np.array(mapped[index])
            return torch.from_numpy(window) * 2

    pipeline = trace(Mapped(), samples=8)
    assert is_chain(pipeline, "np.array", "torch.from_numpy(window) * 2", "default_collate")
    assert by_name(pipeline, "np.array").output_bytes == 500_000 * 8
