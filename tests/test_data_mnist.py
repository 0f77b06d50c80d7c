"""MNIST and its relatives, as published, damaged and fetched."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data_files import NEAR, Files, load_real, md5, serving, sha256
from utils.data import binarised_mnist, files
from utils.data.base import DataError, datasets
from utils.data.binarised_mnist import BinarisedMNIST, Part
from utils.data.mnist import MNIST, IdxFile

NUM_TRAIN, NUM_TEST = 40, 10

# --- MNIST -----------------------------------------------------------------------------------


def idx3(num_images: int, seed: int) -> bytes:
    """An idx3 file, as its format says: magic 2051, three sizes (big-endian), then the pixels."""
    header = b"".join(n.to_bytes(4, "big") for n in (2051, num_images, 28, 28))
    return (
        header
        + np.random.default_rng(seed)
        .integers(256, size=num_images * 784)
        .astype(np.uint8)
        .tobytes()
    )


TRAIN, TEST = idx3(NUM_TRAIN, 0), idx3(NUM_TEST, 1)


@pytest.fixture
def small_mnist(monkeypatch):
    """MNIST of 40 + 10 made images."""
    train = IdxFile("train-images-idx3-ubyte", NUM_TRAIN, sha256(TRAIN))
    test = IdxFile("t10k-images-idx3-ubyte", NUM_TEST, sha256(TEST))
    monkeypatch.setattr(MNIST, "train", train)
    monkeypatch.setattr(MNIST, "test", test)


@pytest.fixture
def made_mnist(small_mnist, tmp_path) -> str:
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(TRAIN)
    (raw / "t10k-images-idx3-ubyte").write_bytes(TEST)
    return str(tmp_path / "root")


def pixels(content: bytes) -> torch.Tensor:
    values = [value / 255 for value in content[16:]]
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 28, 28)


@pytest.mark.parametrize("validation_size", [0, 1, 15, 39])
def test_mnist_splits_are_in_order(made_mnist, validation_size):
    data = MNIST(root=made_mnist, binarisation="none", validation_size=validation_size).load()
    expected = pixels(TRAIN)
    cut = NUM_TRAIN - validation_size
    torch.testing.assert_close(data.splits["train"].double(), expected[:cut], **NEAR)
    torch.testing.assert_close(data.splits["test"].double(), pixels(TEST), **NEAR)
    assert ("validation" in data.splits) == (validation_size > 0)
    if validation_size:
        validation = data.splits["validation"]
        torch.testing.assert_close(validation.double(), expected[cut:], **NEAR)


def test_validation_size_leaves_the_test_images_alone(made_mnist):
    none = MNIST(root=made_mnist, binarisation="static", validation_size=0).load()
    some = MNIST(root=made_mnist, binarisation="static", validation_size=20).load()
    assert torch.equal(none.splits["test"], some.splits["test"])


def test_num_train_takes_the_first_of_what_validation_leaves(made_mnist):
    whole = MNIST(root=made_mnist, binarisation="static", validation_size=5).load()
    part = MNIST(root=made_mnist, binarisation="static", validation_size=5, num_train=7).load()
    grey = MNIST(root=made_mnist, binarisation="dynamic", validation_size=5, num_train=7).load()
    for split in ("validation", "test"):
        assert torch.equal(part.splits[split], whole.splits[split])
    assert len(grey.intensities) == len(part.splits["train"]) == 7
    torch.testing.assert_close(grey.intensities.double(), pixels(TRAIN)[:7], **NEAR)


@pytest.mark.parametrize("num_train", [0, 36])
def test_num_train_is_at_most_what_validation_leaves(made_mnist, num_train):
    with pytest.raises(ValueError, match="between 1 and the 35 training images"):
        MNIST(root=made_mnist, validation_size=5, num_train=num_train)


@pytest.mark.parametrize("names", [["train-images-idx3-ubyte"], ["t10k-images-idx3-ubyte"], None])
def test_mnist_files_may_be_packed(made_mnist, names):
    expected = MNIST(root=made_mnist, validation_size=5).load()
    raw = Path(made_mnist, "MNIST", "raw")
    for path in [path for path in raw.iterdir() if names is None or path.name in names]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    data = MNIST(root=made_mnist, validation_size=5).load()
    assert data.checksum == expected.checksum
    for split, x in expected.splits.items():
        assert torch.equal(data.splits[split], x)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(TEST)[:-20], "truncated, damaged or no gzip file"),
        (b"", "truncated: 0 of 7,856 bytes"),
        (TEST, "truncated, damaged or no gzip file"),
        (gzip.compress(TEST[:-1]), "truncated: 7,855 of 7,856 bytes"),
        (gzip.compress(TEST + b"x"), "wrong content"),
        (gzip.compress(b"?" + TEST[1:]), "wrong content"),
    ],
)
def test_mnist_damaged_packed_file(made_mnist, content, words):
    path = Path(made_mnist, "MNIST", "raw", "t10k-images-idx3-ubyte")
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        MNIST(root=made_mnist, validation_size=5).load()
    assert f"{path}.gz: " in str(caught.value)


def test_mnist_truncated_file(made_mnist):
    path = Path(made_mnist, "MNIST", "raw", "t10k-images-idx3-ubyte")
    path.write_bytes(TEST[:-1])
    with pytest.raises(DataError) as caught:
        MNIST(root=made_mnist, validation_size=5).load()
    message = str(caught.value)
    assert f"{path}: truncated: 7,855 of 7,856 bytes" in message
    assert "--download mnist" in message


@pytest.mark.parametrize("content", [TRAIN[:-1] + b"\x00\x01", TRAIN[:99] + b"?" + TRAIN[100:]])
def test_mnist_wrong_file(made_mnist, content):
    path = Path(made_mnist, "MNIST", "raw", "train-images-idx3-ubyte")
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        MNIST(root=made_mnist, validation_size=5).load()
    assert f"{path}: wrong content: sha256 {sha256(content)}" in str(caught.value)


def test_mnist_folder_in_place_of_a_file(made_mnist):
    path = Path(made_mnist, "MNIST", "raw", "train-images-idx3-ubyte")
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        MNIST(root=made_mnist, validation_size=5).load()


@pytest.fixture
def mnist_mirror(small_mnist, tmp_path, monkeypatch) -> Iterator[Path]:
    """A served folder from which torchvision's class fetches, with md5 sums to match."""
    import torchvision

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    resources = []
    for name, content in {
        "train-images-idx3-ubyte": TRAIN,
        "train-labels-idx1-ubyte": (2049).to_bytes(4, "big") + bytes([0, 0, 0, 1, 7]),
        "t10k-images-idx3-ubyte": TEST,
        "t10k-labels-idx1-ubyte": (2049).to_bytes(4, "big") + bytes([0, 0, 0, 1, 7]),
    }.items():
        archive = gzip.compress(content)
        (mirror / f"{name}.gz").write_bytes(archive)
        resources.append((f"{name}.gz", md5(archive)))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "*")
    with serving(partial(Files, directory=mirror)) as address:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address + "/"])
        yield mirror


def test_mnist_download_replaces_what_is_damaged(mnist_mirror, tmp_path):
    root = tmp_path / "fresh" / "root"
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(TRAIN[:100])
    dataset = MNIST(root=str(root), validation_size=5)
    dataset.download()
    assert len(dataset.load().splits["train"]) == NUM_TRAIN - 5
    kinds = ["t10k-images-idx3", "t10k-labels-idx1", "train-images-idx3", "train-labels-idx1"]
    assert sorted(path.name for path in raw.iterdir()) == [f"{kind}-ubyte" for kind in kinds]
    assert [path.name for path in root.iterdir()] == ["MNIST"]

    for archive in mnist_mirror.iterdir():
        archive.unlink()
    dataset.download()  # all is there: nothing is fetched


def test_mnist_download_of_something_else_leaves_nothing(mnist_mirror, tmp_path):
    (mnist_mirror / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    root = tmp_path / "root"
    with pytest.raises(DataError, match=rf"mnist: fetching into {root} failed"):
        MNIST(root=str(root), validation_size=5).download()
    assert list(root.iterdir()) == []


def test_mnist_download_is_checked_before_it_is_used(mnist_mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "test", MNIST.test._replace(sha256="0" * 64))
    root = tmp_path / "root"
    with pytest.raises(DataError, match="wrong content"):
        MNIST(root=str(root), validation_size=5).download()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_are_those_torchvision_reads(name):
    import torchvision

    data = load_real(name, binarisation="none")
    factory = datasets[name].factory
    reference = getattr(torchvision.datasets, factory.torchvision_class)
    root = os.environ["VI_DATA"]
    train = torch.cat([data.splits["train"], data.splits["validation"]])
    for x, is_train in ((train, True), (data.splits["test"], False)):
        expected = reference(root, train=is_train, download=False).data
        assert torch.equal((x.squeeze(1) * 255).round().byte(), expected)


# --- binarised MNIST -------------------------------------------------------------------------

PIXELS = {
    name: np.random.default_rng(index).integers(2, size=(size, 784)).astype(np.uint8)
    for index, (name, size) in enumerate({"train": 5, "valid": 3, "test": 2}.items())
}
TEXTS = {
    name: "".join(" ".join(map(str, row)) + "\n" for row in rows.tolist()).encode()
    for name, rows in PIXELS.items()
}


@pytest.fixture
def amat_source(tmp_path, monkeypatch) -> Path:
    """Small made texts behind a file:// address, with checksums to match."""
    source = tmp_path / "source"
    source.mkdir()
    for name, text in TEXTS.items():
        (source / f"binarized_mnist_{name}.amat").write_bytes(text)
    parts = {name: Part(sha256(TEXTS[name]), sha256(PIXELS[name].tobytes())) for name in TEXTS}
    monkeypatch.setattr(binarised_mnist, "PARTS", parts)
    monkeypatch.setattr(binarised_mnist, "SOURCE", source.as_uri())
    return source


@pytest.fixture
def made_binarised(amat_source, tmp_path) -> BinarisedMNIST:
    dataset = BinarisedMNIST(root=str(tmp_path / "root"))
    dataset.download()
    return dataset


def test_binarised_mnist_download_keeps_every_pixel(made_binarised):
    data = made_binarised.load()
    for split, name in {"train": "train", "validation": "valid", "test": "test"}.items():
        assert np.array_equal(data.splits[split].numpy().reshape(-1, 784), PIXELS[name])
    assert data.x_shape == (1, 28, 28)
    assert data.binarisation == "larochelle_murray"
    assert [path.name for path in made_binarised.root.iterdir()] == ["binarized_mnist"]


def test_binarised_mnist_merged(made_binarised):
    data = BinarisedMNIST(root=str(made_binarised.root), merge_validation=True).load()
    merged = np.concatenate([PIXELS["train"], PIXELS["valid"]])
    assert sorted(data.splits) == ["test", "train"]
    assert np.array_equal(data.splits["train"].numpy().reshape(-1, 784), merged)
    assert data.checksum == made_binarised.load().checksum


def test_binarised_mnist_memory_order_does_not_matter(made_binarised):
    path = made_binarised.root / "binarized_mnist" / "binarized_mnist.npz"
    np.savez(path, **{name: np.asfortranarray(rows) for name, rows in PIXELS.items()})
    data = made_binarised.load()
    assert np.array_equal(data.splits["test"].numpy().reshape(-1, 784), PIXELS["test"])


def test_binarised_mnist_damaged_cache(made_binarised):
    path = made_binarised.root / "binarized_mnist" / "binarized_mnist.npz"
    sound = path.read_bytes()
    truncated = [sound[:end] for end in (0, 1, 100, len(sound) // 2, len(sound) - 1)]
    rng = np.random.default_rng(0)
    flipped = []
    for place in rng.integers(len(sound), size=200).tolist():
        flipped.append(bytearray(sound))
        flipped[-1][place] ^= int(rng.integers(1, 256))
    num_errors = 0
    for content in [*truncated, *flipped]:
        path.write_bytes(content)
        try:
            data = made_binarised.load()
        except DataError as error:
            num_errors += 1
            assert str(path) in str(error)
            assert "--download binarised_mnist" in str(error)
        else:  # a date or the like was hit: all that counts is whole
            assert np.array_equal(data.splits["train"].numpy().reshape(-1, 784), PIXELS["train"])
    assert num_errors > len(flipped) // 2

    changed = PIXELS | {"valid": 1 - PIXELS["valid"]}
    np.savez_compressed(path, **changed)
    with pytest.raises(DataError, match=f"wrong content: sha256 {sha256(changed['valid'])}"):
        made_binarised.load()
    np.savez_compressed(path, train=PIXELS["train"], test=PIXELS["test"])
    with pytest.raises(DataError, match="valid"):
        made_binarised.load()
    made_binarised.download()
    made_binarised.load()


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_binarised_mnist_damaged_download_leaves_nothing(amat_source, tmp_path, damage):
    path = amat_source / "binarized_mnist_test.amat"
    text = TEXTS["test"]
    contents = {"cut": text[:-1568], "changed": b"2" + text[1:]}
    if damage in contents:
        path.write_bytes(contents[damage])
    else:
        path.unlink()
    root = tmp_path / "root"
    with pytest.raises(DataError, match=r"binarized_mnist_test\.amat"):
        BinarisedMNIST(root=str(root)).download()
    assert list(root.iterdir()) == []


def test_binarised_mnist_interrupted_download_leaves_nothing(amat_source, tmp_path, monkeypatch):
    def interrupted(path, **arrays):
        Path(path).write_bytes(b"PK half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    root = tmp_path / "root"
    with pytest.raises(KeyboardInterrupt):
        BinarisedMNIST(root=str(root)).download()
    assert list(root.iterdir()) == []


class CutOff(BaseHTTPRequestHandler):
    """Announces the whole text and hangs up half-way."""

    def do_GET(self):
        text = TEXTS["train"]
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[: len(text) // 2])

    def log_message(self, *args):
        pass


def test_binarised_mnist_connection_lost(amat_source, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(files, "TIMEOUT", 5.0)
    root = tmp_path / "root"
    with serving(CutOff) as address:
        monkeypatch.setattr(binarised_mnist, "SOURCE", address)
        with pytest.raises(DataError, match="IncompleteRead"):
            BinarisedMNIST(root=str(root)).download()
    assert list(root.iterdir()) == []


def test_binarised_mnist_says_the_published_texts():
    splits = load_real("binarised_mnist").splits
    published = {
        "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        "validation": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    }
    for split, expected in published.items():
        digits = splits[split].view(-1, 784).byte().numpy() + ord("0")
        text = np.full((len(digits), 1568), ord(" "), dtype=np.uint8)
        text[:, ::2] = digits
        text[:, -1] = ord("\n")
        assert sha256(text.tobytes()) == expected
