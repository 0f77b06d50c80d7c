"""A training step of hierarchical posteriors, by the ELBO and by AVO, against FFG's.

python -m benchmarks.avo [--rounds 15] [--compile]

Huang et al.'s sizes: 784-300-300 gated, z = 40, five kernels, batch 100, one sample, fused Adam.
The mixture is the mean over the coin that `avo` throws: a fifth of AVO steps.
"""

from __future__ import annotations

import argparse

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip

from benchmarks.programs import training_steps
from experiments.runner.schema import DEFAULTS, RunConfig
from utils.config.loading import load
from utils.config.validation import validate

STEPS = 20  # in one timing
AVO_PROBABILITY = 0.2
SIZES = [
    "model.latent_dim=40",
    "model.decoder={name: gated_mlp, hidden: [300, 300]}",
    "encoder={name: gated_mlp, hidden: [300, 300]}",
]
FFG, ELBO_STEP, AVO_STEP = "FFG, ELBO step", "HVI, ELBO step", "HVI, AVO step"
PROGRAMS = {
    FFG: ["posterior={name: gaussian}", "loss={name: elbo}"],
    ELBO_STEP: ["posterior={name: hvi, num_layers: 5}", "loss={name: elbo}"],
    AVO_STEP: ["posterior={name: hvi, num_layers: 5}", "loss={name: avo, avo_probability: 1.0}"],
}


def main() -> None:
    """Print steps a second and ratios as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="by torch.compile")
    options = parser.parse_args()
    x = (torch.rand(100, 1, 28, 28) < 0.13).float()
    programs = {
        name: training_steps(
            validate(RunConfig, load(None, (), [*SIZES, *assignments], DEFAULTS)),
            x,
            STEPS,
            options.compile,
        )
        for name, assignments in PROGRAMS.items()
    }
    interleaved(programs, rounds=2)  # warm up
    medians = interleaved(programs, options.rounds)
    mixed = AVO_PROBABILITY * medians[AVO_STEP] + (1 - AVO_PROBABILITY) * medians[ELBO_STEP]
    medians["HVI, their mixture"] = mixed
    print("| step | steps a second | × FFG | × HVI's ELBO |\n| --- | ---: | ---: | ---: |")
    for name, seconds in medians.items():
        by_ffg, by_elbo = seconds / medians[FFG], seconds / medians[ELBO_STEP]
        print(f"| {name} | {STEPS / seconds:.0f} | {by_ffg:.2f} | {by_elbo:.2f} |")
    print(f"\n{torch.get_num_threads()} threads, median of {options.rounds} rounds")


if __name__ == "__main__":
    main()
