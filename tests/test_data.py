"""Every registered data set; how images are made binary; digits; the linear-Gaussian one."""

from __future__ import annotations

import gzip
import itertools
import math
import os
import random
import subprocess
import sys
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from tests.components import reseed
from tests.data_files import load_real, uniform
from utils.data.base import SPLITS, DataError, Dataset, bernoulli, datasets
from utils.data.binarisation import METHODS, binarise
from utils.data.cifar10 import CIFAR10
from utils.data.digits import Digits
from utils.data.files import FileDataset
from utils.data.linear_gaussian import LinearGaussianData, ground_truth
from utils.data.mnist import MNIST, FashionMNIST
from utils.data.omniglot import Omniglot

NAMES = datasets.names()
TOYS = ("absolute_value", "linear_gaussian", "noisy_radius", "nothing", "ring", "shared_gaussian")
"""Their numbers are not confined to [0, 1]."""
FILE_NAMES = [name for name in NAMES if issubclass(datasets[name].factory, FileDataset)]


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
        if name not in TOYS:
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
    assert entry.factory.execution_options == options & {"root", "path"}


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
        (MNIST, {"validation_size": 60_000}, "60,000"),
        (FashionMNIST, {"validation_size": -1}, "-1"),
        (MNIST, {"binarisation": "dynamc"}, "static, dynamic, threshold, none; got 'dynamc'"),
        (Digits, {"binarisation": "grey"}, "'grey'"),
        (LinearGaussianData, {"dim": 0}, "`dim`"),
        (LinearGaussianData, {"noise_scale": 0.0}, "`noise_scale`"),
        (LinearGaussianData, {"num_test": -3}, "`num_test`"),
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


@pytest.mark.slow  # a new interpreter imports torch
def test_construction_and_bundled_data_import_neither_torchvision_nor_sklearn():
    program = """
import sys
from utils.data.base import datasets
built = [entry.factory() for entry in datasets if entry.name != "file"]
datasets["digits"].factory().load()
print([name for name in ("torchvision", "sklearn") if name in sys.modules])
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


# --- binarisation ----------------------------------------------------------------------------


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
    reseed(3)
    one, two = data.batch(indices), data.batch(indices)
    assert not torch.equal(one, two)
    reseed(3)
    assert torch.equal(one, data.batch(indices))


def test_dynamic_batches_have_the_grey_values_as_means():
    grey = Digits(binarisation="none").load().splits["train"][:16].double()
    data = Digits(binarisation="dynamic").load()
    reseed(4)
    num_draws = 2000
    draws = data.batch(torch.arange(16).repeat(num_draws))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    mean = draws.view(num_draws, *grey.shape).double().mean(0)
    error = (grey * (1 - grey) / num_draws).sqrt()
    assert ((mean - grey).abs() <= 5 * error).all()  # exact where grey is 0 or 1


def test_a_certain_pixel_is_certain_at_the_end_of_the_uniform_range(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.zeros(shape))
    assert bernoulli(torch.tensor([0.0, 0.1, 1.0])).tolist() == [0, 1, 1]


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


# --- linear Gaussian -------------------------------------------------------------------------


def test_linear_gaussian_has_the_moments_of_its_truth():
    num_train, dim = 20_000, 5
    dataset = LinearGaussianData(
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
    small = LinearGaussianData(num_train=30, **options).load()
    large = LinearGaussianData(num_train=99, **options).load()
    assert torch.equal(small.splits["test"], large.splits["test"])
    for one, other in itertools.combinations(SPLITS, 2):
        assert not torch.isin(small.splits[one], small.splits[other]).any()
    assert sorted(LinearGaussianData(num_validation=0).load().splits) == ["test", "train"]
    assert (
        small.checksum != LinearGaussianData(num_train=30, data_seed=1, **options).load().checksum
    )


@pytest.mark.parametrize("binarisation", METHODS)
@pytest.mark.parametrize("value", [math.nan, -0.1, 1.1])
def test_grey_levels_that_no_draw_can_be_made_of(binarisation, value):
    train = torch.full((3, 1, 2, 2), 0.5)
    test = train.clone()
    test[1, 0, 1, 0] = value
    with pytest.raises(DataError, match="those of the test split"):
        binarise({"train": train, "test": test}, binarisation, "")
