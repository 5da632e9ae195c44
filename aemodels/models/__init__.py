"""The union of the models: the only list of them."""

from typing import Annotated

from pydantic import Field

from aemodels.models.ae import AEConfig
from aemodels.models.vae import VAEConfig

AnyModelConfig = Annotated[AEConfig | VAEConfig, Field(discriminator="name")]

__all__ = ["AEConfig", "AnyModelConfig", "VAEConfig"]
