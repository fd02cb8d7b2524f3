"""Volumes of any size on disk: boxes, reading and writing, resampling, statistics, streaming."""

from synbb.volumes.box import Box
from synbb.volumes.opening import open_labels, open_volume
from synbb.volumes.resample import WorkingView, upsample_to_source, upsampling_support
from synbb.volumes.statistics import Normalisation, measure_normalisation
from synbb.volumes.stream import CacheCounters, ChunkCache
from synbb.volumes.volume import Volume, placement
from synbb.volumes.writing import WritableVolume, create_volume

__all__ = [
    "Box",
    "CacheCounters",
    "ChunkCache",
    "Normalisation",
    "Volume",
    "WorkingView",
    "WritableVolume",
    "create_volume",
    "measure_normalisation",
    "open_labels",
    "open_volume",
    "placement",
    "upsample_to_source",
    "upsampling_support",
]
