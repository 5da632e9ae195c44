"""Trains the VAE-GAN (Larsen et al., 2016, arXiv:1512.09300, algorithm 1) with a plain loop.

It is written as public loops are, but without what many of them waste: no network sees an image twice in an update, and
`backward` stops at a part's parameters.

An update runs the encoder once over a batch, the decoder twice (codes, noise), and the discriminator three times
(images, reconstructions, samples). Backwards go the encoder's loss from the reconstructions, the decoder's from these
and the samples, and the discriminator's from all three and from the gradient of its logits by the images (Mescheder et
al., 2018, arXiv:1801.04406). Then come three steps of Adam. Images come as in the example loop, through PIL, ToTensor
and a DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from aemodels.models.vae_gan import VAEGAN, VAEGANConfig
from benchmarks.contenders.judge import Clock, Epoch, plain_trained
from benchmarks.contenders.networks import PlainVAEGAN
from benchmarks.contenders.task import LEARNING_RATE, Task, alike, plain_start
from benchmarks.contenders.with_example import example_loader


def part_losses(model: PlainVAEGAN, x: Tensor, config: VAEGANConfig) -> dict[str, Tensor]:
    """Returns the loss of each part, the mean over the batch."""
    mean, log_variance = model.encode(x)
    z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    pixels = x.detach().requires_grad_()
    real, features = model.discriminate(pixels)
    (gradient,) = torch.autograd.grad(real.sum(), pixels, create_graph=True)
    penalty = 0.5 * gradient.square().sum((1, 2, 3)).mean()
    again, reconstructed = model.discriminate(model.decoder(z))
    drawn, _ = model.discriminate(model.decoder(torch.randn_like(z)))
    rate = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
    distortion = 0.5 * (features - reconstructed).square().sum(1).mean()
    one, zero, entropy = torch.ones_like(real), torch.zeros_like(real), F.binary_cross_entropy_with_logits
    return {
        "encoder": config.beta * rate + distortion,
        "decoder": config.gamma * distortion + entropy(again, one) + entropy(drawn, one),
        "discriminator": entropy(real, one)
        + entropy(again, zero)
        + entropy(drawn, zero)
        + config.gradient_penalty * penalty,
    }


def part_parameters(model: PlainVAEGAN) -> dict[str, list[Tensor]]:
    """Returns the parameters of each part, which its optimiser owns."""
    modules = {
        "encoder": (model.encoder, model.mean, model.log_variance),
        "decoder": (model.decoder,),
        "discriminator": (model.hidden, model.logit),
    }
    return {part: [p for module in own for p in module.parameters()] for part, own in modules.items()}


def step_backwards(losses: dict[str, Tensor], parameters: dict[str, list[Tensor]]) -> None:
    """Computes all gradients from one graph, before any optimiser makes its step."""
    for part, loss in losses.items():
        loss.backward(inputs=parameters[part], retain_graph=part != "discriminator")


def epochs(task: Task) -> Iterator[Epoch]:
    """Trains the network with the project's weights of the losses."""
    model, config = plain_start(task), alike(task).model
    assert isinstance(model, PlainVAEGAN)
    assert isinstance(config, VAEGANConfig)
    loader = example_loader(task.data, task.images, signed=False)
    parameters = part_parameters(model)
    optimizers = [
        torch.optim.Adam(own, lr=LEARNING_RATE, betas=(VAEGAN.momentum, 0.999)) for own in parameters.values()
    ]
    clock = Clock(task.device)
    for _ in range(task.epochs):
        clock.start()
        model.train()
        for images, _ in loader:
            for optimizer in optimizers:
                optimizer.zero_grad()
            losses = part_losses(model, images.to(task.device), config)
            step_backwards(losses, parameters)
            for optimizer in optimizers:
                optimizer.step()
            sum(loss.item() for loss in losses.values())  # what a loop prints
        seconds = clock.stop()
        yield Epoch(seconds, seconds, plain_trained(model))
