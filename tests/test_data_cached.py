"""Images in many files that are decoded once: OMNIGLOT and CelebA."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data_files import NEAR, Files, load_real, md5, serving, sha256, uniform
from utils.data import celeba, omniglot
from utils.data.base import DataError
from utils.data.celeba import CelebA
from utils.data.omniglot import Omniglot


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


def pack(root: Path) -> Path:
    """Put the drawings into the archive that holds their folder, and take them away."""
    packed = root / "omniglot-py.tar.xz"
    with tarfile.open(packed, "w:xz") as archive:
        archive.add(root / "omniglot-py", "omniglot-py")
    shutil.rmtree(root / "omniglot-py")
    return packed


@pytest.mark.parametrize("writable", [True, False])
def test_omniglot_is_unpacked_once(made_omniglot, user_cache, monkeypatch, writable):
    expected = made_omniglot.decode(made_omniglot.root)
    pack(made_omniglot.root)
    if not writable:
        (made_omniglot.root / "omniglot-py").write_bytes(b"")  # no folder can be made here
    first = made_omniglot.read(made_omniglot.root)
    kept = archive_of(made_omniglot) if writable else user_cache / "omniglot-py/omniglot_28.npz"
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged: unpacked again
    second = made_omniglot.read(made_omniglot.root)
    undecodable(made_omniglot, monkeypatch)
    third = made_omniglot.read(made_omniglot.root)
    for parts in (first, second, third):
        for part, quarters in expected.items():
            assert np.array_equal(parts[part], quarters)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"?" + b[1:], lambda b: b""]
)
def test_omniglot_damaged_package(made_omniglot, damage):
    packed = pack(made_omniglot.root)
    packed.write_bytes(damage(packed.read_bytes()))
    with pytest.raises(DataError, match="damaged or no such archive"):
        made_omniglot.load()


def test_omniglot_package_of_other_drawings(made_omniglot):
    drawing = made_omniglot.root / "omniglot-py" / next(iter(INK))
    Image.fromarray(np.zeros((105, 105), dtype=bool)).save(drawing)
    pack(made_omniglot.root)
    with pytest.raises(DataError, match="wrong content: sha256"):
        made_omniglot.load()


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
