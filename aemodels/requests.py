"""What a model draws when it is asked for a class: by its label, or by examples.

F features, (C, H, W) an image.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from aemodels.data.batches import Batches
from aemodels.distributions import derived_seed
from aemodels.features import Features
from aemodels.models.base import AT_ONCE, Autoencoder, GenerativeModel
from aemodels.undisturbed import undisturbed

EXAMPLES, ASKED = 50, 100  # images of a class that are shown, and asked for
MOST_CLASSES = 10  # the first ones, where there are more


class Requests:
    """Features of images of each class."""

    def __init__(self, model: GenerativeModel, features: Features, training: Batches, classes: int, seed: int) -> None:
        self.model, self.features, self.training, self.seed = model, features, training, seed
        self.classes = range(min(classes, MOST_CLASSES))

    @cached_property
    def images(self) -> list[Tensor]:
        """The first training images (EXAMPLES, C, H, W) of each class."""
        found: list[list[Tensor]] = [[] for _ in self.classes]
        for x, y, _ in self.training.in_order(AT_ONCE):
            assert y is not None
            for label in self.classes:
                found[label].append(x[y == label])
        return [torch.cat(parts)[:EXAMPLES] for parts in found]

    @cached_property
    def examples(self) -> list[Tensor]:
        """Their features (EXAMPLES, F)."""
        return [self.features.embed(x) for x in self.images]

    @cached_property
    def like_examples(self) -> list[Tensor]:
        """Features (ASKED, F) of images drawn to be like those."""
        assert isinstance(self.model, Autoencoder)
        drawn: list[Tensor] = []
        for label, x in enumerate(self.images):
            with undisturbed(self.model, derived_seed(self.seed, "like", label)):
                drawn.append(self.features.embed(self.model.sample_like(x, ASKED, self.seed)))
        return drawn

    @cached_property
    def of_labels(self) -> list[Tensor]:
        """Features (ASKED, F) of images that were asked for by their class."""
        drawn: list[Tensor] = []
        for label in self.classes:
            with undisturbed(self.model, derived_seed(self.seed, "label", label)):
                y = torch.full((ASKED,), label, device=self.model.device)
                drawn.append(self.features.embed(self.model.sample(ASKED, y)))
        return drawn
