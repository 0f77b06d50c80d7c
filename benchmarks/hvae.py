"""A training step of the Hamiltonian VAE beside the factorised Gaussian's and the least it needs.

python -m benchmarks.hvae [--num-steps 3] [--rounds 15] [--no-compile]

Cremer et al.'s sizes (784-200-200-50, batch 100), K leapfrog steps, free tempering, gradients of
second order exact. The least are the matrix products of K + 1 such evaluations of the decoder and
of one pass through the encoder, and nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip

from benchmarks.programs import training_steps
from experiments.runner.build import build
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validate

STEPS = 20  # in one timing
BATCH = 100
ENCODER = ((784, 200), (200, 200), (200, 100))
DECODER = ((50, 200), (200, 200), (200, 784))


def configuration(num_steps: int | None) -> RunConfig:
    """The factorised Gaussian's, or that of K leapfrog steps."""
    posterior = f"{{name: hamiltonian, num_steps: {num_steps}, tempering: free}}"
    assignments = ["loss.warmup=null", *([] if num_steps is None else [f"posterior={posterior}"])]
    return validate(RunConfig, load("configs/mnist_ffg/base.yaml", (), assignments, DEFAULTS))


def count_evaluations(config: RunConfig, x: torch.Tensor) -> int:
    """How often a training step goes through the decoder."""
    built = build(config, x.shape[1:])
    vae, count = built.vae, 0

    def counting(*_: object) -> None:
        nonlocal count
        count += 1

    vae.model.get_submodule("decoder").register_forward_hook(counting)
    built.loss(vae.model, vae.posterior, x, vae.context(x)).loss.mean().backward()
    return count


def matrix_products(num_evaluations: int) -> Callable[[], None]:
    """The products of STEPS training steps.

    Of an affine map: forward, by weights, by inputs. Where the gradient by z is differentiated,
    forward, by inputs, and the derivatives of both by both of their factors: six.
    """

    def random(sizes: tuple[tuple[int, int], ...]) -> list[tuple[torch.Tensor, ...]]:
        return [
            (torch.randn(BATCH, i), torch.randn(i, o), torch.randn(BATCH, o)) for i, o in sizes
        ]

    encoder, decoder = random(ENCODER), random(DECODER)

    def work() -> None:
        for _ in range(STEPS):
            for index, (inputs, weight, outputs) in enumerate(encoder):
                torch.mm(inputs, weight)
                torch.mm(inputs.T, outputs)
                if index > 0:  # nobody asks for the gradient of x
                    torch.mm(outputs, weight.T)
            for _ in range(num_evaluations):
                for inputs, weight, outputs in decoder:
                    for _ in range(2):
                        torch.mm(inputs, weight)
                        torch.mm(inputs.T, outputs)
                        torch.mm(outputs, weight.T)

    return work


def main() -> None:
    """Print one line a program, ratios, and the number of evaluations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--num-steps", type=int, default=3, metavar="K")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave compiled steps out")
    options = parser.parse_args()
    x = (torch.rand(BATCH, 1, 28, 28) < 0.13).float()
    gaussian, hvae = configuration(None), configuration(options.num_steps)
    num_evaluations = count_evaluations(hvae, x)
    programs: dict[str, Callable[[], object]] = {}
    for mode in ("eager",) if options.no_compile else ("eager", "compiled"):
        for name, config in (("factorised Gaussian", gaussian), ("Hamiltonian VAE", hvae)):
            compiled = mode == "compiled"
            programs[f"{name}, {mode}"] = training_steps(config, x, STEPS, compiled)
    programs["its matrix products alone"] = matrix_products(num_evaluations)
    interleaved(programs, rounds=2)  # warm up
    medians = interleaved(programs, options.rounds)
    first, least = medians["factorised Gaussian, eager"], medians["its matrix products alone"]
    print("| step | ms | × eager Gaussian | × matrix products |\n| --- | ---: | ---: | ---: |")
    for name, seconds in medians.items():
        ms = 1e3 * seconds / STEPS
        print(f"| {name} | {ms:.2f} | {seconds / first:.2f} | {seconds / least:.2f} |")
    print(
        f"\nK = {options.num_steps}: {num_evaluations} evaluations of the decoder a draw, each "
        f"with its gradient (K + 1 are needed); {torch.get_num_threads()} threads, median of "
        f"{options.rounds} rounds"
    )


if __name__ == "__main__":
    main()
