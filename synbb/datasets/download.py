"""Downloading a dataset's plain files from the address in the manifest."""

from __future__ import annotations

import urllib.request
from contextlib import contextmanager
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from synbb.errors import SynbbError, disk_errors, make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_TIMEOUT = 60.0  # seconds without a byte
_AT_ONCE = 1 << 20  # bytes


def download_files(
    name: str,
    base_url: str,
    homepage: str,
    files: Sequence[str],
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Put ``base_url + file`` for each of ``files`` into ``folder``.

    A file has its name when it is whole. One that is there, of the size that the server tells, is kept, so that a
    download that ended goes on with the files that lack.

    Args:
        name: of the dataset, for messages.
        base_url: address, https.
        homepage: where a person finds the files.
        files: relative paths.
        folder: to write into.
        progress: told (files done, files in all).

    Raises:
        SynbbError: the address is not https, cannot be reached, or the answer ends early; or the folder cannot be
            written to.
        RunEnded: the disk is full.
    """
    if not base_url.startswith("https://"):
        raise SynbbError(f"{name}: address {base_url!r} in the manifest must begin with https://")
    for number, file in enumerate(files):
        address = base_url + quote(file)
        try:
            _download(address, folder / file)
        except _NotSentError as error:
            raise SynbbError(
                f"{name}: cannot download {address} ({error}); get the files from {homepage} yourself and run "
                f"`synbb data fetch {name} --from DIR`"
            ) from error
        if progress is not None:
            progress(number + 1, len(files))


class _NotSentError(Exception):
    """The server cannot be reached, or does not send all of a file."""


def _download(address: str, target: Path) -> None:
    with _of_server():
        answer = urllib.request.urlopen(address, timeout=_TIMEOUT)  # noqa: S310
    with answer:
        size = answer.headers.get("Content-Length")
        if target.is_file() and size in (None, str(target.stat().st_size)):
            return
        make_folder(target.parent)
        part = target.with_name(f"{target.name}.partial")
        try:
            with disk_errors(target):
                with part.open("wb") as out:
                    for piece in _pieces(answer, size):
                        out.write(piece)
                part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def _pieces(answer: Any, size: str | None) -> Iterator[bytes]:
    done = 0
    with _of_server():
        while piece := answer.read(_AT_ONCE):
            done += len(piece)
            yield piece
        if size not in (None, str(done)):  # http.client ends a short answer as a whole one
            raise ConnectionError(f"closed after {done} of {size} bytes")


@contextmanager
def _of_server() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException) as error:
        raise _NotSentError(getattr(error, "reason", None) or error) from error
