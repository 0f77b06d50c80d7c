import gzip
import hashlib
import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from utils.data import binarised_mnist, files
from utils.data.base import SPLITS, Data, DataError, Dataset, bernoulli, datasets
from utils.data.binarised_mnist import BinarisedMNIST, Part
from utils.data.digits import Digits
from utils.data.files import FileDataset
from utils.data.linear_gaussian import LinearGaussian, ground_truth
from utils.data.mnist import MNIST, FashionMNIST, IdxFile

NAMES = datasets.names()
FILE_NAMES = [name for name in NAMES if issubclass(datasets[name].factory, FileDataset)]
BINARISATIONS = ["static", "dynamic", "threshold", "none"]
NUM_TRAIN, NUM_TEST = 40, 10


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load_real(name: str, **options) -> Data:
    """Load with files from $VI_DATA, or skip."""
    factory = datasets[name].factory
    if not issubclass(factory, FileDataset):
        return factory(**options).load()
    if not os.environ.get("VI_DATA"):
        pytest.skip(f"{name} needs its files: set VI_DATA to the folder that holds them")
    try:
        return factory(**options).load()
    except DataError as error:
        if "not found" not in str(error):
            raise
        pytest.skip(f"VI_DATA does not hold {name}")


@contextmanager
def serving(handler) -> Iterator[str]:
    """A loopback server; yields its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# --- every registered data set ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_loads(name):
    data = load_real(name)
    assert set(data.splits) <= set(SPLITS)
    assert "train" in data.splits
    for x in data.splits.values():
        assert x.dtype == torch.float32
        assert x.shape[1:] == data.x_shape
        assert len(data.x_shape) == 3
        if name not in ("absolute_value", "linear_gaussian", "nothing"):
            assert 0 <= x.min() < x.max() <= 1
    assert len(bytes.fromhex(data.checksum)) == 32
    batch = data.batch(torch.tensor([2, 0, 2]))
    assert batch.shape == (3, *data.x_shape)
    assert batch.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_fixed_whatever_the_global_seed_and_leaves_it_alone(name):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())  # noqa: NPY002
    one = load_real(name)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002
    torch.manual_seed(2)
    two = load_real(name)
    assert one.checksum == two.checksum
    assert one.splits.keys() == two.splits.keys()
    for split, x in one.splits.items():
        assert torch.equal(x, two.splits[split])


@pytest.mark.parametrize("name", NAMES)
def test_is_known_by_its_registered_name_and_marks_its_location(name):
    entry = datasets[name]
    options = {option.name for option in entry.options}
    assert entry.factory.name == name
    assert entry.sizes == ()
    assert entry.factory.execution_options == options & {"root"}


@pytest.mark.parametrize("name", FILE_NAMES)
def test_missing_files_name_path_and_command(name, tmp_path, monkeypatch):
    factory = datasets[name].factory
    root = tmp_path / "my data"
    with pytest.raises(DataError) as caught:
        factory(root=str(root)).load()
    assert f"{root}{os.sep}" in str(caught.value)
    assert "not found" in str(caught.value)
    assert f"python main.py --download {name} -set 'data.root={root}'" in str(caught.value)

    monkeypatch.setenv("VI_DATA", str(root))
    with pytest.raises(DataError) as caught:
        factory().load()
    assert f"{root}{os.sep}" in str(caught.value)
    assert str(caught.value).endswith(f"python main.py --download {name}")

    monkeypatch.delenv("VI_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        factory().load()
    assert f"{tmp_path / 'data'}{os.sep}" in str(caught.value)


@pytest.mark.parametrize(
    "node",
    [
        {"name": "mnist", "validation_size": 60_000},
        {"name": "mnist", "validation_size": -1},
        {"name": "digits", "binarisation": "dynamc"},
        {"name": "digits", "root": "x"},
        {"name": "linear_gaussian", "dim": 0},
    ],
)
def test_configuration_rejects(node):
    with pytest.raises(ValidationError):
        TypeAdapter(Annotated[Dataset, datasets]).validate_python(node)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (MNIST, {"validation_size": 60_000}, "60,000"),
        (FashionMNIST, {"validation_size": -1}, "-1"),
        (MNIST, {"binarisation": "dynamc"}, "static, dynamic, threshold, none; got 'dynamc'"),
        (Digits, {"binarisation": "grey"}, "'grey'"),
        (LinearGaussian, {"dim": 0}, "`dim`"),
        (LinearGaussian, {"noise_scale": 0.0}, "`noise_scale`"),
        (LinearGaussian, {"num_test": -3}, "`num_test`"),
    ],
)
def test_impossible_options_fail_at_construction(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(**options)


@pytest.mark.slow  # a new interpreter imports torch
def test_construction_and_bundled_data_import_neither_torchvision_nor_sklearn():
    program = """
import sys
from utils.data.base import datasets
built = [entry.factory() for entry in datasets]
datasets["digits"].factory().load()
print([name for name in ("torchvision", "sklearn") if name in sys.modules])
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


# --- binarisation ----------------------------------------------------------------------------


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniforms from the low 24 bits of NumPy's Mersenne twister, whose stream is frozen."""
    words = np.random.RandomState(seed).randint(0, 2**32, size=shape, dtype=np.uint32)
    return (words & 0xFFFFFF).astype(np.float32) / 2**24


@pytest.mark.parametrize("binarisation", ["static", "dynamic"])
def test_fixed_draws_follow_their_documented_seeds(binarisation):
    grey = Digits(binarisation="none").load().splits
    fixed = Digits(binarisation=binarisation).load().splits
    for split, seed in {"train": 1812, "validation": 1813, "test": 1814}.items():
        expected = uniform(seed, tuple(grey[split].shape)) < grey[split].numpy()
        assert np.array_equal(fixed[split].numpy(), expected.astype(np.float32))


def test_threshold_is_one_from_a_half_on():
    grey = Digits(binarisation="none").load().splits
    binary = Digits(binarisation="threshold").load().splits
    assert (grey["train"] == 0.5).any()
    for split, x in binary.items():
        assert set(x.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(x == 1, grey[split] >= 0.5)


@pytest.mark.parametrize("binarisation", ["static", "threshold", "none"])
def test_batches_are_rows_unless_dynamic(binarisation):
    data = Digits(binarisation=binarisation).load()
    assert data.binarisation == binarisation
    indices = torch.tensor([5, 5, 1296, 0])
    state = torch.get_rng_state()
    assert torch.equal(data.batch(indices), data.splits["train"][indices])
    assert torch.equal(torch.get_rng_state(), state)


def test_dynamic_batches_are_fresh_draws_of_the_global_stream():
    data = Digits(binarisation="dynamic").load()
    indices = torch.arange(20)
    torch.manual_seed(3)
    one, two = data.batch(indices), data.batch(indices)
    assert not torch.equal(one, two)
    torch.manual_seed(3)
    assert torch.equal(one, data.batch(indices))


def test_dynamic_batches_have_the_grey_values_as_means():
    grey = Digits(binarisation="none").load().splits["train"][:16].double()
    data = Digits(binarisation="dynamic").load()
    torch.manual_seed(4)
    num_draws = 2000
    draws = data.batch(torch.arange(16).repeat(num_draws))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    mean = draws.view(num_draws, *grey.shape).double().mean(0)
    error = (grey * (1 - grey) / num_draws).sqrt()
    assert ((mean - grey).abs() <= 5 * error).all()  # exact where grey is 0 or 1


def test_a_certain_pixel_is_certain_at_the_end_of_the_uniform_range(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.zeros(shape))
    assert bernoulli(torch.tensor([0.0, 0.1, 1.0])).tolist() == [0, 1, 1]


def test_validation_size_leaves_the_test_images_alone(made_mnist):
    none = MNIST(root=made_mnist, binarisation="static", validation_size=0).load()
    some = MNIST(root=made_mnist, binarisation="static", validation_size=20).load()
    assert torch.equal(none.splits["test"], some.splits["test"])


def test_to_moves_everything():
    data = Digits(binarisation="dynamic").load().to("meta")
    assert {x.device.type for x in [*data.splits.values(), data.intensities]} == {"meta"}
    assert Digits(binarisation="none").load().to("meta").intensities is None


# --- digits ----------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_each_once():
    from sklearn.datasets import load_digits

    splits = Digits(binarisation="none").load().splits
    assert [len(splits[split]) for split in SPLITS] == [1297, 250, 250]
    images = (torch.cat([splits[split] for split in SPLITS]) * 16).view(-1, 64).numpy()
    expected = load_digits().data
    order = np.argsort(uniform(1797, (1797,)), kind="stable")
    assert np.array_equal(images, expected[order])


def test_digits_without_or_with_another_scikit_learn(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        Digits().load()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec)
    with pytest.raises(DataError, match=r"digits\.csv\.gz"):
        Digits().load()
    table = tmp_path / "datasets" / "data" / "digits.csv.gz"
    table.parent.mkdir(parents=True)
    table.write_bytes(gzip.compress(b"0,1\n"))
    with pytest.raises(DataError, match="wrong content"):
        Digits().load()


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
    # float32 keeps 24 bits: half a unit of the last place of a number below 1 is 2⁻²⁵
    near = {"rtol": 0, "atol": 2**-24}
    torch.testing.assert_close(data.splits["train"].double(), expected[:cut], **near)
    torch.testing.assert_close(data.splits["test"].double(), pixels(TEST), **near)
    assert ("validation" in data.splits) == (validation_size > 0)
    if validation_size:
        validation = data.splits["validation"]
        torch.testing.assert_close(validation.double(), expected[cut:], **near)


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


class Files(SimpleHTTPRequestHandler):
    """Serves a folder in silence."""

    def log_message(self, *args):
        pass


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
        resources.append((f"{name}.gz", hashlib.md5(archive).hexdigest()))
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


# --- linear Gaussian -------------------------------------------------------------------------


def test_linear_gaussian_has_the_moments_of_its_truth():
    num_train, dim = 20_000, 5
    dataset = LinearGaussian(
        dim=dim, latent_dim=3, noise_scale=0.7, num_train=num_train, data_seed=9
    )
    weight, mean = ground_truth(dim, 3, data_seed=9)
    data = dataset.load()
    assert data.x_shape == (1, 1, dim)
    x = data.splits["train"].view(num_train, dim).double()
    covariance = weight @ weight.T + 0.7**2 * torch.eye(dim, dtype=torch.float64)
    variance = covariance.diagonal()
    assert ((x.mean(0) - mean).abs() < 5 * (variance / num_train).sqrt()).all()
    error = ((variance[:, None] * variance + covariance**2) / num_train).sqrt()  # Isserlis
    assert ((x.T.cov() - covariance).abs() < 5 * error).all()


def test_linear_gaussian_splits_stand_alone():
    options = {"num_validation": 30, "num_test": 30}
    small = LinearGaussian(num_train=30, **options).load()
    large = LinearGaussian(num_train=99, **options).load()
    assert torch.equal(small.splits["test"], large.splits["test"])
    for one, other in itertools.combinations(SPLITS, 2):
        assert not torch.isin(small.splits[one], small.splits[other]).any()
    assert sorted(LinearGaussian(num_validation=0).load().splits) == ["test", "train"]
    assert small.checksum != LinearGaussian(num_train=30, data_seed=1, **options).load().checksum
