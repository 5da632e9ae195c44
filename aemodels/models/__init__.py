"""Defines the models; the union below is the only list of them."""

from typing import Annotated

from pydantic import Field

from aemodels.models.ae import AEConfig
from aemodels.models.cvae import CVAEConfig
from aemodels.models.gan import GANConfig
from aemodels.models.iwae import IWAEConfig
from aemodels.models.vae import VAEConfig
from aemodels.models.vae_gan import VAEGANConfig

AnyModelConfig = Annotated[
    AEConfig | VAEConfig | CVAEConfig | IWAEConfig | VAEGANConfig | GANConfig, Field(discriminator="name")
]

__all__ = ["AEConfig", "AnyModelConfig", "CVAEConfig", "GANConfig", "IWAEConfig", "VAEConfig", "VAEGANConfig"]
