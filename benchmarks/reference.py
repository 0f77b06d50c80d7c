"""A minimal hand-written VAE training loop: what the runner's speed is measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ReferenceVAE(nn.Module):
    """784-200-200-50 with ELU, factorised Gaussian, Bernoulli; forward gives the negative ELBO."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(784, 200), nn.ELU(), nn.Linear(200, 200), nn.ELU(), nn.Linear(200, 100)
        )
        self.decoder = nn.Sequential(
            nn.Linear(50, 200), nn.ELU(), nn.Linear(200, 200), nn.ELU(), nn.Linear(200, 784)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mean negative ELBO of x (B, 784)."""
        mean, log_variance = self.encoder(x).chunk(2, -1)
        noise = torch.randn_like(mean)
        z = mean + noise * (0.5 * log_variance).exp()
        logits = self.decoder(z)
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        kl = 0.5 * (z.square() - noise.square() - log_variance).sum(-1)  # log q - log p(z)
        return (kl - log_likelihood).mean()


class ReferenceLoop:
    """One epoch a call: shuffled batches of 100, Adam; no evaluation, no logging."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.flatten(1)
        self.vae = ReferenceVAE()
        self.optimiser = torch.optim.Adam(self.vae.parameters(), lr=1e-3, fused=True)

    def epoch(self) -> None:
        """Go through the data once."""
        for indices in torch.randperm(len(self.x)).split(100):
            self.optimiser.zero_grad()
            self.vae(self.x[indices]).backward()
            self.optimiser.step()
