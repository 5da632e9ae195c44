"""Defines the errors that a person can mend, and the warning that a person should read."""

from __future__ import annotations

from aemodels.texts import visible


class UserError(Exception):
    """The person at the command line can mend this error; it names the field, the value and the remedy.

    Args:
        lines: the lines of the message. A line break inside one comes from outside, such as from a file's name, and is
            escaped.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(visible, self.args))


class OutageError(UserError):
    """The cause may be over by itself, such as a server that is away or a full disk, so it can be tried again."""


class UnreachableError(OutageError):
    """A server does not answer now; a scheduled run may try again later."""


class SettingsError(UserError, ValueError):
    """Some settings do not fit together or do not exist."""


class OwnWarning(UserWarning):
    """A person who trains a model should know this; the commands show it, but no warnings of libraries."""
