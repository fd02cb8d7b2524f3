"""Datasets: the manifest, fetching and verifying, importers, and the phantom that needs no download."""

from synbb.datasets.fetch import Fetched, fetch, verify
from synbb.datasets.manifest import Dataset, check_fetched, credit, find_dataset, load_manifest, manifest_path
from synbb.datasets.phantom import PhantomSpec, write_phantom

__all__ = [
    "Dataset",
    "Fetched",
    "PhantomSpec",
    "check_fetched",
    "credit",
    "fetch",
    "find_dataset",
    "load_manifest",
    "manifest_path",
    "verify",
    "write_phantom",
]
