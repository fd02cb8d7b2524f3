"""Downloading a dataset's plain files from the address in the manifest."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import quote

from synbb.errors import SynbbError, disk_errors, make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_TIMEOUT = 60.0  # seconds without a byte


def download_files(
    name: str,
    base_url: str,
    homepage: str,
    files: Sequence[str],
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Put ``base_url + file`` for each of ``files`` into ``folder``.

    Args:
        name: of the dataset, for messages.
        base_url: address, https.
        homepage: where a person finds the files.
        files: relative paths.
        folder: to write into.
        progress: told (files done, files in all).

    Raises:
        SynbbError: the address is not https, or cannot be reached.
        RunEnded: the disk is full.
    """
    if not base_url.startswith("https://"):
        raise SynbbError(f"{name}: address {base_url!r} in the manifest must begin with https://")
    for number, file in enumerate(files):
        address = base_url + quote(file)
        target = folder / file
        make_folder(target.parent)
        try:
            with (
                disk_errors(target),
                urllib.request.urlopen(address, timeout=_TIMEOUT) as answer,  # noqa: S310
                target.open("wb") as out,
            ):
                shutil.copyfileobj(answer, out)
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise SynbbError(
                f"{name}: cannot download {address} ({reason}); get the files from {homepage} yourself and run "
                f"`synbb data fetch {name} --from DIR`"
            ) from error
        if progress is not None:
            progress(number + 1, len(files))
