"""Volumes, synapses and their tables in neuroglancer: what ``synbb view`` opens."""

from synbb.viewing.kinds import Kind, kind_of
from synbb.viewing.session import Session, open_session
from synbb.viewing.shown import ShownVolume

__all__ = ["Kind", "Session", "ShownVolume", "kind_of", "open_session"]
