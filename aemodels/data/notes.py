"""Writes the notes about a person's images: what was understood of them, and what became of each file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from aemodels.data.decoding import Skipped
from aemodels.data.layout import not_read
from aemodels.data.source import Beside, Images
from aemodels.data.split_arrays import Written
from aemodels.data.splits import SPLITS, Drawn

FEW = 5  # images of a split, under which a person is told
WHAT_FOR = {"val": "which weights are the best", "test": "how good a model is"}
NAMED = 3  # files or classes that a sentence names
DARK = 64  # of 255; where no pixel of any image is brighter, white has a lower value than the files' format has


class Counted(NamedTuple):
    """Counts the images of a source, and says why some of them are not used."""

    total: int
    used: int
    files: bool  # whether each image is a file of its own
    reasons: list[str]


def understood(
    images: Images, written: Written, shares: Mapping[str, float], skipped: Sequence[Skipped], drawn: Drawn
) -> dict[str, Any]:
    """Returns the part of a manifest that says what was understood of images; of a packaged source nothing is told.

    Args:
        shares: drawn split -> the share that was asked for.
        skipped: the files that are not read.
        drawn: what was noticed of copies.
    """
    if not images.by_content:
        return {"notes": [unreadable(skipped)] if skipped else []}
    told = [_splits(written.sizes, shares), *_few(written.sizes, shares)]
    told += [_classes(written.classes)] if written.classes else []
    told += _kinds(images, written)
    if drawn.copies:
        told.append(f"{count(drawn.copies, 'image is a copy', 'images are copies')} of others, in the same split")
    reasons = _reasons(written, skipped, drawn.left_out)
    return {"notes": told, "counted": counted(images, sum(written.sizes.values()), reasons)}


def counted(images: Images, used: int, reasons: Sequence[str]) -> dict[str, Any]:
    """Returns what a manifest keeps of the number of images, beside which the files that are not read are counted."""
    return Counted(images.count, used, images.files is not None, list(reasons))._asdict()


def sentences(manifest: Mapping[str, Any]) -> list[str]:
    """Returns all sentences that a manifest holds about a person's images, and about what lies beside them.

    A manifest from before there was `counted` has all of them in its notes.
    """
    told = list(manifest.get("notes", ()))
    if "counted" not in manifest:
        return told
    beside = Beside(**manifest["beside"])
    return [*told, *_files(Counted(**manifest["counted"]), beside.unused), *beside.notes]


def contradiction(two_labels: Mapping[tuple[str, str], int]) -> str:
    """Says which classes have the same images; "" where none have.

    Args:
        two_labels: two classes -> how many different images have both.
    """
    pairs = sorted(two_labels.items(), key=lambda pair: (-pair[1], pair[0]))
    named = [f"{count(number, 'image is', 'images are')} in {one} and in {other}" for (one, other), number in pairs]
    return f"data: the same pixels have two labels: {some(named)}; keep each image in its right class" if named else ""


def count(number: int, one: str, more: str) -> str:
    """Returns a number with the words that follow it."""
    return f"{number:,} {one if number == 1 else more}"


def unreadable(skipped: Sequence[Skipped]) -> str:
    """Counts and names the files that are not read, and says which setting reads those that are only too large."""
    damaged = sorted(file for file, needed in skipped if needed is None)
    large = sorted((file, needed) for file, needed in skipped if needed is not None)
    told = []
    if damaged:
        told.append(f"{count(len(damaged), 'unreadable image', 'unreadable images')} skipped: {some(damaged)}")
    if large:
        counted, most = count(len(large), "image", "images"), max(needed for _, needed in large)
        names = some([file for file, _ in large])
        told.append(f"{counted} of too many pixels skipped, which data.largest_megapixels={most} reads: {names}")
    return ", ".join(told)


def some(names: Collection[str]) -> str:
    """Names the first of some files or classes."""
    return ", ".join(list(names)[:NAMED]) + (" ..." if len(names) > NAMED else "")


def too_dark(brightest: int, which: str, remedy: str) -> str:
    """Returns what to do where the brightest pixel of some images is far below white; "" where it is not."""
    if not 0 < brightest <= DARK:
        return ""
    return (
        f"the brightest pixel of {which} images is {brightest} of 255; if white has a lower value in the files than "
        f"their format allows, {remedy}, such as 4095 for 12 bits in files of 16"
    )


def _splits(sizes: Mapping[str, int], shares: Mapping[str, float]) -> str:
    parts = [f"train {count(sizes['train'], 'image', 'images')}"]
    for split in SPLITS[1:]:
        how = f"drawn by content, {100 * shares[split]:g} % asked for" if split in shares else "given"
        parts.append(f"{split} {sizes[split]:,} ({how})")
    return ", ".join(parts)


def _few(sizes: Mapping[str, int], shares: Mapping[str, float]) -> list[str]:
    """Says it where so few images were drawn for a split that what is measured on them says little."""
    return [
        f"{split} has only {count(sizes[split], 'image', 'images')}, which say little of {WHAT_FOR[split]}: add "
        f"images, raise data.{split}_fraction, or draw anew with another data.split_seed"
        for split in shares
        if sizes[split] < FEW
    ]


def _classes(classes: Sequence[str]) -> str:
    return f"{len(classes):,} classes: {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"


def _files(counted: Counted, unused: Mapping[str, int]) -> list[str]:
    """Says how many files are used, and why the others are not."""
    reasons = [*([not_read(unused)] if unused else []), *counted.reasons]
    total = counted.total + sum(unused.values())
    things = count(total, "file", "files") if counted.files else count(total, "image", "images")
    return [f"{things}, {counted.used:,} used; {', '.join(reasons)}"] if reasons else []


def _reasons(written: Written, skipped: Sequence[Skipped], copies: Mapping[str, int]) -> list[str]:
    """Says why images are not used."""
    reasons = [unreadable(skipped)] if skipped else []
    for split, number in copies.items():
        reasons.append(f"{count(number, 'copy', 'copies')} of given {split} images left out of the other splits")
    if written.unknown:
        classes = [f"{name} ({number:,})" for name, number in written.unknown.most_common()]
        reasons.append(f"{written.unknown.total():,} of classes without training images left out: {some(classes)}")
    return reasons


def _kinds(images: Images, written: Written) -> list[str]:
    """Says it where grey and colour images are together, and where a class is lost."""
    told = []
    if written.grey and written.image_shape[0] == 3:
        total = sum(written.sizes.values())
        told.append(
            f"{written.grey:,} of {total:,} images {'is' if written.grey == 1 else 'are'} grey; all are read as colour"
        )
    lost = [name for name in images.classes if name not in written.trained and name not in written.unknown]
    if lost:
        such = "is no such class" if len(lost) == 1 else "are no such classes"
        told.append(
            f"there is no readable image of {some(lost)}, so there {such if written.classes else 'are no labels'}"
        )
    return told
