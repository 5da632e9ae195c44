"""Builds the models of the trainings as plain torch modules, layer by layer; the peers train them.

B batch, D latent units, F features. A VAE's networks see pixels in [0, 1], an autoencoder's in [-1, 1] (the article's
tanh).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainVAE(nn.Module):
    """A plain VAE has diagonal normal codes and Bernoulli pixels (Kingma and Welling, 2014, arXiv:1312.6114)."""

    def __init__(self, encoder: nn.Module, features: int, latent_dim: int, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean, self.log_variance = nn.Linear(features, latent_dim), nn.Linear(features, latent_dim)
        self.decoder = decoder

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images (B, 1, 28, 28) to mean and log-variance of their codes, (B, D) each."""
        h = self.encoder(x)
        return self.mean(h), self.log_variance(h)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(z), mean, log_variance


class PlainVAEGAN(PlainVAE):
    """Adds a discriminator, which is another encoder with one output (Larsen et al., 2016, arXiv:1512.09300)."""

    def __init__(self, vae: PlainVAE, hidden: nn.Module) -> None:
        super().__init__(vae.encoder, vae.mean.in_features, vae.mean.out_features, vae.decoder)
        self.hidden, self.logit = hidden, nn.Linear(vae.mean.in_features, 1)

    def discriminate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images (B, 1, 28, 28) to logits (B,), over 0 for real, and the features that they come from, (B, F)."""
        h = self.hidden(2 * x - 1)
        return self.logit(h)[:, 0], h


class PlainAutoencoder(nn.Module):
    """A plain autoencoder has one code per image, and is trained on the squared error."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(x))
        return reconstruction


Plain = PlainVAE | PlainAutoencoder


def plain_model(preset: str, latent_dim: int | None = None) -> Plain:
    """Returns the network of a preset of the project, with torch's own initial weights."""
    match preset:
        case "article-vae":
            return _article_vae(latent_dim or 20)
        case "conv-vae":
            return _conv_vae(latent_dim or 20)
        case "vae-gan":
            return PlainVAEGAN(_conv_vae(latent_dim or 20), _conv_encoder())
        case "article-mlp":
            return _article_mlp()
        case "article-conv":
            return _article_conv()
    raise ValueError(f"{preset}: no such model here")


def plain_loss(model: Plain, x: Tensor, beta: float = 1.0) -> Tensor:
    """Returns the examples' loss: the sum over the batch for a VAE, the mean over all pixels for an autoencoder."""
    if isinstance(model, PlainAutoencoder):
        return F.mse_loss(model(x), x)
    pixels, mean, log_variance = model(x)
    distortion = F.binary_cross_entropy(pixels, x, reduction="sum")
    rate = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
    bound: Tensor = distortion + beta * rate
    return bound


def _article_vae(latent_dim: int) -> PlainVAE:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
    last = [nn.Linear(400, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28))]
    return PlainVAE(encoder, 400, latent_dim, nn.Sequential(nn.Linear(latent_dim, 400), nn.ReLU(), *last))


def _conv_encoder() -> nn.Module:
    down = [nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.SiLU(), nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*down, nn.Flatten(), nn.Linear(64 * 7 * 7, 256), nn.SiLU())


def _conv_vae(latent_dim: int) -> PlainVAE:
    dense = [nn.Linear(latent_dim, 256), nn.SiLU(), nn.Linear(256, 64 * 7 * 7), nn.Unflatten(1, (64, 7, 7)), nn.SiLU()]
    up = [nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.SiLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)]
    return PlainVAE(_conv_encoder(), 256, latent_dim, nn.Sequential(*dense, *up, nn.Sigmoid()))


def _article_mlp() -> PlainAutoencoder:
    encoder = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 12), nn.ReLU()]
    decoder = [nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU()]
    last = [nn.Linear(128, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28))]
    return PlainAutoencoder(nn.Sequential(nn.Flatten(), *encoder, nn.Linear(12, 3)), nn.Sequential(*decoder, *last))


def _article_conv() -> PlainAutoencoder:
    encoder = [nn.Conv2d(1, 16, 3, stride=3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
    encoder += [nn.Conv2d(16, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2, 1)]
    decoder = [nn.ConvTranspose2d(8, 16, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(16, 8, 5, stride=3, padding=1)]
    decoder += [nn.ReLU(), nn.ConvTranspose2d(8, 1, 2, stride=2, padding=1), nn.Tanh()]
    return PlainAutoencoder(nn.Sequential(*encoder), nn.Sequential(*decoder))
