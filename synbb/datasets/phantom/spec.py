"""What a phantom is made of: one frozen record, in nm, that goes beside the volume."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Nanometres, Triple, triple

if TYPE_CHECKING:
    from collections.abc import Callable

Number = TypeVar("Number", int, float)


def parse_triple(what: str, text: str, number: Callable[[str], Number]) -> tuple[Number, Number, Number]:
    """Read ``z,y,x``.

    Raises:
        SynbbError: the text has another form; ``what`` names it.
    """
    try:
        z, y, x = (number(part) for part in text.split(","))
    except ValueError as error:
        raise SynbbError(f"{what} {text!r} must be three numbers z,y,x, for example 40,512,512") from error
    return z, y, x


@dataclass(frozen=True)
class PhantomSpec:
    """A seeded synthetic ssTEM volume.

    Every structure is sized in nm, so the voxel size changes the sampling of the tissue and not the tissue. A larger
    ``shape`` with the same seed contains the smaller volume.

    Attributes:
        shape: voxels along z, y, x.
        voxel_size: nm along z, y, x; 40 x 8 x 8 unless told otherwise.
        seed: of everything.
        synapse_density: synapses per cubic micrometre aimed at; 0 is a legal volume without a synapse.
        mitochondria_density: candidates per cubic micrometre (those that do not fit into their neurite are dropped).
        distractor_density: dark bodies in the cytoplasm per cubic micrometre, aimed at.
        junction_density: dark symmetric membrane thickenings without vesicles per cubic micrometre, aimed at.
        vesicle_density: vesicles per cubic micrometre of vesicle-rich neurites, away from synapses.
        jitter: standard deviation of a section's shift in the plane, nm.
        contrast_jitter: standard deviation of a section's contrast (and, as a part of the grey range, brightness).
        noise: strength of the grain; 1 is that of a good ssTEM image at this pixel size, 0 none.
        missing_rate: share of sections that are blank. Labels continue through them, as annotators do.
        fold_rate: share of sections with a fold.
        stain_rate: share of sections with stain precipitate.
    """

    shape: Triple = (40, 512, 512)
    voxel_size: Nanometres = (40.0, 8.0, 8.0)
    seed: int = 0
    synapse_density: float = 3.0
    mitochondria_density: float = 6.0
    distractor_density: float = 3.0
    junction_density: float = 1.5
    vesicle_density: float = 300.0
    jitter: float = 12.0
    contrast_jitter: float = 0.06
    noise: float = 1.0
    missing_rate: float = 0.02
    fold_rate: float = 0.02
    stain_rate: float = 0.03

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or any(int(n) != n or n < 1 for n in self.shape):
            raise SynbbError(f"phantom: shape {self.shape} must be three positive numbers of voxels z,y,x")
        if len(self.voxel_size) != 3 or any(not v > 0 for v in self.voxel_size):
            raise SynbbError(f"phantom: voxel_size {self.voxel_size} must be three positive lengths z,y,x in nm")
        object.__setattr__(self, "shape", triple(self.shape))
        z, y, x = (float(v) for v in self.voxel_size)
        object.__setattr__(self, "voxel_size", (z, y, x))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_density", "jitter", "noise", "_rate")) and not value >= 0:
                raise SynbbError(f"phantom: {field.name} is {value}; it must be at least 0")
            if field.name.endswith("_rate") and value > 1:
                raise SynbbError(f"phantom: {field.name} is {value}; it is a share of the sections, at most 1")

    @property
    def box(self) -> Box:
        """All voxels of the volume."""
        return Box.of_shape(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for YAML."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PhantomSpec:
        """The inverse of :meth:`to_dict`.

        Raises:
            SynbbError: a key that a spec does not have.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise SynbbError(f"phantom: unknown key {unknown[0]!r}; the keys are {', '.join(known)}")
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**plain)
