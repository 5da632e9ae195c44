"""A trained model as a person holds it, in Python and behind the commands; MLflow and the server hold it too.

Where MLflow loads a packed model, nothing is installed but the REQUIREMENTS of packing.py. So what a model needs more
for, to be opened with its card and to be evaluated, is imported where it is needed.

N images, D latent units, C channels (1 grey, 3 colour), H x W pixels.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aemodels.checkpoints.model_files import copied, load_codes, load_history
from aemodels.config import OwnWarning, UserError
from aemodels.models.base import Autoencoder, GenerativeModel
from aemodels.runtime.bars import watched
from aemodels.runtime.devices import best_device
from aemodels.runtime.files import at_path, write_whole
from aemodels.runtime.progress import Steps
from aemodels.serving.answers import Question, answer_and_range, answer_from, answer_like, assumed_classes
from aemodels.serving.forms import is_whole, numbers_of, shown, taken, whole

if TYPE_CHECKING:
    from aemodels.checkpoints.checkpoint import ModelCard
    from aemodels.evaluation.evaluate import Evaluation


class Model:
    """A trained model. Images go in and come out as people hold them: grey ones (N, H, W), others (N, H, W, C).

    Pixels that go in are uint8, or numbers from 0 to 1, and no integers that are all 0 or 1. (N, C, H, W) and torch
    tensors are taken too. Pixels that come out are float32 from 0 to 1.
    """

    def __init__(self, network: GenerativeModel, folder: Path, name: str = "") -> None:
        """Holds a network in evaluation mode.

        Args:
            folder: where its files are.
            name: what a registered model is called; its folder otherwise.
        """
        self.network, self.folder, self.name, self._given = network, folder, name or str(folder), name

    @classmethod
    def open(cls, folder: Path, name: str = "", device: str = "") -> Model:
        """Reads a finished model from its folder; on the best device, if none is given.

        Raises:
            UserError: a file is missing or damaged.
        """
        from aemodels.checkpoints.checkpoint import load_model

        loaded = load_model(folder, device or str(best_device()))
        model = cls(loaded.model, folder, name)
        model.card = loaded.card
        return model

    @cached_property
    def card(self) -> ModelCard:
        """Says what it was trained on, and how."""
        from aemodels.checkpoints.checkpoint import load_card

        return load_card(self.folder)

    @cached_property
    def history(self) -> tuple[dict[str, float], ...]:
        """Returns the metrics of each epoch of its training, such as `train/loss`."""
        return load_history(self.folder)

    def __repr__(self) -> str:
        channels, height, width = self.network.image_shape
        images = f"{'grey' if channels == 1 else 'colour'} images of {height} x {width} pixels"
        return f"<{self.kind} with {self.latent_dim} latent units, of {images}>"

    @property
    def title(self) -> str:
        """Says in messages and reports which model it is: the name that it was opened by, else such as "gan 4"."""
        return self._given or f"{self.kind} {self.latent_dim}"

    @property
    def kind(self) -> str:
        """The value of model.name, such as "vae"."""
        return self.card.experiment.model.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Returns the names of the classes that it was trained on, by number; they are empty without labels."""
        return self.card.classes

    @property
    def stochastic(self) -> bool:
        """Tells whether one image has a distribution of codes, from which others like it can be drawn."""
        return isinstance(self.network, Autoencoder) and self.network.stochastic

    @property
    def latent_dim(self) -> int:
        """The number D of latent units."""
        return self.network.latent_dim

    def codes(self) -> torch.Tensor:
        """Returns the codes (N, D) of training images, which other priors are fitted to.

        Raises:
            UserError: the model has none.
        """
        return load_codes(self.folder, self.latent_dim)

    # ---------------------------------------------------------------- what it refuses

    def require_encoder(self) -> Autoencoder:
        """Returns the network, if it has an encoder.

        Raises:
            UserError: it has none.
        """
        if not isinstance(self.network, Autoencoder):
            how = f"`aemodels generate {self._given}`, in Python `sample`" if self._given else "in Python `sample`"
            raise UserError(
                f"{self.title}: a {self.kind} has no encoder and cannot look at images; give an autoencoder, or let it "
                f"draw without them ({how})"
            )
        return self.network

    def require_prior(self, prior: str) -> Autoencoder:
        """Returns the network, if another prior can be fitted to its codes.

        Raises:
            UserError: it has no codes, or they are those of classes.
        """
        if not isinstance(self.network, Autoencoder):
            raise UserError(f"prior={prior}: {self.title} has no encoder and so no codes; leave the prior out")
        if self.network.conditional:
            raise UserError(
                f"prior={prior}: {self.title} is conditional, with a prior for each class; give a label instead"
            )
        return self.network

    def class_number(self, label: int | str) -> int:
        """Returns the number of a class, from 0, which is given by its name, or else by a number.

        Raises:
            UserError: there is no such class, or the model cannot be asked for one.
        """
        if not self.network.conditional:
            raise UserError(
                f"label={label}: {self.title} (model.name={self.kind}) cannot be asked for a class; leave the label "
                "out, or train model.name=cvae"
            )
        if not (isinstance(label, str) or is_whole(label)):
            raise UserError(f"label={label}: give one class, by its name or number; ask once for each class")
        known = numbers_of(self.classes, [label])
        if label not in known and isinstance(label, str) and label.isdecimal():  # as a number comes from a command
            label = int(label)
            known = numbers_of(self.classes, [label])
        if label not in known:
            raise UserError(f"label={label}: unknown; choose one of {', '.join(self.classes)}")
        return known[label]

    # ---------------------------------------------------------------- images and codes

    def answer(self, inputs: Any, question: Question) -> tuple[NDArray[np.float32], str]:
        """Answers as `answers.answer_and_range` does, with images (N, C, H, W): for MLflow, the server and the methods.

        Raises:
            UserError: the question, or the shape or range of the inputs is wrong.
        """
        return answer_and_range(self.network, inputs, question)

    def read(self, *paths: str | Path) -> tuple[NDArray[np.float32], list[Path]]:
        """Reads image files, or all images below folders, in the model's shape; returns them and their files.

        A file below a folder that cannot be read is left out with a warning.

        Raises:
            UserError: as for `files.read_files`.
        """
        from aemodels.serving.files import read_files

        images, files = read_files(self.card, paths)
        return shown(images), files

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
        self.require_encoder()
        codes = codes.detach().cpu() if isinstance(codes, torch.Tensor) else codes
        number = -1 if label is None else self.class_number(label)
        return shown(self.answer(codes, Question("decode", label=number))[0])

    def reconstruct(self, images: Any) -> NDArray[np.float32]:
        """Returns what the model makes of each image, without noise.

        Raises:
            UserError: as for `encode`.
        """
        return shown(self._ask("reconstruct", images))

    def denoise(self, images: Any) -> NDArray[np.float32]:
        """Returns what the model takes for the clean images; it warns where it was not trained with a corruption.

        Raises:
            UserError: as for `encode`.
        """
        clean = self.reconstruct(images)
        if self.card.experiment.training.corruption.name == "none":
            warnings.warn(
                f"{self.title} was not trained to denoise, so these are plain reconstructions; a denoiser is trained "
                "with training.corruption=gaussian (or salt_and_pepper, masking)",
                OwnWarning,
                stacklevel=2,
            )
        return clean

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
            prior: "gaussian", "mixture" or "flow", fitted to the codes of training images, or "standard_normal";
                None for what the model draws from.

        Raises:
            UserError: a number is out of range, or there is no such class or prior.
        """
        n, seed = whole(n=n, seed=seed)
        question = Question("generate", n, seed, -1 if label is None else self.class_number(label))
        if prior is None:
            return shown(self.answer(None, question)[0])
        return shown(answer_from(self.require_prior(prior), prior, self.codes(), question))

    def like(self, images: Any, n: int = 16, seed: int = 0) -> NDArray[np.float32]:
        """Draws n new images of the kind of those that are given, from a distribution fitted to their codes.

        Raises:
            UserError: as for `encode`, or one image is not enough for this model.
        """
        n, seed = whole(n=n, seed=seed)
        network, given = self.require_encoder(), self._taken(images)
        if len(given) == 1 and not self.stochastic:
            raise UserError(
                f"one image is one code of {self.title} (model.name={self.kind}), without a spread to draw others "
                "from; give at least two images"
            )
        return shown(answer_like(network, given, Question("generate", n, seed)))

    def classify(self, images: Any) -> list[str]:
        """Returns the class that a conditional model assumes of each image; empty for other models.

        Raises:
            UserError: as for `encode`.
        """
        network, given = self.require_encoder(), self._taken(images)
        return [self.classes[label] for label in assumed_classes(network, given)]

    def _ask(self, mode: str, images: Any) -> NDArray[np.float32]:
        self.require_encoder()
        return self.answer(self._taken(images), Question(mode))[0]

    def _taken(self, images: Any) -> NDArray[Any]:
        return taken(images, self.network.image_shape)

    # ---------------------------------------------------------------- how good it is

    def evaluation(self, images: Any = None, labels: Any = None) -> Steps[Evaluation]:
        """Measures the model on images; without any, on the test images that it was trained beside.

        Images that it was trained or validated on are left out, with a warning.

        Args:
            labels: the classes (N,) of the images, where they are known.

        Raises:
            UserError: the images have another shape, are all of the model's training, or that training's are gone.
        """
        from aemodels.checkpoints.checkpoint import Loaded
        from aemodels.serving import evaluation

        loaded = Loaded(self.network, self.card)
        if images is None:
            examined = evaluation.own_images(self.card, self.title)
        else:
            examined = yield from evaluation.given_images(loaded, self._taken(images), labels)
        return (yield from evaluation.measured(loaded, examined, self.history))

    def evaluate(self, images: Any = None, labels: Any = None) -> dict[str, float]:
        """Measures the model, as `evaluation` does, and returns the metrics by their names, such as "mse"."""
        with at_path():
            return watched(self.evaluation(images, labels)).metrics

    def advice(self) -> tuple[str, ...]:
        """Measures the model on its test images, and says what is wrong and what helps; it is empty for a good one."""
        from aemodels.checkpoints.checkpoint import Loaded
        from aemodels.serving.evaluation import own_advice

        with at_path():
            return watched(own_advice(Loaded(self.network, self.card), self.title, self.history))

    def report(self, path: str | Path, images: Any = None, labels: Any = None) -> Path:
        """Measures the model and writes a report, one file for a browser, with figures, metrics and settings.

        Raises:
            UserError: as for `evaluation`, or the file cannot be written.
        """
        target = Path(path).expanduser().absolute()
        with at_path():
            text = self.page(watched(self.evaluation(images, labels)))
        write_whole(target, lambda partial: partial.write_text(text, encoding="utf-8"))
        return target

    def page(self, evaluation: Evaluation) -> str:
        """Returns the report of an evaluation, one file for a browser."""
        from aemodels.serving.evaluation import page

        return page(self.card, self.title, evaluation)

    def save(self, folder: str | Path) -> Path:
        """Copies the model's files into a folder, from which `aemodels.load` reads it; the same model only once.

        Raises:
            UserError: the folder holds another model, or cannot be written.
        """
        return copied(self.folder, Path(folder).expanduser().absolute())
