"""The lowest layer of every configuration: which components a run has that names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "data": {"name": "digits"},
    "model": {
        "name": "deep_latent_gaussian",
        "decoder": {"name": "mlp"},
        "likelihood": {"name": "bernoulli"},
    },
    "encoder": {"name": "mlp"},
    "posterior": {"name": "gaussian"},
    "loss": {"name": "elbo"},
    "training": {"optimiser": {"name": "adam"}, "schedule": {"name": "constant"}},
    "local_optimisation": {"setting": {"name": "fast"}, "estimator": {"name": "importance"}},
    "evaluation": {"estimators": [{"name": "importance"}], "splits": ["test"]},
    "runtime": {},
    "phases": ["train", "estimate"],
    "plugins": [],
}
