"""Starts networks where the images are: at their mean, or at their linear code.

D latent units, K components of a linear code, F features of a network alone, P pixels, (C, H, W) an image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aemodels.nn.distributions import DiagonalNormalHead, LikelihoodHead, PointHead
from aemodels.nn.linear_code import LinearCode
from aemodels.nn.photo import PhotoDecoder, PhotoEncoder

LEAST_VARIANCE = 1e-5  # of images along a component; below, it is the noise of 256 grey levels


@torch.no_grad()
def start_at_mean(decoder: nn.Module, mean: Tensor, likelihood: LikelihoodHead) -> None:
    """Sets the last bias of a decoder so that it draws about the mean image (C, H, W), or only its mean colour.

    A bias for each pixel takes the image; where convolutions are last, there is one for each channel.
    """
    last = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear | nn.ConvTranspose2d)][-1]
    bias = last.bias
    assert bias is not None
    bias.copy_(likelihood.link(mean if len(bias) == mean.numel() else mean.mean((1, 2))).flatten())


@torch.no_grad()
def start_at_code(
    encoder: PhotoEncoder,
    head: DiagonalNormalHead | PointHead,
    decoder: PhotoDecoder,
    likelihood: LikelihoodHead,
    code: LinearCode,
) -> None:
    """Makes an autoencoder a linear code, with networks that are silent until they are trained.

    With a spread in the posterior it is probabilistic principal components, the best linear VAE (Tipping and Bishop,
    1999, J. R. Stat. Soc. B 61; Lucas et al., 2019, arXiv:1911.02469). Units without a component begin by chance in the
    encoder, and unseen by the decoder.
    """
    noise = likelihood.noise(code) if isinstance(head, DiagonalNormalHead) else torch.tensor(0.0)
    used = int((code.variances > noise.clamp(min=LEAST_VARIANCE)).sum())
    variances, components = code.variances[:used], code.components[:used]
    signal = (variances - noise).sqrt()  # of the pixels along each component, for a step of 1 in the code
    first = decoder.linear.in_features - len(head.unit_mask)  # what the decoder is told beside a code comes before it

    _start_encoder(encoder, components * (signal / variances)[:, None], code.mean, likelihood)
    means = head.mean if isinstance(head, DiagonalNormalHead) else head.code
    assert isinstance(means, nn.Linear)
    means.weight[:used] = 0
    means.weight[:used, encoder.hidden : encoder.hidden + used] = torch.eye(used)
    means.bias.zero_()
    if isinstance(head, DiagonalNormalHead):
        head.log_variance.weight.zero_()
        head.log_variance.bias.zero_()
        head.log_variance.bias[:used] = (noise / variances).log()

    steps = (components * signal[:, None]).unflatten(1, code.mean.shape)  # (K, C, H, W)
    decoder.last.weight.zero_()
    decoder.linear.weight.zero_()
    # Half the way between a step to either side: it is the step itself where the likelihood's link is linear.
    moved = (likelihood.link(code.mean + steps) - likelihood.link(code.mean - steps)) / 2
    decoder.linear.weight[:, first : first + used] = moved.flatten(1).T
    decoder.linear.bias.copy_(likelihood.link(code.mean).flatten())


def _start_encoder(encoder: PhotoEncoder, rows: Tensor, mean: Tensor, likelihood: LikelihoodHead) -> None:
    """Sets P, of which the rows (K, P) are of pixels in [0, 1], and the mean image of a network with its own scale."""
    zero, one = torch.zeros(1), torch.ones(1)
    unit = likelihood.scale(one) - likelihood.scale(zero)
    encoder.mean.copy_(likelihood.scale(mean))
    assert encoder.linear is not None
    encoder.linear.weight[: len(rows)] = rows / (unit * encoder.linear.scale)
