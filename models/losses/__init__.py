"""Losses and warm-ups: every module here is imported when a registry is first read."""

from models.losses.annealing import cyclical_warmup, linear_warmup
from models.losses.avo import AVO
from models.losses.bootstrap import FlowBootstrap
from models.losses.bounds import ELBO, IWAE
from models.losses.log_variance import LogVariance
from models.losses.protocol import Bound, LogTerms, Loss, Warmup, Weight, losses, warmups
from models.losses.replay import ReplayedBootstrap
from models.losses.transport import Transport

__all__ = [
    "AVO",
    "ELBO",
    "IWAE",
    "Bound",
    "FlowBootstrap",
    "LogTerms",
    "LogVariance",
    "Loss",
    "ReplayedBootstrap",
    "Transport",
    "Warmup",
    "Weight",
    "cyclical_warmup",
    "linear_warmup",
    "losses",
    "warmups",
]
