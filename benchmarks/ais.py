"""AIS's chain-leapfrog steps a second against the matrix products alone; and its memory.

python -m benchmarks.ais [--rounds 7] [--rows 500 1000 2000] [--no-compile] [--no-memory]

100 chains × 10 leapfrog steps × 20 images on Cremer et al.'s decoder, 50-200-200-784, ELU,
Bernoulli. A step is one gradient of one chain; the limit is the time of the decoder's matrix
products in float32, forwards and back to z, at the same number of rows at once.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip

from estimators.annealed import AnnealedImportanceSampling
from models.generative import DeepLatentGaussian
from models.likelihoods import Bernoulli
from models.networks.mlp import mlp_decoder
from models.posteriors.gaussian import gaussian
from utils.precision import has_bf16, in_bf16

CHAINS, LEAPFROG, IMAGES, LATENT = 100, 10, 20, 50
DISTRIBUTIONS = 3  # two moves: enough to time, the pilot run left out
LAYERS = ((50, 200), (200, 200), (200, 784))
PRODUCTS = "matrix products"
STEPS = CHAINS * LEAPFROG * IMAGES * (DISTRIBUTIONS - 1)


def make_model() -> DeepLatentGaussian:
    """The decoder with random weights: time does not mind."""
    shape = (1, 28, 28)
    return DeepLatentGaussian(LATENT, shape, mlp_decoder(LATENT, shape, 1), Bernoulli())


def annealing(rows: int, compiled: bool, rounded: bool = False) -> Callable[[], None]:
    """A function that anneals all chains of all images, ``rows`` of them at once."""
    model, x = make_model(), (torch.rand(IMAGES, 1, 28, 28) < 0.13).float()
    estimator = AnnealedImportanceSampling(
        compiled,
        rounded,
        path="prior",
        schedule="linear",
        num_chains=CHAINS,
        num_distributions=DISTRIBUTIONS,
        num_leapfrog=LEAPFROG,
        chunk_size=rows,
    )
    context = torch.zeros(IMAGES, 2 * LATENT)
    with torch.no_grad():
        chunks = list(estimator.chunks(model, gaussian(LATENT), x, context))

    @torch.no_grad()
    def work() -> None:
        for path, plan in chunks:
            estimator.run(path, path.draw(CHAINS), plan)

    return work


def matrix_products(rows: int) -> Callable[[], None]:
    """The products of as many steps and nothing else: forwards, and back to the inputs."""
    shapes = [(torch.randn(rows, i), torch.randn(i, o), torch.randn(rows, o)) for i, o in LAYERS]

    def work() -> None:
        for _ in range(STEPS // rows):
            for inputs, weight, outputs in shapes:
                torch.mm(inputs, weight)
                torch.mm(outputs, weight.T)

    return work


def print_speed(rows: int, rounds: int, compiled: bool) -> None:
    """One line a program."""
    torch.compiler.reset()  # or other sizes would be served by one program for all sizes
    products = matrix_products(rows)
    programs = {PRODUCTS: products, "eager": annealing(rows, False)}
    if compiled:
        programs["compiled"] = annealing(rows, True)
    if has_bf16(torch.device("cpu")):
        programs["matrix products in bf16"] = in_bf16(products, torch.device("cpu"))
        programs["eager, forces in bf16"] = annealing(rows, False, rounded=True)
        if compiled:
            programs["compiled, forces in bf16"] = annealing(rows, True, rounded=True)
    interleaved(programs, rounds=2)  # warm up
    medians = interleaved(programs, rounds)
    for name, seconds in medians.items():
        share = medians[PRODUCTS] / seconds
        print(
            f"{rows:5} rows  {name:24} {STEPS / seconds:9,.0f} steps/s  {share:4.0%} of the limit"
        )


def print_peak(num_distributions: int) -> None:
    """Peak memory of this process after a whole estimate, one leapfrog step a move."""
    model, x = make_model(), (torch.rand(IMAGES, 1, 28, 28) < 0.13).float()
    estimator = AnnealedImportanceSampling(
        False, num_chains=CHAINS, num_distributions=num_distributions, num_leapfrog=1
    )
    estimator(model, gaussian(LATENT), x, torch.zeros(IMAGES, 2 * LATENT))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{num_distributions:5} distributions: peak memory {peak:.0f} MiB")


def main() -> None:
    """Print speeds and peaks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 1000, 2000])
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", type=int, help="only the peak memory for so many distributions")
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak)
        return
    print(f"{torch.get_num_threads()} threads, median of {options.rounds} rounds")
    for rows in options.rows:
        print_speed(rows, options.rounds, not options.no_compile)
    for num_distributions in () if options.no_memory else (50, 500):
        command = [sys.executable, "-m", "benchmarks.ais", "--peak", str(num_distributions)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
