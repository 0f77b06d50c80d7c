"""Plumbline as a library."""

from __future__ import annotations

import importlib
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import plumbline
from plumbline import library
from tests.finished_runs import QUICKSTART, SMALL
from tests.test_plugins import MINE
from utils.cli import COMMANDS, called_as
from utils.config.assignments import parse_assignment

pytestmark = pytest.mark.usefixtures("results_here")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="module")
def run(results) -> plumbline.Run:
    made = plumbline.run(QUICKSTART, SMALL, results=results)
    return plumbline.load(made.folder.path)


def test_a_run_gives_back_its_parts_and_numbers(run):
    assert run.record.status == "finished"
    assert run.config.training.epochs == 2
    assert run.data.x_shape == (1, 1, 8)
    assert run.model.latent_dim == 2
    assert run.encoder(run.data.splits["test"]).shape == (8, 8)
    assert set(run.metrics["split"]) == {"train", "validation", "test"}
    assert len(run.estimates.query("name == 'log_px'")) == 8
    assert run.id in repr(run)


def test_draws_are_properly_weighted_and_give_the_exact_log_px(run):
    x = run.data.splits["test"]
    z, log_q, log_w = run.draws(x, num_samples=5000)
    assert z.shape == (5000, 8, 2)
    assert log_q.shape == log_w.shape == (5000, 8)
    ratio = (log_w.double() - run.model.log_px(x)).exp()
    error = ratio.std(0) / 5000**0.5
    assert ((ratio.mean(0) - 1).abs() < 5 * error + 1e-6).all()


def test_an_optimum_is_no_worse_than_the_encoder_and_is_measured_like_it(run):
    x = run.data.splits["test"].numpy()[:4]
    optimum = run.local_optimum(x, setting={"name": "fast", "max_steps": 100})
    exact = run.model.factorised_bound(run.data.splits["test"][:4])
    found = run.estimate(x, {"name": "importance", "num_samples": 2000}, at=optimum)
    assert found["elbo"].shape == (4,)
    slack = 5 * found["elbo_error"].to_numpy() + 1e-6
    assert (found["elbo"].to_numpy() <= exact.numpy() + slack).all()
    full = run.local_optimum(
        x,
        family={"name": "gaussian", "covariance": "full"},
        setting={"name": "fast", "max_steps": 100},
    )
    assert full.context.shape == (4, 5)


@pytest.mark.parametrize("start", ["encoder", "initial"])
def test_a_search_begins_where_its_setting_says(run, start):
    """After one step, whose length is at most the rate, it still is near there."""
    x = run.data.splits["test"][:4]
    setting = {"name": "fast", "max_steps": 1, "start": start, "lr": 0.01}
    begun = {"encoder": run.context(x), "initial": run.posterior.initial_context().expand(4, -1)}
    found = run.local_optimum(x, setting=setting)
    assert (found.context - begun[start]).abs().max() < 0.02
    assert (
        found.context - begun["encoder" if start == "initial" else "initial"]
    ).abs().max() > 0.02


def test_the_best_of_several_starts_is_one_row_a_datum(run):
    x = run.data.splits["test"][:4]
    setting = {"name": "fast", "max_steps": 20, "starts": 3}
    found = run.local_optimum(x, setting=setting)
    assert found.context.shape == (4, 4)
    assert len(run.estimate(x, "importance", at=found)) == 4


def test_estimators_take_arrays_of_any_shape_that_fits(run):
    x = run.data.splits["test"]
    frame = run.estimate(x.numpy().reshape(8, 8), "exact", batch_size=3)
    np.testing.assert_allclose(frame["log_px"], run.model.log_px(x), rtol=1e-6)


def test_a_mapping_is_a_configuration_and_a_plugin_comes_with_the_run(run, results, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(MINE)
    settings = {"experiment": "mapped", "posterior.name": "mine", "training.epochs": 1}
    config = {
        "data": {"name": "linear_gaussian", "num_train": 20},
        "model": {"name": "linear_gaussian"},
        "encoder": {"name": "mlp", "hidden": []},
        "runtime": {"tensorboard": False, "threads": 1},
    }
    made = plumbline.run(config, settings, plugins=[plugin], results=results)
    plugin.unlink()
    again = plumbline.load(made.id, results=results)
    assert again.config.posterior.name == "mine"
    x = again.data.splits["test"][:1]
    assert again.draws(x).z.shape == (1, 1, 2)
    assert plumbline.load(run.id, results=results).config.plugins is None  # which forgets `mine`
    setting = {"name": "fast", "max_steps": 10}
    assert again.local_optimum(x, family="mine", setting=setting).context.shape == (1, 4)


def test_weights_are_those_of_the_epoch_asked_for(run):
    early = plumbline.load(run.folder.path, weights=1)
    names = dict(early.vae.named_parameters())
    assert any(not torch.equal(names[name], p) for name, p in run.vae.named_parameters())


def test_a_run_in_another_thread(results):
    made: list[plumbline.Run] = []
    arguments = (QUICKSTART, [*SMALL, "seed=1"])
    work = threading.Thread(target=lambda: made.append(plumbline.run(*arguments, results=results)))
    work.start()
    work.join()
    assert made[0].record.status == "finished"


def test_settings_may_be_what_python_has(tmp_path):
    path = tmp_path / "\U0001f600.npz"  # two halves in JSON, where it is escaped
    settings = {"data.path": path, "seed": np.int64(3), "labels": {"a": "é"}}
    parsed = [parse_assignment(text) for text in library._assignments(settings)]
    assert [assignment.value for assignment in parsed] == [str(path), 3, {"a": "é"}]
    with pytest.raises(TypeError, match="a Tensor is no setting"):
        list(library._assignments({"seed": torch.ones(2)}))


def test_what_is_wrong_says_what(run, tmp_path):
    assert plumbline.load(run.folder.path, weights=np.int64(1))._weights == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="last, best or an epoch"):
        plumbline.load(run.folder.path, weights="lst")
    with pytest.raises(FileNotFoundError, match="is no run"):
        plumbline.load(tmp_path)
    with pytest.raises(plumbline.ConfigError, match="Did you mean 'importance'"):
        run.estimate(run.data.splits["test"], "importanc")
    with pytest.raises(plumbline.ConfigError, match=r"training\.epochs"):
        plumbline.run(QUICKSTART, {"training.epochs": 0}, results=tmp_path)
    with pytest.raises(ValueError, match="draws itself"):
        run.estimate(run.data.splits["test"], "bdmc")
    with pytest.raises(RuntimeError, match="shape"):
        run.estimate(np.zeros((2, 3)))


def test_the_commands_of_the_package_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["scripts"]) == set(COMMANDS)
    for place in project["scripts"].values():
        module, name = place.split(":")
        assert callable(getattr(importlib.import_module(module), name))
    assert (ROOT / "plumbline" / "py.typed").exists()


@pytest.mark.parametrize(
    ("called", "said"), [("/bin/plumbline", "plumbline"), ("x/main.py", "python main.py")]
)
def test_a_program_calls_itself_as_it_was_called(called, said, monkeypatch):
    monkeypatch.setattr("sys.argv", [called])
    assert called_as("main.py") == said
