"""Plumbline as a library: make runs, and look into them.

import plumbline

run = plumbline.load("results/runs/0123456789-s0")
x = run.data.splits["test"][:10]
z, log_q, log_w = run.draws(x, num_samples=100)
"""

from experiments.runner.build import BuildError
from experiments.runner.trainer import DivergedError
from plumbline.library import Draws, Run, load, run
from utils.config.sources import ConfigError
from utils.data.base import DataError

__all__ = [
    "BuildError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Draws",
    "Run",
    "load",
    "run",
]
