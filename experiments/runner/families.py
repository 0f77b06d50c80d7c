"""Which variational families a run optimises locally: its own posterior is among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.runner.schema import RunConfig

PHASE = "local_optimisation"
OWN = "own"  # the label of the run's own posterior where no family given is the same


def with_own_family(config: RunConfig) -> RunConfig:
    """The same with the run's own posterior among the families, where they are optimised.

    ``local_optimisation.own`` then says under which label: that of the family given with the same
    options; else it is added, unless ``own`` is false. Raises ValueError when its label stands for
    another family.
    """
    options, posterior = config.local_optimisation, config.posterior
    plain = {label: node.dump() for label, node in options.families.items()}
    same = [label for label, node in plain.items() if node == posterior.dump()]
    if PHASE not in config.phases or (options.own is False and not same):
        return config
    usual = same[0] if same else OWN if options.families else posterior.name
    label = options.own or usual
    if plain.get(label, posterior.dump()) != posterior.dump():
        raise ValueError(
            f"`families.{label}` is not the run's own posterior, which has the same label; change "
            f"the label of the family, or that of the run's own: {PHASE}.own"
        )
    families = {**options.families, label: posterior}
    return replace(config, local_optimisation=replace(options, families=families, own=label))


def science_of(options: Mapping[str, Any], posterior: Mapping[str, Any]) -> dict[str, Any]:
    """What of the resolved options identifies a run, however its own family came to be there.

    ``own`` says nothing that the families do not say, and none of them stands for the own alone.
    """
    alone = options["families"] == {posterior["name"]: posterior}
    return {**options, "own": None, "families": {} if alone else options["families"]}
