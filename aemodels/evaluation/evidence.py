"""Computes what metrics and figures are made from: a model's codes, reconstructions and samples, each once.

N images of a split, B of a batch, D latent units, F features, (C, H, W) an image with pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from aemodels.data.batches import Batches, fits
from aemodels.data.other_kind import images_of_another_kind
from aemodels.data.prepared import PreparedData
from aemodels.evaluation.class_requests import Requests
from aemodels.evaluation.config import EvaluationConfig
from aemodels.evaluation.denoising import NOISES, Denoising
from aemodels.evaluation.features import Features
from aemodels.evaluation.images import TrainedOn, are_black_and_white, check_images
from aemodels.evaluation.likelihood import Kind, bound_terms, kind_of, log_likelihood
from aemodels.evaluation.mutual_information import known_shares
from aemodels.evaluation.needs import AMOUNTS, Need
from aemodels.evaluation.neighbours import Balls, balls
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.nn.batch import Batch
from aemodels.nn.noise import noise_like
from aemodels.runtime.randomness import derived_seed, undisturbed

# Codes of training images, at most: for the probes, to show the spread of a code, and as examples of a class.
TRAINING_CODES = 10_000
NOISY = 200  # images: the filters that denoisers are compared with are slow


class Codes(NamedTuple):
    """Holds posterior means and their images' labels, on the CPU."""

    z: Tensor  # (N, D)
    y: Tensor | None  # (N,)


class Evidence:
    """Holds a model, and what it computes of a split's images; nothing is computed before it is asked for."""

    def __init__(
        self,
        model: GenerativeModel,
        data: PreparedData,
        features: Features | None,
        rules: EvaluationConfig,
        split: str = "test",
        trained_on: TrainedOn | None = None,
        history: Sequence[Mapping[str, float]] = (),
        drawn: int | None = None,
    ) -> None:
        """Keeps what the rest is computed from.

        Args:
            features: None leaves out what needs them.
            split: train, val or test, whose images the model is measured on.
            trained_on: the images of the model's training, which references are fitted to; None if they are not known.
            history: a training's metrics, an entry per epoch, for its curves.
            drawn: how many images the model draws for a distance to real ones; None for as many as these are.

        Raises:
            SettingsError: the model is for other images or, if it is conditional, for other classes.
        """
        check_images(model, data)
        self.model, self.data, self.split, self.rules, self.history = model, data, split, rules, history
        self.trained_on, self._features, self.seed = trained_on, features, rules.seed
        self.frechet_images = min(rules.samples, data.sizes[split])  # real ones, which distances are measured to
        self.drawn = drawn or self.frechet_images
        self._kept: list[Tensor] | None = None

    def has(self, need: Need) -> bool:
        """Tells whether this model and its data have what a metric or figure needs."""
        return NEEDS[need](self)

    @property
    def seen(self) -> int:
        """Returns how many of the first training images of these data the model was trained on; 0 if on others."""
        if self.trained_on is None or self.trained_on.data.digest != self.data.digest:
            return 0
        return self.trained_on.images

    @property
    def autoencoder(self) -> Autoencoder:
        """Returns the model, where it is an autoencoder."""
        assert isinstance(self.model, Autoencoder)
        return self.model

    @property
    def features(self) -> Features:
        """Returns the features, where there are some."""
        assert self._features is not None
        return self._features

    @property
    def has_features(self) -> bool:
        """Tells whether there are features."""
        return self._features is not None

    # ---------------------------------------------------------------- held-out images

    @cached_property
    def batches(self) -> Batches:
        return Batches(self.data, self.split, self.model.device)

    def first(self, n: int) -> Batch:
        """Returns the first images of the split."""
        return next(self.batches.in_order(n))

    def images(self) -> Iterator[Tensor]:
        """Yields the images of the split, (B, C, H, W) each, as the model sees them."""
        yield from (batch.x for batch in self.batches.in_order(self.batches.at_once))

    @cached_property
    def terms(self) -> dict[str, Tensor]:
        """Returns the terms of the model's bound of each image (N,), in nats."""
        return bound_terms(self.model, self.batches, self.seed)

    @cached_property
    def dequantized_terms(self) -> dict[str, Tensor]:
        """Returns the same terms with noise of a grey level; under a density they bound the pixels' probability."""
        return bound_terms(self.model, self.batches, self.seed, dequantized=True)

    @cached_property
    def first_terms(self) -> dict[str, Tensor]:
        with self._undisturbed("first"):
            return self.model.bound(self.first(2))

    @cached_property
    def likelihood(self) -> Kind | None:
        """Tells how the pixels' probability is given; None where the images are not what the likelihood is for."""
        with self._undisturbed("first"):
            x, y, _ = self.first(2)
            p_x = self.autoencoder.decode(self.autoencoder.encode(x, y).mean, y)
        return kind_of(p_x, are_black_and_white(self.data, self.split))

    @cached_property
    def log_likelihoods(self) -> Tensor:
        """Returns log p(x) of the split's first images, (nll_images,), in nats."""
        images = Batches(self.data, self.split, self.model.device, self.rules.nll_images)
        found: list[Tensor] = []
        for i, batch in enumerate(images.in_order(images.at_once)):
            with self._undisturbed("likelihood", i):
                found.append(log_likelihood(self.autoencoder, batch, self.rules.nll_samples))
        return torch.cat(found).cpu()

    def reconstructions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images as the model sees them, and their reconstructions, (B, C, H, W) each.

        They are kept if they fit into memory.
        """
        size, at_once = 4 * self.batches.images.size, self.batches.at_once
        codes = self.codes.z.split(at_once)
        if self._kept is None and fits(size, self.model.device):
            pairs = zip(codes, self.batches.in_order(at_once), strict=True)
            self._kept = [self._decode(z, batch) for z, batch in pairs]
        for i, batch in enumerate(self.batches.in_order(at_once)):
            yield batch.x, self._decode(codes[i], batch) if self._kept is None else self._kept[i]

    def seen_reconstructions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the same for training images that the model was trained on."""
        return self._reconstructed(self._training.in_order(self.model.at_once))

    def other_reconstructions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the same for images of another kind than the model is for."""
        parts = images_of_another_kind(self.data).split(self.model.at_once)
        return self._reconstructed(Batch(x.to(self.model.device), None) for x in parts)

    def _reconstructed(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y, _ in batches:
            with self._undisturbed("reconstructions"):
                reconstruction: Tensor = self.autoencoder(x, y)
            yield x, reconstruction

    def _decode(self, z: Tensor, batch: Batch) -> Tensor:
        """Decodes codes that are known already, as the autoencoder itself reconstructs."""
        with self._undisturbed("reconstructions"):
            reconstruction: Tensor = self.autoencoder.decode(z.to(batch.x.device), batch.y).mean
            return reconstruction

    @cached_property
    def denoising(self) -> dict[float, Denoising]:
        """Returns the split's first images with noise of each strength, and without it again."""
        return {sigma: Denoising(self.autoencoder, self.first(NOISY).x, sigma, self.seed) for sigma in NOISES}

    # ---------------------------------------------------------------- codes

    @cached_property
    def codes(self) -> Codes:
        """Returns the codes of the split."""
        return self._encode(self.batches)

    @cached_property
    def training_codes(self) -> Codes:
        """Returns the codes of training images."""
        return self._encode(self._training)

    @property
    def _training(self) -> Batches:
        """Returns the first training images, only seen ones if the model was trained on some of these data."""
        return Batches(self.data, "train", self.model.device, min(self.seen or TRAINING_CODES, TRAINING_CODES))

    def _encode(self, batches: Batches) -> Codes:
        means: list[Tensor] = []
        labels: list[Tensor] = []
        for x, y, _ in batches.in_order(batches.at_once):
            with self._undisturbed("codes"):
                means.append(self.autoencoder.encode(x, y).mean.cpu())
            labels += [] if y is None else [y.cpu()]
        return Codes(torch.cat(means), torch.cat(labels) if labels else None)

    @cached_property
    def known_shares(self) -> Tensor:
        """Returns the share of each known factor's entropy that a unit tells, (D, F).

        The codes are drawn from the posteriors of the split's images. Their means would count what the noise of a unit
        drowns, and more than the unit's rate, which is a bound on it.
        """
        codes = self._drawn_codes(self.batches, "known")
        return known_shares(codes, torch.from_numpy(self.data.stored(self.split).factors))

    def drawn_training_codes(self) -> Tensor:
        """Returns one code from q(z|x) of each training image, (N, D), on the CPU."""
        return self._drawn_codes(self._training, "training")

    def _drawn_codes(self, batches: Batches, purpose: str) -> Tensor:
        codes: list[Tensor] = []
        for i, (x, y, _) in enumerate(batches.in_order(batches.at_once)):
            with self._undisturbed(purpose, i):
                codes.append(self.autoencoder.encode(x, y).sample().cpu())
        return torch.cat(codes)

    @cached_property
    def unit_rates(self) -> Tensor | None:
        """Returns the mean rate of each latent unit, (D,), in nats; None where it does not exist."""
        if not self.has("unit_rates"):
            return None
        batches = [self.rate_per_unit(batch) for batch in self.batches.in_order(self.batches.at_once)]
        totals = torch.stack([rates.double().sum(0) for rates in batches if rates is not None])
        return totals.sum(0).cpu() / len(self.batches)

    def rate_per_unit(self, batch: Batch) -> Tensor | None:
        with self._undisturbed("codes"):
            return self.autoencoder.rate_per_unit(batch.x, batch.y)

    # ---------------------------------------------------------------- samples and features

    def samples(self, n: int, part: int = 0) -> Tensor:
        """Returns new images (n, C, H, W), which are the same for the same n and part."""
        with self._undisturbed("samples", part):
            return self.model.sample(n)

    def standard_normal(self, n: int, part: int = 0) -> Tensor:
        """Returns the same from codes of N(0, I), whatever the model draws from."""
        with self._undisturbed("samples", part):
            z = noise_like(torch.zeros(n, self.model.latent_dim, device=self.model.device))
            images: Tensor = self.autoencoder.decode(z).mean
            return images

    @cached_property
    def sample_features(self) -> Tensor:
        """Returns the features (drawn, F) of images that the model draws."""
        return self.drawn_features(self.samples)

    def drawn_features(self, draw: Callable[[int, int], Tensor]) -> Tensor:
        """Returns the features (drawn, F) of images that `draw(n, part)` draws, a part of them at a time."""
        most = self.model.at_once
        sizes = [min(most, self.drawn - start) for start in range(0, self.drawn, most)]
        return torch.cat([self.features.embed(draw(n, part)) for part, n in enumerate(sizes)])

    @cached_property
    def sample_probabilities(self) -> Tensor:
        """Returns class probabilities (drawn, classes) of images that the model draws, where the data have labels."""
        return self.classified(self.sample_features)

    def classified(self, embedded: Tensor) -> Tensor:
        """Maps features (N, F) to class probabilities (N, classes), by the classifier of real images."""
        probabilities = self.features.classify(embedded)
        assert probabilities is not None
        return probabilities

    @cached_property
    def balls(self) -> Balls | None:
        """Returns the balls around the real images, and how as many samples fall into them, or all there are."""
        return balls(self.real_features, self.sample_features[: self.frechet_images])

    @cached_property
    def reconstruction_features(self) -> Tensor:
        """Returns the features (frechet_images, F) of the reconstructions of the split's first images."""
        batches: list[Tensor] = []
        for _, reconstruction in self.reconstructions():
            batches.append(self.features.embed(reconstruction))
            if sum(map(len, batches)) >= self.frechet_images:
                break
        return torch.cat(batches)[: self.frechet_images]

    @cached_property
    def requests(self) -> Requests:
        """Returns what the model draws when it is asked for a class."""
        return Requests(self.model, self.features, self._training, self.seed)

    @property
    def real_features(self) -> Tensor:
        """Returns the features (frechet_images, F) of the split's first images, which are never binarised here."""
        return self.features.of_split(self.data, self.split, self.frechet_images, self.model.device)

    @property
    def training_features(self) -> Tensor:
        """Returns the features of the first training images, (frechet_images, F), or fewer where there are fewer."""
        count = min(self.frechet_images, self.data.sizes["train"])
        return self.features.of_split(self.data, "train", count, self.model.device)

    def _undisturbed(self, purpose: str, index: int = 0) -> AbstractContextManager[None]:
        return undisturbed(self.model, derived_seed(self.seed, purpose, index))


def _is_autoencoder(evidence: Evidence) -> bool:
    return isinstance(evidence.model, Autoencoder)


NEEDS: dict[Need, Callable[[Evidence], bool]] = {
    "autoencoder": _is_autoencoder,
    "rate": lambda e: _is_autoencoder(e) and "rate" in e.first_terms,
    "unit_rates": lambda e: _is_autoencoder(e) and e.rate_per_unit(e.first(2)) is not None,
    "likelihood": lambda e: _is_autoencoder(e) and e.likelihood is not None,
    "nll_samples": lambda e: e.rules.nll_samples > 0,
    "fitted_prior": lambda e: _is_autoencoder(e) and e.autoencoder.fitted_prior is not None,
    "denoising": lambda e: _is_autoencoder(e) and e.rules.denoising,
    "conditional": lambda e: e.model.conditional,
    "unconditional": lambda e: not e.model.conditional,
    "labels": lambda e: e.data.num_classes > 1,
    "training_images": lambda e: e.data.sizes["train"] > 0,
    "factors": lambda e: _is_autoencoder(e) and len(e.data.factors) > 0,
    "features": lambda e: e.has_features,
    "history": lambda e: len(e.history) > 0,
    "seen": lambda e: e.seen > 0,
    "two_dimensions": lambda e: _is_autoencoder(e) and e.model.latent_dim == 2,
    "more_dimensions": lambda e: _is_autoencoder(e) and e.model.latent_dim > 2,  # fewer can be plotted themselves
    "two_images": lambda e: e.data.sizes[e.split] >= AMOUNTS["two_images"],
    "ten_images": lambda e: e.data.sizes[e.split] >= AMOUNTS["ten_images"],
}
