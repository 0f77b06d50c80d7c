"""A training step of Monte-Carlo VAEs against one of the plain VAE, with convolutional networks.

python -m benchmarks.mcvae [--rounds 5] [--compile] [--batch 100]

Thin et al.'s sizes on 28×28: blocks of two convolutions, z = 64, L-MCVAE of five steps, A-MCVAE of
three with five chains, IWAE of ten samples. Beside each stands what its evaluations alone cost: as
many gradients by z, each differentiated once more, of as many rows. Evaluations are counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.timing import interleaved, peak_memory  # first: it sets how threads are pinned

import torch  # isort: skip
from torch import Tensor

from benchmarks.programs import training_steps
from experiments.runner.build import build
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validate

BASE = "configs/mcvae_images/base.yaml"
VAE = "vae"
PROGRAMS = {VAE: "VAE", "iwae_10": "IWAE, K = 10", "l_5": "L, K = 5", "a_3": "A, K = 3, 5 chains"}
PEAK = "--peak-of"


class Count(NamedTuple):
    """Of one step: passes through the decoder, and rows in each."""

    passes: int
    rows: int


def configuration(method: str) -> RunConfig:
    """The experiment's own."""
    file = f"configs/mcvae_images/additional/{method}.yaml"
    return validate(RunConfig, load(BASE, [file], (), DEFAULTS))


def images(batch: int) -> Tensor:
    """Random pixels: time does not mind."""
    return (torch.rand(batch, 1, 28, 28) < 0.13).float()


def count(method: str, x: Tensor) -> Count:
    """How often a step decodes, and how many rows."""
    built = build(configuration(method), x.shape[1:])
    vae, rows = built.vae, list[int]()
    vae.model.decoder.register_forward_hook(lambda *call: rows.append(len(call[-1])))
    built.loss(vae.model, vae.posterior, x, vae.context(x))
    return Count(len(rows), rows[0])


def evaluations(passes: int, rows: int) -> Callable[[], None]:
    """Gradients of log p(x, z) by z, differentiated by z and by the decoder; nothing else."""
    model = build(configuration(VAE), (1, 28, 28)).vae.model
    x, z = images(rows), torch.randn(1, rows, model.latent_dim)

    def evaluate() -> None:
        for _ in range(passes):
            at = z.clone().requires_grad_()
            value = model.log_joint(x)(at).sum()
            (gradient,) = torch.autograd.grad(value, at, create_graph=True)
            (value + gradient.square().sum()).backward()
            model.zero_grad()

    return evaluate


def peak(method: str, batch: int) -> None:
    """Print the peak memory of this process, which takes two steps, in GB."""
    training_steps(configuration(method), images(batch), 2, False)()
    print(peak_memory() * 1024**2 / 1e9)


def peak_of(method: str, batch: int) -> float:
    """``peak`` of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.mcvae", PEAK, method, "--batch", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print milliseconds, ratios, counts and memory as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--compile", action="store_true", help="by torch.compile")
    parser.add_argument(PEAK, choices=PROGRAMS, help="only print its peak memory")
    options = parser.parse_args()
    if options.peak_of is not None:
        peak(options.peak_of, options.batch)
        return
    x = images(options.batch)
    counts = {method: count(method, x) for method in PROGRAMS}
    programs = {
        method: training_steps(configuration(method), x, 1, options.compile) for method in PROGRAMS
    }
    alone = {f"{method} alone": evaluations(*counts[method]) for method in ("l_5", "a_3")}
    interleaved({**programs, **alone}, rounds=1)  # warm up
    medians = interleaved({**programs, **alone}, options.rounds)
    print("| step | ms | × VAE | × its evaluations alone | passes × rows | peak GB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for method, name in PROGRAMS.items():
        seconds, (passes, rows) = medians[method], counts[method]
        own = medians.get(f"{method} alone")
        ratio = "" if own is None else f"{seconds / own:.2f}"
        print(
            f"| {name} | {1e3 * seconds:.0f} | {seconds / medians[VAE]:.1f} | {ratio} | "
            f"{passes} × {rows} | {peak_of(method, options.batch):.2f} |"
        )
    print(f"\n{torch.get_num_threads()} threads, median of {options.rounds} rounds")


if __name__ == "__main__":
    main()
