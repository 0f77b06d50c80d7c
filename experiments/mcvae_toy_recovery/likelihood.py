"""Follow the exact log p(x) with the experiment's own optimiser, as long as a method would.

python -m experiments.mcvae_toy_recovery.likelihood [--dims 2 20] [-additional_configs FILE]

What it misses of the maximum is the optimiser's doing and none of a posterior's.
"""

from __future__ import annotations

import torch

from experiments.drawing import make_parser
from experiments.mcvae_toy_recovery.figure import BASE, dimension, result_of
from experiments.reporting.tables import Cell, Heading, Number, Table, Text, to_markdown
from experiments.runner.build import load_data
from experiments.runner.schema import DEFAULTS, RunConfig
from models.noisy_radius import NoisyRadius
from utils import seeding
from utils.config.loading import load
from utils.config.validation import validate
from utils.data.base import Data


def follow(config: RunConfig, data: Data) -> NoisyRadius:
    """The model after as many steps as the configuration has, on the same batches."""
    model: NoisyRadius = config.model.build(x_shape=data.x_shape)
    options, num_data = config.training, len(data.splits["train"])
    optimiser = options.optimiser.build(parameters=model.parameters())
    schedule = options.schedule.build(epochs=options.epochs, has_validation=False)
    rate = optimiser.param_groups[0]["lr"]
    for epoch in range(1, options.epochs + 1):
        optimiser.param_groups[0]["lr"] = rate * schedule(epoch, [])
        stream = seeding.derive(config.seed, "order", epoch)
        order = seeding.permutation(num_data, stream, torch.device("cpu"))
        for indices in order.split(options.batch_size):
            optimiser.zero_grad()
            (-model.log_px(data.batch(indices)).mean()).backward()
            optimiser.step()
    return model


def main() -> None:
    """Print a table, a row a dimension."""
    parser = make_parser(__doc__, "mcvae_toy_recovery.png")
    parser.add_argument("--dims", type=int, nargs="+", default=[2], metavar="D")
    options = parser.parse_args()
    rows: list[list[Cell]] = []
    for dim in options.dims:
        settings = [*dimension(dim), f"seed={options.seeds[0]}", *options.assignments]
        config = validate(RunConfig, load(BASE, options.files, settings, DEFAULTS))
        data = load_data(config)
        result = result_of(follow(config, data), data.splits["test"], None)
        values = (result.slope, result.offset, result.error, result.log_px)
        rows.append([Text(str(dim)), *(Number(value, None, 1, 3) for value in values)])
    columns = ("a", "b", "(a - 2π)² + (b - 2)²", "test log p(x)")
    print(to_markdown(Table([Heading("d"), *(Heading(name, True) for name in columns)], rows)))


if __name__ == "__main__":
    main()
