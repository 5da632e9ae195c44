"""Defines the conditional distributions: a head is a module that turns features into a torch Distribution.

B batch, D latent units, K samples, F features, (C, H, W) an image with pixels in [0, 1]. Densities are in nats.
A head computes the mean and the log-variance with one layer each. Its `unit_mask` is 1 for the latent units that exist.
So a model that is padded with zeros to more latent units is the same model, and a population can be stacked.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Size, Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from aemodels.config import Config, SettingsError
from aemodels.nn import noise
from aemodels.nn.linear_code import LinearCode
from aemodels.runtime import torchrun

LOG_2PI = 1.8378770664093453
DARKEST = 1 / 256  # a mean this near to 0 or 1 is as good as black or white
LEAST_NOISE = 1e-6  # the smallest variance of a pixel that is found; a grey level is 0.0039 wide

Output = Literal["sigmoid", "tanh", "linear"]


def soft_bound(x: Tensor, low: float, high: float) -> Tensor:
    """Bounds x smoothly: it is the identity well inside (low, high), so that a log-variance cannot overflow."""
    return low + F.softplus(high - low - F.softplus(high - x))


def _full(x: Tensor) -> Tensor:
    """Returns x in float32 (or float64 in tests), as densities need, whatever precision the layers ran in."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Unchecked(Distribution):
    """Provides the base of the distributions here; it checks no arguments, as each check would wait for the device."""

    arg_constraints: ClassVar[dict[str, Any]] = {}


# ---------------------------------------------------------------- codes


class DiagonalNormal(Unchecked):
    """Represents N(loc, scale²) with independent units: batch (B,), event (D,).

    Units outside the mask are 0 and add nothing to a density or a rate.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, unit_mask: Tensor) -> None:
        self.loc, self.scale, self.unit_mask = loc, scale, unit_mask
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc * self.unit_mask

    @property
    def stddev(self) -> Tensor:
        return self.scale

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        loc = self.loc.expand(Size(sample_shape) + self.loc.shape)
        return (loc + self.scale * noise.noise_like(loc)) * self.unit_mask

    def log_prob(self, value: Tensor) -> Tensor:
        standard = (value - self.loc) / self.scale
        return (-0.5 * (standard.square() + LOG_2PI) - self.scale.log()).mul(self.unit_mask).sum(-1)


def kl_per_unit(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    """Returns KL(q || p) of each unit in nats, (B, D), in closed form."""
    ratio = (q.scale / p.scale).square()
    distance = ((q.loc - p.loc) / p.scale).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()) * q.unit_mask


class Point(Unchecked):
    """Puts all its mass on one code: batch (B,), event (D,). It has no density, so no rate."""

    has_rsample = True

    def __init__(self, value: Tensor) -> None:
        self.value = value
        super().__init__(value.shape[:-1], value.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.value

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.value.expand(Size(sample_shape) + self.value.shape)


class DiagonalNormalHead(nn.Module):
    """Turns features (B, F) into q(z|x), a DiagonalNormal over D units."""

    unit_mask: Tensor

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)
        self.register_buffer("unit_mask", torch.ones(latent_dim))

    def forward(self, h: Tensor) -> DiagonalNormal:
        log_variance = soft_bound(_full(self.log_variance(h)), -14.0, 14.0)
        return DiagonalNormal(_full(self.mean(h)), (0.5 * log_variance).exp(), self.unit_mask)

    def prior(self) -> DiagonalNormal:
        """Returns N(0, I) over the units that exist."""
        return DiagonalNormal(torch.zeros_like(self.unit_mask), torch.ones_like(self.unit_mask), self.unit_mask)


class PointHead(nn.Module):
    """Turns features (B, F) into one code (B, D) per image.

    `code` is a linear layer, or the identity where the features are the code.
    """

    unit_mask: Tensor

    def __init__(self, code: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.code = code
        self.register_buffer("unit_mask", torch.ones(latent_dim))

    def forward(self, h: Tensor) -> Point:
        return Point(_full(self.code(h)) * self.unit_mask)


# ---------------------------------------------------------------- pixels


class BernoulliPixels(Unchecked):
    """Represents p(x|z) from logits (B, C, H, W). On grey pixels -log_prob is a cross-entropy, not a likelihood."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.logits.sigmoid()

    def log_prob(self, value: Tensor) -> Tensor:
        x = value.expand_as(self.logits)
        return -F.binary_cross_entropy_with_logits(self.logits, x, reduction="none").flatten(-3).sum(-1)


class GaussianPixels(Unchecked):
    """Represents p(x|z) = N(mean, sigma²) on pixels in [0, 1]; sigma has their unit and is one number for all.

    `output` is what the networks give: in [-1, 1] if it is signed, else in [0, 1]; linear outputs may leave it. Errors
    are computed on that scale, because it takes fewer passes over the pixels. The mean is always an image.
    """

    def __init__(self, output: Tensor, log_sigma: Tensor, signed: bool = False) -> None:
        self.output, self.log_sigma, self.signed = output, log_sigma, signed
        self.unit = 0.5 if signed else 1.0  # pixels in a step of 1 of the output
        super().__init__(output.shape[:-3], output.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return (self.output + 1) / 2 if self.signed else self.output.clamp(0, 1)

    def squares(self, value: Tensor) -> Tensor:
        """Returns the squared error of the output for each image, summed over pixels."""
        target = to_signed(value) if self.signed else value
        return F.mse_loss(self.output, target.expand_as(self.output), reduction="none").flatten(-3).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._density(self.squares(value), self.log_sigma)

    def _density(self, squares: Tensor, log_sigma: Tensor) -> Tensor:
        slope = -0.5 * self.unit**2 * (-2 * log_sigma).exp()
        return slope * squares - self.event_shape.numel() * (log_sigma + LOG_2PI / 2)


class BatchOptimalGaussianPixels(GaussianPixels):
    """Represents Gaussian pixels in training: sigma² is the mean squared error of the batch, its likeliest value."""

    def log_prob(self, value: Tensor) -> Tensor:
        squares = self.squares(value)  # (..., B)
        # No gradient passes through sigma: it is at its optimum, where its own gradient vanishes.
        samples = squares.detach().flatten(0, -2) if squares.dim() > 1 else squares.detach()[None]  # (K, B)
        errors = samples.mean(0) * self.unit**2 / self.event_shape.numel()  # (B,), of a pixel
        log_sigma = 0.5 * torchrun.batch_mean(errors).clamp(min=LEAST_NOISE).log()
        self.log_sigma.mul_(0.9).add_(0.1 * log_sigma)  # held-out images use this running mean
        return self._density(squares, log_sigma)


def to_signed(x: Tensor) -> Tensor:
    """Maps pixels from [0, 1] to [-1, 1]."""
    return (2 * x).sub_(1)


class LikelihoodHead(nn.Module):
    """Provides the base of the heads that turn the decoder's output (B, C, H, W) into p(x|z)."""

    def scale(self, x: Tensor) -> Tensor:
        """Maps pixels from [0, 1] to the range that the networks see."""
        return x

    def link(self, mean: Tensor) -> Tensor:
        """Returns the decoder's output for which p(x|z) has a mean; a mean nearer to 0 or 1 than 1/256 is moved."""
        return mean.clamp(DARKEST, 1 - DARKEST).logit()

    def noise(self, code: LinearCode) -> Tensor:
        """Returns the variance of a pixel around what a linear code makes of it; a sigma that is found starts there."""
        return (code.mean * (1 - code.mean)).mean()


class BernoulliHead(LikelihoodHead):
    """Turns the decoder's output (B, C, H, W) into Bernoulli pixels."""

    def forward(self, h: Tensor) -> BernoulliPixels:
        return BernoulliPixels(_full(h))


class GaussianHead(LikelihoodHead):
    """Turns the decoder's output (B, C, H, W) into Gaussian pixels with a fixed sigma.

    With tanh as the last function the networks see pixels in [-1, 1].
    """

    log_sigma: Tensor

    def __init__(self, log_sigma: Tensor, last: Output) -> None:
        super().__init__()
        self.register_buffer("log_sigma", log_sigma)
        self.last, self.signed = last, last == "tanh"

    def scale(self, x: Tensor) -> Tensor:
        return to_signed(x) if self.signed else x

    def output(self, h: Tensor) -> Tensor:
        if self.last == "linear":
            return _full(h)
        return _full(h).tanh() if self.signed else _full(h).sigmoid()

    def link(self, mean: Tensor) -> Tensor:
        if self.last == "linear":
            return mean
        logit = super().link(mean)
        return logit / 2 if self.signed else logit  # tanh(a) = 2 sigmoid(2 a) - 1

    def noise(self, code: LinearCode) -> Tensor:
        return (2 * self.log_sigma).exp()

    def forward(self, h: Tensor) -> GaussianPixels:
        return GaussianPixels(self.output(h), self.log_sigma, self.signed)


class LearnedGaussianHead(GaussianHead):
    """Learns sigma as one more parameter of the decoder."""

    def __init__(self, log_sigma: Tensor, last: Output) -> None:
        super().__init__(log_sigma, last)
        del self.log_sigma
        self.log_sigma = nn.Parameter(log_sigma)

    def noise(self, code: LinearCode) -> Tensor:
        return _start_at_rest(self.log_sigma, code)

    def forward(self, h: Tensor) -> GaussianPixels:
        return GaussianPixels(self.output(h), soft_bound(self.log_sigma, -6.0, 3.0), self.signed)


class OptimalGaussianHead(GaussianHead):
    """Uses the best sigma for each training batch (Rybkin et al., 2021, arXiv:2006.13202).

    At test time it uses a running mean of those values.
    """

    def noise(self, code: LinearCode) -> Tensor:
        return _start_at_rest(self.log_sigma, code)

    def forward(self, h: Tensor) -> GaussianPixels:
        pixels = BatchOptimalGaussianPixels if self.training else GaussianPixels
        return pixels(self.output(h), self.log_sigma, self.signed)


def _start_at_rest(log_sigma: Tensor, code: LinearCode) -> Tensor:
    """Moves a sigma that is found to the likeliest one beside a linear code, and returns its square.

    It is the mean variance of the directions that the code leaves out (Tipping and Bishop, 1999, eq. 8).
    """
    left_out = max(1, code.mean.numel() - len(code.variances))
    variance = max(code.rest * code.mean.numel() / left_out, LEAST_NOISE)
    log_sigma.fill_(0.5 * math.log(variance))
    return (2 * log_sigma).exp()


class BernoulliConfig(Config):
    """Takes each pixel for an independent coin flip, whose logit the decoder gives."""

    name: Literal["bernoulli"] = "bernoulli"
    """Chooses the likelihood of the pixels."""

    def build(self) -> BernoulliHead:
        return BernoulliHead()


class GaussianConfig(Config):
    """Takes each pixel for the decoder's output with Gaussian noise."""

    name: Literal["gaussian"] = "gaussian"
    """Chooses the likelihood of the pixels."""
    sigma: Literal["fixed", "learned", "optimal"] = "learned"
    """Chooses a pixel's noise: fixed, one learned number, or the maximum-likelihood value of each training batch."""
    value: float = Field(0.1, gt=0, le=10)
    """Sets sigma, on pixels in [0, 1]; if sigma is not fixed, training starts from this value."""
    output: Output = "sigmoid"
    """Chooses the decoder's last function; with tanh the networks see pixels in [-1, 1].

    With linear there is none, and what leaves [0, 1] is cut off where images leave the model."""

    def build(self) -> GaussianHead:
        heads = {"fixed": GaussianHead, "learned": LearnedGaussianHead, "optimal": OptimalGaussianHead}
        return heads[self.sigma](torch.tensor(self.value).log(), self.output)


class AutoLikelihoodConfig(Config):
    """Chooses the likelihood from the images, before a training is named."""

    name: Literal["auto"] = "auto"
    """Chooses the likelihood of the pixels."""

    def build(self) -> LikelihoodHead:
        raise SettingsError(
            "model.likelihood.name=auto: it is chosen from the images, and none are known yet; use "
            "Experiment.for_data, or name one: model.likelihood=gaussian"
        )


LikelihoodConfig = Annotated[BernoulliConfig | GaussianConfig, Field(discriminator="name")]
AnyLikelihoodConfig = Annotated[AutoLikelihoodConfig | BernoulliConfig | GaussianConfig, Field(discriminator="name")]
