"""A training step of annealed chains on Neal's funnel, against a loop written by hand.

python -m benchmarks.samplers [--rounds 9] [--batch 128] [--steps 16] [--compile]

Langevin steps (`langevin`), with a learned reverse (`mcd`) and with drifts both ways (`cmcd`), by
the ELBO, fused Adam; ten dimensions and nets of experiments/samplers_toy. Gradients of the target
in a step are counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip
from torch import Tensor, nn

from benchmarks.programs import training_steps
from experiments.runner.build import build
from experiments.runner.schema import DEFAULTS, RunConfig
from models.networks.control import time_features
from utils.config.loading import load
from utils.config.validation import validate

FOLDER = "configs/samplers_toy"
METHODS = ("langevin", "mcd", "cmcd")
DIM, HIDDEN = 10, 64
STEPS = 5  # in one timing


def funnel(z: Tensor) -> Tensor:
    """log f (B,), but for a constant."""
    v, others = z[:, 0], z[:, 1:]
    squares = others.square().sum(-1) * (-v).exp() + (DIM - 1) * v + (v / 3).square()
    return -0.5 * squares


class HandWritten(nn.Module):
    """Langevin steps on the path from a Gaussian to the funnel, with all that is learned."""

    features: Tensor

    def __init__(self, method: str, num_steps: int) -> None:
        super().__init__()
        self.method, self.num_steps = method, num_steps
        self.mean, self.log_scale = (nn.Parameter(torch.zeros(DIM)) for _ in range(2))
        self.size = nn.Parameter(torch.full((num_steps,), -1.4))
        self.rises = nn.Parameter(torch.zeros(num_steps))
        self.register_buffer("features", time_features(num_steps))
        width = DIM + self.features.shape[1]
        layers = [nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU()]
        self.net = nn.Sequential(*layers, nn.Linear(HIDDEN, DIM))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def push(self, z: Tensor, step: int) -> Tensor:
        """The net's drift."""
        return self.net(torch.cat([z, self.features[step].expand(len(z), -1)], dim=-1))

    def scores(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log f, its gradient, and that of the base."""
        log_f = funnel(z)
        (score,) = torch.autograd.grad(log_f.sum(), z, create_graph=True)
        return log_f, score, (self.mean - z) * (-2 * self.log_scale).exp()

    def loss(self, batch: int) -> Tensor:
        """Minus the ELBO."""
        noise = torch.randn(batch, DIM)
        z = self.mean + self.log_scale.exp() * noise
        log_q = -(0.5 * noise.square() + self.log_scale).sum(-1)
        sizes, betas = 0.5 * self.size.sigmoid(), self.rises.softmax(0).cumsum(0)
        log_f, score, base = self.scores(z)
        for k in range(self.num_steps):
            size, beta = sizes[k], betas[k]
            ahead = (1 - beta) * base + beta * score
            if self.method == "cmcd":
                ahead = ahead + self.push(z, k)
            noise = torch.randn(batch, DIM)
            z = z + size * ahead + (2 * size).sqrt() * noise
            log_f, score, base = self.scores(z)
            behind = (1 - beta) * base + beta * score
            if self.method == "mcd":
                behind = behind + self.push(z, k)
            elif self.method == "cmcd":
                behind = behind - self.push(z, k + 1)
            drift = (0.5 * size).sqrt() * (ahead + behind)
            log_q = log_q + (drift * (noise + 0.5 * drift)).sum(-1)
        return (log_q - log_f).mean()


def loop(method: str, num_steps: int, batch: int) -> Callable[[], None]:
    """A function that takes ``STEPS`` training steps."""
    chain = HandWritten(method, num_steps)
    optimiser = torch.optim.Adam(chain.parameters(), lr=1e-4, fused=True)

    def steps() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            chain.loss(batch).backward()
            optimiser.step()

    return steps


def configuration(method: str, num_steps: int) -> RunConfig:
    """The experiment's own."""
    files = [f"{FOLDER}/target/funnel.yaml", f"{FOLDER}/method/{method}.yaml"]
    assignments = [f"posterior.num_steps={num_steps}"]
    return validate(RunConfig, load(f"{FOLDER}/base.yaml", files, assignments, DEFAULTS))


def count(config: RunConfig, x: Tensor) -> int:
    """How often a training step asks for the target and its gradient."""
    built = build(config, x.shape[1:])
    model, calls = built.vae.model, list[Tensor]()
    log_f = model.log_f
    model.log_f = lambda z: (calls.append(z), log_f(z))[1]
    built.loss(model, built.vae.posterior, x, built.vae.context(x))
    return len(calls)


def main() -> None:
    """Print the ratios as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16, help="K")
    parser.add_argument("--compile", action="store_true", help="ours also by torch.compile")
    options = parser.parse_args()
    x = torch.zeros(options.batch, 0, 1, 1)
    print(f"batch {options.batch}, K = {options.steps}\n")
    print("| method | gradients a step | program | ms a step | × the loop |")
    print("| --- | ---: | --- | ---: | ---: |")
    for method in METHODS:
        config = configuration(method, options.steps)
        programs = {
            "loop": loop(method, options.steps, options.batch),
            "ours": training_steps(config, x, STEPS, compiled=False),
        }
        if options.compile:
            programs["ours, compiled"] = training_steps(config, x, STEPS, compiled=True)
        interleaved(programs, rounds=1)  # warm up
        times, gradients = interleaved(programs, options.rounds), count(config, x)
        for program, time in times.items():
            ratio, each = time / times["loop"], 1e3 * time / STEPS
            print(f"| {method} | {gradients} | {program} | {each:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
