"""Settings of synapse detection: the volumes, how patches are drawn from them, and the network."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from synbb.schema import Settings
from synbb.tasks.annotated import VolumeSettings
from synbb.tasks.augment import Augmentation
from synbb.tasks.object_choice import ObjectSearch
from synbb.tasks.volumes_apart import Part, check_splits_apart

PositiveInt = Annotated[int, Field(gt=0)]


class SynapseData(Settings):
    """Where the volumes are and how patches are drawn from them.

    Attributes:
        volumes: annotated volumes, each with its split.
        dataset: entry of ``data_manifest.yaml`` that the volumes come from; pipelines fetch it when it is missing.
        patch: z, y, x of a training patch, working voxels.
        positive_fraction: share of patches drawn around a foreground voxel; the rest is uniform.
        percentiles: of each volume's tissue that become 0 and 1.
        augment: probabilities of the random changes.
        cache_mib: memory for decoded chunks of the training stream, per volume array.
        objects: rules of objects that are tried on the validation split; null tries the usual ones, false none.
    """

    volumes: Annotated[tuple[VolumeSettings, ...], Field(min_length=1)]
    dataset: str | None = None
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] = (12, 96, 96)
    positive_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    percentiles: tuple[float, float] = (1.0, 99.0)
    augment: Augmentation = Augmentation()
    cache_mib: PositiveInt = 512
    objects: ObjectSearch | Literal[False] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(volume.split == "train" for volume in self.volumes):
            raise ValueError("no entry has split: train")
        names = [volume.name for volume in self.volumes]
        double = {name for name in names if names.count(name) > 1}
        if double:
            raise ValueError(f"names must differ, but {', '.join(sorted(double))} stands more than once")
        check_splits_apart([Part.named(volume) for volume in self.volumes])
        return self


class UnetSettings(Settings):
    """The network: a MONAI DynUNet whose kernels and strides follow from the voxel size.

    Attributes:
        voxel_size: working voxel size, nm, z y x; volumes are read or resampled to it.
        levels: of resolution.
        filters: channels of each level, finest first.
        residual: blocks with a residual sum.
        norm: ``batch`` predicts blockwise without seams; ``instance`` and ``group`` do not.
    """

    voxel_size: tuple[float, float, float]
    levels: Annotated[int, Field(ge=3)] = 3
    filters: tuple[PositiveInt, ...] = (24, 48, 96)
    residual: bool = False
    norm: Literal["batch", "instance", "group"] = "batch"
