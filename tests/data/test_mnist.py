"""Tests the data sets of torchvision, with files in their formats."""

from __future__ import annotations

import gzip
import pickle
import struct
import time
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from places import COLLECTIONS

from aemodels.config import UserError
from aemodels.data import prepare
from aemodels.data.mnist import CIFAR_FILES, IDX_FILES, Cifar10Config, KmnistConfig, MnistConfig
from aemodels.runtime.progress import finish


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


def make_idx(raw: Path, train: int = 40, test: int = 10, gzipped: bool = True) -> None:
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in IDX_FILES:
        count = train if name.startswith("train") else test
        images = "idx3" in name
        header = struct.pack(">4I", 0x803, count, 28, 28) if images else struct.pack(">2I", 0x801, count)
        content = header + rng.integers(0, 255 if images else 10, count * (784 if images else 1), np.uint8).tobytes()
        (raw / (f"{name}.gz" if gzipped else name)).write_bytes(gzip.compress(content) if gzipped else content)


def test_idx_files_gzipped_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for gzipped in (True, False):
        root = tmp_path / f"root{gzipped}"
        make_idx(root / "KMNIST" / "raw", gzipped=gzipped)
        monkeypatch.setenv("AEMODELS_DATA", str(root))
        before = sorted(root.rglob("*"))
        data = finish(prepare(KmnistConfig()))
        assert sorted(root.rglob("*")) == before  # nothing written beside the files
        assert (data.image_shape, data.classes[:2]) == ((1, 28, 28), ("o", "ki"))
        assert data.sizes == {"train": 36, "val": 4, "test": 10}
        digests.append(data.digest)
    assert digests[0] == digests[1]
    assert finish(prepare(KmnistConfig(image_size=32))).image_shape == (1, 32, 32)


@pytest.mark.parametrize("name", IDX_FILES)
def test_damaged_idx_file_is_named(tmp_path: Path, name: str, prepared_folders: Callable[[], list[Path]]) -> None:
    raw = tmp_path / "data" / "KMNIST" / "raw"
    make_idx(raw)
    file = raw / f"{name}.gz"
    content = gzip.decompress(file.read_bytes())
    whole = gzip.compress(content)
    for wrong in (
        whole[: len(whole) // 2],
        b"<html>",
        gzip.compress(content[:-1]),
        gzip.compress(b"\0" + content),
        b"",
    ):
        file.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"AEMODELS_DATA=.*{name}\.gz is damaged .*; delete it"):
            finish(prepare(KmnistConfig()))
    assert prepared_folders() == []


def test_neither_on_disk_nor_downloadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(folder: str, into: Path) -> None:
        (into / folder).mkdir()
        raise OSError("no route to host")

    monkeypatch.setattr("aemodels.data.mnist._download_idx", no_network)
    message = (
        r"data\.name=mnist: neither on disk nor downloadable: .*MNIST/raw has 0 of 4 files.*no route.*AEMODELS_DATA"
    )
    with pytest.raises(UserError, match=message):
        finish(prepare(MnistConfig()))
    assert not (tmp_path / "data" / "MNIST").exists()


def test_download_comes_to_its_place_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "aemodels.data.mnist._download_idx", lambda folder, into: make_idx(into / folder / "raw", gzipped=False)
    )
    assert finish(prepare(MnistConfig())).sizes["test"] == 10
    assert sorted(file.name for file in (tmp_path / "data" / "MNIST" / "raw").iterdir()) == sorted(IDX_FILES)
    assert not list((tmp_path / "data").glob("*.partial"))


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in CIFAR_FILES:
        batch = {"data": rng.integers(0, 255, (20, 3072), np.uint8), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps({"label_names": list("abcdefghij")} if "meta" in name else batch))
    hashes = [(name, md5((folder / name).read_bytes()).hexdigest()) for name in CIFAR_FILES]
    monkeypatch.setattr(CIFAR10, "train_list", hashes[:5])
    monkeypatch.setattr(CIFAR10, "test_list", hashes[5:6])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": hashes[6][1]})
    data = finish(prepare(Cifar10Config()))
    assert (data.image_shape, data.sizes) == ((3, 32, 32), {"train": 90, "val": 10, "test": 20})
    batch = pickle.loads((folder / "test_batch").read_bytes())
    np.testing.assert_array_equal(data.split("test").images.reshape(20, -1), batch["data"])
    np.testing.assert_array_equal(data.split("test").labels, batch["labels"])
    damage(folder / "data_batch_3")
    with pytest.raises(UserError, match=r"cifar-10-batches-py is damaged"):
        finish(prepare(Cifar10Config()))


@pytest.mark.skipif(not (COLLECTIONS / "MNIST").exists(), reason="needs the real MNIST in ../shared/data")
def test_real_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEMODELS_DATA", str(COLLECTIONS))
    before = sorted(COLLECTIONS.glob("**/*"))
    started = time.perf_counter()
    data = finish(prepare(MnistConfig()))
    assert time.perf_counter() - started < 10  # about one second on a quiet machine
    assert data.sizes == {"train": 54_000, "val": 6_000, "test": 10_000}
    images, labels = data.split("test")
    assert labels is not None
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # the test set begins so, wherever it is shown
    assert abs(images.mean() / 255 - 0.1325) < 1e-3
    assert sorted(COLLECTIONS.glob("**/*")) == before
