"""What exact draws of a target tell of a sampler; discrepancies against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.discrepancy import median_distance, mmd2, mode_coverage, sinkhorn_divergence
from estimators.exact_draws import ExactDraws
from estimators.importance import ImportanceSampling
from models.generative import LinearGaussian
from models.posteriors.chain import Chain
from models.posteriors.gaussian import StandardNormal, gaussian
from models.posteriors.samplers import cmcd, dds, mcd, uha
from models.targets import Funnel, GaussianMixture
from tests.components import initial, make_posterior, normal, perturbed

SHAPE = (0, 1, 1)
NO_DATA = torch.zeros(4, *SHAPE).double()


def two_modes(extent: float = 1.0) -> GaussianMixture:
    return GaussianMixture(SHAPE, dim=2, num_modes=2, extent=extent, places_seed=3).double()


def test_a_sampler_that_is_the_target_has_no_error():
    target = GaussianMixture(SHAPE, dim=2, num_modes=1, extent=1e-9).double()
    posterior = Chain(StandardNormal(2))
    got = ExactDraws(num_samples=500)(target, posterior, NO_DATA, initial(posterior, 4))
    zeros = torch.zeros(4).double()
    torch.testing.assert_close(got.log_px.value, zeros, atol=1e-7, rtol=0)
    torch.testing.assert_close(got.stats["eubo"].value, zeros, atol=1e-7, rtol=0)
    torch.testing.assert_close(got.stats["ess"].value, zeros + 500, atol=1e-3, rtol=0)
    assert got.stats["mode_coverage"].value.tolist() == [1] * 4
    # Of two samples of 500 each the unbiased discrepancy has a deviation of about 1/500.
    assert got.stats["mmd2"].value.abs().max() < 0.02


@pytest.mark.parametrize("make", [uha, mcd, cmcd, dds])
def test_bounds_enclose_log_z(make: Any):
    target = two_modes(2.0)
    options = {} if make is uha else {"hidden": [8]}
    posterior = perturbed(make(2, num_steps=4, **options), scale=0.02)
    context = initial(posterior, 4)
    above = ExactDraws(num_samples=5000)(target, posterior, NO_DATA, context)
    below = ImportanceSampling(num_samples=5000)(target, posterior, NO_DATA, context)
    eubo, elbo = above.stats["eubo"], below.stats["elbo"]
    for bound, sign in ((eubo, 1), (elbo, -1)):
        assert bound.standard_error is not None
        assert (sign * bound.value > -4.5 * bound.standard_error).all()
    assert (eubo.value > elbo.value).all()
    assert ((above.stats["ess"].value > 0) & (above.stats["ess"].value <= 5000.001)).all()


def test_log_z_backwards_is_right_where_inverse_weights_are_light():
    """A target wider than the base, so that 1/w is bounded; 3 repetitions with others' errors."""
    target = two_modes(1.0)
    posterior = Chain(StandardNormal(2))
    got = ExactDraws(num_samples=20_000)(target, posterior, NO_DATA, initial(posterior, 4))
    assert got.log_px.standard_error is not None
    assert (got.log_px.standard_error < 0.1).all()
    assert (got.log_px.value.abs() < 4.5 * got.log_px.standard_error).all()


def test_a_mode_that_is_missed_shows_in_coverage_ess_and_discrepancy():
    target = two_modes(20.0)
    place = target.places[0].double()
    context = torch.cat([place, torch.zeros(2)]).double().repeat(4, 1)
    got = ExactDraws(num_samples=400)(target, gaussian(2), NO_DATA, context)
    assert got.stats["mode_coverage"].value.tolist() == [0] * 4
    assert (got.stats["ess"].value < 1).all()
    assert (got.stats["mmd2"].value > 0.1).all()
    importance = ImportanceSampling(num_samples=400)(target, gaussian(2), NO_DATA, context)
    assert (importance.stats["ess"].value > 399).all()  # it does not see what it misses


GRADIENTS = {  # a draw of K = 3 steps
    **dict.fromkeys(["langevin", "annealed_mala", "hamiltonian_vi", "uha", "ldvi"], 4),
    **dict.fromkeys(["mcd", "cmcd", "gbs"], 4),
    "dds": 3,  # the last one is never asked for
    "pis": 2,  # nor that at the origin
    "stochastic_flow": 6,  # a move begins where couplings lead
    "gaussian": 0,
    "real_nvp": 0,
}


@pytest.mark.parametrize(("name", "gradients"), GRADIENTS.items())
def test_gradients_are_counted(name: str, gradients: int):
    """K + 1 a draw of a chain, forwards as backwards."""
    posterior = make_posterior({"name": name} | ({"num_steps": 3} if gradients else {}))
    got = ExactDraws(num_samples=7, chunk_size=8)(
        two_modes(), posterior, NO_DATA, initial(posterior, 4)
    )
    assert got.stats["gradients"].value.tolist() == [gradients] * 4


def test_targets_without_modes_have_no_coverage():
    target = Funnel(SHAPE, dim=2).double()
    got = ExactDraws(num_samples=30)(target, gaussian(2), NO_DATA, torch.zeros(4, 4).double())
    assert "mode_coverage" not in got.stats


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="LinearGaussian has no exact draws of z"):
        ExactDraws().check(LinearGaussian((1, 1, 3)), gaussian(2))
    with pytest.raises(ValueError, match=r"`transitions\[0\]` \(Planar\) cannot be read"):
        ExactDraws().check(two_modes(), make_posterior({"name": "planar"}))
    ExactDraws().check(two_modes(), gaussian(2))


def exact_mmd2(shift: Tensor, bandwidth: float) -> float:
    """Of N(0, I) and N(shift, I): E k(x, y) of x - y ~ N(., 2 I)."""
    wide = bandwidth**2 + 2
    peak = (bandwidth**2 / wide) ** (len(shift) / 2)
    return 2 * peak * (1 - math.exp(-shift.square().sum().item() / (2 * wide)))


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_discrepancy_is_unbiased(shift: float):
    shifts, repeats = torch.full((3,), shift).double(), 400
    x, y = normal(20, repeats, 3), normal(30, repeats, 3) + shifts
    got = mmd2(x, y, torch.full((repeats,), 1.5).double())
    error = got.std() / math.sqrt(repeats)
    assert (got.mean() - exact_mmd2(shifts, 1.5)).abs() < 4.5 * error


def transported(x: Tensor, y: Tensor, epsilon: float, **options: Any) -> Tensor:
    strict = {"tolerance": 1e-8} | options
    return sinkhorn_divergence(x, y, torch.full_like(x[0, :, 0], epsilon), **strict)


@pytest.mark.parametrize("epsilon", [20.0, 200.0])
def test_transport_of_a_shift_is_its_square_whatever_epsilon(epsilon: float):
    """‖x - x' - v‖² = ‖x - x'‖² + terms of x and of x' alone, which any plan pays alike."""
    x, shift = normal(12, 3, 2), normal(3, 2)
    found = transported(x, x.flip(0) + shift, epsilon)
    torch.testing.assert_close(found, shift.square().sum(-1), atol=1e-5, rtol=0)
    assert transported(x, x.flip(0), epsilon).abs().max() < 1e-5


def test_transport_between_its_limits():
    """On the line the cheapest plan goes in order; a plan of no order pays the means' distance."""
    x, y = normal(4, 3, 1), 0.5 + 2 * normal(4, 3, 1)
    in_order = (x.sort(0).values - y.sort(0).values).square().mean((0, 2))
    found = transported(x, y, 0.1, tolerance=1e-4)  # within ε times the entropy of even weights
    torch.testing.assert_close(found, in_order, atol=0.1 * math.log(4) + 0.02, rtol=0)
    means = (x.mean(0) - y.mean(0)).square().sum(-1)
    torch.testing.assert_close(transported(x, y, 1e5), means, atol=1e-2, rtol=0)


def test_transport_of_samples_of_other_sizes_and_of_one_point():
    x = normal(1, 3, 2)
    y = normal(4, 3, 2)
    twice = torch.cat([y, y])
    torch.testing.assert_close(transported(y + x, twice, 20.0), x[0].square().sum(-1))
    torch.testing.assert_close(transported(x, y[:1], 1.0), (x - y[:1]).square().sum((0, 2)))


def test_transport_that_is_cut_off_is_not_a_number():
    x, y = normal(20, 3, 2), normal(20, 3, 2)
    y[:, 1] = x[:, 1] = 0  # there is nothing to transport
    found = transported(x, y, 1e-3, tolerance=1e-6, max_steps=3)
    assert found.isnan().tolist() == [True, False, True]


def test_the_median_distance_is_that_of_all_pairs():
    x, y = torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([[[5.0]]])
    assert median_distance(x, y).tolist() == [4.0]  # of 1, 4 and 5


def test_mode_coverage_is_an_entropy():
    modes = torch.tensor([[0, 0], [1, 0], [0, 0], [1, 0]])
    assert mode_coverage(modes, 2).tolist() == [1, 0]
    torch.testing.assert_close(mode_coverage(modes, 4)[0], torch.tensor(0.5).double())
    assert mode_coverage(modes, 1 + modes.max().item()).shape == (2,)


def test_nearest_places_are_modes():
    target = two_modes(20.0)
    modes = target.modes_of(target.places[None] + 0.1)
    assert modes is not None
    assert modes[0].tolist() == [[0, 1]]
    assert modes[1] == 2
