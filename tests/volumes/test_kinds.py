"""What volumes say of themselves, and what may be given as what."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from synbb.errors import SynbbError
from synbb.volumes import Volume, create_volume, open_volume
from synbb.volumes.kinds import CALLED, WANTED, check_use, stated_kind

REFUSED = {
    "raw": {"probabilities", "labels", "objects"},
    "probabilities": {"raw", "labels", "objects"},
    "labels": {"raw", "probabilities"},
    "objects": {"raw", "probabilities"},
    "mask": {"raw", "probabilities"},
}


def volume(folder: Path, **attributes: str) -> Volume:
    path = folder / "volume.zarr"
    create_volume(path, shape=(4, 8, 8), dtype=np.uint8, voxel_size=(40, 8, 8), attributes=attributes)
    return open_volume(path)


@pytest.mark.parametrize(("kind", "use"), list(itertools.product(CALLED, REFUSED)))
def test_a_volume_is_refused_where_it_cannot_be_meant(kind: str, use: str, tmp_path: Path) -> None:
    found = volume(tmp_path, kind=kind)
    assert stated_kind(found) == kind
    if kind not in REFUSED[use]:
        check_use(found, use)
        return
    with pytest.raises(SynbbError, match=f"volume.zarr holds {CALLED[kind]} .*name the volume of {WANTED[use]}"):
        check_use(found, use)
    with pytest.raises(SynbbError, match=f"volume.zarr, given as --this, holds {CALLED[kind]} "):
        check_use(found, use, "--this")


@pytest.mark.parametrize("attributes", [{}, {"kind": "something else"}, {"kind": ["raw"]}])
def test_volumes_of_others_are_taken_at_their_word(attributes: dict[str, str], tmp_path: Path) -> None:
    found = volume(tmp_path, **attributes)
    assert stated_kind(found) is None
    for use in REFUSED:
        check_use(found, use)
