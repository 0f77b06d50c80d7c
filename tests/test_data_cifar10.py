"""CIFAR-10 in both of its layouts."""

from __future__ import annotations

import os
import pickle
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data_files import NEAR, Files, load_real, serving, sha256
from utils.data import cifar10
from utils.data.base import DataError
from utils.data.cifar10 import CIFAR10

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
PIXELS = {
    name: np.random.default_rng(seed).integers(256, size=(4, 3072)).astype(np.uint8)
    for seed, name in enumerate(BATCHES)
}


def records(pixels: np.ndarray) -> bytes:
    """A binary batch, as its description says: a label, then 1024 red, green and blue bytes."""
    return b"".join(bytes([index % 10]) + row.tobytes() for index, row in enumerate(pixels))


def python2_pickle(pixels: np.ndarray) -> bytes:
    """A batch as Python 2 with the NumPy of its day pickled it."""
    data = pixels.tobytes()
    return b"".join(
        [
            b"\x80\x02}(U\x06labels](" + b"K\x01" * len(pixels) + b"eU\x04data",
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01K" + bytes([len(pixels)]) + b"M\x00\x0c\x86",  # version, shape (N, 3072)
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff",
            b"K\x00tb\x89T" + len(data).to_bytes(4, "little") + data + b"tbu.",
        ]
    )


LAYOUTS = {"cifar-10-batches-py": ("", python2_pickle), "cifar-10-batches-bin": (".bin", records)}


def write_cifar(root: Path, folder: str, names=BATCHES) -> None:
    suffix, encode = LAYOUTS[folder]
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / (name + suffix)).write_bytes(encode(PIXELS[name]))


@pytest.fixture
def small_cifar(monkeypatch):
    """CIFAR-10 with four images a batch."""
    monkeypatch.setattr(cifar10, "BATCH_SIZE", 4)
    for layout in cifar10.LAYOUTS:
        _, encode = LAYOUTS[layout.folder]
        for name, pixels in PIXELS.items():
            monkeypatch.setitem(layout.sha256, name, sha256(encode(pixels)))


def planes(names) -> torch.Tensor:
    """Images (N, 3, 32, 32) in float64, pixel by pixel as the description says."""
    images = np.empty((4 * len(names), 3, 32, 32))
    rows = np.concatenate([PIXELS[name] for name in names])
    for index in np.ndindex(images.shape):
        image, channel, row, column = index
        images[index] = rows[image, 1024 * channel + 32 * row + column] / 255
    return torch.from_numpy(images)


@pytest.mark.parametrize("folder", LAYOUTS)
@pytest.mark.parametrize("validation_size", [0, 3])
def test_cifar10_splits_are_in_order(small_cifar, tmp_path, folder, validation_size):
    write_cifar(tmp_path, folder)
    options = {"binarisation": "none", "validation_size": validation_size}
    data = CIFAR10(root=str(tmp_path), **options).load()
    expected, cut = planes(BATCHES[:5]), 20 - validation_size
    assert data.x_shape == (3, 32, 32)
    torch.testing.assert_close(data.splits["train"].double(), expected[:cut], **NEAR)
    torch.testing.assert_close(data.splits["test"].double(), planes(["test_batch"]), **NEAR)
    assert ("validation" in data.splits) == (validation_size > 0)
    if validation_size:
        validation = data.splits["validation"].double()
        torch.testing.assert_close(validation, expected[cut:], **NEAR)


def test_cifar10_is_the_same_in_both_layouts_even_mixed(small_cifar, tmp_path):
    loaded = []
    for index, python in enumerate([BATCHES, [], BATCHES[1:4]]):
        root = tmp_path / str(index)
        write_cifar(root, "cifar-10-batches-py", python)
        write_cifar(root, "cifar-10-batches-bin", set(BATCHES) - set(python))
        loaded.append(CIFAR10(root=str(root), validation_size=5).load())
    for data in loaded[1:]:
        assert data.checksum == loaded[0].checksum
        for split, x in loaded[0].splits.items():
            assert torch.equal(data.splits[split], x)


def test_cifar10_three_bits_a_pixel(small_cifar, tmp_path):
    write_cifar(tmp_path, "cifar-10-batches-bin")
    data = CIFAR10(root=str(tmp_path), validation_size=0).load()
    assert data.binarisation == "threshold"
    assert torch.equal(data.splits["train"], (planes(BATCHES[:5]) >= 0.5).float())


def test_cifar10_some_batches(small_cifar, tmp_path):
    write_cifar(tmp_path, "cifar-10-batches-bin", ["data_batch_2", "data_batch_4", "test_batch"])
    options = {"root": str(tmp_path), "binarisation": "none", "validation_size": 0}
    with pytest.raises(DataError) as caught:
        CIFAR10(**options).load()
    message = str(caught.value)
    assert f"{tmp_path / 'cifar-10-batches-bin'}: not found, nor in cifar-10-batches-py" in message
    assert ": data_batch_1, data_batch_3, data_batch_5 (there are those of" in message
    assert "data.batches=[2, 4])" in message
    assert "--download cifar10 -set" in message

    some = CIFAR10(**options, batches=[2, 4]).load()
    expected = planes(["data_batch_2", "data_batch_4"])
    torch.testing.assert_close(some.splits["train"].double(), expected, **NEAR)
    assert some.checksum != CIFAR10(**options, batches=[2]).load().checksum


def test_cifar10_without_test_batch_suggests_nothing(small_cifar, tmp_path):
    write_cifar(tmp_path, "cifar-10-batches-py", BATCHES[:5])
    with pytest.raises(DataError, match=r"test_batch\. Fetch it with"):
        CIFAR10(root=str(tmp_path), validation_size=0).load()


@pytest.mark.parametrize("folder", LAYOUTS)
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"?" + b[1:], lambda b: b""])
def test_cifar10_damaged_file(small_cifar, tmp_path, folder, damage):
    write_cifar(tmp_path, folder)
    suffix, _ = LAYOUTS[folder]
    path = tmp_path / folder / ("data_batch_3" + suffix)
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        CIFAR10(root=str(tmp_path), validation_size=0).load()
    assert f"{path}: truncated or wrong content: {len(content):,} bytes" in str(caught.value)
    assert f"sha256 {sha256(content)}, expected" in str(caught.value)


def test_cifar10_folder_in_place_of_a_file(small_cifar, tmp_path):
    write_cifar(tmp_path, "cifar-10-batches-py", BATCHES[1:])
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        CIFAR10(root=str(tmp_path), validation_size=0).load()


def test_cifar10_unpickles_only_what_was_published(small_cifar, tmp_path):
    write_cifar(tmp_path, "cifar-10-batches-py")
    victim = tmp_path / "victim"
    command = f"cos\nmkdir\n(V{victim}\ntR.".encode()  # a pickle that makes a folder
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(command)
    with pytest.raises(DataError, match="wrong content"):
        CIFAR10(root=str(tmp_path), validation_size=0).load()
    assert not victim.exists()
    pickle.loads(command)
    assert victim.exists()


@pytest.mark.parametrize("damaged", LAYOUTS)
def test_cifar10_download_mends_either_layout(small_cifar, tmp_path, monkeypatch, damaged):
    published = tmp_path / "published"
    write_cifar(published, "cifar-10-batches-bin")
    (tmp_path / "mirror").mkdir()
    archive = tmp_path / "mirror" / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(published / "cifar-10-batches-bin", "cifar-10-batches-bin")
    root = tmp_path / "root"
    write_cifar(root, damaged)
    suffix, _ = LAYOUTS[damaged]
    (root / damaged / f"data_batch_1{suffix}").write_bytes(b"half of it")
    monkeypatch.setattr(cifar10, "ARCHIVE_SHA256", sha256(archive.read_bytes()))
    monkeypatch.setenv("no_proxy", "*")
    dataset = CIFAR10(root=str(root), validation_size=5)
    with serving(partial(Files, directory=tmp_path / "mirror")) as address:
        monkeypatch.setattr(cifar10, "ARCHIVE", f"{address}/cifar.tar.gz")
        dataset.download()
    assert len(dataset.load().splits["train"]) == 15
    dataset.download()  # all is there: nothing is fetched


def test_cifar10_never_unpickles_what_the_binary_layout_has(small_cifar, tmp_path, monkeypatch):
    for folder in LAYOUTS:
        write_cifar(tmp_path, folder)
    monkeypatch.setattr(pickle, "loads", None)
    assert len(CIFAR10(root=str(tmp_path), validation_size=0).load().splits["train"]) == 20


def test_cifar10_reads_the_published_binary_files():
    data = load_real("cifar10", binarisation="none", batches=[1], validation_size=1_000)
    folder = Path(os.environ["VI_DATA"], "cifar-10-batches-bin")
    if not (folder / "data_batch_1.bin").exists():
        pytest.skip("VI_DATA does not hold cifar10 in the binary layout")
    train = torch.cat([data.splits["train"], data.splits["validation"]])
    for x, name in ((train, "data_batch_1.bin"), (data.splits["test"], "test_batch.bin")):
        content = (folder / name).read_bytes()
        assert len(x) == 10_000
        for index in (0, 1, 4_321, 9_999):
            image = content[3073 * index + 1 : 3073 * (index + 1)]
            assert bytes((x[index] * 255).round().byte().flatten().tolist()) == image
