"""The encoder that sees nothing."""

from __future__ import annotations

from torch import Tensor

from models.networks.protocol import Encoder, encoders


@encoders.register("constant")
class Constant(Encoder):
    """One feature that is 0 for each datum: all share one context, the amortiser's bias.

    What is left of amortised inference is a posterior with free parameters. It is one zero and
    not none, because linear maps of no inputs are drawn with a warning.
    """

    num_features = 1
    sees_x = False

    def forward(self, x: Tensor) -> Tensor:
        """Zeros (B, 1)."""
        return x.new_zeros(len(x), 1)
