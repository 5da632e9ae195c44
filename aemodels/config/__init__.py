"""Provides settings, the errors that people can mend, and what a search may try of a setting."""

from aemodels.config.base import AUTO, NAME, Config, section_kinds
from aemodels.config.errors import OutageError, OwnWarning, SettingsError, UnreachableError, UserError
from aemodels.config.explanations import demand, did_you_mean
from aemodels.config.notation import as_written, in_short, nested, read_text
from aemodels.config.space import Choice, Range, Space

__all__ = [
    "AUTO",
    "NAME",
    "Choice",
    "Config",
    "OutageError",
    "OwnWarning",
    "Range",
    "SettingsError",
    "Space",
    "UnreachableError",
    "UserError",
    "as_written",
    "demand",
    "did_you_mean",
    "in_short",
    "nested",
    "read_text",
    "section_kinds",
]
