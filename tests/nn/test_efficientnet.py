"""Tests the network that knows photos: its shapes and its weights."""

from __future__ import annotations

import torch
from sklearn.datasets import load_sample_image

from aemodels.nn.efficientnet import AT_ONCE, HEAD, STAGES, EfficientNetLite0, as_photos, efficientnet, pooled


def test_it_halves_its_images_as_tensorflow_does() -> None:
    network = EfficientNetLite0().eval()
    maps = network.maps(torch.rand(1, 3, 33, 33))
    assert [m.shape[-1] for m in maps] == [17, 9, 5, 3, 3, 2, 2, 2]
    assert [m.shape[1] for m in maps] == [*(stage.outputs for stage in STAGES), HEAD]


def test_pooled_maps_are_means_and_spreads() -> None:
    network = EfficientNetLite0().eval()
    images = torch.rand(2 * (AT_ONCE // 32**2) + 1, 1, 8, 8)
    found = pooled(network, images, 32)
    assert found.shape == (len(images), 2 * (sum(stage.outputs for stage in STAGES) + HEAD))
    first = network.maps(as_photos(images[:1], 32))[0]
    torch.testing.assert_close(found[:1, :16], first.mean((2, 3)), atol=1e-5, rtol=1e-4)
    start, end = (2 * sum(stage.outputs for stage in STAGES[:number]) for number in (2, 5))
    torch.testing.assert_close(pooled(network, images, 32, 3, 5), found[:, start:end])


def test_the_weights_name_a_photo() -> None:
    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float() / 255
    square = torch.nn.functional.interpolate(photo[..., 106:533], (224, 224), mode="bilinear", antialias=True)
    assert efficientnet()(square).topk(3).indices[0].tolist().count(698) == 1  # a palace
