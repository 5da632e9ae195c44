"""Lists the names of the priors, for commands too, so nothing here imports torch; `fitting.py` holds the priors."""

from typing import Literal

FittedName = Literal["gaussian", "mixture"]  # fitted within a second, so that a model can draw from these by itself
PriorName = Literal[FittedName, "flow", "standard_normal"]
