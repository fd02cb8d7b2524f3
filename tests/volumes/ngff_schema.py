"""The published rules of OME-NGFF for images (``ome_ngff/README.md``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

FOLDER = Path(__file__).parent / "ome_ngff"


def _load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())


def validate(attributes: dict[str, Any], version: str) -> None:
    """Raise ``jsonschema.ValidationError`` where attributes of a group break the schema of ``version``."""
    known = _load("version-0.5.schema")
    registry = Registry().with_resource(known["$id"], Resource.from_contents(known))
    jsonschema.Draft202012Validator(_load(f"image-{version}.schema"), registry=registry).validate(attributes)
