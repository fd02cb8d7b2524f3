"""The viewer itself, which is an extra."""

from __future__ import annotations

from typing import Any

from synbb.errors import SynbbError, get_extra


def neuroglancer() -> Any:
    """The library; its package holds the client too, so nothing is fetched from elsewhere.

    Raises:
        SynbbError: it is not installed.
    """
    try:
        import neuroglancer as library
    except ImportError as error:
        raise SynbbError(
            f"synbb view shows volumes with neuroglancer, which is not installed; {get_extra('view')}"
        ) from error
    return library
