"""Tests the feature network: it is trained once, repeats when damaged, and has a substitute without labels."""

from __future__ import annotations

import torch

from aemodels.data import PreparedData
from aemodels.evaluation.features import Features, feature_count, feature_network
from aemodels.runtime.progress import finish

CPU = torch.device("cpu")


def test_the_feature_network_of_digits(digits: PreparedData, features: Features) -> None:
    assert features.name == "classifier"
    assert features.dimensions == 32
    assert features.accuracy is not None
    assert features.accuracy > 0.97
    x = torch.tensor(digits.split("test").images).float() / 255
    embedded = features.embed(x)
    assert embedded.shape == (len(x), 32)
    assert finish(feature_network(digits, CPU)).hash == features.hash
    probabilities = features.probabilities(x)
    assert probabilities is not None
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(x)))
    training = features.of_split(digits, "train", digits.sizes["train"], CPU)
    torch.testing.assert_close(training.var(0).mean(), torch.tensor(1.0), atol=0.1, rtol=0)


def test_a_damaged_feature_network_is_trained_again(colour: dict[str, PreparedData]) -> None:
    data = colour["labelled"]
    features = finish(feature_network(data, CPU))
    (weights,), (card,) = data.path.glob("features*.safetensors"), data.path.glob("features*.json")
    content, meta = weights.read_bytes(), card.read_bytes()
    for damaged in (content[:-8] + bytes(8), content[:100], b""):
        weights.write_bytes(damaged)
        again = finish(feature_network(data, CPU))
        assert again.hash == features.hash  # and to the same weights
        assert weights.read_bytes() == content
    for damaged in (b"", b"{}", b"[]", meta.replace(b"classifier", b"pca")):
        card.write_bytes(damaged)
        assert finish(feature_network(data, CPU)).hash == features.hash
        assert card.read_bytes() == meta


def test_features_do_not_depend_on_binarisation(digits: PreparedData, features: Features) -> None:
    black_and_white = digits.model_copy(update={"binarize": "static"})
    assert finish(feature_network(black_and_white, CPU)).hash == features.hash


def test_features_without_labels(colour: dict[str, PreparedData]) -> None:
    data = colour["plain"]
    features = finish(feature_network(data, CPU))
    assert features.name == "pca"
    assert features.accuracy is None
    assert features.probabilities(torch.zeros(1, *data.image_shape)) is None
    assert features.dimensions == feature_count(data) == 2
    embedded = features.of_split(data, "train", data.sizes["train"], CPU)
    torch.testing.assert_close(torch.cov(embedded.T), torch.eye(2), atol=1e-3, rtol=0)
    assert finish(feature_network(data, CPU)).hash == features.hash
