"""Local optimisation against one datum at a time, and ``fast`` against ``paper``.

python -m benchmarks.local [--rounds 5] [--quick] [--no-compile]
                           [--config FILE [--checkpoint FILE]] [--num-data 20]

Speed: 100 data points, 100 samples, decoder 50-200-200-784 (ELU, Bernoulli). Quality: bounds and
times of both settings on data of a model that is trained here, by default a small one on digits,
or that a run with that configuration has left in its ``last.pt``.
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
from models.local import LocalSearch, LocalSettings, fast, local_optimise, paper
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
    """Print the bounds of both settings, the mean difference, and how the times compare."""
    measure = ImportanceSampling(num_samples=5000)
    for name, make in families.items():
        bounds, times = {}, {}
        for settings in (paper(), fast(start="initial")):
            posterior = make(vae.model.latent_dim)
            context = posterior.initial_context().repeat(len(x), 1)
            bounds[settings.label], times[settings.label] = _search(
                vae, posterior, x, context, settings, name, measure
            )
        (exact, quick), (long, short) = bounds.values(), times.values()
        difference, error = quick - exact, (quick - exact).std() / len(x) ** 0.5
        print(
            f"  fast - paper: {difference.mean():+.3f} ± {error:.3f} nats, "
            f"in {short / long:.3f} of the time"
        )


def _search(
    vae: VAE,
    posterior: Chain,
    x: Tensor,
    context: Tensor,
    settings: LocalSettings,
    name: str,
    measure: ImportanceSampling,
) -> tuple[Tensor, float]:
    torch.manual_seed(0)
    begin = time.perf_counter()
    found = local_optimise(settings.loss, vae.model, posterior, x, context, settings)
    seconds = time.perf_counter() - begin
    elbo = measure(vae.model, found.posterior, x, found.context).stats["elbo"].value
    print(
        f"{name} ({settings.label}): L[q*] {elbo.mean():.3f}, {found.steps.double().mean():.0f} "
        f"steps, {seconds / len(x):.2f} s a datum, {found.converged.double().mean():.0%} converged"
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
    vae, x = trained(options.config, options.checkpoint)
    quality(vae, x[: options.num_data], {"FFG": gaussian} if options.quick else FAMILIES)


if __name__ == "__main__":
    main()
