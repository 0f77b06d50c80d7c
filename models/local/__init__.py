"""Local optimisation: every module here is imported when its registry is first read."""

from models.local.search import LocalOptimisation, LocalOptimum, local_optimise
from models.local.settings import LocalSettings, fast, local_settings, paper
from models.local.starts import Chosen, best_of, starting_contexts
from models.local.workbench import Scope

__all__ = [
    "Chosen",
    "LocalOptimisation",
    "LocalOptimum",
    "LocalSettings",
    "Scope",
    "best_of",
    "fast",
    "local_optimise",
    "local_settings",
    "paper",
    "starting_contexts",
]
