"""Datasets: the manifest, fetching and verifying, importers, and the phantom that needs no download."""

from synbb.datasets.fetch import Fetched, fetch, verify
from synbb.datasets.manifest import Dataset, find_dataset, load_manifest, manifest_path
from synbb.datasets.phantom import PhantomSpec, write_phantom

__all__ = [
    "Dataset",
    "Fetched",
    "PhantomSpec",
    "fetch",
    "find_dataset",
    "load_manifest",
    "manifest_path",
    "verify",
    "write_phantom",
]
