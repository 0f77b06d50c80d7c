"""Phases beyond training: weights of other runs, local optimisation, what is never done twice."""

from __future__ import annotations

import csv
import inspect
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import main as program
import plot_from_db
from models import local
from models.losses import IWAE
from tests.components import SEED
from utils import checkpoint
from utils.results.folder import RunFolder

pytestmark = pytest.mark.usefixtures("results_here")

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart" / "base.yaml")
TINY = [
    "model.latent_dim=2",
    "model.decoder.hidden=[8]",
    "encoder.hidden=[8]",
    "training.epochs=3",
    f"seed={SEED}",
    "runtime.tensorboard=false",
    "runtime.threads=1",
    "evaluation={batch_size: 4, max_data: 6, estimators: [{name: importance, num_samples: 20}]}",
    "local_optimisation.setting={name: fast, max_steps: 120, num_samples: 4}",
    "local_optimisation={batch_size: 4, estimator: {num_samples: 50}}",
]
LOCAL = "phases=[local_optimisation]"
WARMUP = "warmup: {name: linear, epochs: 3}"
EVERYTHING = "phases=[train, local_optimisation, estimate]"


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "results" / "runs"


def run(*assignments: str, options: Sequence[str] = ()) -> int:
    return program.main(["-config", QUICKSTART, "-set", *TINY, *assignments, *options])


def ran(runs: Path, *assignments: str) -> RunFolder:
    """The folder of a run that has just been made, and ended well."""
    before = set(runs.glob("*"))
    assert run(*assignments) == 0
    (new,) = set(runs.glob("*")) - before
    return RunFolder(new)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder.path / "last.pt", "cpu")["trainer"]["vae"]


def same(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor], part: str) -> bool:
    names = [name for name in old if name.startswith(part)]
    assert names
    return all(torch.equal(old[name], new[name]) for name in names)


def values(folder: RunFolder, phase: str, name: str) -> list[float]:
    return [r.value for r in folder.estimates.read() if (r.phase, r.name) == (phase, name)]


def test_all_phases_in_one_run(runs):
    folder = ran(runs, EVERYTHING)
    amortised = values(folder, "estimate", "elbo")
    best = values(folder, "local_optimisation", "elbo")
    assert len(amortised) == len(best) == 6
    assert sum(best) > sum(amortised)  # three epochs leave an amortisation gap to see
    assert all(steps > 0 for steps in values(folder, "local_optimisation", "steps"))
    methods = {r.method for r in folder.estimates.read() if r.phase == "local_optimisation"}
    assert [(m.estimator, m.options, m.family, m.search) for m in methods] == [
        ("importance", {"num_samples": 50}, "gaussian", "fast, num_samples=4, max_steps=120")
    ]
    with folder.metrics.path.open() as file:
        phases = [row["phase"] for row in csv.DictReader(file)]
    assert list(dict.fromkeys(phases)) == ["train", "local_optimisation", "estimate"]


@pytest.fixture
def searches(monkeypatch) -> list[dict[str, Any]]:
    """What each search of local optimisation was given."""
    given: list[dict[str, Any]] = []
    original = local.LocalSearch.__init__

    def noted(self, *values, **options):
        arguments = inspect.signature(original).bind(self, *values, **options)
        given.append(arguments.arguments)
        original(*arguments.args, **arguments.kwargs)

    monkeypatch.setattr(local.LocalSearch, "__init__", noted)
    return given


def test_further_families_start_with_weights_of_their_own(runs, searches):
    families = "local_optimisation.families={A: {name: gaussian}, F: {name: planar}}"
    folder = ran(runs, EVERYTHING, families)
    rows = [row for row in folder.estimates.read() if row.phase == "local_optimisation"]
    assert {row.family for row in rows} == {"A", "F"}  # A is the run's own
    own = [given for given in searches if not given["posterior"].transitions]
    others = [given for given in searches if given["posterior"].transitions]
    assert len(own) == len(others) == 2  # batches of four and of two data
    for given in own:  # from the encoder, which sees x
        assert len(given["context"].unique(dim=0)) == len(given["x"])
    for given in others:
        initial = given["posterior"].initial_context().expand_as(given["context"])
        assert torch.equal(given["context"], initial)
    assert {(given["scope"], given["loss"].num_samples) for given in searches} == {
        ("posterior", 4)
    }


@pytest.mark.parametrize("start", ["encoder", "initial"])
def test_a_lone_gaussian_starts_at_the_moments_of_the_run_s_own_posterior(runs, searches, start):
    """Those of q(z|x) for each x; with `initial` all start alike."""
    families = "local_optimisation.families={full: {name: gaussian, covariance: full}}"
    ran(runs, EVERYTHING, families, f"local_optimisation.setting.start={start}")
    own = [given for given in searches if given["posterior"].context_size == 4]
    full = [given for given in searches if given["posterior"].context_size == 5]
    assert len(own) == len(full) == 2
    for mine, other in zip(own, full, strict=True):
        given = mine["posterior"].base.moments(mine["context"])
        found = other["posterior"].base.moments(other["context"])
        torch.testing.assert_close(found, given)
        assert (len(other["context"].unique(dim=0)) == 1) == (start == "initial")


def test_an_own_posterior_unlike_all_families_has_gaps_all_the_same(runs, searches, capsys):
    posterior = "posterior={name: aux_real_nvp, hidden: [6], partner_hidden: [4]}"
    af = "{name: aux_real_nvp, hidden: [5]}"
    families = f"local_optimisation.families={{FFG: {{name: gaussian}}, AF: {af}}}"
    folder = ran(runs, EVERYTHING, posterior, families)
    capsys.readouterr()
    rows = [row for row in folder.estimates.read() if row.phase == "local_optimisation"]
    assert {row.family for row in rows} == {"FFG", "AF", "own"}
    assert plot_from_db.main(["gaps", "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["own family"] == "own"
    for name in ("approximation gap", "amortisation gap", "inference gap"):
        assert math.isfinite(float(row[name]))
    # what it leaves behind is the same run
    config = str(folder.path / "config.yaml")
    assert program.main(["-config", config]) == 0
    assert f"{folder.path.name} is already finished" in capsys.readouterr().err


def test_the_own_posterior_can_be_left_out_and_that_is_said(runs, capsys):
    families = "local_optimisation.families={F: {name: planar}}"
    folder = ran(runs, LOCAL, families, "local_optimisation.own=false")
    assert "there will be no gaps" in capsys.readouterr().err
    assert {row.family for row in folder.estimates.read()} == {"F"}


def test_local_optimisation_does_as_it_is_told(runs, searches):
    ran(
        runs,
        EVERYTHING,
        "local_optimisation.scope=context",
        "local_optimisation.loss={name: iwae, num_samples: 3}",
        "local_optimisation.setting.start=initial",
    )
    for given in searches:
        assert (given["scope"], type(given["loss"]), given["loss"].num_samples) == (
            "context",
            IWAE,
            3,
        )
        assert (given["context"] == given["posterior"].initial_context()).all()


def test_local_optimisation_of_a_finished_run_by_its_id(runs):
    trained = ran(runs)
    folder = ran(runs, LOCAL, f"initialise.run={trained.path.name}")
    assert [tuple(link) for link in folder.links.read()] == [(trained.path.name, "initialised")]
    together = ran(runs, EVERYTHING)
    assert values(folder, "local_optimisation", "elbo") == values(
        together, "local_optimisation", "elbo"
    )


def test_a_run_can_be_measured_by_the_configuration_it_leaves(runs):
    trained = ran(runs)
    leaves = ["-config", str(trained.path / "config.yaml")]
    assert program.main([*leaves, "--dry-run"]) == 0
    assert program.main(leaves) == 0
    assert len(list(runs.iterdir())) == 1  # the same run
    measured = [LOCAL, f"initialise.run={trained.path.name}"]
    assert program.main([*leaves, "-set", *measured]) == 0
    assert len(list(runs.iterdir())) == 2


def test_last_and_best_of_an_experiment(runs):
    bad = ran(runs, "experiment=mine", "training.epochs=1")
    good = ran(runs, "experiment=mine", "training.epochs=6")
    again = ran(runs, "experiment=mine", "training.epochs=2")
    wanted = {"best": good, "last": again}
    assert bad.read_status().status == "finished"
    for name, expected in wanted.items():
        folder = ran(runs, LOCAL, f"initialise={{run: {name}, experiment: mine}}", "experiment=o")
        assert folder.links.read()[0].target == expected.path.name


def test_a_frozen_decoder_with_a_new_encoder(runs):
    trained = ran(runs)
    folder = ran(
        runs,
        f"initialise={{run: {trained.path.name}, parts: [model]}}",
        "training.fixed=[model]",
        "encoder.hidden=[]",
        "posterior.name=planar",
    )
    assert same(weights(trained), weights(folder), "model")
    other = ran(runs, "training.fixed=[encoder]")
    start = ran(runs, "training.fixed=[encoder]", "training.epochs=1")
    assert same(weights(start), weights(other), "encoder")
    assert same(weights(start), weights(other), "amortiser")
    assert not same(weights(start), weights(other), "model")


def test_an_encoders_features_serve_a_posterior_of_another_size(runs):
    trained = ran(runs)
    folder = ran(
        runs,
        f"initialise={{run: {trained.path.name}, parts: [model, features]}}",
        "training.fixed=[model, features]",
        "posterior.name=planar",
    )
    old, new = weights(trained), weights(folder)
    assert same(old, new, "model") and same(old, new, "encoder")
    sizes = {name: len(of["amortiser.weight"]) for name, of in (("old", old), ("new", new))}
    assert sizes["old"] < sizes["new"]


def test_weights_of_an_epoch_that_was_kept(runs, capsys):
    trained = ran(runs, "runtime.keep_epochs=[1, 2]")
    first = ran(runs, LOCAL, f"initialise={{run: {trained.path.name}, weights: 1}}")
    last = ran(runs, LOCAL, f"initialise={{run: {trained.path.name}}}")
    assert values(first, "local_optimisation", "elbo") != values(
        last, "local_optimisation", "elbo"
    )
    assert run(LOCAL, f"initialise={{run: {trained.path.name}, weights: 3}}") == 2
    assert "has kept these epochs: 1, 2" in capsys.readouterr().err


def test_what_was_trained_is_not_trained_again(runs, capsys):
    first = ran(runs)
    second = ran(runs, "evaluation.max_data=5", "runtime.keep_epochs=null")
    assert f"{first.path.name} has trained the same" in capsys.readouterr().err
    assert second.metrics.read()[:6] == first.metrics.read()[:6]
    assert ("trained", first.path.name) in [(k, t) for t, k in second.links.read()]
    fresh = ran(runs, "evaluation.max_data=5", f"seed={SEED + 1}")
    assert "has trained the same" not in capsys.readouterr().err
    assert not fresh.links.read()
    # What must be kept of an epoch has to be made.
    ran(runs, "evaluation.max_data=4", "runtime.keep_epochs=[1]")
    assert "has trained the same" not in capsys.readouterr().err


def test_a_finished_run_says_what_it_did_not_keep(runs, capsys):
    ran(runs)
    assert run("runtime.keep_epochs=[2, 30]") == 0
    messages = capsys.readouterr().err
    assert "kept no weights of epoch 2; `--resume never` trains it again" in messages
    assert "epoch 30" not in messages  # it has three


def test_an_adopted_training_gives_the_same_numbers(runs, monkeypatch, tmp_path):
    ran(runs)
    adopted = ran(runs, EVERYTHING)
    monkeypatch.setenv("VI_RESULTS", str(tmp_path / "elsewhere"))
    alone = ran(tmp_path / "elsewhere" / "runs", EVERYTHING)
    assert adopted.path.name == alone.path.name
    for name in ("metrics.csv", "estimates.csv"):
        assert (adopted.path / name).read_bytes() == (alone.path / name).read_bytes()


def test_rows_tell_which_of_several_starts_won(runs, searches):
    folder = ran(runs, EVERYTHING, "local_optimisation.setting.starts=3")
    starts = values(folder, "local_optimisation", "start")
    gains = values(folder, "local_optimisation", "gain_over_first")
    assert len(starts) == len(gains) == len(values(folder, "local_optimisation", "elbo")) == 6
    assert set(starts) <= {0, 1, 2}
    assert all((gain > 0) == (start > 0) for start, gain in zip(starts, gains, strict=True))
    for given in searches:  # the encoder's, the prior-like one, and a made one
        encoders, initial, made = given["context"].chunk(3)
        assert len(encoders.unique(dim=0)) == len(encoders)
        assert (initial == given["posterior"].initial_context()).all()
        assert len(made.unique(dim=0)) == len(made)


@pytest.mark.parametrize("starts", [1, 2])
def test_auto_compiles_a_search_of_enough_steps_of_chunks(runs, searches, monkeypatch, starts):
    """Six data of one and two starts, in chunks of two: three and six chunks of 120 steps."""
    monkeypatch.setattr("models.local.settings.CPU_ROWS", 8)
    monkeypatch.setattr("utils.compiled.has_compiler", lambda: True)
    monkeypatch.setattr("utils.compiled.USUAL_STEP", math.inf)  # each step counts once
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    ran(runs)
    for above in (0, 1):
        monkeypatch.setattr("utils.compiled.COMPILE_FROM_STEPS", 3 * starts * 120 + above)
        searches.clear()
        ran(
            runs,
            EVERYTHING,
            f"local_optimisation.setting.starts={starts}",
            f"local_optimisation.estimator.num_samples={50 + above}",
        )
        assert {given["compile_step"] for given in searches} == {above == 0}


@pytest.mark.parametrize(
    ("stop_at", "starts", "spoilt"),
    [(2, 1, False), (5, 1, False), (2, 3, False), (5, 3, False), (5, 1, True)],
)
def test_local_optimisation_goes_on_where_it_was_stopped(
    runs, monkeypatch, tmp_path, capsys, stop_at, starts, spoilt
):
    several = f"local_optimisation.setting.starts={starts}"
    whole = ran(runs, EVERYTHING, several)
    monkeypatch.setenv("VI_RESULTS", str(tmp_path / "cut"))
    original, calls = local.LocalSearch.run, 0

    def stopping(self, keep_going):
        def counted(num_active: int) -> bool:
            nonlocal calls
            calls += 1
            return keep_going(num_active) and calls != stop_at

        return original(self, counted)

    monkeypatch.setattr(local.LocalSearch, "run", stopping)
    monkeypatch.setattr(
        "experiments.runner.signals.Interruption.raise_if_any",
        lambda self: (_ for _ in ()).throw(KeyboardInterrupt) if calls == stop_at else None,
    )
    assert run(EVERYTHING, several) == 130
    again = RunFolder(tmp_path / "cut" / "runs" / whole.path.name)
    if spoilt:
        (path,) = (again.path / "local").iterdir()
        state = checkpoint.load(path, "cpu")
        checkpoint.save(state | {"search": {"step": "one"}}, path)
    assert run(EVERYTHING, several) == 0
    messages = capsys.readouterr().err
    assert ("this batch starts afresh" in messages) == spoilt
    assert ("has other keys, types or shapes" in messages) == spoilt
    for name in ("metrics.csv", "estimates.csv"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert not (again.path / "local").exists()


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["phases=[estimate, train]"], "in this order"),
        (["phases=[]"], "in this order"),
        (["initialise.run=nothing-s0"], "the run nothing-s0 does not exist"),
        (["initialise={run: best, experiment: unheard_of}"], "unheard_of"),
        (["initialise.run=last"], "needs `initialise.experiment`"),
        (["training.fixed=[model, encoder, posterior]"], "nothing is left to train"),
        (["initialise={run: last, parts: []}"], "initialise.parts"),
        ([EVERYTHING, "local_optimisation.estimator={name: bdmc}"], "gives no bound of q*"),
        (
            [EVERYTHING, 'local_optimisation.families={"a\\nb": {name: gaussian}}'],
            "printable characters",
        ),
        (
            [
                EVERYTHING,
                "local_optimisation.loss={name: elbo, warmup: {name: linear, epochs: 3}}",
            ],
            "has no epochs",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(capsys, assignments, message):
    assert run(*assignments) == 2
    assert message in capsys.readouterr().err


def test_weights_that_do_not_fit_are_refused(runs, capsys):
    trained = ran(runs)
    assert run(f"initialise.run={trained.path.name}", "model.decoder.hidden=[9]") == 2
    assert "differs from this run's" in capsys.readouterr().err


def test_measuring_an_untrained_model_is_warned_of(runs, capsys):
    ran(runs, "phases=[estimate]")
    assert "neither trains nor loads weights" in capsys.readouterr().err


def test_training_beside_parts_as_they_are_drawn_is_warned_of(runs, capsys):
    assert run("training.fixed=[model]", "phases=[train]") == 0
    assert "those parts keep random weights" in capsys.readouterr().err


def test_phases_that_do_not_run_name_no_run(runs, capsys):
    trained = ran(runs)
    assert run("local_optimisation.setting.max_steps=121") == 0
    assert "already finished" in capsys.readouterr().err
    assert json.loads(trained.status_path.read_text())["status"] == "finished"
