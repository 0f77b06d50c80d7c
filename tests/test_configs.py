"""Every file under configs/ loads, builds and takes a training step, on data of its own shape."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from estimators.annealed import AnnealedImportanceSampling
from estimators.exact_draws import ExactDraws
from estimators.importance import ImportanceSampling
from experiments.runner.build import build
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.trainer import Trainer
from models.posteriors.protocol import posteriors
from tests.components import make_node
from utils.config.loading import load
from utils.config.validation import validate
from utils.data.base import Data, DataError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
BASES = sorted(CONFIGS.glob("*/base.yaml"))
QUICKSTART = CONFIGS / "quickstart" / "base.yaml"
SHAPES = {  # the others are 28×28
    "absolute_value": (1, 1, 1),
    "noisy_radius": (1, 1, 1),
    "digits": (1, 8, 8),
    "nothing": (0, 1, 1),
    "linear_gaussian": (1, 1, 8),
    "ring": (1, 1, 2),
    "shared_gaussian": (1, 3, 5),
    "cifar10": (3, 32, 32),
    "celeba": (3, 64, 64),
}


def additional() -> list:
    """Each other file, over the base of its own folder or, where it has none, over quickstart."""
    cases = [pytest.param(base, (), id=base.parent.name) for base in BASES]
    for path in sorted(set(CONFIGS.rglob("*.yaml")) - {*BASES, *CONFIGS.glob("*/sweep*.yaml")}):
        folder = CONFIGS / path.relative_to(CONFIGS).parts[0]
        base = folder / "base.yaml"
        name = str(path.relative_to(CONFIGS).with_suffix(""))
        cases.append(pytest.param(base if base in BASES else QUICKSTART, (path,), id=name))
    return cases


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("posterior/*.yaml")), ids=lambda p: p.stem)
def test_a_posterior_has_one_set_of_defaults(path):
    """A file that is called like a posterior says what its name alone means."""
    written = load(path).data["posterior"]
    if path.stem == written["name"]:
        resolved = make_node(posteriors, written).dump()
        assert resolved == make_node(posteriors, {"name": path.stem}).dump()
    else:
        assert path.stem not in posteriors.names()


@pytest.mark.parametrize(("base", "more"), additional())
def test_config_trains(base, more):
    # Some want the id of a trained run, which the command line gives.
    assignments = ["training.batch_size=8", "initialise.run=any"]
    config = validate(RunConfig, load(base, more, assignments, DEFAULTS))
    shape = SHAPES.get(config.data.name, (1, 28, 28))
    x = (torch.rand(16, *shape) < 0.3).float()
    try:
        built = build(config, shape)
    except DataError as error:  # a target that is made of data
        pytest.skip(str(error))
    data = Data({"train": x, "validation": x}, "none", "")
    trainer = Trainer(built.vae, built.loss, data, config.training, config.seed)
    before = [p.detach().clone() for p in trainer.parameters]
    assert trainer.train_epoch(lambda step: True)
    assert any(
        not torch.equal(old, new) for old, new in zip(before, trainer.parameters, strict=True)
    )
    assert math.isfinite(trainer.report()[0].values["bound"])
    with torch.no_grad():
        context = built.vae.context(x[:2])
        for estimator in built.estimators:
            if isinstance(estimator, AnnealedImportanceSampling) or estimator.simulates:
                continue  # long; built they are, and tested elsewhere
            if isinstance(estimator, ImportanceSampling | ExactDraws):
                estimator.num_samples = 10
            estimate = estimator(built.vae.model, built.vae.posterior, x[:2], context)
            assert estimate.log_px.value.isfinite().all()
