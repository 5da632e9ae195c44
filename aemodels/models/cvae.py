"""Defines the conditional variational autoencoder.

The sources are Sohn et al. (2015, NeurIPS) and Kingma et al. (2014, arXiv:1406.5298).

B batch, D latent units, K classes, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from aemodels.config import SettingsError, UserError
from aemodels.models.base import Autoencoder
from aemodels.models.vae import VAE, VAEConfig
from aemodels.nn.batch import Batch
from aemodels.nn.distributions import DiagonalNormal, DiagonalNormalHead, kl_per_unit
from aemodels.nn.linear_code import LinearCode
from aemodels.nn.objectives import distortion
from aemodels.nn.photo import PhotoEncoder
from aemodels.nn.trunks import ImageShape


class CVAE(VAE):
    """A conditional VAE minimises distortion + beta * rate of p(x|y).

    Where no label is given, it takes the label with the best bound.

    Example:
        >>> model = CVAE(CVAEConfig(latent_dim=2), (1, 28, 28), num_classes=10)
        >>> model.classify(torch.rand(6, 1, 28, 28)).shape, model.prior(torch.tensor([7])).mean.shape
        (torch.Size([6]), torch.Size([1, 2]))
    """

    conditional: ClassVar[bool] = True
    posterior: DiagonalNormalHead
    class_shares: Tensor

    def __init__(self, config: CVAEConfig, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(config, image_shape, num_classes)
        # A linear code is the same for all classes: its numbers, behind the features of the networks, stay as they are.
        linear = config.latent_dim if isinstance(self.encoder, PhotoEncoder) else 0
        self.hidden = self.posterior.mean.in_features - linear
        self.conditioning = nn.Sequential(nn.Linear(num_classes + self.hidden, self.hidden), nn.SiLU())
        self.class_prior = DiagonalNormalHead(num_classes, config.latent_dim) if config.conditional_prior else None
        self.register_buffer("class_shares", torch.full((num_classes,), 1 / num_classes))  # p(y)

    @torch.no_grad()
    def start_at(self, linear_code: Callable[[int], LinearCode]) -> None:
        super().start_at(linear_code)
        if self.class_prior is not None and isinstance(self.encoder, PhotoEncoder):
            for parameter in self.class_prior.parameters():  # as the linear code has it: N(0, I) for every class
                parameter.zero_()

    def parts(self) -> dict[str, tuple[str, ...]]:
        learned = ("class_prior",) if self.class_prior is not None else ()
        return {"autoencoder": (*super().parts()["autoencoder"], "conditioning", *learned)}

    def encode(self, x: Tensor, y: Tensor | None = None) -> DiagonalNormal:
        h = self.encoder(self.likelihood.scale(x))
        return self._posterior(h, self.classify(x) if y is None else y)

    def _posterior(self, h: Tensor, y: Tensor) -> DiagonalNormal:
        condition = self._one_hot(y).expand(len(h), -1)
        told = self.conditioning(torch.cat([condition, h[:, : self.hidden]], dim=-1))
        q: DiagonalNormal = self.posterior(torch.cat([told, h[:, self.hidden :]], dim=-1))
        return q

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        if y is None:
            raise UserError("label: it is missing, but this model decodes a code for one class; give the class")
        condition = self._one_hot(y).expand(*z.shape[:-1], -1)
        return super().decode(torch.cat([condition, z], dim=-1))

    def prior(self, y: Tensor | None = None) -> DiagonalNormal:
        if self.class_prior is None or y is None:
            return super().prior()
        p: DiagonalNormal = self.class_prior(self._one_hot(y))
        return DiagonalNormal(p.loc, p.scale, self.posterior.unit_mask)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        y = self.classify(x) if y is None else y
        return Autoencoder.forward(self, x, y)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Draws images of the classes y (n,), or of classes as frequent as in the training images."""
        y = self.class_shares.multinomial(n, replacement=True) if y is None else y
        p_z = self.prior(y)
        z = p_z.sample() if p_z.batch_shape else p_z.sample((n,))
        return self.decode(z, y).mean

    @torch.no_grad()
    def sample_like(self, x: Tensor, n: int, seed: int) -> Tensor:
        """Draws images of the classes that the model sees in x, as frequent as there.

        A code has a meaning only within its class, so each class is drawn by itself.
        """
        seen = torch.cat([self.classify(part) for part in x.split(self.at_once)])
        drawn = seen[torch.randint(len(x), (n,), device=x.device)]
        images = x.new_empty(n, *x.shape[1:])
        for y in drawn.unique().split(1):
            own = drawn == y
            images[own] = self._sample_like(x[seen == y], y, int(own.sum()), seed)
        return images

    @torch.no_grad()
    def fit_prior(self, batches: Iterable[Batch], seed: int) -> None:
        counts = sum(torch.bincount(batch.y, minlength=self.num_classes) for batch in batches if batch.y is not None)
        assert isinstance(counts, Tensor)
        self.class_shares.copy_(counts / counts.sum())

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Returns the class (B,) under which the bound at the posterior's mean is best for images (B, C, H, W)."""
        h = self.encoder(self.likelihood.scale(x))
        bounds: list[Tensor] = []
        for label in range(self.num_classes):
            y = torch.full((len(x),), label, device=x.device)
            q = self._posterior(h, y)
            cost = distortion(self.decode(q.mean, y), x)
            bounds.append(cost + kl_per_unit(q, self.prior(y)).sum(-1) - self.class_shares[label].log())
        return torch.stack(bounds).argmin(0)

    def _one_hot(self, y: Tensor) -> Tensor:
        """Maps labels (B,) to (B, K); torch's own function reads the values, which a captured update cannot do."""
        return (y[:, None] == torch.arange(self.num_classes, device=y.device)).to(self.class_shares.dtype)


class CVAEConfig(VAEConfig):
    """Holds the settings of a conditional variational autoencoder, which is told the class of each image.

    So it can be asked for images of a class.

    Example:
        >>> model = CVAEConfig(latent_dim=2).build((1, 28, 28), num_classes=10)
        >>> model.sample(3, torch.tensor([7, 7, 7])).shape
        torch.Size([3, 1, 28, 28])
    """

    module: ClassVar[type[CVAE]] = CVAE

    name: Literal["cvae"] = "cvae"  # type: ignore[assignment]
    """Chooses the model."""
    conditional_prior: bool = True
    """Gives each class a normal prior of its own, which is learned; if false, all classes have N(0, I)."""
    draws_from: Literal["prior"] = "prior"
    """Sets where the codes of new images come from, which for images of a class is that class's prior."""

    def build(self, image_shape: ImageShape, num_classes: int) -> Autoencoder:
        if num_classes < 2:
            raise SettingsError(
                f"model.name=cvae: needs images of several classes, these have {num_classes or 'no labels'}; "
                "use model.name=vae, or data with a folder for each class (in Python labels=...)"
            )
        if self.trunk.direct_code is not None:
            raise SettingsError(
                f"model.trunk.name={self.trunk.name}: its code has no room for a class; use model.trunk=conv"
            )
        return super().build(image_shape, num_classes)

    def decoder_inputs(self, num_classes: int) -> int:
        return num_classes + self.latent_dim
