"""Local optimisation against one datum at a time, ``fast`` against ``paper``, importance sampling.

python -m benchmarks.local [--rounds 5] [--quick] [--no-compile]
                           [--config FILE [--checkpoint FILE]] [--num-data 20]

Speed: 100 data points, 100 samples, decoder 50-200-200-784 (ELU, Bernoulli); importance sampling
of 20 of them with its pieces of rows and without. Quality: bounds and CPU times of both settings
on data of a model that is trained here, by default a small one on digits, or that a run with that
configuration has left in its ``last.pt``; ``fast`` from the prior-like start, and lone Gaussians
from the moments of the run's own posterior, which for a diagonal one are the encoder's output.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip
from torch import Tensor

from estimators.importance import ImportanceSampling
from experiments.runner.build import build, load_data
from experiments.runner.schema import DEFAULTS, RunConfig
from experiments.runner.trainer import Trainer
from models.generative import DeepLatentGaussian
from models.likelihoods import Bernoulli
from models.local import (
    LocalSearch,
    LocalSettings,
    fast,
    local_optimise,
    matched_context,
    paper,
)
from models.local.search import STRETCH
from models.losses import ELBO
from models.networks.mlp import mlp_decoder
from models.posteriors.auxiliary import aux_real_nvp
from models.posteriors.chain import Chain
from models.posteriors.gaussian import gaussian
from models.vae import VAE
from utils import checkpoint
from utils.config.loading import load
from utils.config.validation import validate

LATENT, NUM_DATA, NUM_SAMPLES = 50, 100, 100
REFERENCE_STEPS = 20  # in one timing
FAMILIES: dict[str, Callable[[int], Chain]] = {"FFG": gaussian, "AF": aux_real_nvp}
IMPORTANCE_DATA, IMPORTANCE_SAMPLES, IMPORTANCE_CHUNK = 20, 1000, 200


def decoder_model() -> DeepLatentGaussian:
    """Cremer et al.'s decoder, untrained: time does not mind."""
    network = mlp_decoder(LATENT, (1, 28, 28), 1)
    return DeepLatentGaussian(LATENT, (1, 28, 28), network, Bernoulli())


def reference(posterior: Chain, x: Tensor) -> Callable[[], None]:
    """The loop of public code: one datum, 100 samples, Adam; the decoder's gradients stay on."""
    model, loss = decoder_model(), ELBO(num_samples=NUM_SAMPLES)
    context = posterior.initial_context()[None].requires_grad_()
    optimiser = torch.optim.Adam([context, *posterior.parameters()], lr=1e-3)

    def steps() -> None:
        for _ in range(REFERENCE_STEPS):
            optimiser.zero_grad()
            loss(model, posterior, x[:1], context).loss.sum().backward()
            optimiser.step()

    return steps


class OneChunk:
    """A stretch of steps of one chunk of the data, of a search that goes on and on."""

    def __init__(self, posterior: Chain, x: Tensor, compile_step: bool) -> None:
        settings = paper(num_samples=NUM_SAMPLES, patience=1_000_000)
        context = posterior.initial_context().repeat(len(x), 1)
        self.search = LocalSearch(
            settings.loss, decoder_model(), posterior, x, context, settings,
            compile_step=compile_step,
        )  # fmt: skip

    def __call__(self) -> None:
        """Go on by one chunk."""
        calls = iter((True, False))
        self.search.run(lambda num_active: next(calls))


def speed(rounds: int, compile_too: bool) -> None:
    """Print milliseconds a step and datum of every program, and how much faster ours are."""
    x = (torch.rand(NUM_DATA, 1, 28, 28) < 0.13).float()
    for name, make in FAMILIES.items():
        chunks = {"paper, eager": OneChunk(make(LATENT), x, False)}
        if compile_too:
            chunks["paper, compiled"] = OneChunk(make(LATENT), x, True)
        one_by_one = reference(make(LATENT), x)
        programs: dict[str, Callable[[], object]] = {"one datum at a time": one_by_one, **chunks}
        interleaved(programs, rounds=1)  # warm up: compilation, allocator, caches
        medians = interleaved(programs, rounds)
        loop = medians["one datum at a time"] / REFERENCE_STEPS
        print(f"{name}: ms a step and datum, {torch.get_num_threads()} threads, {rounds} rounds")
        print(f"  one datum at a time  {1e3 * loop:6.2f}")
        for label, chunk in chunks.items():
            seconds = medians[label] / STRETCH / chunk.search.chunk_size
            print(f"  {label:20} {1e3 * seconds:6.2f}  {loop / seconds:5.2f} × as fast")


def importance(rounds: int) -> None:
    """Print samples a second of IWAE, and of the same chunks through the decoder at once."""
    x = (torch.rand(IMPORTANCE_DATA, 1, 28, 28) < 0.13).float()
    model, posterior = decoder_model(), gaussian(LATENT)
    context = posterior.initial_context().repeat(len(x), 1)
    estimator = ImportanceSampling(num_samples=IMPORTANCE_SAMPLES)

    @torch.no_grad()
    def at_once() -> None:
        for _ in range(IMPORTANCE_SAMPLES // IMPORTANCE_CHUNK):
            _ = posterior(context, model.log_joint(x), IMPORTANCE_CHUNK).log_w

    programs = {
        "4,000 rows at once": at_once,
        "importance sampling": lambda: estimator(model, posterior, x, context),
    }
    interleaved(programs, rounds=1)
    medians = interleaved(programs, rounds)
    plain = medians["4,000 rows at once"]
    print(f"IWAE: samples a second, {torch.get_num_threads()} threads, {rounds} rounds")
    for label, seconds in medians.items():
        rate = IMPORTANCE_SAMPLES * len(x) / seconds
        print(f"  {label:20} {rate:9,.0f}  {plain / seconds:5.2f} × as fast")


def trained(config_path: str, checkpoint_path: str | None) -> tuple[VAE, Tensor]:
    """A VAE and the data that it has not seen in training, where there are such."""
    changes = [] if checkpoint_path else ["training.epochs=60", "training.early_stopping=null"]
    config = validate(RunConfig, load(config_path, (), changes, DEFAULTS))
    data = load_data(config)
    built = build(config, data.x_shape)
    if checkpoint_path is None:
        trainer = Trainer(built.vae, built.loss, data, config.training, config.seed)
        while not trainer.finished:
            trainer.train_epoch(lambda step: True)
    else:
        state = checkpoint.load(Path(checkpoint_path), "cpu")
        built.vae.load_state_dict(state["trainer"]["vae"])
    return built.vae, data.splits.get("test", data.splits["train"])


def quality(vae: VAE, x: Tensor, families: dict[str, Callable[[int], Chain]]) -> None:
    """Print the bounds of both settings, the mean differences, and how the times compare."""
    for name, make in families.items():
        family = make(vae.model.latent_dim)
        initial = family.initial_context().repeat(len(x), 1)
        exact, long = _search(vae, family, x, initial, paper(), f"{name} (paper)")
        starts = {"prior": initial}
        if not family.transitions:
            own = vae.context(x).detach()
            starts["moments"] = matched_context(vae.model, family, x, vae.posterior, own)
        for start, context in starts.items():
            label = f"{name} (fast, from the {start})"
            quick, short = _search(vae, family, x, context, fast(), label)
            difference, error = quick - exact, (quick - exact).std() / len(x) ** 0.5
            print(
                f"  fast - paper: {difference.mean():+.4f} ± {error:.4f} nats, "
                f"in {short / long:.3f} of the time"
            )


def _search(
    vae: VAE, family: Chain, x: Tensor, context: Tensor, settings: LocalSettings, label: str
) -> tuple[Tensor, float]:
    """The bounds (B,) that are found, and the seconds of CPU that it took."""
    torch.manual_seed(0)
    begin = time.process_time()
    found = local_optimise(settings.loss, vae.model, family, x, context, settings)
    seconds = time.process_time() - begin
    torch.manual_seed(1)  # the same draws for all: differences are what counts
    measure = ImportanceSampling(num_samples=5000)
    elbo = measure(vae.model, found.posterior, x, found.context).stats["elbo"].value
    print(
        f"{label}: L[q*] {elbo.mean():.4f}, {found.steps.double().mean():.0f} steps, "
        f"{seconds / len(x):.2f} s a datum, {found.converged.double().mean():.0%} converged",
        flush=True,
    )
    return elbo, seconds


def main() -> None:
    """Print speed, then quality."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="quality of FFG only")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled out")
    parser.add_argument("--config", default="configs/quickstart/base.yaml")
    parser.add_argument("--checkpoint", help="last.pt of a run with that configuration")
    parser.add_argument("--num-data", type=int, default=20)
    options = parser.parse_args()
    speed(options.rounds, not options.no_compile)
    importance(options.rounds)
    vae, x = trained(options.config, options.checkpoint)
    quality(vae, x[: options.num_data], {"FFG": gaussian} if options.quick else FAMILIES)


if __name__ == "__main__":
    main()
