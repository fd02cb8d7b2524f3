"""Things of a user's own that settings name as ``my_package.module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from synbb.errors import SynbbError
from synbb.schema import nearest


def load_named(path: str, setting: str) -> Any:
    """What ``my_package.module:name`` names; the working directory is searched, too.

    Args:
        path: module and name, with a colon between.
        setting: the key that holds it, for messages.

    Raises:
        SynbbError: there is no such module, or nothing of that name in it. A module that is there and fails to import
            what it needs raises as it would anywhere.
    """
    module, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the module itself needs is missing
        raise SynbbError(
            f"{setting} {path!r}: there is no module {error.name!r} in the working directory ({here}) or the "
            "environment; run from the folder that holds it, or install it"
        ) from None
    if not hasattr(found, name):
        names = [each for each in vars(found) if not each.startswith("_")]
        raise SynbbError(f"{setting} {path!r}: module {module!r} has no {name!r}{nearest(name, names)}")
    return getattr(found, name)
