"""Writes files whole, and says what to do where the file system refuses.

One refusal has many shapes: an OSError, sqlite's error beneath those of SQLAlchemy, MLflow and Optuna, or an error of
safetensors or torch that only quotes the system. All of them become one sentence here, with the path, the reason and
the remedy.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2s
from pathlib import Path
from typing import NamedTuple

from aemodels.config import OutageError, UserError
from aemodels.runtime import environment

LOOK = "look whether its disk is still there and sound"
REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "let other programs close files",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "give this user the permission",
    errno.EPERM: "give this user the permission",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file is where a folder should be: move it away",
    errno.EEXIST: "a file is where a folder should be: move it away",
    errno.EISDIR: "a folder is where a file should be: move it away",
    errno.ELOOP: "mend its links, which run in a circle",
    errno.ENOENT: LOOK,
    errno.EIO: LOOK,
    errno.ESTALE: LOOK,
    errno.ENODEV: LOOK,
    errno.ENXIO: LOOK,
    errno.ENOTCONN: LOOK,
}
MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOTCONN}
COMMON = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR}  # often handled already where another error follows from them
OF_FILES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}  # errors that a network never gives
SQLITE = {3: errno.EACCES, 8: errno.EROFS, 10: errno.EIO, 13: errno.ENOSPC, 14: errno.ENOENT}  # PERM ... CANTOPEN
PROBE = 2**16  # bytes; a database in use grows by as much at once


class _Refusal(NamedTuple):
    """Holds what the system refused, and for which path."""

    number: int
    path: str | None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the file, then renames it: a reader sees the old or the new file, also after a power cut.

    Raises:
        UserError: the file system refuses it.
    """
    with at_path(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            _pass_on(path, write)
            return
    whole = Path(os.path.realpath(path))  # follows links to the file that is meant
    # The name of the partial file has a fixed length and no person's words. A process that repeats what was killed
    # uses the same name.
    partial = whole.with_name(f".{blake2s(os.fsencode(whole.name), digest_size=8).hexdigest()}.partial")
    with at_path(path):
        try:
            write(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            if whole.exists():
                shutil.copymode(whole, partial)
            partial.replace(whole)
        except BaseException:
            with suppress(OSError):  # a half-written file would take the room of others on a full disk
                partial.unlink()
            raise


def _pass_on(path: Path, write: Callable[[Path], object]) -> None:
    """Writes into a pipe or device, in which no writer can go back."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        write(file)
        with file.open("rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)


def require_room(folder: Path, needed: int) -> None:
    """Makes the folder, and tries whether so many bytes can be written there.

    Raises:
        UserError: the file system refuses it.
    """
    with at_path(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_and_forget(folder, needed)


@contextmanager
def at_path(path: Path | None = None) -> Iterator[None]:
    """Puts into words what the file system refuses inside the block.

    Args:
        path: what the block works on, where its errors name nothing or a file that a person does not know.

    Raises:
        UserError: the file system refused; an OutageError where it may be over by itself.
    """
    try:
        yield
    except Exception as error:
        told = in_words(error, path)
        if told is None or told is error:
            raise
        raise told from error


def in_words(error: BaseException, path: Path | None = None) -> UserError | None:
    """Returns the sentence for an error that comes from the file system; None for any other error."""
    if isinstance(error, UserError):
        return error
    refusal = _refusal(error)
    if refusal is None:
        return None
    kind = OutageError if refusal.number in MAY_PASS else UserError
    named = str(path) if path else refusal.path
    absent = _absent(refusal, named)
    if absent is not None:
        return UserError(f"{named}: there is no folder {absent}; make it, or give another path")
    remedy = f"{REMEDIES[refusal.number]}, then give the same command again{_elsewhere(named)}"
    return kind(f"{named or _somewhere()}: {os.strerror(refusal.number)}; {remedy}")


def _absent(refusal: _Refusal, path: str | None) -> Path | None:
    """Returns the folder that is missing where a path has none, though the disk is there; None where that is not it."""
    folder = Path(path).absolute().parent if path and refusal.number == errno.ENOENT else None
    if folder is None or folder.exists() or _elsewhere(path):
        return None
    return folder


def _refusal(error: BaseException) -> _Refusal | None:
    """Returns the first refusal of the system on the way from the error to its cause."""
    one: BaseException | None = error
    while one is not None and not isinstance(one, UserError):
        found = _by_database(one) or _by_system(one) or _by_quotation(one)
        if found and (one is error or found.number not in COMMON):
            return found
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return None


def _by_system(error: BaseException) -> _Refusal | None:
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    names = [os.fsdecode(name) for name in (error.filename2, error.filename) if isinstance(name, str | bytes)]
    return _Refusal(error.errno, names[0] if names else None)


def _by_quotation(error: BaseException) -> _Refusal | None:
    """Finds what errors of safetensors, which is written in Rust, and of torch quote from the system."""
    if isinstance(error, OSError) or not (type(error).__name__ == "SafetensorError" or isinstance(error, RuntimeError)):
        return None
    text = str(error)
    quoted = re.search(r"\(os error (\d+)\)", text)
    numbers = [int(quoted[1])] if quoted else [n for n in OF_FILES if os.strerror(n) in text]
    return _Refusal(numbers[0], None) if numbers and numbers[0] in REMEDIES else None


def _by_database(error: BaseException) -> _Refusal | None:
    """Asks the system which file sqlite was refused, and why, as its errors often say neither."""
    number = SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)  # the upper bytes hold details
    if number is None:
        return None
    files = list(environment.databases())
    for file in files:
        if refused := _probe(file):
            return refused
    return _Refusal(number, str(files[0]))


def _probe(file: Path) -> _Refusal | None:
    """Tells what the system says of writing to the file and beside it."""
    try:
        _write_and_forget(file.parent, PROBE)
        if file.exists():
            file.open("r+b").close()
    except OSError as error:
        return _Refusal(error.errno, str(file)) if error.errno in REMEDIES else None
    return None


def _write_and_forget(folder: Path, count: int) -> None:
    with tempfile.TemporaryFile(dir=folder) as scratch:  # buffered, as an unbuffered write may write only a part
        scratch.write(bytes(count))


def _elsewhere(path: str | None) -> str:
    """Names the variable, if there is one, that moves the path or what was to be made in it to another folder."""
    absolute = Path(os.path.abspath(path)) if path else None
    for variable, folder in environment.folders().items():
        if absolute and (absolute.is_relative_to(folder) or folder.is_relative_to(absolute)):
            return f", or set {variable} to another folder"
    return ""


def _somewhere() -> str:
    """Lists where an error that names no path may come from."""
    places = {**environment.folders(), "TMPDIR": Path(os.environ.get("TMPDIR") or "/tmp")}
    return ", or ".join(f"{name}={folder}" for name, folder in places.items())
