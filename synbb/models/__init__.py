"""Networks and what is to be known of their geometry. Floor 1."""

from synbb.models.receptive_field import block_dependent_norms, receptive_field
from synbb.models.unet import LevelGeometry, build_unet, level_geometry, parameter_counts, total_stride

__all__ = [
    "LevelGeometry",
    "block_dependent_norms",
    "build_unet",
    "level_geometry",
    "parameter_counts",
    "receptive_field",
    "total_stride",
]
