"""The container of what is trained together: model, encoder, amortiser, posterior, refinement."""

from __future__ import annotations

from torch import Tensor, nn

from models.generative import GenerativeModel
from models.networks import Encoder
from models.posteriors.chain import Chain
from models.refinements import Refinement


class VAE(nn.Module):
    """p(x, z) with an amortised posterior: context(x) = expansion(amortiser(encoder(x))).

    The expansion, which holds what is learned but not amortised, belongs to the posterior. A
    refinement makes the context better for each datum. Encoding happens once per datum, whatever
    the number of samples.
    """

    def __init__(
        self,
        model: GenerativeModel,
        encoder: Encoder,
        posterior: Chain,
        refinement: Refinement | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.encoder = encoder
        self.posterior = posterior
        self.amortiser = posterior.amortiser(encoder.num_features)
        self.expansion = posterior.expansion()
        self.refinement = refinement

    def context(self, x: Tensor) -> Tensor:
        """Context (B, P) of the posterior for x (B, C, H, W)."""
        context = self.expansion(self.amortiser(self.encoder(x)))
        if self.refinement is None:
            return context
        return self.refinement(context, self.posterior, self.model.log_joint(x))
