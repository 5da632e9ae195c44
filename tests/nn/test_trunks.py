"""Tests the networks: their sizes, batch normalisation, a discriminator's gradient, and what does not fit."""

from __future__ import annotations

import copy

import pytest
import torch
from untrained import BATCH_NORM, build, images

from aemodels.config import SettingsError
from aemodels.models import AEConfig, VAEConfig
from aemodels.nn.objectives import gradient_penalty
from aemodels.nn.trunks import ArticleConvConfig, BatchNorm, ConvConfig, Discriminator, MLPConfig
from aemodels.runtime.randomness import seeded


def test_the_gradient_penalty_is_of_each_image_and_trains_the_discriminator() -> None:
    discriminator = Discriminator(MLPConfig(widths=(16,), activation="tanh").encoder((1, 6, 6)))
    x = images((1, 6, 6)).x
    judged, gradient = discriminator.with_gradient(x)
    alone = [image[None].clone().requires_grad_() for image in x]
    slopes = [torch.autograd.grad(discriminator(image).logits, image, create_graph=True)[0] for image in alone]
    expected = torch.stack([slope.square().sum() / 2 for slope in slopes])
    torch.testing.assert_close(gradient_penalty(gradient), expected)
    torch.testing.assert_close(judged, discriminator(x))
    weight = discriminator.encoder[1].weight
    ours, theirs = (torch.autograd.grad(p.sum(), weight)[0] for p in (gradient_penalty(gradient), expected))
    torch.testing.assert_close(ours, theirs)


def test_the_article_networks_have_the_articles_sizes() -> None:
    conv = build(AEConfig(latent_dim=32, trunk=ArticleConvConfig()), (1, 28, 28))
    assert sum(p.numel() for p in conv.parameters()) == 160 + 1160 + (8 * 16 * 9 + 16) + (16 * 8 * 25 + 8) + (8 * 4 + 1)
    with pytest.raises(ValueError, match="article_conv"):
        build(AEConfig(latent_dim=32, trunk=ArticleConvConfig()), (3, 32, 32))
    with pytest.raises(ValueError, match=r"model\.latent_dim=20"):
        build(AEConfig(latent_dim=20, trunk=ArticleConvConfig()), (1, 28, 28))


def test_a_batch_is_normalised_and_held_out_images_by_its_running_means() -> None:
    """In training, any batch has mean 0 and variance 1.

    In evaluation each image is normalised by itself, also a single one.
    """
    with seeded(0):
        norm, x = BatchNorm(3), 5 + 2 * torch.randn(400, 3)
    trained = norm(x)
    torch.testing.assert_close(trained.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(trained.var(0, unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    for _ in range(200):
        norm(x)
    before = copy.deepcopy(norm.state_dict())
    alone = norm(x[:1])  # the rest of an epoch
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    norm.eval()
    torch.testing.assert_close(norm(x), trained, atol=1e-2, rtol=0)
    torch.testing.assert_close(norm(x)[:1], alone)


def test_batch_norm_is_not_shared_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"model\.trunk\.normalization=batch: under torchrun .*one process"):
        build(AEConfig(trunk=BATCH_NORM), (1, 8, 8))


def test_too_many_layers_for_a_small_image() -> None:
    with pytest.raises(ValueError, match=r"model\.trunk\.channels.*at most 3"):
        build(VAEConfig(trunk=ConvConfig(channels=(4, 4, 4, 4))), (1, 8, 8))
