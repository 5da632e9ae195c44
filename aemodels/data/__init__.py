"""Turns raw images into prepared arrays. The union below is the only list of data sources."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aemodels.data.arrays import ArraysConfig
from aemodels.data.digits import DigitsConfig
from aemodels.data.folder import FolderConfig
from aemodels.data.mnist import Cifar10Config, FashionMnistConfig, KmnistConfig, MnistConfig
from aemodels.data.parquet import ParquetConfig
from aemodels.data.prepared import PreparedData, Split, prepare, prepared_before
from aemodels.data.sprites import SpritesConfig

DataConfig = Annotated[
    DigitsConfig
    | MnistConfig
    | FashionMnistConfig
    | KmnistConfig
    | Cifar10Config
    | FolderConfig
    | ArraysConfig
    | ParquetConfig
    | SpritesConfig,
    Field(discriminator="name"),
]

__all__ = ["DataConfig", "PreparedData", "Split", "prepare", "prepared_before"]
