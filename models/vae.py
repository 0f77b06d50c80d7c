"""The container of what is trained together: generative model, encoder, posterior, amortiser."""

from __future__ import annotations

from torch import Tensor, nn

from models.generative import GenerativeModel
from models.networks import Encoder
from models.posteriors.chain import Chain


class VAE(nn.Module):
    """p(x, z) with an amortised posterior: context(x) = expansion(amortiser(encoder(x))).

    The expansion, which holds what is learned but not amortised, belongs to the posterior.
    Encoding happens once per datum, whatever the number of samples.
    """

    def __init__(self, model: GenerativeModel, encoder: Encoder, posterior: Chain) -> None:
        super().__init__()
        self.model = model
        self.encoder = encoder
        self.posterior = posterior
        self.amortiser = posterior.amortiser(encoder.num_features)
        self.expansion = posterior.expansion()

    def context(self, x: Tensor) -> Tensor:
        """Context (B, P) of the posterior for x (B, C, H, W)."""
        return self.expansion(self.amortiser(self.encoder(x)))
