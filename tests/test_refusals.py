"""What cannot work is refused before anything is trained: in words, at its place."""

from __future__ import annotations

import math

import pytest
import torch

from tests.tiny_runs import QUICKSTART, run, tiny
from utils.data.base import Data, Dataset, datasets

pytestmark = pytest.mark.usefixtures("results_here")


def test_missing_data_names_path_and_command(tmp_path, capsys):
    assert run(*tiny("data.name=binarised_mnist", f"data.root={tmp_path / 'nowhere'}")) == 3
    message = capsys.readouterr().err
    assert str(tmp_path / "nowhere") in message
    assert "python main.py --download binarised_mnist" in message


def test_config_errors_all_at_once(tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text("training:\n  batchsize: 3\n  epochs: many\nposterior: {name: gausian}\n")
    assert run("-config", QUICKSTART, "-additional_configs", str(bad)) == 2
    message = capsys.readouterr().err
    assert "config error (3):" in message
    assert f"{bad}:2: unknown key `training.batchsize`" in message
    assert "Did you mean `training.batch_size`?" in message
    assert f"{bad}:3: `training.epochs` must be an integer; got 'many'" in message
    assert "Did you mean 'gaussian'?" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["evaluation.estimators=[{name: exact}]"], "has no exact log p(x)"),
        (
            ["encoder={name: convolutional}", "data.name=linear_gaussian"],
            "-set: `encoder`: convolutional: x_shape",
        ),
        (["evaluation.estimators=[{name: importance}, {name: importance}]"], "twice; leave"),
        (
            ["data={name: linear_gaussian, num_validation: 0}", "evaluation.weights=best",
             "model={name: linear_gaussian}"],
            "validation split",
        ),
        (
            ["data={name: linear_gaussian, num_validation: 0}", "model={name: linear_gaussian}",
             "training.schedule={name: plateau}"],
            "`training.schedule`: `plateau` looks at validation",
        ),
        (["loss={name: log_variance}"], "has weights to learn; keep them by `training.fixed"),
        (
            ["loss={name: log_variance}", "training.fixed=[model]", "posterior={name: planar}"],
            "`loss`: log_variance takes densities of moves",
        ),
    ],
    ids=["exact", "shape", "twice", "no validation", "no plateau", "no learner", "no density"],
)  # fmt: skip
def test_impossible_combinations_fail_before_training(tmp_path, capsys, assignments, words):
    arguments = ["-config", QUICKSTART, "-set", "training.epochs=1", *assignments]
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "results" / "runs").exists()


GREY = "data={name: digits, binarisation: none}"


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        ([GREY], "`bernoulli` needs pixels of 0 or 1 and finds 0."),
        (["data.name=linear_gaussian"], "take another `model.likelihood`"),
        (
            [GREY, "model.likelihood={name: discretised_logistic}"],
            "set `model.likelihood.num_levels` to 17",
        ),
    ],
    ids=["grey", "real", "levels"],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_data_that_the_likelihood_does_not_describe(tmp_path, capsys, assignments, words, options):
    assert run(*tiny(*assignments, options=options)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "results" / "runs").exists()


def test_grey_levels_have_a_likelihood(capsys):
    assert run(*tiny(GREY, "model.likelihood={name: discretised_logistic, num_levels: 17}")) == 0


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_none_are_found_at_load(tmp_path, capsys, number):
    @datasets.register("broken")
    class Broken(Dataset):
        """Data of this test's own."""

        name = "broken"

        def load(self) -> Data:
            x = torch.zeros(20, 1, 1, 3)
            test = x.clone()
            test[7, 0, 0, 1] = number
            return Data({"train": x, "test": test}, "none", "")

    try:
        assert run(*tiny("data.name=broken", "model.likelihood.name=gaussian")) == 3
    finally:
        datasets.unregister("broken")
    assert "broken: its test split holds NaN or infinite numbers" in capsys.readouterr().err
    assert not (tmp_path / "results" / "runs").exists()


TOY = ["model={name: toy_energy}", "data.name=nothing"]


@pytest.mark.parametrize(
    ("assignments", "place", "words"),
    [
        (["model.latent_dim=1000000000"], "-set", "`model`: training 128,000,008,256"),
        (["encoder.hidden=[1000000000]"], "-set", "`encoder`: training 64,000,025"),
        (["model.decoder.hidden=[999999, 999999, 999999]"], "-set", "take smaller"),
        (["posterior={name: gaussian, covariance: full}", "model.latent_dim=2000000"], "-set",
         "`posterior`: training "),
        (["runtime.device=cuda:x"], "-set", "`runtime.device`: must be auto, cpu, cuda or a GPU"),
        (["runtime.threads=100000"], "-set", "`runtime.threads` must be less than or equal"),
        (["seed=99999999999999999999999"], "-set", "`seed` must be less than 9223372036854775808"),
        (["training.optimiser.lr=.inf"], "-set", "must be a finite number; got .inf"),
        (["posterior={name: sylvester_householder, num_householder: 1000}"], "-set",
         "`posterior.num_householder` must be less than or equal to 100; got 1000"),
        (["posterior={name: planar, num_layers: 1001}"], "-set", "`posterior.num_layers` must be"),
        (["evaluation.splits=[]"], "-set", "`evaluation.splits` must be a list of at least 1"),
        (["evaluation.estimators=[]"], "-set", "`evaluation.estimators` must be a list of at"),
        (["evaluation.splits=[test, test]"], "-set", "`evaluation.splits`: test is listed"),
        (["evaluation.estimators+=[{name: importance, num_samples: 5000}]"], QUICKSTART + ":19",
         "`evaluation.estimators`: importance is listed twice"),
        (["runtime.keep_epochs=[1, 1]"], "-set", "`runtime.keep_epochs`: 1 is listed twice"),
        (["training.fixed=[model, model]"], "-set", "`training.fixed`: model is listed twice"),
        (["initialise={run: last, parts: [model, model]}"], "-set", "`initialise.parts`: model"),
        (["local_optimisation.families={A: {name: gaussian}, B: {name: gaussian}}"], "-set",
         "`local_optimisation.families`: gaussian is listed twice; leave one out"),
        (["training.schedule={name: multi_step, milestones: [3, 3]}"], "-set",
         "`training.schedule.milestones`: 3 is listed twice"),
        (["phases=[train, train]"], "-set", "`phases`: must be one or more of train,"),
        (["data={name: nothing}"], "-set", "`data`: nothing has no x, and the model deep"),
        (["model={name: toy_energy}"], "-set", "`model`: toy_energy has no x; use it with"),
        (TOY, f"{QUICKSTART}:9", "`encoder`: toy_energy has no x to encode; take {name: constant"),
        (["data={name: linear_gaussian, dim: 10000, num_train: 1000000000}"], "-set",
         "`data`: 10,000,004,000,000 numbers are more than 1,000,000,000; take fewer data"),
        (["training.optimiser={name: sgd, nesterov: true}"], "-set", "`training.optimiser`: "),
        (["training.optimiser.betas=[1, 1]"], "-set", "`training.optimiser.betas"),
        (["posterior={name: sylvester_orthogonal, num_ortho: 99}"], "-set", "must be 1 to 8"),
        (["initialise.run=nothing-s0"], "-set", "the run nothing-s0 does not exist"),
        (["data={name: linear_gaussian, num_validation: 0}", "evaluation.weights=best"], "-set",
         "need a validation split"),
        (["experiment=<script>"], "-set", "`experiment`: a name has 1 to 100 letters"),
        (["experiment='=1+1'"], "-set", "`experiment`: a name has 1 to 100 letters"),
        (['experiment="a\\nb"'], "-set", "`experiment`: a name has 1 to 100 letters"),
        (["experiment=" + "x" * 5000], "-set", "`experiment`: a name has 1 to 100 letters"),
        (["local_optimisation.families={<b>: {name: gaussian}}"], "-set", "a name has 1 to 100"),
        (['data={name: mnist, root: "a\\0b"}'], "-set", "`data.root`: a text has at most 1,000"),
        (["data={name: mnist, root: '${HOME}/x'}"], "-set", "give the value by -set"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_its_place_before_anything_is_printed(
    capsys, assignments, place, words
):
    assert run("-config", QUICKSTART, "--dry-run", "-set", *assignments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    head, *lines = printed.err.splitlines()
    assert head.startswith("config error (")
    assert any(line.startswith(f"  {place}") and words in line for line in lines), printed.err
    assert "Error" not in printed.err


def test_a_family_without_an_encoder_is_fine_for_a_model_without_x(capsys):
    assert run("-config", QUICKSTART, "--dry-run", "-set", *TOY, "encoder.name=constant") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-config", QUICKSTART, "-config", QUICKSTART], "-config is given twice"),
        (["--list", "posteriors", "--download", "mnist"], "not allowed with"),
        (["--list", "posteriors", "-set", "seed=3"], "--list takes no configuration"),
        (["-config", QUICKSTART, "--dry-run", "--db", "nonsense"], "is not a database URL"),
        (["-conf", QUICKSTART], "-config"),
        (["-config", QUICKSTART, "--dry-run", "--results", "\udcfc"], "is not UTF-8"),
        (["--lst"], "--list"),
        (["--list", "posterior"], "posteriors"),
        (["--download", "mnits"], "mnist"),
        ([], "-config FILE is missing"),
    ],
)
def test_usage_errors_say_what_was_meant(capsys, arguments, words):
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err
