"""Pictures of VAEs: what the grids hold, chains of HMC, and `plot_from_db.py images`."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import main as program
import plot_from_db
from experiments.runner.build import build
from experiments.runner.images import EXTENT, KINDS, are_images, grid, save_png, traversals
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.trajectories import run_chain
from experiments.runner.weights import load_evaluated
from models.vae import VAE
from tests.finished_runs import QUICKSTART, Copy, finished_run
from utils import checkpoint
from utils.config.loading import load
from utils.config.validation import validate
from utils.results.folder import RunFolder

SMALL = [
    "experiment=small",
    "data.name=digits",
    "model={latent_dim: 3, decoder: {name: mlp, hidden: [8]}}",
    "encoder={name: mlp, hidden: [8]}",
]


def small_vae(*assignments: str) -> VAE:
    config = validate(RunConfig, load(None, (), [*SMALL, *assignments], DEFAULTS))
    return build(config, (1, 8, 8)).vae


# --- grids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["gaussian", "iaf", "hamiltonian", "hvi"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_of_every_kind_of_posterior(kind: str, posterior: str) -> None:
    vae = small_vae(f"posterior.name={posterior}")
    image = KINDS[kind](vae, torch.rand(12, 1, 8, 8).round())
    rows = {"samples": 10, "reconstructions": 2, "traversals": 3, "trajectories": 10}[kind]
    assert image.shape == (1, rows * 9, 10 * 9)
    assert image.isfinite().all()


def test_a_grid_goes_row_by_row() -> None:
    images = torch.arange(6.0).div(10).view(6, 1, 1, 1).expand(6, 1, 2, 3)
    tiled = grid(images, columns=3)
    assert tiled.shape == (1, 6, 12)
    torch.testing.assert_close(tiled[0, 0, ::4], torch.tensor([0.0, 0.1, 0.2]))
    torch.testing.assert_close(tiled[0, 3, ::4], torch.tensor([0.3, 0.4, 0.5]))


def test_a_traversal_moves_the_latents_that_tell_most() -> None:
    """A posterior of nearly no width, whose second latent varies most and whose first not."""
    vae = small_vae("encoder.hidden=[]")
    x = torch.rand(20, 1, 8, 8).round()
    with torch.no_grad():
        vae.amortiser.weight.zero_()
        vae.amortiser.bias.fill_(-20.0)
        vae.amortiser.bias[:3] = torch.tensor([0.5, 0.0, 0.0])
        vae.amortiser.weight[1, 20], vae.amortiser.weight[2, 20] = 2.0, 1.0
        z = vae.posterior(vae.context(x), vae.model.log_joint(x)).state.z[0, 0]  # (D,)
    shown = traversals(vae, x, columns=5, rows=2)
    places = z.repeat(2, 5, 1)
    places[0, :, 1] = places[1, :, 2] = torch.linspace(-EXTENT, EXTENT, 5)
    with torch.no_grad():
        expected = grid(vae.model.mean(places).flatten(0, 1), 5)
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-3)  # the posterior's width


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 8, 8), True),
        ((3, 32, 32), True),
        ((1, 1, 64), False),
        ((1, 3, 25), False),
        ((2, 28, 28), False),
        ((0, 1, 1), False),
    ],
)
def test_vectors_and_statistics_are_no_images(shape: tuple[int, ...], expected: bool) -> None:
    assert are_images(shape) == expected


# --- chains -------------------------------------------------------------------------------------


def test_a_chain_leaves_its_density_invariant() -> None:
    """From exact draws of N(0, s²) squares have mean s² and deviation √2 s²; s differs."""
    scale = torch.tensor([1.0, 0.01], dtype=torch.float64).repeat(2000)[:, None]  # (B, 1)

    def log_density(z: Tensor) -> Tensor:
        return -0.5 * (z / scale).square().sum(-1)

    start = scale * torch.randn(1, len(scale), 1, dtype=torch.float64)
    chain = run_chain(log_density, start, num_moves=5, num_leapfrog=3)
    assert torch.equal(chain.z[0], start[0])
    assert chain.z.shape == (6, len(scale), 1)
    torch.testing.assert_close(chain.log_density, log_density(chain.z))
    squares = (chain.z[-1] / scale).square()
    assert abs(squares.mean().item() - 1) < 5 * math.sqrt(2 / len(scale))
    assert (chain.z[-1] != chain.z[0]).double().mean() > 0.5  # which would hold at the start, too
    wide, narrow = chain.step_size.view(-1, 2).median(0).values.tolist()
    assert wide > 10 * narrow  # each datum has its own


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs on digits, evaluated with their best weights, and one without weights."""
    root = tmp_path_factory.mktemp("images")
    common = [
        *SMALL,
        "training.epochs=2",
        "runtime={tensorboard: false, threads: 1}",
        "evaluation={splits: [test], max_data: 2}",
        "evaluation.estimators=[{name: importance, num_samples: 2}]",
    ]
    each = (
        ["evaluation.weights=best"],
        ["evaluation.weights=best", "posterior={name: hamiltonian, num_steps: 1}"],
        ["phases=[estimate]"],
    )
    for more in each:
        words = ["-config", QUICKSTART, "-set", *common, *more, "--results", str(root), "-q"]
        assert program.main(words) == 0
    return root


def trained(results: Path) -> list[str]:
    """Ids of the two runs that have weights."""
    return [path.parent.name for path in sorted(results.glob("runs/*/last.pt"))]


def images(results: Path, output: Path, *arguments: str) -> int:
    words = ["images", *arguments, "--output", str(output), "--results", str(results)]
    return plot_from_db.main(words)


def test_images_of_several_runs_stand_side_by_side(results: Path, tmp_path: Path) -> None:
    sizes = []
    for number, kinds in ((1, ["samples"]), (2, ["samples"]), (2, ["samples", "trajectories"])):
        output = tmp_path / f"{number}-{len(kinds)}.png"
        assert images(results, output, "-run", *trained(results)[:number], "-name", *kinds) == 0
        with Image.open(output) as image:
            sizes.append(image.size)
            low, high = image.convert("L").getextrema()
            assert low < high
    assert sizes[1][0] > 1.5 * sizes[0][0]
    assert sizes[2][1] > 1.5 * sizes[1][1]


def test_images_are_of_the_weights_that_were_evaluated(results: Path) -> None:
    folder = RunFolder(results / "runs" / trained(results)[0])
    config = validate(RunConfig, load(folder.path / "config.yaml", (), (), DEFAULTS))
    vae = build(config, (1, 8, 8)).vae
    best = checkpoint.load(folder.path / "last.pt", "cpu")["trainer"]["best"]
    assert load_evaluated(vae, config, folder, torch.device("cpu")) == best["epoch"]
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, best["weights"][name])


def test_a_run_may_be_named_by_its_folder(results: Path, tmp_path: Path) -> None:
    run = results / "runs" / trained(results)[0]
    assert images(results, tmp_path / "a.png", "-run", str(run), "-name", "samples") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "has no weights: it neither trains nor takes any"),
        (["-name", "sample"], "no picture 'sample' here; there is: samples, reconstructions"),
        (["-split", "validated"], "no validated split; there is: train, validation, test"),
        (["-run", "none"], "no id 'none' here"),
        (["-experiment", "smal"], "Did you mean 'small'"),
    ],
)
def test_what_cannot_be_shown_is_said(
    results: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert images(results, tmp_path / "a.png", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_more_runs_than_fit_are_refused(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("experiments.reporting.images.MOST_RUNS", 2)
    assert images(results, tmp_path / "a.png") == 2
    assert "3 runs do not fit side by side; choose at most 2" in capsys.readouterr().err


def test_a_run_without_its_folder_is_said(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    run = trained(copy)[0]
    (copy / "runs" / run / "config.yaml").unlink()
    assert images(copy, tmp_path / "a.png", "-run", run) == 2
    assert f"{run}/config.yaml: its images cannot be made" in capsys.readouterr().err


def test_vectors_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run: Copy = finished_run(tmp_path / "results")
    capsys.readouterr()
    assert images(run.results, tmp_path / "a.png") == 2
    assert "linear_gaussian of 1×1×8 numbers, are no images" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "samples.png").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/samples.png"):
        save_png(torch.zeros(1, 8, 8), tmp_path / "samples.png")
