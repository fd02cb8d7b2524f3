"""A gallery: one embedding for each enrolled identity, as one safetensors file that knows its network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from synbb.errors import SynbbError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gallery:
    """Who can be named.

    Attributes:
        names: of the identities.
        embeddings: unit vectors, (identities, size).
        model_sha256: of the weights that made them; those of others cannot be compared.
    """

    names: tuple[str, ...]
    embeddings: Floats
    model_sha256: str

    def joined(self, other: Gallery) -> Gallery:
        """Both; who stands in both has the embedding of ``other``.

        Raises:
            SynbbError: they were made by different weights.
        """
        self.check_model(other.model_sha256)
        rows = {
            **dict(zip(self.names, self.embeddings, strict=True)),
            **dict(zip(other.names, other.embeddings, strict=True)),
        }
        return Gallery(tuple(rows), np.stack(list(rows.values())), self.model_sha256)

    def check_model(self, sha256: str) -> None:
        """Refuse embeddings of other weights.

        Raises:
            SynbbError: they are.
        """
        if sha256 != self.model_sha256:
            raise SynbbError(
                f"the gallery was enrolled with weights {self.model_sha256[:12]}..., the run now has {sha256[:12]}...: "
                "embeddings of different networks cannot be compared; enroll anew"
            )

    def to_bytes(self) -> bytes:
        """The file."""
        about = {"names": json.dumps(self.names), "model_sha256": self.model_sha256, "kind": "synbb gallery"}
        stored: bytes = save({"embeddings": self.embeddings.astype(np.float32)}, metadata=about)
        return stored

    @classmethod
    def read(cls, path: Path) -> Gallery:
        """A file that ``synbb enroll`` wrote.

        Raises:
            SynbbError: no such file, or another one.
        """
        if not path.is_file():
            raise SynbbError(f"gallery {path}: no such file; `synbb enroll` makes one")
        try:
            with safe_open(path, framework="numpy") as stored:
                about = stored.metadata() or {}
                if about.get("kind") != "synbb gallery":
                    raise SynbbError(f"gallery {path} is no gallery of `synbb enroll`")
                vectors = stored.get_tensor("embeddings").astype(np.float64)
        except SafetensorError as error:
            raise SynbbError(
                f"gallery {path} is none of `synbb enroll`, or damaged ({error}); name another, or enroll anew"
            ) from None
        return cls(tuple(json.loads(about["names"])), vectors, about["model_sha256"])
