"""A training step on a toy energy, by the runner and by a hand-written loop.

python -m benchmarks.toys [--rounds 9] [--no-compile]

Twelve Gaussian kernels with nets of 32 units, batch 64, energy d, fused Adam; by the ELBO, and by
AVO alone. The runner does all that main.py does in an epoch of 200 steps.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.timing import interleaved  # first: it sets how threads are pinned

import torch  # isort: skip
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.programs import runner_epochs
from experiments.runner.build import load_data
from experiments.runner.schema import DEFAULTS, RunConfig
from models.energies import ENERGIES
from utils.config.loading import load
from utils.config.validation import validate

LAYERS, HIDDEN, BATCH, STEPS = 12, 32, 64, 200
LOG_2PI = math.log(2 * math.pi)


def log_normal(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """log N(z; mean, diag(scale²)) (B,)."""
    return (-0.5 * ((z - mean) / scale).square() - scale.log() - 0.5 * LOG_2PI).sum(-1)


class Kernel(nn.Module):
    """Mean and scale of a gated Gaussian step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 6))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, 2)."""
        m, gate, noise = self.net(z).chunk(3, -1)
        gate = gate.sigmoid()
        return gate * m + (1 - gate) * z, F.softplus(noise) + 1e-3


class HandWritten(nn.Module):
    """What one would write for one figure: chain, both losses, no options."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.forwards = nn.ModuleList(Kernel() for _ in range(LAYERS))
        self.backwards = nn.ModuleList(Kernel() for _ in range(LAYERS))

    def log_base(self, z: Tensor) -> Tensor:
        """log q_0 (B,)."""
        return log_normal(z, self.mean, self.log_scale.exp())

    def elbo_loss(self) -> Tensor:
        """Minus the hierarchical ELBO."""
        z = self.mean + self.log_scale.exp() * torch.randn(BATCH, 2)
        log_q = self.log_base(z)
        for forward, backward in zip(self.forwards, self.backwards, strict=True):
            mean, scale = forward(z)
            after = mean + scale * torch.randn(BATCH, 2)
            log_q = log_q + log_normal(after, mean, scale) - log_normal(z, *backward(after))
            z = after
        return (log_q + ENERGIES["d"](*z.unbind(-1))).mean()

    def avo_loss(self) -> Tensor:
        """Mean over layers of each one's own loss, all else held."""
        z = (self.mean + self.log_scale.exp() * torch.randn(BATCH, 2)).detach()
        loss = torch.zeros(())
        for t, (forward, backward) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            alpha = (t + 1) / LAYERS
            mean, scale = forward(z)
            after = mean + scale * torch.randn(BATCH, 2)
            ratio = log_normal(after, mean, scale) - log_normal(z, *backward(after))
            with torch.no_grad():
                held = self.mean.detach(), self.log_scale.exp()
            log_f = -alpha * ENERGIES["d"](*after.unbind(-1))
            log_f = log_f + (1 - alpha) * log_normal(after, *held)
            loss = loss + (ratio - log_f).mean() / LAYERS
            z = after.detach()
        return loss


def loop(loss_of: Callable[[HandWritten], Tensor]) -> Callable[[], None]:
    """A function that takes ``STEPS`` steps."""
    chain = HandWritten()
    optimiser = torch.optim.Adam(chain.parameters(), lr=1e-3, fused=True)

    def steps() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            loss_of(chain).backward()
            optimiser.step()

    return steps


def runner(loss: str, compile_mode: str, root: Path) -> Iterator[int]:
    """Epochs of ``STEPS`` steps."""
    assignments = [
        f"data.num_train={STEPS * BATCH}",
        f"posterior.num_layers={LAYERS}",
        f"posterior.hidden=[{HIDDEN}]",
        f"loss={loss}",
        f"training.batch_size={BATCH}",
        "training.epochs=100000",
        f"runtime.compile={compile_mode}",
    ]
    config = validate(RunConfig, load("configs/avo_toy/base.yaml", (), assignments, DEFAULTS))
    return runner_epochs(config, load_data(config), root)


LOSSES = {
    "ELBO": ("{name: elbo}", HandWritten.elbo_loss),
    "AVO": ("{name: avo, avo_probability: 1.0}", HandWritten.avo_loss),
}


def main() -> None:
    """Print the ratios as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled runner out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        print("| loss | program | ms a step | × the loop |\n| --- | --- | ---: | ---: |")
        for name, (loss, hand_written) in LOSSES.items():
            programs: dict[str, Callable[[], object]] = {"loop": loop(hand_written)}
            for mode in ("off",) if options.no_compile else ("off", "on"):
                epochs = runner(loss, mode, Path(root, name, mode))
                programs[f"runner, runtime.compile={mode}"] = partial(next, epochs)
            interleaved(programs, rounds=2)  # warm up
            medians = interleaved(programs, options.rounds)
            for program, seconds in medians.items():
                ratio = seconds / medians["loop"]
                print(f"| {name} | {program} | {1e3 * seconds / STEPS:.2f} | {ratio:.2f} |")
    print(f"\n{torch.get_num_threads()} threads, median of {options.rounds} rounds")


if __name__ == "__main__":
    main()
