"""Data of one's own: read as they are, split the same way each time, refused with one line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import main as program
from tests.components import SEED
from tests.finished_runs import QUICKSTART
from utils.data.base import Data, DataError
from utils.data.own import OwnData
from utils.results.folder import RunFolder

Array = NDArray[Any]


def noise(*shape: int) -> Array:
    return np.random.default_rng(SEED).normal(size=shape)


def pixels(*shape: int) -> Array:
    return np.random.default_rng(SEED).integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, **arrays: Array) -> Path:
    np.savez(path, **arrays)
    return path


def load(path: Path, **options: Any) -> Data:
    return OwnData(path=str(path), **options).load()


def rows_of(data: Data) -> Array:
    return np.sort(np.concatenate([x.numpy().reshape(-1) for x in data.splits.values()]))


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(pixels(20, 5, 7)):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    return folder


def test_an_array_is_split_into_three_that_are_together_what_was_there(tmp_path):
    x = noise(40, 3)
    path = saved(tmp_path / "x.npz", anything=x)
    data = load(path)
    assert {part: tuple(x.shape) for part, x in data.splits.items()} == {
        "train": (32, 1, 1, 3),
        "validation": (4, 1, 1, 3),
        "test": (4, 1, 1, 3),
    }
    np.testing.assert_array_equal(rows_of(data), np.sort(x.astype(np.float32).reshape(-1)))
    assert data.checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    again, other = load(path), load(path, split_seed=1)
    assert torch.equal(again.splits["test"], data.splits["test"])
    assert not torch.equal(other.splits["test"], data.splits["test"])


def test_what_is_tested_does_not_depend_on_validation(tmp_path):
    path = saved(tmp_path / "x.npz", x=noise(40, 3))
    without = load(path, validation_size=0, test_size=7)
    assert set(without.splits) == {"train", "test"}
    assert torch.equal(without.splits["test"], load(path, test_size=7).splits["test"])


def test_splits_that_a_file_names_are_kept(tmp_path):
    train, test = noise(30, 4), noise(5, 4) + 10
    data = load(saved(tmp_path / "x.npz", train=train, test=test, labels=np.arange(30)))
    assert {part: len(x) for part, x in data.splits.items()} == {
        "train": 27,
        "validation": 3,
        "test": 5,
    }
    np.testing.assert_array_equal(
        data.splits["test"].view(5, 4), torch.from_numpy(test.astype(np.float32))
    )


@pytest.mark.parametrize(
    ("array", "options", "shape", "largest"),
    [
        (pixels(10, 6, 9), {}, (1, 6, 9), 1.0),
        (pixels(10, 3, 6, 9), {}, (3, 6, 9), 1.0),
        (pixels(10, 6, 9, 3), {}, (3, 6, 9), 1.0),
        (pixels(10, 3, 9, 3), {"channels": "last"}, (3, 3, 9), 1.0),
        (pixels(10, 54), {"shape": [1, 6, 9]}, (1, 6, 9), 1.0),
        (pixels(10, 6, 9).astype(np.int64), {"white": 255.0}, (1, 6, 9), 1.0),
        (pixels(10, 6, 9) > 100, {}, (1, 6, 9), 1.0),
        ((pixels(10, 6, 9) > 100).astype(np.uint8), {}, (1, 6, 9), 1.0),
        (noise(10, 5).astype(np.float32), {}, (1, 1, 5), None),
    ],
)
def test_shapes_and_scales(tmp_path, array, options, shape, largest):
    path = tmp_path / "x.npy"
    np.save(path, array)
    data = load(path, **options)
    assert data.x_shape == shape
    assert all(x.dtype == torch.float32 for x in data.splits.values())
    if largest is not None:
        assert abs(max(x.max() for x in data.splits.values()) - largest) <= 0.05
        assert min(x.min() for x in data.splits.values()) >= 0


def test_colours_are_where_they_were(tmp_path):
    array = pixels(10, 4, 5, 3)
    path = tmp_path / "x.npy"
    np.save(path, array)
    data = load(path, test_size=0, validation_size=0)
    expected = torch.from_numpy(array).permute(0, 3, 1, 2).double().div(255).float()
    assert torch.equal(data.splits["train"], expected)


def test_rows_of_numbers_with_and_without_a_header(tmp_path):
    path = tmp_path / "x.csv"
    body = "\n".join(f"{index},{index / 7}" for index in range(20))
    path.write_text(body)
    plain = load(path)
    path.write_text(f"height,width\n{body}\n")
    headed = load(path)
    assert plain.x_shape == (1, 1, 2)
    for part, x in plain.splits.items():
        assert torch.equal(x, headed.splits[part])


def test_standardised_numbers_have_mean_zero_and_deviation_one(tmp_path):
    x = noise(200, 3) * [1, 10, 0] + [5, 0, 2]
    train = load(saved(tmp_path / "x.npz", x=x), standardise=True).splits["train"].flatten(1)
    torch.testing.assert_close(train.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]))


def test_a_folder_of_images_is_read_in_the_order_of_its_names(images):
    data = load(images, validation_size=0, test_size=0)
    expected = torch.from_numpy(pixels(20, 5, 7)).unsqueeze(1).double().div(255).float()
    assert torch.equal(data.splits["train"], expected)


def test_one_colour_image_makes_all_of_them_colour(images):
    Image.fromarray(pixels(5, 7, 3)).save(images / "99.png")
    assert load(images).x_shape == (3, 5, 7)


def test_subfolders_named_as_splits_are_the_splits(images):
    for name in ("train/cats", "test"):
        (images / name).mkdir(parents=True)
    files = sorted(images.glob("*.png"))
    for file in files[:4]:
        file.rename(images / "test" / file.name)
    for file in files[4:]:
        file.rename(images / "train" / "cats" / file.name)
    data = load(images)
    assert {part: len(x) for part, x in data.splits.items()} == {
        "train": 15,
        "validation": 1,
        "test": 4,
    }


def test_the_checksum_of_a_folder_sees_names_and_contents(images):
    before = load(images).checksum
    (images / "notes.txt").write_text("no image")
    assert load(images).checksum == before
    (images / "00.png").rename(images / "zz.png")
    assert load(images).checksum != before


def _with_nan() -> Array:
    x = noise(10, 3)
    x[4, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (_with_nan(), {}, ["NaN", "1 of 10", "number 4"]),
        (pixels(10, 4, 4).astype(float), {"binarisation": "static"}, ["0 and 1", "data.white"]),
        (noise(1, 3), {}, ["1 data are too few", "data.test_size"]),
        (noise(10, 3), {"test_size": 10}, ["too few"]),
        (noise(0, 3), {}, ["empty", "(0, 3)"]),
        (noise(10), {}, ["one axis only"]),
        (noise(10, 5, 5, 5), {}, ["data.channels"]),
        (noise(4, 1, 1, 1, 2), {}, ["data.shape"]),
        (noise(10, 5), {"shape": [1, 2, 2]}, ["does not fit the 5 numbers"]),
        (np.array([["a", "b"]]), {}, ["no real numbers"]),
        (np.array([[None, 1]]), {}, ["truncated, damaged or of another type"]),
        (noise(10, 3), {"sha256": "0"}, ["sha256 is", "data.sha256=null"]),
    ],
)
def test_what_is_wrong_with_an_array_is_said_in_one_line(tmp_path, array, options, words):
    path = tmp_path / "x.npy"
    np.save(path, array)
    with pytest.raises(DataError) as caught:
        load(path, **options)
    said = str(caught.value)
    assert said.startswith(f"file: {path}: ")
    assert "\n" not in said
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.npz", None, ["not found", "data.path"]),
        ("x.txt", "1,2", ["files of type .txt are not read"]),
        ("x.npz", "no archive", ["truncated, damaged"]),
        ("x.csv", "", ["no rows"]),
        ("x.csv", "a,b\n", ["no rows"]),
        ("x.csv", "1,2\n3\n", ["row 2 has 1 cells"]),
        ("x.csv", "1,2\n3,cat\n", ["row 2: 'cat' is no number", "labels"]),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_archive_of_other_names_and_of_splits_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match="holds a, b; call its arrays train"):
        load(saved(tmp_path / "x.npz", a=noise(3, 2), b=noise(3, 2)))
    with pytest.raises(DataError, match="several shapes"):
        load(saved(tmp_path / "y.npz", train=noise(9, 2), test=noise(3, 3)))
    with pytest.raises(DataError, match="has a split test already"):
        load(saved(tmp_path / "z.npz", train=noise(9, 2), test=noise(3, 2)), test_size=2)


def test_what_is_wrong_with_a_folder_is_said_in_one_line(images, tmp_path):
    (images / "bad.png").write_text("no image")
    with pytest.raises(DataError, match=r"bad\.png is no image"):
        load(images)
    Image.fromarray(pixels(6, 7)).save(images / "bad.png")
    with pytest.raises(DataError, match=r"00\.png has 7×5 pixels, bad\.png has 7×6"):
        load(images)
    Image.fromarray(pixels(5, 7).astype(np.uint16)).save(images / "bad.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        load(images)
    (images / "bad.png").unlink()
    (images / "train").mkdir()
    (images / "01.png").rename(images / "train" / "01.png")
    with pytest.raises(DataError, match="lies in none of the subfolders train"):
        load(images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in this folder"):
        load(tmp_path / "empty")


@pytest.mark.usefixtures("results_here")
def test_a_run_on_a_file_is_identified_by_its_content(tmp_path, capsys):
    path = saved(tmp_path / "my faces.npz", x=pixels(30, 5, 7))
    small = [
        "model.decoder.hidden=[8]", "encoder={name: convolutional, channels: [4], hidden: [8]}",
        "training.epochs=1", "runtime={tensorboard: false, threads: 1}",
        "evaluation={estimators: [{name: importance, num_samples: 3}]}",
    ]  # fmt: skip

    def run(at: Path) -> int:
        data = f"data={{name: file, path: '{at}', binarisation: static}}"
        return program.main(["-config", QUICKSTART, "-set", data, *small])

    assert run(path) == 0
    moved = path.rename(tmp_path / "moved.npz")
    assert run(moved) == 0
    assert "already finished" in capsys.readouterr().err
    saved(moved, x=pixels(31, 5, 7))
    assert run(moved) == 0
    folders = [RunFolder(p).read_status() for p in (tmp_path / "results" / "runs").iterdir()]
    assert sorted(record.dataset for record in folders) == ["moved", "my faces"]
    assert all(len(record.config["data"]["sha256"]) == 64 for record in folders)
    moved.unlink()
    assert run(moved) == 3


def test_a_dry_run_says_what_the_content_filled_in(tmp_path, capsys):
    path = saved(tmp_path / "x.npz", x=(noise(30, 2, 2) > 0).astype(np.uint8))
    data = [f"data={{name: file, path: {path}}}", "encoder={name: mlp, hidden: [4]}"]
    assert program.main(["-config", str(QUICKSTART), "--dry-run", "-set", *data]) == 0
    origins = dict(line.strip().split(":", 1) for line in capsys.readouterr().out.splitlines()[:4])
    assert origins["sha256"].endswith("# filled in")
    assert origins["path"].endswith("# -set")
