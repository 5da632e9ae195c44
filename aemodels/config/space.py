"""Defines what a search may try of a setting: a range of numbers, or a choice of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator


class Range(BaseModel):
    """A range holds the numbers from low to high that a search may try, only whole ones where both ends are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(f"low={self.low:g}, high={self.high:g}: low <= high is needed, and low > 0 with log=true")
        return self

    @property
    def whole(self) -> bool:
        """Tells whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Choice(BaseModel):
    """A choice holds the values that a search may try: texts, numbers, booleans, null, lists, or whole sections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: tuple[JsonValue, ...] = Field(min_length=1)


Space = Mapping[str, Range | Choice]  # dotted key -> what a search may try there
