"""Says in whole sentences what is wrong with a trained model, and which settings help; a good one gets no advice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from aemodels.config import as_written
from aemodels.models.base import ModelConfig
from aemodels.texts import number
from aemodels.training.config import TrainingConfig
from aemodels.training.early_stopping import noise

NOTHING = 0.99  # share of the mean image's squared error above which a model tells nothing of single images
ALIKE = 0.001  # share of the linear code's squared error that is no difference
STILL_FALLING = 0.01  # share of all that the validation loss fell by, in the last tenth of a training
OVERFITTED = 0.05  # share of all that it fell by, which it has risen by since its best value
LEARNED = 0.05  # share of all that the training loss fell by until then, which it has fallen by since
ADVERSARIAL = 5_000  # updates, before which an adversarial model draws no shapes


READ = ("active_units", "mse", "mean_image_mse", "linear_code_mse")  # metrics, as far as a model has them


class Course(NamedTuple):
    """Holds how a training went."""

    model: ModelConfig
    training: TrainingConfig
    selection: str | None  # the term of the validation that selects the best weights; None for an adversarial model
    images: int  # that it was trained on
    history: Sequence[Mapping[str, float]]  # an entry per epoch
    best_epoch: int  # 0 if no epoch made the first weights better

    @property
    def validation(self) -> list[float]:
        """Returns the validation loss after each epoch; it is empty for an adversarial model."""
        return [epoch[f"val/{self.selection}"] for epoch in self.history] if self.selection else []

    @property
    def losses(self) -> list[float]:
        """Returns the mean training loss of each epoch, train/loss, or the sum of each part's, train/PART/loss."""
        names = [name for name in self.history[-1] if name.startswith("train/") and name.endswith("/loss")]
        return [sum(epoch[name] for name in names) for epoch in self.history]

    def update(self, epoch: int) -> int:
        """Returns the number of updates that were made by the end of an epoch."""
        return min(epoch * self.training.epoch_updates(self.images), self.training.all_updates(self.images))

    def longer(self, updates: int) -> str:
        """Returns the setting with which a training has at least so many updates."""
        if self.training.epochs is None:
            return f"training.updates={updates}"
        return f"training.epochs={-(-updates // self.training.epoch_updates(self.images))}"

    @property
    def twice(self) -> str:
        """Returns the setting with which a training is twice as long."""
        return self.longer(2 * self.training.all_updates(self.images))


def advise(course: Course, metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Returns a line for each thing that is wrong; there is none for a good model.

    Args:
        metrics: on the test images, by their names in METRICS.
    """
    if dead := _dead(course, metrics):
        return (dead,)
    overfitted = _overfitted(course)
    lines = (
        _worse_than_linear(course, metrics, bool(overfitted)),
        overfitted,
        "" if overfitted else _still_falling(course),
        _too_short(course),
    )
    return tuple(filter(None, lines))


def _dead(course: Course, metrics: Mapping[str, float]) -> str:
    """Tells whether the codes say nothing, so that all reconstructions are alike."""
    if metrics.get("active_units") == 0:
        remedy = "" if _still_falling(course) else " and ".join(_less_rate(course.model))
        return (
            "No number of the code tells anything of an image (active_units is 0), so all reconstructions are alike: "
            f"give {remedy or course.twice}."
        )
    error, of_mean = metrics.get("mse"), metrics.get("mean_image_mse")
    if error is None or of_mean is None or error < NOTHING * of_mean:
        return ""
    worse = "worse than" if error > of_mean else "no better than"
    return (
        f"The reconstructions are {worse} the mean of the training images (squared error {number(error)} against "
        f"{number(of_mean)}), so the model tells nothing of single images: give "
        f"training.learning_rate={course.training.learning_rate / 3:.1g} and {course.twice}."
    )


def _less_rate(model: ModelConfig) -> Iterator[str]:
    """Yields the settings with which codes cost less."""
    if beta := getattr(model, "beta", None):
        yield f"model.beta={beta / 4:g}"
    if getattr(model, "beta_warmup_steps", None) == 0:
        yield "model.beta_warmup_steps=1000"


def _worse_than_linear(course: Course, metrics: Mapping[str, float], overfitted: bool) -> str:
    error, of_linear = metrics.get("mse"), metrics.get("linear_code_mse")
    if error is None or of_linear is None or error < (1 - ALIKE) * of_linear:
        return ""
    verdict = "better" if error > (1 + ALIKE) * of_linear else "as good"  # such as that which the trunk photo starts at
    remedies = ["more images"] if overfitted else [course.twice, *_larger(course.model)]
    return (
        f"A linear code of as many numbers is {verdict}: its squared error is {number(of_linear)}, that of the model "
        f"{number(error)}. Give {' and '.join(remedies)}."
    )


def _larger(model: ModelConfig) -> Iterator[str]:
    """Yields the setting of a network that is twice as wide."""
    for key, width in model.flat().items():
        if key in ("trunk.widths", "trunk.channels", "trunk.width"):
            wider = [2 * one for one in width] if isinstance(width, list) else 2 * width
            yield f"model.{key}={as_written(wider)}"


def _overfitted(course: Course) -> str:
    values, best = course.validation, course.best_epoch
    if best == 0 and values:
        return _never_better(course)
    if not 0 < best < len(values) or len(values) < 3:
        return ""
    losses = course.losses
    if losses[-1] >= losses[best - 1] or not (_rose(values, best) or _stopped_learning(course, best)):
        return ""
    return (
        f"Since update {course.update(best):,} the model has learned its training images by heart: the loss on them "
        f"went on falling, from {number(losses[best - 1])} to {number(losses[-1])}, that on validation images from "
        f"{number(values[best - 1])} to {number(values[-1])} did not. The weights of that update are kept. More images "
        "or augmentation make a better model, more updates do not."
    )


def _rose(values: Sequence[float], best: int) -> bool:
    """Tells whether the validation loss rose by more than its noise since the best epoch."""
    rise = min(values[best:][-1], median(values[best:])) - values[best - 1]
    return rise > max(noise(values), OVERFITTED * (values[0] - values[best - 1]))


def _stopped_learning(course: Course, best: int) -> bool:
    """Tells whether a training stopped early although its training loss went on falling, and away from the other."""
    losses, values = course.losses, course.validation
    early = len(losses) < course.training.number_of_epochs
    fell = max(losses[:best]) - losses[best - 1]  # since the loss had its final weights, where these rise at first
    gap = (values[-1] - losses[-1]) - (values[best - 1] - losses[best - 1])
    return early and fell > 0 and min(losses[best - 1] - losses[-1], gap) > LEARNED * fell and losses[-1] < values[-1]


def _never_better(course: Course) -> str:
    """Tells whether a model that started well, at the linear code of few images, only learned those by heart."""
    learned, held_out = course.losses[-1], course.validation[-1]
    if learned >= held_out:
        return ""
    return (
        f"No update made the model better than it was at its start, whose weights are kept: it learned its training "
        f"images by heart (the loss is {number(learned)} on them and {number(held_out)} on validation images). More "
        "images, augmentation, or smaller steps "
        f"(training.learning_rate={course.training.learning_rate / 10:.1g}) help, more updates do not."
    )


def _still_falling(course: Course) -> str:
    values = course.validation
    if len(values) < 2 or course.best_epoch < course.training.number_of_epochs:
        return ""
    tenth = max(1, len(values) // 10)
    if values[-1 - tenth] - values[-1] <= STILL_FALLING * (values[0] - values[-1]):
        return ""
    updates = course.training.all_updates(course.images)
    if course.training.rates == "constant":
        return f"The validation loss was still falling at the end: train {updates:,} more updates, with {course.twice}."
    return f"The validation loss was still falling at the end: give twice the updates, with {course.twice}."


def _too_short(course: Course) -> str:
    updates = course.training.all_updates(course.images)
    if course.selection is not None or updates >= ADVERSARIAL:
        return ""
    return (
        f"An adversarial model needs some {ADVERSARIAL:,} updates before it draws shapes, and this one had "
        f"{updates:,}: give {course.longer(ADVERSARIAL)}."
    )
