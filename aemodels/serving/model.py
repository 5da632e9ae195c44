"""A trained model as a person holds it, in Python and behind the commands.

N images, D latent units, C channels (1 grey, 3 colour), H x W pixels.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aemodels.checkpoints.checkpoint import Loaded, ModelCard, load_model
from aemodels.checkpoints.model_files import CHECKSUMS, CODES, CONFIG, WEIGHTS, load_codes
from aemodels.config import UserError
from aemodels.data.array_file import ArraysConfig, as_array, as_labels, keep_arrays
from aemodels.data.prepared import PreparedData, prepare, prepared_before
from aemodels.evaluation.evaluate import Evaluation, evaluate
from aemodels.evaluation.features import feature_network
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.reports.figures.model import draw_figures
from aemodels.reports.page import Subject, write_report
from aemodels.runtime.bars import watched
from aemodels.runtime.devices import best_device
from aemodels.runtime.files import at_path, write_whole
from aemodels.runtime.progress import Steps
from aemodels.serving.answers import Question, answer, answer_from, answer_like, assumed_classes

FILES = (CHECKSUMS, CODES, WEIGHTS, CONFIG)  # of a finished model; it counts as one when the last is there
FEW = 10  # images; of fewer a tenth is none


class Model:
    """A trained model. Images go in and come out as people hold them: grey ones (N, H, W), others (N, H, W, C).

    Pixels that go in are uint8, or numbers from 0 to 1; (N, C, H, W) and torch tensors are taken too. Pixels that come
    out are float32 from 0 to 1.
    """

    def __init__(self, network: GenerativeModel, card: ModelCard, folder: Path, name: str = "") -> None:
        """Holds a network in evaluation mode.

        Args:
            card: what it was trained on, and how.
            folder: where its files are.
            name: what a registered model is called; its folder otherwise.
        """
        self.network, self.card, self.folder, self.name = network, card, folder, name or str(folder)

    @classmethod
    def open(cls, folder: Path, name: str = "") -> Model:
        """Reads a finished model from its folder, on the best device.

        Raises:
            UserError: a file is missing or damaged.
        """
        loaded: Loaded = load_model(folder, str(best_device()))
        return cls(loaded.model, loaded.card, folder, name)

    def __repr__(self) -> str:
        kind, (channels, height, width) = self.card.experiment.model, self.card.image_shape
        images = f"{'grey' if channels == 1 else 'colour'} images of {height} x {width} pixels"
        return f"<{kind.name} with {kind.latent_dim} latent units, of {images}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """Returns the names of the classes that it was trained on, by number; they are empty without labels."""
        return self.card.classes

    @property
    def stochastic(self) -> bool:
        """Tells whether one image has a distribution of codes, from which others like it can be drawn."""
        return isinstance(self.network, Autoencoder) and self.network.stochastic

    def codes(self) -> torch.Tensor:
        """Returns the codes (N, D) of training images, which other priors are fitted to.

        Raises:
            UserError: the model has none.
        """
        return load_codes(self.folder, self.latent_dim)

    @property
    def latent_dim(self) -> int:
        """Returns the number D of latent units."""
        return self.network.latent_dim

    # ---------------------------------------------------------------- images and codes

    def encode(self, images: Any) -> NDArray[np.float32]:
        """Returns the codes (N, D) of images: the means of the posterior.

        Raises:
            UserError: the images have another shape or range, or the model has no encoder.
        """
        return self._ask("embed", images)

    def decode(self, codes: Any, label: int | str | None = None) -> NDArray[np.float32]:
        """Returns the images of codes (N, D); of a conditional model those of a class, by its name or number.

        Raises:
            UserError: the codes have another shape, or there is no such class.
        """
        codes = codes.detach().cpu() if isinstance(codes, torch.Tensor) else codes
        return shown(answer(self.network, codes, Question("decode", label=self._label(label))))

    def reconstruct(self, images: Any) -> NDArray[np.float32]:
        """Returns what the model makes of each image, without noise.

        Raises:
            UserError: as for `encode`.
        """
        return shown(self._ask("reconstruct", images))

    def denoise(self, images: Any) -> NDArray[np.float32]:
        """Returns what the model takes for the clean images; made for one that was trained with a corruption.

        Raises:
            UserError: as for `encode`.
        """
        return self.reconstruct(images)

    def score(self, images: Any) -> NDArray[np.float32]:
        """Returns the mean squared error (N,) of each reconstruction, on pixels from 0 to 1: large for unlike images.

        Raises:
            UserError: as for `encode`.
        """
        return self._ask("score", images)

    def sample(
        self, n: int = 64, label: int | str | None = None, prior: str | None = None, seed: int = 0
    ) -> NDArray[np.float32]:
        """Draws n new images; the same seed draws the same ones.

        Args:
            label: a class of a conditional model, by its name or number; None for any.
            prior: "gaussian", "mixture" or "flow", fitted to the codes of training images; None for the model's own.

        Raises:
            UserError: a number is out of range, or there is no such class or prior.
        """
        if not all(isinstance(number, int) for number in (n, seed)):
            raise UserError(f"n={n}, seed={seed}: give whole numbers")
        question = Question("generate", n, seed, self._label(label))
        if prior is None:
            return shown(answer(self.network, None, question))
        if not isinstance(self.network, Autoencoder) or self.network.conditional or label is not None:
            raise UserError(f"prior={prior}: is for an autoencoder that is not conditional; leave it out")
        return shown(answer_from(self.network, prior, self.codes(), question))

    def like(self, images: Any, n: int = 16, seed: int = 0) -> NDArray[np.float32]:
        """Draws n new images of the kind of those that are given, from a distribution fitted to their codes.

        Raises:
            UserError: as for `encode`, or one image is not enough for this model.
        """
        given = self._read(images)
        if len(given) == 1 and not self.stochastic:
            raise UserError("one image is one code, without a spread to draw others from; give at least two images")
        return shown(answer_like(self._autoencoder, given, Question("generate", n, seed, range=_range(given))))

    def classify(self, images: Any) -> list[str]:
        """Returns the class that a conditional model assumes of each image; empty for other models.

        Raises:
            UserError: as for `encode`.
        """
        given = self._read(images)
        return [self.classes[label] for label in assumed_classes(self._autoencoder, given, _range(given))]

    def _ask(self, mode: str, images: Any) -> NDArray[np.float32]:
        given = self._read(images)
        return answer(self.network, given, Question(mode, range=_range(given)))

    @property
    def _autoencoder(self) -> Autoencoder:
        if not isinstance(self.network, Autoencoder):
            raise UserError(f"a {self.card.experiment.model.name} has no encoder; use an autoencoder for images")
        return self.network

    def _label(self, label: int | str | None) -> int:
        if label is None:
            return -1
        if not self.classes:
            raise UserError(f"label={label}: this model was trained without labels; leave it out")
        known = self._known([label])
        if label not in known:
            raise UserError(f"label={label}: unknown; choose one of {', '.join(self.classes)}")
        return known[label]

    def _known(self, labels: Sequence[Any]) -> Mapping[Any, int]:
        """Returns the number of each class by what a person calls it: its name, or a number.

        Where the names are numbers, as those of labels 1 to 4 are, a number is a name too, and else an index.
        """
        if all(isinstance(label, str) for label in labels):
            return {name: number for number, name in enumerate(self.classes)}
        try:
            return {int(name): number for number, name in enumerate(self.classes)}
        except ValueError:
            return {number: number for number in range(len(self.classes))}

    def _read(self, images: Any) -> Any:
        """Returns the images as the network takes them, (N, C, H, W)."""
        if isinstance(images, str | Path):
            raise UserError(f"images={images}: a path is taken by `aemodels.fit` alone; give an array of images")
        array = as_array(images)
        channels, *side = self.card.image_shape
        if array.shape[1:] == (*side, channels) and array.shape[1:] != self.card.image_shape:
            array = np.moveaxis(array, -1, 1)
        return array

    # ---------------------------------------------------------------- how good it is

    def judge(self, images: Any = None, labels: Any = None) -> Steps[Evaluation]:
        """Measures the model on images, all of them; without any, on the test images that it was trained beside.

        Args:
            labels: the classes (N,) of the images, where they are known.

        Raises:
            UserError: the images have another shape, or those of the training are gone.
        """
        data = yield from self._data(images, labels)
        features = yield from feature_network(data, best_device())
        experiment = self.card.experiment
        seen = experiment.seen(data) if data.digest == self.card.digest else 0
        return evaluate(self.network, data, features, experiment.evaluation, seen=seen)

    def _data(self, images: Any, labels: Any) -> Steps[PreparedData]:
        source = self.card.experiment.data
        if images is None:
            known = prepared_before(source, self.card.digest)
            if known is None:
                raise UserError(f"{self.name}: the images of its training are not in the cache; give images")
            return known
        given = self._read(images)
        if given.ndim < 3 or len(given) < 2:
            raise UserError(f"images of shape {given.shape}: give at least two images to be evaluated")
        numbers = None if labels is None else self._numbered(labels, len(given))
        names = None if labels is None else self.classes or None
        path = keep_arrays(given, numbers, names, test_images=given, test_labels=numbers)
        # of the images themselves a split for validation is demanded, and not looked at
        share = 0.1 if len(given) >= FEW else 0.5
        return (yield from prepare(ArraysConfig(path=(path,), binarize=source.binarize, val_fraction=share)))

    def _numbered(self, labels: Any, count: int) -> NDArray[Any]:
        """Returns the model's own numbers of classes for labels by name or number; if it has none, the labels."""
        array = as_labels(labels, count)
        if not self.classes:
            return array
        known = self._known(array.tolist())
        if unknown := sorted(set(array.tolist()) - known.keys()):
            raise UserError(f"labels: {unknown[0]} is no class of this model; it knows {', '.join(self.classes)}")
        return np.asarray([known[label] for label in array.tolist()])

    def evaluate(self, images: Any = None, labels: Any = None) -> dict[str, float]:
        """Measures the model, as `judge` does, and returns the metrics by their names, such as "mse"."""
        with at_path():
            return watched(self.judge(images, labels)).metrics

    def report(self, path: str | Path, images: Any = None, labels: Any = None) -> Path:
        """Measures the model and writes a report, one file for a browser, with figures, metrics and settings.

        Raises:
            UserError: as for `judge`, or the file cannot be written.
        """
        target = Path(path).expanduser().absolute()
        with at_path():
            text = self.page(watched(self.judge(images, labels)))
        write_whole(target, lambda partial: partial.write_text(text, encoding="utf-8"))
        return target

    def page(self, judged: Evaluation) -> str:
        """Returns the report of an evaluation, one file for a browser."""
        pictures, undrawn = draw_figures(judged.evidence)
        experiment, data = self.card.experiment, judged.evidence.data
        own = data.digest == self.card.digest
        images, given = (experiment.training.images, None) if own else (None, data.sizes["test"])
        subject = Subject(self.name, "judged", "", experiment, data, images, given)
        return write_report(subject, judged.metrics, pictures, judged.left_out | undrawn)

    def save(self, folder: str | Path) -> Path:
        """Copies the model's files into a folder, from which `aemodels.load` reads it.

        Raises:
            UserError: the folder holds another model, or cannot be written.
        """
        target = Path(folder).expanduser().absolute()
        if (target / CONFIG).exists():
            raise UserError(f"{target}: holds a model already; give another folder")
        with at_path(target):
            target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (source := self.folder / name).exists():
                write_whole(target / name, lambda path, source=source: shutil.copyfile(source, path))  # type: ignore[misc]
        return target


def _range(images: NDArray[Any]) -> str:
    """Returns the range in which pixels are read: uint8 is from 0 to 255, even if all are 0 or 1."""
    return "bytes" if images.dtype == np.uint8 else "auto"


def shown(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brings images (N, C, H, W) into the form in which people hold them: (N, H, W) if grey, else (N, H, W, C)."""
    return images[:, 0] if images.shape[1] == 1 else np.ascontiguousarray(np.moveaxis(images, 1, -1))
