"""What it costs to look at the use of latent dimensions, as a share of an epoch.

python -m benchmarks.usage [--rounds 9] [--num-train 50000]

Cremer et al.'s sizes and as many images as Larochelle-Murray MNIST has: an epoch of training with
its evaluation of 10,000 validation images, against the diagnostics of one evaluation. Two percent
is what they may cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.timing import interleaved, seconds  # first: it sets how threads are pinned

import torch  # isort: skip

from benchmarks.training import binary_images, configuration
from estimators import usage
from experiments.runner.build import build
from experiments.runner.schema import RunConfig
from experiments.runner.trainer import Trainer
from models.vae import VAE
from utils.data.base import Data

POSTERIORS = ("gaussian", "planar", "iaf", "hvi", "langevin")


def trainer_of(config: RunConfig, data: Data) -> Trainer:
    """One that looks at nothing but the bound."""
    built = build(config, data.x_shape)
    options = (config.training, config.seed)
    return Trainer(built.vae, built.loss, data, *options, diagnostics=False)


def epoch_of(trainer: Trainer) -> Callable[[], None]:
    """Training and evaluation."""

    def epoch() -> None:
        trainer.train_epoch(lambda step: True)
        trainer.report()

    return epoch


def diagnostics_of(vae: VAE, x: torch.Tensor) -> Callable[[], object]:
    """What an evaluation adds."""
    x = x[: usage.QUICK.num_data]

    @torch.no_grad()
    def diagnose() -> object:
        return usage.summary(vae.model, vae.posterior, x, vae.context(x))

    return diagnose


def main() -> None:
    """Print a line for each posterior."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--posteriors", nargs="+", default=POSTERIORS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=9, help="of the diagnostics")
    parser.add_argument("--num-train", type=int, default=50_000, help="images of an epoch")
    options = parser.parse_args()
    data = binary_images()
    data = data._replace(splits=data.splits | {"train": data.splits["train"][: options.num_train]})
    print("| posterior | an epoch | diagnostics | share |\n| --- | ---: | ---: | ---: |")
    for name in options.posteriors:
        trainer = trainer_of(configuration("off", f"posterior.name={name}"), data)
        whole = seconds(epoch_of(trainer))
        diagnose = {name: diagnostics_of(trainer.vae, data.splits["validation"])}
        interleaved(diagnose, rounds=2)  # warm up
        part = interleaved(diagnose, options.rounds)[name]
        print(f"| {name} | {whole:.2f} s | {1e3 * part:.1f} ms | {part / whole:.1%} |")
    print(f"\n{torch.get_num_threads()} threads, {options.num_train} training images")


if __name__ == "__main__":
    main()
