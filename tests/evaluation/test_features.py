"""Tests the features in which images are compared, and the classifier that is fitted to them."""

from __future__ import annotations

import torch

from aemodels.data import PreparedData
from aemodels.evaluation.features import DIMENSIONS, Features, features_of
from aemodels.runtime.progress import finish

CPU = torch.device("cpu")


def test_the_features_of_digits(digits: PreparedData, features: Features) -> None:
    assert features.accuracy is not None
    assert features.accuracy > 0.97
    x = torch.tensor(digits.split("test").images).float() / 255
    embedded = features.embed(x)
    assert embedded.shape == (len(x), DIMENSIONS)
    assert finish(features_of(digits, CPU)).hash == features.hash
    probabilities = features.probabilities(x)
    assert probabilities is not None
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(x)))


def test_features_of_real_images_are_kept(colour: dict[str, PreparedData]) -> None:
    data = colour["plain"]
    found = finish(features_of(data, CPU)).of_split(data, "train", 8, CPU)
    (kept,) = data.path.glob("features_*_train_8.npy")
    assert torch.equal(finish(features_of(data, CPU)).of_split(data, "train", 8, CPU), found)
    kept.write_bytes(b"damaged")
    assert torch.equal(finish(features_of(data, CPU)).of_split(data, "train", 8, CPU), found)


def test_a_damaged_classifier_is_fitted_again(colour: dict[str, PreparedData]) -> None:
    data = colour["labelled"]
    features = finish(features_of(data, CPU))
    (weights,), (card,) = data.path.glob("classifier*.safetensors"), data.path.glob("classifier*.json")
    content, meta = weights.read_bytes(), card.read_bytes()
    for damaged in (content[:-8] + bytes(8), content[:100], b""):
        weights.write_bytes(damaged)
        assert finish(features_of(data, CPU)).hash == features.hash
        assert weights.read_bytes() == content  # the same weights
    for damaged in (b"", b"{}", b"[]", meta.replace(b"hash", b"hush")):
        card.write_bytes(damaged)
        assert finish(features_of(data, CPU)).hash == features.hash
        assert card.read_bytes() == meta


def test_the_classifier_is_the_same_with_one_thread_and_with_two(colour: dict[str, PreparedData]) -> None:
    before, data, found = torch.get_num_threads(), colour["labelled"], []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for file in data.path.glob("classifier_*"):
                file.unlink()
            finish(features_of(data, CPU))
            found.append(next(data.path.glob("classifier*.safetensors")).read_bytes())
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_features_do_not_depend_on_binarisation(digits: PreparedData, features: Features) -> None:
    black_and_white = digits.model_copy(update={"binarize": "static"})
    assert finish(features_of(black_and_white, CPU)).hash == features.hash


def test_data_without_labels_need_no_classifier(colour: dict[str, PreparedData]) -> None:
    data = colour["plain"]
    features = finish(features_of(data, CPU))
    assert features.accuracy is None
    assert features.probabilities(torch.zeros(1, *data.image_shape)) is None
    assert not list(data.path.glob("classifier*"))
