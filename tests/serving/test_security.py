"""Tests that exchanged models are detected, and that names never become paths or queries."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, refused, save
from safetensors.torch import load_file, save_file

from aemodels.checkpoints.checkpoint import load_model
from aemodels.checkpoints.model_files import load_codes, seal
from aemodels.config import SettingsError, UserError
from aemodels.serving.answers import Question, answer
from aemodels.settings import load_settings
from aemodels.tracking import catalog
from aemodels.tracking.catalog import find, get
from aemodels.tracking.history import history
from aemodels.tracking.registry import promote, register, rollback
from aemodels.tracking.run import start_run
from aemodels.tracking.store import Store

# ---------------------------------------------------------------- files


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """Makes a copy of a finished model."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def exchange_weights(folder: Path) -> None:
    """Writes other weights that also fit."""
    file = folder / "weights.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)


def exchange_config(folder: Path) -> None:
    """Writes another experiment with the same network."""
    file = folder / "config.json"
    text = file.read_text()
    assert '"seed": 0' in text
    file.write_text(text.replace('"seed": 0', '"seed": 1'))


EXCHANGES = [exchange_weights, exchange_config]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_file_that_was_exchanged_is_found_out(folder: Path, exchange: Callable[[Path], None]) -> None:
    load_model(folder)
    exchange(folder)
    with pytest.raises(UserError, match=r"is not the one that was saved: .* in model\.sha256.*; train it again"):
        load_model(folder)


def test_checksums_that_are_damaged_are_said_to_be(folder: Path) -> None:
    (folder / "model.sha256").write_text("nothing\n")
    with pytest.raises(UserError, match="damaged model"):
        load_model(folder)


def test_checksums_are_those_of_sha256sum(folder: Path) -> None:
    lines = (folder / "model.sha256").read_text().splitlines()
    for line, name in zip(lines, ("config.json", "weights.safetensors"), strict=True):
        assert line == f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}"


def test_models_of_earlier_releases_are_loaded(folder: Path, store: Store, model_folder: Path) -> None:
    """Neither the folder nor the version has checksums."""
    (folder / "model.sha256").unlink()
    load_model(folder)
    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    store.client.delete_model_version_tag("tiny", "1", "model.sha256")
    (find("tiny/1", store) / "model.sha256").unlink()
    load_model(find("tiny/1", store))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_version_that_was_exchanged_is_found_out(
    store: Store, model_folder: Path, exchange: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library and MLflow both find it. If its checksums were exchanged too, the version's own record shows it."""
    from mlflow import pyfunc

    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    files = find("tiny/1", store)
    load_model(files)
    exchange(files)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    for load in (lambda: load_model(find("tiny/1", store)), lambda: pyfunc.load_model("models:/tiny/1")):
        with pytest.raises(UserError, match="is not the one that was saved"):
            load()
    for name in ("config.json", "weights.safetensors"):
        exchanged = hashlib.sha256((files / name).read_bytes()).hexdigest()
        lines = (files / "model.sha256").read_text().splitlines()
        lines = [f"{exchanged}  {name}" if line.endswith(name) else line for line in lines]
        (files / "model.sha256").write_text("\n".join(lines) + "\n")
    for action in (lambda: None, (files / "model.sha256").unlink):
        action()
        with pytest.raises(UserError, match=r"tiny/1: .*model\.sha256 is not the one that was registered"):
            find("tiny/1", store)
        for source in ("models:/tiny/1", "models:/tiny@challenger", store.client.get_model_version("tiny", "1").source):
            with pytest.raises(UserError, match=r"model\.sha256 is not the one that was registered"):
                pyfunc.load_model(source)


def test_mlflow_loads_a_copy_of_a_model_that_no_store_knows(
    store: Store, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does so without a store in use, and with one that has no such model."""
    from mlflow import pyfunc

    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    pyfunc.load_model("models:/tiny/1")
    copy = shutil.copytree(find("tiny/1", store).parent, tmp_path / "copy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    pyfunc.load_model(str(copy))
    assert not (tmp_path / "mlflow.db").exists()
    store.client.delete_model_version("tiny", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    pyfunc.load_model(str(copy))


def replaced(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Changes a tensor of a file. The checksums are those of the new file."""
    tensors = load_file(folder / name)
    key = next(key for key, tensor in tensors.items() if tensor.ndim == 2)
    save_file(tensors | {key: change(tensors[key]).contiguous()}, folder / name)
    seal(folder)
    return key


def with_one(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[0, 0] = value
        return tensor

    return change


UNFIT = {
    "NaN": (with_one(float("nan")), "has 1 values that are NaN or infinite"),
    "infinite": (with_one(float("-inf")), "has 1 values that are NaN or infinite"),
    "int8": (lambda tensor: tensor.to(torch.int8), "is int8 and has to be float32"),
    "float16": (lambda tensor: tensor.half(), "is float16 and has to be float32"),
    "float64": (lambda tensor: tensor.double(), "is float64 and has to be float32"),
    "complex": (lambda tensor: tensor.to(torch.complex64), "is complex64 and has to be float32"),
    "transposed": (lambda tensor: tensor.T, "and has to be ("),
    "one row less": (lambda tensor: tensor[1:], "and has to be ("),
}


@pytest.mark.parametrize("sealed", [True, False], ids=["checksums", "no checksums"])
@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_no_such_model_has_are_refused(folder: Path, case: str, sealed: bool) -> None:
    change, says = UNFIT[case]
    name = replaced(folder, "weights.safetensors", change)
    if not sealed:
        (folder / "model.sha256").unlink()
    with pytest.raises(UserError, match=re.escape(f"damaged model (the tensor {name} ")) as told:
        load_model(folder)
    assert says in str(told.value)


@pytest.mark.parametrize("case", UNFIT)
def test_codes_that_no_such_model_has_are_refused(folder: Path, case: str) -> None:
    change, says = UNFIT[case]
    save_file({"codes": torch.zeros(5, 3)}, folder / "codes.safetensors")
    seal(folder)
    load_codes(folder, 3)
    replaced(folder, "codes.safetensors", change)
    if case == "one row less":  # as good as any
        load_codes(folder, 3)
        return
    with pytest.raises(UserError, match=re.escape("damaged codes (the tensor codes ")) as told:
        load_codes(folder, 3)
    assert says in str(told.value)


def test_no_command_gives_an_answer_that_is_no_number(folder: Path, tmp_path: Path) -> None:
    """The weights are finite, but their results are not."""
    file = folder / "weights.safetensors"
    save_file({name: tensor * 1e37 for name, tensor in load_file(file).items()}, file)
    seal(folder)
    image = save(tmp_path / "image.png", np.full((8, 8), 255, np.uint8))
    refused(call("score", folder, image), "the model's answer is not finite", "train the model again")
    for command in ("reconstruct", "generate"):
        given = [image] if command == "reconstruct" else []
        refused(call(command, folder, *given, "-o", tmp_path / "drawn.png"), "the model's answer is not finite")
        assert not (tmp_path / "drawn.png").exists()
    with pytest.raises(UserError, match="not finite"):
        answer(load_model(folder).model, None, Question("generate"))


def test_a_command_refuses_them_as_well(folder: Path, tmp_path: Path) -> None:
    name = replaced(folder, "weights.safetensors", with_one(float("nan")))
    answer = call("generate", folder, "-o", tmp_path / "drawn.png")
    refused(answer, f"the tensor {name} has 1 values that are NaN or infinite", "train it again")
    assert not (tmp_path / "drawn.png").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1", "config.json: Invalid JSON"),
        ("{}", "config.json: experiment: Field required"),
        (
            '{"experiment": {"model": {"name": "vae", "latent_dim": "two"}}}',
            "latent_dim: Input should be a valid integer",
        ),
    ],
)
def test_what_is_wrong_in_a_config_is_named(folder: Path, text: str, says: str) -> None:
    (folder / "config.json").write_text(text)
    seal(folder)
    with pytest.raises(UserError, match=re.escape(says)):
        load_model(folder)


def test_a_tensor_too_many_or_too_few_is_named(folder: Path) -> None:
    file = folder / "weights.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    for others, says in (
        (tensors | {"more": torch.zeros(1)}, "the tensor more belongs to another model"),
        ({key: tensor for key, tensor in tensors.items() if key != name}, f"the tensor {name} is missing"),
    ):
        save_file(others, file)
        seal(folder)
        with pytest.raises(UserError, match=re.escape(says)):
            load_model(folder)


def test_a_pickle_is_not_loaded(folder: Path) -> None:
    torch.save({"x": torch.zeros(1)}, folder / "weights.safetensors")
    (folder / "model.sha256").unlink()
    with pytest.raises(UserError, match="damaged model"):
        load_model(folder)


def test_nothing_of_a_model_is_a_pickle(store: Store, model_folder: Path) -> None:
    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    suffixes = {path.suffix for path in find("tiny/1", store).parent.rglob("*") if path.is_file()}
    assert suffixes <= {".py", ".json", ".safetensors", ".sha256", ".yaml", ".yml", ".txt", ".typed", ".html", ""}


def test_weights_are_read_once_and_checked_as_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not opened again after its checksum was taken, so what is used is what was checked."""
    opened: list[str] = []
    read = Path.read_bytes

    def counting(path: Path) -> bytes:
        opened.append(path.name)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    model = load_model(folder).model
    assert opened.count("weights.safetensors") == 1
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.parameters())


# ---------------------------------------------------------------- names


TRICKS = [
    "../up",
    "..",
    "a'b",
    "a' or name != 'a",
    "%2e%2e",
    "%2e%2e%2fup",
    "a b",
    "a;b",
    "a\nb",
    "a\x00b",
    "-x",
    "",
    "é",
]
TRICKS += ["é", "a" * 101, "a" * 5000, "a/../b", "a\\b", "$HOME", "~", "`id`", "{a}"]


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_with_tricks_is_no_setting(name: str) -> None:
    with pytest.raises(SettingsError, match=r"registry\.name"):
        load_settings({"registry.name": name})
    with pytest.raises(SettingsError, match=r"data\.name"):
        load_settings({"data.name": name})
    with pytest.raises(SettingsError, match=r"--preset [^:]*: unknown"):
        load_settings({}, preset=name)


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_with_tricks_is_never_looked_up(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these names reaches MLflow's client, which would put it into a query or an address."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("looked up")

    for method in ("get_registered_model", "search_model_versions", "get_model_version", "get_logged_model"):
        monkeypatch.setattr(store.client, method, asked)
    for ask in (
        lambda: get(store, name, 1),
        lambda: get(store, name, "champion"),
        lambda: history(store, name),
        lambda: promote(store, name, 1),
        lambda: rollback(store, name),
        *(lambda end=end: find(f"{name}{end}", store) for end in ("@champion", "/1")),
    ):
        with pytest.raises(UserError):
            ask()
    assert catalog.champion(store, name) is None


@pytest.mark.parametrize("alias", ["a'b", "..", "%2e%2e", "a b", "a\nb"])
def test_an_alias_with_tricks_is_not_registered(alias: str, store: Store, model_folder: Path) -> None:
    with start_run(store, "tiny", "one") as run:
        register(run, model_folder, "tiny", {"mse": 0.1}, "d" * 32)
    with pytest.raises(UserError, match="not registered"):
        find(f"tiny@{alias}", store)


@pytest.mark.parametrize("source", ["models:/..", "models:/../../outside", "/etc", "s3://me:word@host/x"])
def test_a_source_of_another_program_is_no_path_in_the_cache(source: str, tmp_path: Path, store: Store) -> None:
    """Registries are shared, and other programs may register any place as the source of their files."""
    store.client.create_registered_model("tiny")
    (tmp_path / "outside").mkdir()
    version = catalog.ModelVersion("tiny", 1, "")
    model = catalog.Registered(version, (), {}, "", datetime.now(UTC), {}, source)
    with pytest.raises(UserError, match="tiny/1: another program registered it") as refused:
        catalog._files(store, model)
    assert "word" not in str(refused.value)
