"""Chains composed by their configuration, and what does not fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from models.posteriors.chain import Chain
from models.posteriors.gaussian import StandardNormal
from models.posteriors.protocol import posteriors
from tests.components import make_node, reseed, standard_log_prob


def build(options: dict[str, Any], latent_dim: int = 4) -> Chain:
    return make_node(posteriors, options).build(latent_dim=latent_dim, num_features=7)


def composed(*transitions: dict[str, Any], **options: Any) -> Chain:
    given = {"name": "chain", "base": {"name": "diagonal"}, "transitions": list(transitions)}
    return build(given | options)


LIFT = {"name": "lift", "density": {"name": "gaussian", "hidden": [5]}}
DROP = {"name": "drop", "density": {"name": "gaussian", "hidden": [5]}}
LEAPFROG = {"name": "leapfrog", "num_steps": 1}
PARTNER = {"name": "partner_coupling", "hidden": [5]}


def test_a_chain_is_composed_by_its_configuration():
    posterior = composed(
        {"name": "planar"},
        {"name": "coupling", "hidden": [5], "shared_size": 3},
        LIFT,
        PARTNER,
        {"name": "inverse_autoregressive", "hidden": [5], "reverse": True},
        DROP,
        base={"name": "full"},
        shared_size=3,
    )
    names = [type(t).__name__ for t in posterior.transitions]
    expected = ["Planar", "Coupling", "Lift", "PartnerCoupling", "InverseAutoregressive", "Drop"]
    assert names == expected
    planar, base = 2 * 4 + 1, 4 + 4 * 5 // 2
    assert posterior.context_size == base + planar + 3
    draw = posterior(torch.zeros(2, posterior.context_size), standard_log_prob, 5)
    assert draw.log_q.shape == (5, 2)


def test_a_partner_may_come_from_any_density_and_targets_from_a_schedule():
    posterior = composed(
        LEAPFROG | {"name": "hamiltonian"},
        {"name": "planar"},
        {"name": "lift", "density": {"name": "diagonal"}},
        LEAPFROG,
        {"name": "drop", "density": {"name": "standard"}},
        schedule={"name": "free"},
    )
    base, steps, planar, momentum, increments = 8, 4, 9, 8, 3
    assert posterior.context_size == base + steps + planar + momentum + steps + increments
    assert posterior.amortiser(7).out_features == base + planar + momentum
    assert posterior.schedule.num_targets == 2


def test_a_chain_equals_the_recipe_it_spells_out():
    spelt = composed(
        {"name": "coupling", "hidden": [5], "scale": "sigmoid"},
        {"name": "coupling", "hidden": [5], "scale": "sigmoid", "flip": True},
    )
    recipe = build({"name": "real_nvp", "num_layers": 2, "hidden": [5], "scale": "sigmoid"})
    recipe.load_state_dict(spelt.state_dict())
    draws = []
    for posterior in (spelt, recipe):
        reseed(3)
        draws.append(posterior(torch.ones(2, 8), standard_log_prob, 6))
    assert torch.equal(draws[0].log_q, draws[1].log_q)


def test_building_a_chain_draws_nothing_from_the_global_stream():
    reseed(5)
    composed()
    after = torch.rand(1)
    reseed(5)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    ("transitions", "options", "message"),
    [
        ([PARTNER], {}, r"`transitions\[0\]` \(PartnerCoupling\): needs a partner .*`lift` first"),
        ([LIFT, DROP, DROP], {}, r"`transitions\[2\]` \(Drop\): needs a partner v of size 4"),
        ([LIFT, PARTNER], {}, r"end without a partner v: put a `drop`"),
        ([LIFT, LIFT, DROP], {}, r"`transitions\[1\]` \(Lift\): .* already"),
        (
            [LIFT, PARTNER | {"partner_size": 3}, DROP],
            {},
            r"`transitions\[1\]` \(PartnerCoupling\): needs a partner v of size 3; got .* size 4",
        ),
        (
            [{"name": "coupling"}, {"name": "coupling", "shared_size": 5}],
            {"shared_size": 2},
            r"`transitions\[1\]` \(Coupling\): `shared_size` is 5 here, but the chain's is 2",
        ),
        (
            [{"name": "inverse_autoregressive", "shared_size": 5}],
            {},
            r"`transitions\[0\]` .*: `shared_size` is 5 here, but the chain's is 0",
        ),
        ([LEAPFROG], {}, r"`transitions\[0\]` \(Leapfrog\): needs a partner .*`lift` first"),
        (
            [{"name": "lift", "density": {"name": "gaussian", "partner_size": 3}}, LEAPFROG],
            {},
            r"`transitions\[1\]` \(Leapfrog\): needs a partner v of size 4; got one of size 3",
        ),
        ([PARTNER], {"schedule": {"name": "linear"}}, "`schedule` is for transitions that look"),
    ],
)
def test_transitions_that_do_not_fit_are_refused(
    transitions: Sequence[dict[str, Any]], options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        composed(*transitions, **options)


@pytest.mark.parametrize("name", ["real_nvp", "spline"])
def test_halves_need_two_latents(name):
    with pytest.raises(ValueError, match="`latent_dim` of at least 2; got 1"):
        build({"name": name}, latent_dim=1)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "spline", "num_bins": 1},
        {"name": "spline", "num_bins": 1000},
        {"name": "spline", "bound": 0},
        {"name": "iaf", "hidden": []},
        {"name": "real_nvp", "scale": "softplus"},
        {"name": "aux_real_nvp", "num_layers": 0},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(key for key in options if key != "name")):
        build(options)


def test_standard_base():
    base = StandardNormal(3)
    z, log_q, _ = base.sample(torch.zeros(5, 2, 0).double(), torch.zeros(2, 0))
    assert z.shape == (5, 2, 3) and z.dtype == torch.float64
    torch.testing.assert_close(log_q, standard_log_prob(z))
    posterior = build({"name": "chain", "base": {"name": "standard"}, "transitions": []})
    assert posterior.context_size == 0
