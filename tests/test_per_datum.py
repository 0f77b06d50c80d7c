"""Posteriors with weights for each datum against one posterior a datum."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from models.generative import LinearGaussian
from models.local import fast, local_optimise
from models.networks.conditioned import ConditionedMLP
from models.posteriors.chain import Chain
from models.posteriors.gaussian import DiagonalGaussian, StandardNormal
from models.posteriors.kernels import GaussianKernel
from models.posteriors.paths import Target
from models.posteriors.per_datum import per_datum
from models.posteriors.protocol import Move, State, Transition
from tests.components import POSTERIORS, initial, make_posterior, perturbed

X = torch.tensor([[0.5, -1.0, 1.5], [0.4, 0.9, -0.2], [2.0, 0.1, 0.3]]).double().view(3, 1, 1, 3)


@pytest.mark.parametrize("options", POSTERIORS)
def test_stacked_copies_are_their_loop(options, common_noise, linear_gaussian: LinearGaussian):
    """A ``per_datum`` chain against one chain a datum, each with weights of its own."""
    posterior = make_posterior(options)
    stacked = perturbed(per_datum(posterior, 3), scale=0.1)
    context = initial(posterior, 3)
    log_joint = linear_gaussian.log_joint(X)
    common_noise()
    draw = stacked(context, log_joint, 4)
    assert draw.log_q.shape == (4, 3)
    assert stacked.context_size == posterior.context_size
    assert torch.equal(stacked.initial_context(), posterior.initial_context())
    for index in range(3):
        alone = deepcopy(posterior)
        pairs = zip(alone.parameters(), stacked.parameters(), strict=True)
        for weight, copies in pairs:
            weight.data = copies.data[index]
        common_noise()
        expected = alone(context[index][None], linear_gaussian.log_joint(X[index : index + 1]), 4)
        torch.testing.assert_close(draw.state.z[:, index], expected.state.z[:, 0])
        torch.testing.assert_close(draw.log_q[:, index], expected.log_q[:, 0])


class _Twice(Transition):
    """Two translations by one and the same net, with a look at the target."""

    uses_target = True

    def __init__(self) -> None:
        super().__init__()
        self.net = ConditionedMLP(2, 0, 2, (4,), "tanh")
        self.again = self.net

    def forward(self, state: State, context: Tensor, target: Target) -> Move:
        z = state.z + self.net(torch.zeros_like(state.z), context)
        z = z + self.again(torch.zeros_like(z), context)
        return Move(State(z), torch.zeros_like(target(z)))


def test_a_net_that_is_shared_stays_shared_and_may_stand_beside_a_target(linear_gaussian):
    """Its translation is learned per datum, so that a base at zero meets the posterior's mean."""
    posterior = Chain(StandardNormal(2), [_Twice(), _Twice()]).double()
    posterior.transitions[1].net = posterior.transitions[1].again = posterior.transitions[0].net
    stacked = per_datum(posterior, 3)
    assert len(list(stacked.parameters())) == len(list(posterior.parameters())) == 4
    settings = fast(max_steps=600, weight_lr=0.02)
    found = local_optimise(
        settings.loss, linear_gaussian, posterior, X, torch.zeros(3, 0).double(), settings
    )
    z = found.posterior(found.context, linear_gaussian.log_joint(X), 4000).state.z
    exact = linear_gaussian.exact_posterior(X).mean.detach()
    torch.testing.assert_close(z.mean(0), exact, atol=0.15, rtol=0)


def test_each_datum_has_noise_of_its_own():
    stacked = per_datum(Chain(StandardNormal(2), [GaussianKernel(2)]), 3).double()
    z = stacked(torch.zeros(3, 0).double(), lambda z: z.sum(-1), 4).state.z
    assert z.unique().numel() == 4 * 3 * 2


def test_weights_outside_of_linear_layers_are_refused():
    class Scale(Transition):
        def __init__(self) -> None:
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(2))

        def forward(self, state: State, context: Tensor, target: Target) -> Move:
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"`transitions\.0\.log_scale`.*scope `context`"):
        per_datum(Chain(DiagonalGaussian(2), [Scale()]), 3)
