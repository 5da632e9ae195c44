"""Tests streaming: the order of an epoch, reading ahead, threads that end, and memory that does not grow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from aemodels.config import UserError
from aemodels.data import batches, streaming
from aemodels.data import stored_arrays as arrays
from aemodels.data.prepared import FORMAT, _digest
from aemodels.data.stored_arrays import ArrayWriter, StoredArray, stored_array
from aemodels.data.streaming import Plan, in_order, read_ahead, shuffled

CPU = torch.device("cpu")
ROW = 100  # bytes
COUNT = 503


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes blocks have 4 rows, windows up to 40 rows, and windows in order 20."""
    monkeypatch.setattr(streaming, "BLOCK", 4 * ROW + 50)
    monkeypatch.setattr(streaming, "WINDOW", 40 * ROW)
    monkeypatch.setattr(streaming, "ORDERED_WINDOW", 20 * ROW)


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 1, 10, 10), dtype=np.uint8)


@pytest.fixture
def stored(tmp_path: Path, pixels: NDArray[np.uint8]) -> StoredArray:
    with ArrayWriter(tmp_path / "images.npy", pixels.dtype, pixels.shape) as writer:
        writer.append(pixels)
        return stored_array(tmp_path / "images.npy", writer.finish())


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def order(count: int, row_bytes: int, seed: int) -> torch.Tensor:
    return torch.cat([window.rows for window in shuffled(count, row_bytes, seed).windows])


# ---- the order


@pytest.mark.parametrize("row_bytes", [1, ROW, 449, 4_000, 10_000])
@pytest.mark.parametrize("count", [1, 39, 41, COUNT])
def test_every_row_comes_once_from_windows_that_fit_into_memory(count: int, row_bytes: int) -> None:
    for plan in (shuffled(count, row_bytes, 3), in_order(count, row_bytes)):
        rows: list[int] = []
        for window in plan.windows:
            read = torch.tensor([row for block in window.blocks for row in block])
            assert torch.equal(read[window.place], window.rows)
            assert len(window.rows) <= plan.most <= count
            assert len(window.rows) == 1 or len(window.rows) * row_bytes <= streaming.WINDOW
            rows += window.rows.tolist()
        assert sorted(rows) == list(range(count))


def test_rows_lie_in_order_in_a_pass_in_order() -> None:
    rows = torch.cat([window.rows for window in in_order(COUNT, ROW).windows])
    assert torch.equal(rows, torch.arange(COUNT))


def test_the_order_is_a_function_of_the_seed() -> None:
    assert torch.equal(order(COUNT, ROW, 1), order(COUNT, ROW, 1))
    assert not torch.equal(order(COUNT, ROW, 1), order(COUNT, ROW, 2))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    order(COUNT, ROW, 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [1, 2, 17, 40])
def test_a_set_of_one_window_is_mixed_fully(count: int) -> None:
    for seed in (0, 1, 2**55 + 1):
        assert torch.equal(
            order(count, ROW, seed), torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        )


def test_mnist_is_a_set_of_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert torch.equal(order(60_000, 784, 7), torch.randperm(60_000, generator=torch.Generator().manual_seed(7)))


def test_the_order_on_record() -> None:
    """A resumed training relies on the order, also after an update of the program."""
    recorded = """
        27 23 22 0 7 26 25 49 4 2 14 28 48 20 1 29 5 31 15 24 3 21 13 30 12
        6 36 9 32 44 42 37 10 16 39 40 18 35 19 11 38 45 41 8 47 46 34 17 33 43
    """
    assert order(50, ROW, 1).tolist() == list(map(int, recorded.split()))


def test_blocks_are_dealt_out_at_random_and_mixed() -> None:
    """Any stretch of an epoch has rows from the whole set, and neighbours are separated.

    There are 1,000 blocks and 100 windows.
    """
    count = 4_000
    first, second = (order(count, ROW, seed).view(100, 40).double() for seed in (1, 2))
    spread = count / 12**0.5  # standard deviation of rows that are drawn from all
    assert (first.mean(1) - count / 2).std() == pytest.approx(spread / 10**0.5, rel=0.3)  # of 10 blocks
    assert first.std(1).mean() == pytest.approx(spread, rel=0.1)
    blocks = [{frozenset(window.div(4).floor().unique().tolist()) for window in rows} for rows in (first, second)]
    assert all(len(block) == 10 for block in blocks[0])
    assert not blocks[0] & blocks[1]  # other seed, other company
    assert ((first.diff() == 1).sum() / first.diff().numel()) < 0.05  # 3 / 40 * 1 / 2 of a full mix


# ---- reading


@pytest.mark.parametrize("plan", [lambda: shuffled(COUNT, ROW, 1), lambda: in_order(COUNT, ROW)])
def test_what_is_read_stays_until_the_next_is_asked_for(
    plan: Callable[[], Plan], stored: StoredArray, pixels: NDArray[np.uint8]
) -> None:
    count = 0
    for window, read in read_ahead(stored, plan(), CPU):
        time.sleep(0.005)  # the thread has read the next by then
        np.testing.assert_array_equal(read.numpy()[window.place.numpy()], pixels[window.rows.numpy()])
        count += len(read)
    assert count == COUNT
    assert not threads()


class Reads:
    """Counts what is read; everything after the first window takes some time."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.files = 0, set[FileIO]()

        def slow(file: FileIO, start: int, target: NDArray[np.uint8]) -> None:
            assert threading.current_thread().name.startswith("read-ahead")
            time.sleep(seconds if self.count >= 10 else 0)
            arrays.read_exactly(file, start, target)
            self.count += 1
            self.files.add(file)

        monkeypatch.setattr(streaming, "read_exactly", slow)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_one_window_is_read_ahead_and_no_more(stored: StoredArray, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(0, monkeypatch)
    plan = shuffled(COUNT, ROW, 1)
    sizes = [len(window.blocks) for window in shuffled(COUNT, ROW, 1).windows]
    windows = read_ahead(stored, plan, CPU)
    for i in range(3):
        next(windows)
        wait_for(lambda i=i: reads.count == sum(sizes[: i + 2]))
        time.sleep(0.02)
        assert reads.count == sum(sizes[: i + 2])
    windows.close()


def test_closing_ends_the_thread_within_a_block(stored: StoredArray, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(0.2, monkeypatch)
    windows = read_ahead(stored, shuffled(COUNT, ROW, 1), CPU)
    next(windows)
    (thread,), read = threads(), reads.count
    windows.close()
    assert not thread.is_alive()
    assert reads.count <= read + 2
    assert [file.closed for file in reads.files] == [True]


def test_an_exception_of_whoever_reads_ends_the_thread(stored: StoredArray, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(0, monkeypatch)

    def stop(windows: Iterator[object]) -> None:
        for _ in windows:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        stop(read_ahead(stored, shuffled(COUNT, ROW, 1), CPU))
    assert not threads()
    assert [file.closed for file in reads.files] == [True]


def test_a_file_that_cannot_be_read_is_named(stored: StoredArray) -> None:
    content = stored.file.read_bytes()
    windows = read_ahead(stored, in_order(COUNT, ROW), CPU)
    next(windows)
    stored.file.write_bytes(content[: len(content) // 2])  # by another program, in the middle of the pass
    with pytest.raises(UserError, match=rf"{stored.file} is damaged \(it ends early\); delete the folder"):
        list(windows)
    assert not threads()
    stored.file.unlink()
    with pytest.raises(UserError, match=rf"{stored.file} is damaged \(No such file"):
        next(read_ahead(stored, in_order(COUNT, ROW), CPU))
    assert not threads()


# ---- memory

WITHIN_A_LIMIT = """
import resource, sys
from pathlib import Path
import torch
from aemodels.data import batches, streaming
from aemodels.data.prepared import PreparedData

MIB = 2**20
streaming.WINDOW = 16 * MIB
batches.fits = lambda *_: False
torch.set_num_threads(1)

def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

resource.setrlimit(resource.RLIMIT_AS, 2 * (status("VmSize") + 160 * MIB,))
for settings in sys.argv[1:]:
    data = PreparedData.model_validate_json(settings)
    train = batches.Batches(data, "train", torch.device("cpu"))
    for passes in (train.shuffled(128, 0), train.in_order(500)):
        assert sum(len(batch.x) for batch in passes) == data.sizes["train"]
    print(status("VmHWM") // MIB)
"""


def sparse_array(file: Path, dtype: str, shape: tuple[int, ...]) -> dict[str, object]:
    """Makes zeros that take no room on disk, and their record in a manifest."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with file.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, {"descr": dtype, "fortran_order": False, "shape": shape})
        opened.truncate(opened.tell() + size)
    starts = range(0, size, arrays.HASHED_BLOCK)
    lengths = [min(arrays.HASHED_BLOCK, size - start) for start in starts]
    hashes = {length: hashlib.sha256(bytes(length)).hexdigest()[:32] for length in set(lengths)}
    return {"dtype": str(np.dtype(dtype)), "shape": shape, "blocks": [hashes[length] for length in lengths]}


def sparse_data(folder: Path, megabytes: int) -> str:
    """Returns prepared images of 64 x 64 zeros, as the JSON of a PreparedData."""
    folder.mkdir()
    count = megabytes * 2**20 // 64**2
    fields = {
        "name": "zeros",
        "image_shape": (1, 64, 64),
        "classes": ("a", "b"),
        "sizes": {"train": count, "val": count, "test": count},
    }
    stored = {
        "train_images.npy": sparse_array(folder / "train_images.npy", "|u1", (count, 1, 64, 64)),
        "train_labels.npy": sparse_array(folder / "train_labels.npy", "<i8", (count,)),
    }
    manifest = json.loads(json.dumps(fields | {"format": FORMAT, "settings": {}, "arrays": stored}))
    digest = _digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"digest": digest}))
    return json.dumps(fields | {"path": str(folder), "digest": digest, "binarize": "none"})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """The process may take 160 MiB more than its libraries, and reads 512 MiB: checked, shuffled and in order."""
    sets = [sparse_data(tmp_path / str(megabytes), megabytes) for megabytes in (64, 512)]
    command = [sys.executable, "-c", WITHIN_A_LIMIT, *sets]
    returning = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}  # freed memory goes back, so that peaks compare
    run = subprocess.run(command, env=returning, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    small, large = map(int, run.stdout.split())
    assert large <= small + 6  # MiB; labels take 8 bytes an image, 1 MiB here


def test_limits_of_the_process_and_of_its_container_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"max": 3 * 2**28, "current": 2 * 2**28}.items():
        (tmp_path / f"memory.{name}").write_text(f"{value}\n")
    monkeypatch.setattr(batches, "CGROUP", tmp_path)
    for cached in (0, 2**27):  # of files, which make room
        (tmp_path / "memory.stat").write_text(f"anon 4096\ninactive_file {cached}\nactive_file 8192\n")
        assert batches.free_memory(CPU) == 2**28 + cached
    (tmp_path / "memory.max").write_text("max\n")
    assert batches.free_memory(CPU) > 2**30
    limit = psutil.Process().memory_info().vms + 2**28
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert batches.free_memory(CPU) <= 2**28
