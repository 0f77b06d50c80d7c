"""Local optimisation: every module here is imported when its registry is first read."""

from models.local.search import LocalOptimisation, LocalOptimum, Scope, local_optimise
from models.local.settings import LocalSettings, fast, local_settings, paper

__all__ = [
    "LocalOptimisation",
    "LocalOptimum",
    "LocalSettings",
    "Scope",
    "fast",
    "local_optimise",
    "local_settings",
    "paper",
]
