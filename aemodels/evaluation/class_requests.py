"""Collects what a model draws when it is asked for a class by its label, by examples, and when it is not asked.

N examples, F features, (C, H, W) an image.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from aemodels.data.batches import Batches
from aemodels.evaluation.features import Features
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.runtime.randomness import derived_seed, undisturbed

EXAMPLES, ASKED = 50, 100  # images of a class that are shown at most, and asked for
MOST_CLASSES = 10  # the first ones, where there are more


class Requests:
    """Gives features of images of each class, by the class's number; a class without training images is left out."""

    def __init__(self, model: GenerativeModel, features: Features, training: Batches, seed: int) -> None:
        self.model, self.features, self.training, self.seed = model, features, training, seed
        assert training.labels is not None
        self.classes: list[int] = training.labels.unique()[:MOST_CLASSES].tolist()

    @cached_property
    def images(self) -> dict[int, Tensor]:
        """Returns the first training images (N, C, H, W) of each class."""
        found: dict[int, list[Tensor]] = {label: [] for label in self.classes}
        for x, y, _ in self.training.in_order(self.training.at_once):
            assert y is not None
            for label, parts in found.items():
                parts.append(x[y == label][: EXAMPLES - sum(map(len, parts))])
        return {label: torch.cat(parts) for label, parts in found.items()}

    @cached_property
    def examples(self) -> dict[int, Tensor]:
        """Returns the features (N, F) of those images, by class."""
        return {label: self.features.embed(x) for label, x in self.images.items()}

    @cached_property
    def like_examples(self) -> dict[int, Tensor]:
        """Returns the features (ASKED, F) of images that are drawn to be like those, by class."""
        assert isinstance(self.model, Autoencoder)
        drawn: dict[int, Tensor] = {}
        for label, x in self.images.items():
            with undisturbed(self.model, derived_seed(self.seed, "like", label)):
                drawn[label] = self.features.embed(self.model.sample_like(x, ASKED, self.seed))
        return drawn

    @cached_property
    def of_labels(self) -> dict[int, Tensor]:
        """Returns the features (ASKED, F) of images that are asked for by their class."""
        drawn: dict[int, Tensor] = {}
        for label in self.classes:
            with undisturbed(self.model, derived_seed(self.seed, "label", label)):
                y = torch.full((ASKED,), label, device=self.model.device)
                drawn[label] = self.features.embed(self.model.sample(ASKED, y))
        return drawn

    @cached_property
    def unasked(self) -> dict[int, Tensor]:
        """Returns the features (ASKED, F) of images that nobody asked for, which are the same for every class."""
        with undisturbed(self.model, derived_seed(self.seed, "unasked")):
            return dict.fromkeys(self.classes, self.features.embed(self.model.sample(ASKED)))
