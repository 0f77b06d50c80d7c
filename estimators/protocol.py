"""What an estimator of log p(x) is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from models.generative import GenerativeModel
from models.posteriors.chain import Chain
from utils.registry import Registry
from utils.results.methods import Method, settings_text


class Quantity(NamedTuple):
    """A number per datum, (B,), and its Monte-Carlo standard error (B,) where it has one."""

    value: Tensor
    standard_error: Tensor | None = None


class Estimate(NamedTuple):
    """log p(x) in nats and what else the same draws tell (``elbo``, ``ess``, ``k_hat``)."""

    log_px: Quantity
    stats: Mapping[str, Quantity] = {}


class Estimator(ABC):
    """Estimates log p(x) of each datum.

    ``name`` is the one under which it is registered; ``settings`` are its options by name, less
    those that change time or memory only.
    """

    name: ClassVar[str]
    settings: Mapping[str, Any] = {}
    simulates: ClassVar[bool] = False
    """Whether it needs x drawn from the model together with z."""
    measures_posterior: ClassVar[bool] = False
    """Whether it gives the posterior's own bound, ``elbo``."""

    @property
    def method(self) -> Method:
        """How its estimates say by what they were measured."""
        return Method(self.name, settings_text(self.settings))

    @property
    def label(self) -> str:
        """What a person sees."""
        return self.method.label

    @property
    def has_halves(self) -> bool:
        """Whether its stats tell what two independent halves of its draws give.

        They are ``log_px_a``, ``log_px_b``, ``reliable_a`` and ``reliable_b``, as
        ``estimators.combination`` wants.
        """
        return False

    def check(self, model: GenerativeModel, posterior: Chain) -> None:  # noqa: B027 - a hook
        """Raise ValueError where the estimator does not apply to model or posterior."""

    @abstractmethod
    def __call__(
        self,
        model: GenerativeModel,
        posterior: Chain,
        x: Tensor,
        context: Tensor,
        z: Tensor | None = None,
    ) -> Estimate:
        """Estimate for x (B, C, H, W) with the posterior's context (B, P), without gradients.

        ``z`` (B, D) is an exact draw from p(z|x), given where the estimator ``simulates``.
        """


estimators: Registry[Estimator] = Registry("estimators", "estimators")
