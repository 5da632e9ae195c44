"""Defines the trunks, which are the networks between images and features, for any (C, H, W).

B batch, F features, D latent units. A trunk's encoder maps (B, C, H, W) -> (B, F), its decoder (B, D) -> (B, C, H, W).
The decoder has no last function, because the likelihood applies it. The trunk of photo.py has a linear path, with as
many `numbers` of a linear code behind the encoder's other features; the other trunks have none. Batch normalisation
couples the images of a batch: it is off unless it is asked for, and refused where each image has to stand for itself
(`BatchNorm`, `Discriminator`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from aemodels.config import Config, SettingsError
from aemodels.nn.photo import PhotoConfig, PhotoEncoder
from aemodels.runtime import torchrun

ImageShape = tuple[int, int, int]
Width = Annotated[int, Field(ge=1)]


class Encoder(nn.Sequential):
    """An encoder maps images (B, C, H, W) to features (B, features)."""

    def __init__(self, *layers: nn.Module, features: int) -> None:
        super().__init__(*layers)
        self.features = features


class Discriminated(NamedTuple):
    """Holds what a discriminator computes of images."""

    logits: Tensor  # (B,): over 0 it takes an image for real
    features: Tensor  # (B, F): its last hidden layer


class Discriminator(nn.Module):
    """A discriminator tells how real each image (B, C, H, W), in [0, 1], looks.

    Raises:
        SettingsError: the encoder has batch normalisation. The discriminator would then judge the real and drawn
            images of a batch together, not each image (Gulrajani et al., 2017, arXiv:1704.00028, section 4).
    """

    def __init__(self, encoder: Encoder | PhotoEncoder) -> None:
        super().__init__()
        if any(isinstance(layer, BatchNorm) for layer in encoder.modules()):
            raise SettingsError(
                "model.trunk.normalization=batch: a discriminator would judge real and drawn images together, not each "
                "by itself; use model.trunk.normalization=none, or model.name=vae"
            )
        self.encoder = encoder
        self.logit = nn.Linear(encoder.features, 1)

    def forward(self, x: Tensor) -> Discriminated:
        features = self.encoder(2 * x - 1)
        return Discriminated(self.logit(features)[..., 0].float(), features.float())

    def with_gradient(self, x: Tensor) -> tuple[Discriminated, Tensor]:
        """Returns the judgement, and the gradient of each image's logit by its pixels, (B, C, H, W)."""

        def judged(x: Tensor) -> tuple[Tensor, Discriminated]:
            result = self(x)
            return result.logits.sum(), result

        gradient, result = torch.func.grad(judged, has_aux=True)(x)
        return result, gradient


# ---------------------------------------------------------------- multi-layer perceptron


class BatchNorm(nn.BatchNorm1d):
    """Brings features (B, F) to mean 0 and variance 1 in a batch, then scales and shifts them as learned.

    For held-out images it uses running means of both (Ioffe and Szegedy, 2015, arXiv:1502.03167). Members of a
    population have running means of their own, so they stack.

    Raises:
        SettingsError: torchrun shares the batches between processes, each of which sees a part.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        if torchrun.started():
            raise SettingsError(
                "model.trunk.normalization=batch: under torchrun each process would normalise by its own part of a "
                "batch; use model.trunk.normalization=none, or train in one process"
            )

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() if x.dtype is torch.bfloat16 else x  # vmap takes no other type beside running means in float32
        if self.training and len(x) == 1:  # the last batch of an epoch may be one image, which has no variance
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class MLPConfig(Config):
    """Describes a trunk of fully connected layers; the decoder mirrors the encoder."""

    name: Literal["mlp"] = "mlp"
    """Chooses the networks between images and codes."""
    widths: tuple[Width, ...] = Field((400,), min_length=1)
    """Sets the units of the encoder's hidden layers, from the image to the code."""
    activation: Literal["relu", "tanh"] = "relu"
    """Chooses the function between layers."""
    normalization: Literal["none", "batch"] = "none"
    """Chooses what stands between a hidden layer and its function: none, or batch normalisation.

    Batch normalisation brings each feature to mean 0 and variance 1 in a batch."""

    direct_code: ClassVar[int | None] = None

    def encoder(self, image_shape: ImageShape, numbers: int = 0) -> Encoder:
        widths = (math.prod(image_shape), *self.widths)
        return Encoder(nn.Flatten(), *self._layers(widths), features=widths[-1])

    def decoder(self, image_shape: ImageShape, latent_dim: int) -> nn.Sequential:
        widths = (latent_dim, *reversed(self.widths))
        last = nn.Linear(widths[-1], math.prod(image_shape))
        return nn.Sequential(*self._layers(widths), last, nn.Unflatten(-1, image_shape))

    def _layers(self, widths: tuple[int, ...]) -> Iterator[nn.Module]:
        for inputs, outputs in pairwise(widths):
            yield nn.Linear(inputs, outputs, bias=self.normalization == "none")  # the normalisation has its own
            if self.normalization == "batch":
                yield BatchNorm(outputs)
            yield nn.ReLU() if self.activation == "relu" else nn.Tanh()


# ---------------------------------------------------------------- convolutions


class StridedConfig(Config):
    """Provides the base of trunks that halve the image by stride-2 convolutions; the decoder mirrors the encoder."""

    channels: tuple[Width, ...] = Field((32, 64), min_length=1)
    """Sets the number of channels after each stride-2 convolution."""
    hidden: int = Field(256, ge=1)
    """Sets the units of the fully connected layer between the convolutions and the code."""

    direct_code: ClassVar[int | None] = None

    def encoder(self, image_shape: ImageShape, numbers: int = 0) -> Encoder:
        *_, (height, width) = self._sides(image_shape)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((image_shape[0], *self.channels)):
            layers += [nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1), *self._refine(outputs)]
        dense = nn.Linear(self.channels[-1] * height * width, self.hidden)
        # The last activation comes after Flatten. Before it, gradients would meet activations of another memory
        # layout, which takes several times as long: a tenth of a VAE-GAN's update.
        return Encoder(*layers[:-1], nn.Flatten(), layers[-1], dense, nn.SiLU(), features=self.hidden)

    def decoder(self, image_shape: ImageShape, latent_dim: int) -> nn.Sequential:
        sides = self._sides(image_shape)
        channels = (image_shape[0], *self.channels)
        smallest = (channels[-1], *sides[-1])
        dense = nn.Linear(self.hidden, math.prod(smallest))
        layers: list[nn.Module] = [nn.Linear(latent_dim, self.hidden), nn.SiLU(), dense]
        *blocks, activation = self._refine(channels[-1])
        image = nn.Unflatten(-1, smallest)
        layers += [image, *blocks, activation] if blocks else [activation, image]  # for the layout, see the encoder
        for i in reversed(range(len(self.channels))):
            layers += [_upsampling(channels[i + 1], channels[i], sides[i + 1], sides[i])]
            layers += [*self._refine(channels[i])] if i else []
        return nn.Sequential(*layers)

    def _refine(self, channels: int) -> Iterator[nn.Module]:
        """Yields the layers that stand between two changes of size."""
        raise NotImplementedError

    def _sides(self, image_shape: ImageShape) -> list[tuple[int, int]]:
        """Returns (H, W) before and after each stride-2 layer, such as 28, 14, 7 of both."""
        _, height, width = image_shape
        count, side = len(self.channels), min(height, width)
        if side >> count < 1:
            raise SettingsError(
                f"model.trunk.channels={list(self.channels)}: {count} stride-2 layers are too many for images of side "
                f"{side}; use at most {side.bit_length() - 1} or a larger data.image_size"
            )
        return [(height >> i, width >> i) for i in range(count + 1)]


def _upsampling(inputs: int, outputs: int, small: tuple[int, int], large: tuple[int, int]) -> nn.ConvTranspose2d:
    """Returns a layer that doubles the sides, and adds one pixel where the encoder halved an odd side."""
    odd = (large[0] - 2 * small[0], large[1] - 2 * small[1])
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1, output_padding=odd)


class ConvConfig(StridedConfig):
    """Describes a trunk of stride-2 convolutions and one hidden layer."""

    name: Literal["conv"] = "conv"
    """Chooses the networks between images and codes."""

    def _refine(self, channels: int) -> Iterator[nn.Module]:
        yield nn.SiLU()


class ResidualBlock(nn.Module):
    """Computes x + f(x), with normalisation before each convolution (He et al., 2016, arXiv:1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = math.gcd(8, channels)
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return x + h


class ResidualConfig(StridedConfig):
    """Describes a trunk of residual blocks after stride-2 convolutions, and one hidden layer."""

    name: Literal["residual"] = "residual"
    """Chooses the networks between images and codes."""
    blocks: int = Field(1, ge=1)
    """Sets the number of residual blocks after each stride-2 convolution."""

    def _refine(self, channels: int) -> Iterator[nn.Module]:
        for _ in range(self.blocks):
            yield ResidualBlock(channels)
        yield nn.SiLU()


# ---------------------------------------------------------------- the article's own


class ArticleConvConfig(Config):
    """Describes the article's convolutional autoencoder, layer by layer.

    It takes 28x28 grey images only, and its code is 8x2x2.
    """

    name: Literal["article_conv"] = "article_conv"
    """Chooses the networks between images and codes."""

    direct_code: ClassVar[int | None] = 32

    def encoder(self, image_shape: ImageShape, numbers: int = 0) -> Encoder:
        self._check(image_shape)
        return Encoder(
            nn.Conv2d(1, 16, kernel_size=3, stride=3, padding=1),  # 28 -> 10
            nn.ReLU(),
            nn.MaxPool2d(2, stride=2),  # 5
            nn.Conv2d(16, 8, kernel_size=3, stride=2, padding=1),  # 3
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),  # 2
            nn.Flatten(),
            features=32,
        )

    def decoder(self, image_shape: ImageShape, latent_dim: int) -> nn.Sequential:
        self._check(image_shape)
        if latent_dim != self.direct_code:
            raise SettingsError(
                f"model.latent_dim={latent_dim}: the trunk article_conv has a code of {self.direct_code}; "
                f"use model.latent_dim={self.direct_code} or model.trunk=conv"
            )
        return nn.Sequential(
            nn.Unflatten(-1, (8, 2, 2)),
            nn.ConvTranspose2d(8, 16, kernel_size=3, stride=2),  # 5
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, kernel_size=5, stride=3, padding=1),  # 15
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, kernel_size=2, stride=2, padding=1),  # 28
        )

    def _check(self, image_shape: ImageShape) -> None:
        if image_shape != (1, 28, 28):
            raise SettingsError(
                f"model.trunk.name=article_conv: it takes images of shape (1, 28, 28), these have {image_shape}; "
                "use model.trunk=conv, or data.image_size=28 for grey images"
            )


# ---------------------------------------------------------------- chosen from the images


class AutoTrunkConfig(Config):
    """Chooses the trunk from the images, before a training is named."""

    name: Literal["auto"] = "auto"
    """Chooses the networks between images and codes."""

    direct_code: ClassVar[int | None] = None

    def encoder(self, image_shape: ImageShape, numbers: int = 0) -> Encoder:
        raise self._not_yet()

    def decoder(self, image_shape: ImageShape, latent_dim: int) -> nn.Sequential:
        raise self._not_yet()

    def _not_yet(self) -> SettingsError:
        return SettingsError(
            "model.trunk.name=auto: it is chosen from the images, and none are known yet; use Experiment.for_data, "
            "or name one: model.trunk=photo"
        )


TrunkConfig = Annotated[
    MLPConfig | ConvConfig | ResidualConfig | PhotoConfig | ArticleConvConfig, Field(discriminator="name")
]
AnyTrunkConfig = Annotated[
    AutoTrunkConfig | MLPConfig | ConvConfig | ResidualConfig | PhotoConfig | ArticleConvConfig,
    Field(discriminator="name"),
]
