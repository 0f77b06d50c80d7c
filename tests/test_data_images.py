import hashlib
import os
import pickle
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from tests.test_data import Files, load_real, serving, sha256, uniform
from utils.data import celeba, cifar10, omniglot
from utils.data.base import DataError, Dataset, datasets
from utils.data.celeba import CelebA
from utils.data.cifar10 import CIFAR10
from utils.data.omniglot import Omniglot

# float32 keeps 24 bits: half a unit of the last place of a number below 1 is 2⁻²⁵
NEAR = {"rtol": 0, "atol": 2**-24}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def user_cache(tmp_path, monkeypatch) -> Path:
    """Where archives go that have no place beside their files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plumbline"


def undecodable(dataset, monkeypatch) -> None:
    """From now on, decoding fails: whatever loads is from an archive."""

    def fail(self, root):
        raise AssertionError("decoded again")

    monkeypatch.setattr(type(dataset), "decode", fail)


@pytest.mark.parametrize(
    "node",
    [
        {"name": "cifar10", "batches": []},
        {"name": "cifar10", "batches": [0]},
        {"name": "cifar10", "batches": [6]},
        {"name": "cifar10", "validation_size": 50_000},
        {"name": "omniglot", "validation_size": 19_280},
        {"name": "omniglot", "binarisation": "grey"},
        {"name": "celeba", "binarisation": "static"},
    ],
)
def test_configuration_rejects(node):
    with pytest.raises(ValidationError):
        TypeAdapter(Annotated[Dataset, datasets]).validate_python(node)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (CIFAR10, {"batches": []}, r"`batches`.*got \[\]"),
        (CIFAR10, {"batches": [2, 1]}, r"got \[2, 1\]"),
        (CIFAR10, {"batches": [1, 1]}, r"got \[1, 1\]"),
        (CIFAR10, {"batches": [1, 6]}, r"got \[1, 6\]"),
        (CIFAR10, {"batches": [1], "validation_size": 10_000}, "10,000 training"),
        (CIFAR10, {"validation_size": -1}, "-1"),
        (CIFAR10, {"binarisation": "3-bit"}, "'3-bit'"),
        (Omniglot, {"validation_size": 19_280}, "19,280"),
        (Omniglot, {"validation_size": -1}, "-1"),
        (Omniglot, {"binarisation": "grey"}, "'grey'"),
    ],
)
def test_impossible_options_fail_at_construction(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(**options)


# --- CIFAR-10 --------------------------------------------------------------------------------

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


LAYOUTS = {
    "cifar-10-batches-py": ("", python2_pickle, md5),
    "cifar-10-batches-bin": (".bin", records, lambda content: hashlib.sha1(content).hexdigest()),
}


def write_cifar(root: Path, folder: str, names=BATCHES) -> None:
    suffix, encode, _ = LAYOUTS[folder]
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / (name + suffix)).write_bytes(encode(PIXELS[name]))


@pytest.fixture
def small_cifar(monkeypatch):
    """CIFAR-10 with four images a batch."""
    monkeypatch.setattr(cifar10, "BATCH_SIZE", 4)
    for layout in cifar10.LAYOUTS:
        _, encode, checksum = LAYOUTS[layout.folder]
        for name, pixels in PIXELS.items():
            monkeypatch.setitem(layout.checksums, name, checksum(encode(pixels)))


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
    assert f"{tmp_path / 'cifar-10-batches-py'}: not found, nor in cifar-10-batches-bin" in message
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
    suffix, _, checksum = LAYOUTS[folder]
    path = tmp_path / folder / ("data_batch_3" + suffix)
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        CIFAR10(root=str(tmp_path), validation_size=0).load()
    assert f"{path}: truncated or wrong content: {len(content):,} bytes" in str(caught.value)
    assert checksum(content) in str(caught.value)


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


def test_cifar10_download_mends_either_layout(small_cifar, tmp_path, monkeypatch):
    import torchvision

    published = tmp_path / "published"
    write_cifar(published, "cifar-10-batches-py")
    (tmp_path / "mirror").mkdir()
    archive = tmp_path / "mirror" / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(published / "cifar-10-batches-py", "cifar-10-batches-py")
    root = tmp_path / "root"
    write_cifar(root, "cifar-10-batches-bin")
    (root / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(b"half of it")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", md5(archive.read_bytes()))
    monkeypatch.setenv("no_proxy", "*")
    dataset = CIFAR10(root=str(root), validation_size=5)
    with serving(partial(Files, directory=tmp_path / "mirror")) as address:
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{address}/cifar.tar.gz")
        dataset.download()
    assert len(dataset.load().splits["train"]) == 15
    assert {path.name for path in root.iterdir()} == set(LAYOUTS)
    dataset.download()  # all is there: nothing is fetched


def test_cifar10_checksums_are_torchvisions():
    import torchvision

    reference = torchvision.datasets.CIFAR10
    python = next(layout for layout in cifar10.LAYOUTS if layout.algorithm == "md5")
    assert python.folder == reference.base_folder
    assert dict(python.checksums) == dict(reference.train_list + reference.test_list)


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


# --- OMNIGLOT --------------------------------------------------------------------------------

DRAWINGS = {
    "images_background/Armenian/character01/0027_01.png": "images_background",
    "images_background/Armenian/character02/0028_01.png": "images_background",
    "images_background/Armenian/character02/0028_02.png": "images_background",
    "images_background/Greek/character01/0394_01.png": "images_background",
    "images_evaluation/Avesta/character01/1063_01.png": "images_evaluation",
    "images_evaluation/ULOG/character01/1598_01.png": "images_evaluation",
}
INK = {
    name: np.random.default_rng(seed).random((105, 105)) < 0.3
    for seed, name in enumerate(DRAWINGS)
}
COUNTS = {
    part: list(DRAWINGS.values()).count(part)
    for part in ("images_background", "images_evaluation")
}


def write_drawings(root: Path) -> None:
    for name, ink in INK.items():
        path = root / "omniglot-py" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(~ink).save(path)


def covered_quarters(part: str) -> np.ndarray:
    """The obvious form: each of 105² cut into 4², each 15² of these counted."""
    inks = [ink for name, ink in INK.items() if DRAWINGS[name] == part]
    fine = np.kron(np.stack(inks), np.ones((1, 4, 4), dtype=int))
    return fine.reshape(-1, 28, 15, 28, 15).sum((2, 4)).astype(np.uint8)


@pytest.fixture
def made_omniglot(tmp_path, monkeypatch, user_cache) -> Omniglot:
    monkeypatch.setattr(omniglot, "NUM_IMAGES", COUNTS)
    checksums = {part: sha256(covered_quarters(part).tobytes()) for part in COUNTS}
    monkeypatch.setattr(omniglot, "SHA256", checksums)
    write_drawings(tmp_path / "root")
    return Omniglot(root=str(tmp_path / "root"), binarisation="none", validation_size=1)


def archive_of(dataset) -> Path:
    return dataset.root / dataset.folder / dataset.archive


def test_omniglot_is_averaged_by_area_and_shuffled(made_omniglot):
    splits = made_omniglot.load().splits
    shuffled = {}
    for part, count in COUNTS.items():
        order = np.argsort(uniform(1623, (count,)), kind="stable")
        shuffled[part] = torch.from_numpy(covered_quarters(part)[order]).double()[:, None] / 225
    train, test = shuffled["images_background"], shuffled["images_evaluation"]
    torch.testing.assert_close(splits["train"].double(), train[:3], **NEAR)
    torch.testing.assert_close(splits["validation"].double(), train[3:], **NEAR)
    torch.testing.assert_close(splits["test"].double(), test, **NEAR)
    ink = np.stack([INK[name] for name in INK if DRAWINGS[name] == "images_evaluation"])
    assert splits["test"].double().mean().item() == pytest.approx(ink.mean(), abs=2**-24)


def test_omniglot_all_ink_is_one():
    assert (omniglot.COVER.sum(1) == 15).all()  # quarters of a pixel
    assert (omniglot.COVER.sum(0) == 4).all()  # no ink is lost, none counts twice


def test_omniglot_binarisations(made_omniglot):
    root = str(made_omniglot.root)
    grey = made_omniglot.load().splits["train"]
    threshold = Omniglot(root=root, binarisation="threshold", validation_size=1).load()
    assert torch.equal(threshold.splits["train"], (grey >= 0.5).float())
    dynamic = Omniglot(root=root, validation_size=1).load()
    assert dynamic.binarisation == "dynamic"
    assert torch.equal(dynamic.intensities, grey)
    assert "validation" not in Omniglot(root=root, validation_size=0).load().splits


def test_omniglot_is_decoded_once(made_omniglot, monkeypatch):
    first = made_omniglot.load()
    for name in INK:
        (made_omniglot.root / "omniglot-py" / name).unlink()
    undecodable(made_omniglot, monkeypatch)
    second = made_omniglot.load()
    assert second.checksum == first.checksum
    for split, x in first.splits.items():
        assert torch.equal(second.splits[split], x)
    assert not any(
        path.name.startswith(".") for path in archive_of(made_omniglot).parent.iterdir()
    )


def unwritable(path: Path) -> None:
    """A folder in the archive's place: unlike permissions, it stops even the superuser."""
    path.mkdir(parents=True)


def test_omniglot_archive_elsewhere(made_omniglot, user_cache, monkeypatch):
    unwritable(archive_of(made_omniglot))
    first = made_omniglot.load()
    assert [path.name for path in user_cache.rglob("*.npz")] == ["omniglot_28.npz"]
    undecodable(made_omniglot, monkeypatch)
    assert torch.equal(made_omniglot.load().splits["test"], first.splits["test"])


def test_omniglot_archive_elsewhere_does_not_hide_a_wrong_root(made_omniglot, tmp_path):
    unwritable(archive_of(made_omniglot))
    made_omniglot.load()
    with pytest.raises(DataError, match=r"other/omniglot-py/images_background: not found"):
        Omniglot(root=str(tmp_path / "other"), validation_size=1).load()


def test_omniglot_nowhere_to_keep_the_archive(made_omniglot, user_cache):
    unwritable(archive_of(made_omniglot))
    unwritable(user_cache / "omniglot-py" / "omniglot_28.npz")
    with pytest.warns(UserWarning, match=r"root.*cache.*every start decodes"):
        assert len(made_omniglot.load().splits["test"]) == 2


def test_omniglot_damaged_archive(made_omniglot):
    expected = made_omniglot.load().splits["train"]
    path = archive_of(made_omniglot)
    sound = path.read_bytes()
    changed = {part: 225 - covered_quarters(part) for part in COUNTS}
    np.savez(path, **changed)
    wrong = path.read_bytes()
    flipped = sound[:2000] + bytes([sound[2000] ^ 1]) + sound[2001:]
    for content in (b"", sound[:100], sound[:-1], flipped, wrong):
        path.write_bytes(content)
        assert torch.equal(made_omniglot.load().splits["train"], expected)
        path.write_bytes(content)
        drawings = path.parent / "images_background"
        drawings.rename(path.parent / "aside")
        with pytest.raises(DataError) as caught:
            made_omniglot.load()
        assert f"{path}: " in str(caught.value)
        assert "--download omniglot" in str(caught.value)
        (path.parent / "aside").rename(drawings)


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "text", "colour", "small"])
def test_omniglot_damaged_drawings(made_omniglot, damage):
    folder = made_omniglot.root / "omniglot-py"
    name = next(name for name in INK if "background" in name)
    path, content = folder / name, (folder / name).read_bytes()
    message = f"{path}: damaged or no such drawing"
    if damage == "missing":
        path.unlink()
        message = f"{folder / 'images_background'}: 3 drawings, expected 4"
    elif damage == "changed":
        Image.fromarray(INK[name]).save(path)
        message = f"{folder}: wrong content: sha256"
    elif damage in ("cut", "text"):
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"a text")
    else:
        size = (105, 105) if damage == "colour" else (10, 10)
        Image.new("RGB" if damage == "colour" else "1", size).save(path)
    with pytest.raises(DataError) as caught:
        made_omniglot.load()
    assert message in str(caught.value)
    assert not archive_of(made_omniglot).exists()


def zip_folder(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*"):
            file.write(path, path.relative_to(folder.parent))


def test_omniglot_download_keeps_the_archive_alone(made_omniglot, tmp_path, monkeypatch):
    import torchvision

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    checksums = {}
    for part in COUNTS:
        zip_folder(mirror / f"{part}.zip", made_omniglot.root / "omniglot-py" / part)
        checksums[part] = md5((mirror / f"{part}.zip").read_bytes())
    monkeypatch.setattr(torchvision.datasets.Omniglot, "zips_md5", checksums)
    monkeypatch.setenv("no_proxy", "*")
    dataset = Omniglot(root=str(tmp_path / "fresh"), binarisation="none", validation_size=1)
    with serving(partial(Files, directory=mirror)) as address:
        monkeypatch.setattr(torchvision.datasets.Omniglot, "download_url_prefix", address)
        dataset.download()
    files = [path for path in dataset.root.rglob("*") if path.is_file()]
    assert files == [archive_of(dataset)]
    assert torch.equal(dataset.load().splits["train"], made_omniglot.load().splits["train"])
    dataset.download()  # all is there: nothing is fetched


def test_omniglot_is_that_of_the_published_drawings():
    data = load_real("omniglot", binarisation="none")
    sizes = {name: len(x) for name, x in data.splits.items()}
    assert sizes == {"train": 17_935, "validation": 1_345, "test": 13_180}
    root = Path(os.environ["VI_DATA"])
    parts = Omniglot().read(root)
    for part, quarters in parts.items():
        paths = sorted((root / "omniglot-py" / part).glob("*/*/*.png"))
        if not paths:
            pytest.skip("VI_DATA holds omniglot's archive without the drawings")
        for index in range(0, len(paths), 1_000):
            ink = 1 - np.asarray(Image.open(paths[index]), dtype=int)
            fine = np.kron(ink, np.ones((4, 4), dtype=int)).reshape(28, 15, 28, 15)
            assert np.array_equal(quarters[index], fine.sum((1, 3)))


# --- CelebA ----------------------------------------------------------------------------------

PARTS = {"000001.jpg": 0, "000002.jpg": 2, "000003.jpg": 0, "000004.jpg": 1, "000005.jpg": 0}
SPLITS = {
    "train": ["000001.jpg", "000003.jpg", "000005.jpg"],
    "validation": ["000004.jpg"],
    "test": ["000002.jpg"],
}


def write_faces(folder: Path) -> None:
    """Photographs and tables of five made faces, as torchvision lays them out."""
    (folder / "img_align_celeba").mkdir(parents=True)
    for seed, name in enumerate(PARTS):
        coarse = np.random.default_rng(seed).integers(256, size=(30, 25, 3)).astype(np.uint8)
        face = Image.fromarray(coarse).resize((178, 218), Image.Resampling.BICUBIC)
        face.save(folder / "img_align_celeba" / name, quality=95)
    tables = {
        "list_eval_partition.txt": ([], PARTS.values()),
        "identity_CelebA.txt": ([], [7] * 5),
        "list_bbox_celeba.txt": (["5", "image_id x_1"], [1] * 5),
        "list_landmarks_align_celeba.txt": (["5", "lefteye_x"], [1] * 5),
        "list_attr_celeba.txt": (["5", "Smiling"], [-1] * 5),
    }
    for table, (header, values) in tables.items():
        rows = [f"{name} {value}" for name, value in zip(PARTS, values, strict=True)]
        (folder / table).write_text("\n".join([*header, *rows]) + "\n")


@pytest.fixture
def made_celeba(tmp_path, monkeypatch, user_cache) -> CelebA:
    folder = tmp_path / "root" / "celeba"
    write_faces(folder)
    partition = (folder / "list_eval_partition.txt").read_bytes()
    monkeypatch.setattr(celeba, "PARTITION_MD5", md5(partition))
    monkeypatch.setattr(celeba, "NUM_IMAGES", {"train": 3, "valid": 1, "test": 1})
    return CelebA(root=str(tmp_path / "root"))


def test_celeba_is_what_torchvision_crops_and_resizes(made_celeba):
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    transform = Compose([CenterCrop(148), Resize(64), PILToTensor()])
    data = made_celeba.load()
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.x_shape == (3, 64, 64)
    assert data.binarisation == "none"
    for split, names in SPLITS.items():
        images = [made_celeba.root / "celeba" / "img_align_celeba" / name for name in names]
        expected = torch.stack([transform(Image.open(path)) for path in images])
        torch.testing.assert_close(data.splits[split].double(), expected.double() / 255, **NEAR)


def test_celeba_grey_is_pillows_but_for_its_rounding(made_celeba):
    colours = made_celeba.load()
    data = CelebA(root=str(made_celeba.root), grey=True).load()
    assert data.x_shape == (1, 64, 64)
    assert data.checksum == colours.checksum
    for split, x in data.splits.items():
        rgb = (colours.splits[split] * 255).round().byte().permute(0, 2, 3, 1).numpy()
        expected = np.stack([np.asarray(Image.fromarray(face).convert("L")) for face in rgb])
        assert ((x.squeeze(1).numpy() * 255.0 - expected) <= 0.5 + 1e-4).all()
        assert ((x.squeeze(1).numpy() * 255.0 - expected) >= -0.5 - 1e-4).all()


def test_celeba_white_is_one_and_black_is_zero_in_grey():
    pixels = np.stack([np.full((3, 64, 64), value, dtype=np.uint8) for value in (255, 0)])
    assert celeba._to_images(pixels, grey=True).unique().tolist() == [0, 1]


def test_celeba_is_decoded_once(made_celeba, monkeypatch):
    first = made_celeba.load()
    (made_celeba.root / "celeba" / "list_eval_partition.txt").unlink()
    undecodable(made_celeba, monkeypatch)
    second = made_celeba.load()
    assert second.checksum == first.checksum
    for split, x in first.splits.items():
        assert torch.equal(second.splits[split], x)


@pytest.mark.parametrize("damage", ["cut", "flipped", "fewer", "float"])
def test_celeba_damaged_archive(made_celeba, damage):
    expected = made_celeba.load().splits["train"]
    path = archive_of(made_celeba)
    sound = path.read_bytes()
    with np.load(path) as archive:
        parts = dict(archive)
    if damage == "cut":
        path.write_bytes(sound[: len(sound) // 2])
    elif damage == "flipped":
        middle = len(sound) // 2
        path.write_bytes(sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :])
    elif damage == "fewer":
        np.savez(path, **parts | {"train": parts["train"][:2]})
    else:
        np.savez(path, **parts | {"test": parts["test"].astype(np.float32)})
    broken = path.read_bytes()
    assert torch.equal(made_celeba.load().splits["train"], expected)  # decoded again

    path.write_bytes(broken)
    (path.parent / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError) as caught:
        made_celeba.load()
    assert f"{path}: " in str(caught.value)
    assert "--download celeba" in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "cut", "grey", "size"])
def test_celeba_damaged_photograph(made_celeba, damage):
    path = made_celeba.root / "celeba" / "img_align_celeba" / "000004.jpg"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        mode, size = ("L", (178, 218)) if damage == "grey" else ("RGB", (218, 178))
        Image.new(mode, size).save(path)
    problem = "not found" if damage == "missing" else "damaged or no such photograph"
    with pytest.raises(DataError) as caught:
        made_celeba.load()
    assert f"{path}: {problem}" in str(caught.value)


def test_celeba_wrong_partition(made_celeba):
    path = made_celeba.root / "celeba" / "list_eval_partition.txt"
    path.write_text(path.read_text().replace("000004.jpg 1", "000004.jpg 0"))
    with pytest.raises(DataError, match="wrong content: md5"):
        made_celeba.load()


@pytest.fixture
def drive(made_celeba, tmp_path, monkeypatch):
    """A folder in Google Drive's place."""
    import torchvision
    from torchvision.datasets import celeba as module

    source = tmp_path / "drive"
    write_faces(source)
    zip_folder(source / "img_align_celeba.zip", source / "img_align_celeba")
    files = [(path.name, md5(path.read_bytes()), path.name) for path in source.glob("*.*")]

    def copy(file_id, root, filename, checksum):
        target = Path(root, filename)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((source / file_id).read_bytes())

    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", files)
    monkeypatch.setattr(module, "download_file_from_google_drive", copy)


def test_celeba_download_keeps_the_archive_alone(made_celeba, drive, tmp_path):
    dataset = CelebA(root=str(tmp_path / "fresh"))
    dataset.download()
    assert [path for path in dataset.root.rglob("*") if path.is_file()] == [archive_of(dataset)]
    assert torch.equal(dataset.load().splits["test"], made_celeba.load().splits["test"])


def test_celeba_download_needs_gdown(made_celeba, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    root = tmp_path / "fresh"
    with pytest.raises(
        DataError, match=r"celeba: fetching into .*fresh failed.*pip install gdown"
    ):
        CelebA(root=str(root)).download()
    assert list(root.iterdir()) == []
