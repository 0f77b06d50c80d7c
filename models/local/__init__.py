"""Local optimisation: every module here is imported when its registry is first read."""

from models.local.search import LocalOptimum, LocalSearch, local_optimise
from models.local.settings import LocalSettings, fast, local_settings, paper
from models.local.starts import Chosen, beginning, best_of, matched_context, starting_contexts
from models.local.workbench import Scope

__all__ = [
    "Chosen",
    "LocalOptimum",
    "LocalSearch",
    "LocalSettings",
    "Scope",
    "beginning",
    "best_of",
    "fast",
    "local_optimise",
    "local_settings",
    "matched_context",
    "paper",
    "starting_contexts",
]
