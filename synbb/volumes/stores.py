"""Stores of bytes by address: folders, ``s3://``, ``gs://``, ``http(s)://``, all through tensorstore.

A store that does not answer, or stalls, is asked again with growing pauses, and given up after :data:`GIVE_UP` seconds
at most.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from synbb.errors import SynbbError, get_extra

REMOTE = ("s3://", "gs://", "http://", "https://")
KINDS = ("precomputed", "n5", "zarr")  # ``KIND://PLACE`` says what lies at a place, as neuroglancer writes it

GIVE_UP = 60.0  # s without the next answer
STALLED = "10"
"""Seconds without a byte after which one request is ended and made again; without it tensorstore waits for ever."""
RETRIES = {"max_retries": 6, "initial_delay": "250ms", "max_delay": "8s"}

# What tensorstore raises for stores and codecs alike; the status stands at the head of the message.
STORE_ERRORS = (ValueError, IndexError, NotImplementedError, RuntimeError, OSError)
_NO_ANSWER = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED")
_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED")


class StoreError(SynbbError):
    """A store does not answer, or refuses."""


class NoAnswer(StoreError):
    """A store does not answer: it may at another time."""


def is_remote(place: str) -> bool:
    """Whether a place is an address and no path."""
    return place.startswith(REMOTE)


def split_kind(given: str) -> tuple[str | None, str]:
    """Cut ``precomputed://PLACE`` in two; the kind is None where none is said."""
    kind, mark, place = given.partition("://")
    return (kind, place) if mark and kind in KINDS else (None, given)


def with_kind(kind: str | None, place: str) -> str:
    """The inverse of :func:`split_kind`."""
    return place if kind is None else f"{kind}://{place}"


def tensorstore(place: str) -> Any:
    """The library, which is an extra.

    Raises:
        SynbbError: it is not installed.
    """
    # Read by tensorstore when its first connection is made.
    for limit in ("LOW_SPEED_TIME_SECONDS", "CONNECT_TIMEOUT_SECONDS"):
        os.environ.setdefault(f"TENSORSTORE_CURL_{limit}", STALLED)
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    try:
        import tensorstore as library
    except ImportError as error:
        raise SynbbError(
            f"{place}: N5, precomputed and remote stores are reached through tensorstore, which is not installed; "
            + get_extra("remote")
        ) from error
    return library


def installed() -> bool:
    """Whether tensorstore is."""
    return find_spec("tensorstore") is not None


@cache
def _context(process: int, retries: str) -> Any:  # noqa: ARG001
    policy = json.loads(retries)
    names = ("http_request_retries", "s3_request_retries", "gcs_request_retries")
    # What is written here is renamed when it is whole, so nothing hangs on one file's being on the disk already.
    return tensorstore("").Context({**dict.fromkeys(names, policy), "file_io_sync": False})


def context() -> Any:
    """Connections and the policy of retries, shared by all that this process reads (a forked one needs its own)."""
    return _context(os.getpid(), json.dumps(RETRIES))


def kvstore(place: str) -> dict[str, Any]:
    """Tensorstore's specification of the folder at ``place``, a path or an address.

    The standard variables ``AWS_ENDPOINT_URL_S3`` (or ``AWS_ENDPOINT_URL``), ``AWS_REGION`` and
    ``AWS_NO_SIGN_REQUEST`` hold for ``s3://``; credentials are found as by the AWS and Google tools.

    Raises:
        SynbbError: no tensorstore, or the address has another form.
    """
    library = tensorstore(place)
    if not is_remote(place):
        return {"driver": "file", "path": str(Path(place).absolute()) + "/"}
    try:
        spec: dict[str, Any] = library.KvStore.Spec(place.rstrip("/") + "/").to_json()
    except ValueError as error:
        raise SynbbError(f"{place}: not an address that can be read ({error}); check its spelling") from error
    if spec["driver"] == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        spec |= {"endpoint": endpoint} if endpoint else {}
        spec |= {"aws_region": region} if region else {}
        if os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "yes", "true"):
            spec["aws_credentials"] = {"type": "anonymous"}
    return spec


def settle(future: Any, place: str, deadline: float) -> Any:
    """The result of a tensorstore future.

    Args:
        future: what is waited for.
        place: the address, for messages.
        deadline: seconds since the epoch.

    Raises:
        NoAnswer: none in time.
        StoreError: a refusal.
        ValueError: (and others of :data:`STORE_ERRORS`) what was found cannot be understood.
    """
    try:
        return future.result(deadline=deadline)
    except TimeoutError as error:
        future.cancel()
        raise NoAnswer(
            f"{place}: the store did not answer within {GIVE_UP:g} s; check the address and the network, then try again"
        ) from error
    except STORE_ERRORS as error:
        if str(error).startswith(_NO_ANSWER):
            raise NoAnswer(
                f"{place}: the store does not answer ({error}); check the address and the network, then try again"
            ) from error
        if str(error).startswith(_REFUSED):
            raise StoreError(
                f"{place}: the store refuses access ({error}); check the address and your credentials"
            ) from error
        raise


def read_files(place: str, names: Sequence[str], deadline: float) -> dict[str, bytes]:
    """The files ``names`` of the folder at ``place``, those that are there.

    Raises:
        StoreError: the store does not answer, or refuses all of them (some hide with a refusal what is not there).
        SynbbError: no tensorstore, or a file cannot be read.
    """
    library = tensorstore(place)
    try:
        store = settle(library.KvStore.open(kvstore(place), context=context()), place, deadline)
        asked = {name: store.read(name) for name in names}
        found, refusals = {}, []
        for name, future in asked.items():
            try:
                result = settle(future, f"{place}/{name}", deadline)
            except StoreError as error:
                if not str(error.__cause__).startswith(_REFUSED):
                    raise
                refusals.append(error)
                continue
            if result.state == "value":
                found[name] = bytes(result.value)
    except STORE_ERRORS as error:
        raise StoreError(f"{place}: cannot be read ({error})") from error
    if refusals and not found:
        raise refusals[0]
    return found


def read_json(place: str, names: Sequence[str], deadline: float | None = None) -> dict[str, dict[str, Any]]:
    """As :func:`read_files`, decoded; what is no JSON object (a web server's page, say) is left out."""
    found = {}
    for name, content in read_files(place, names, deadline or time.time() + GIVE_UP).items():
        try:
            value = json.loads(content)
        except ValueError:
            continue
        if isinstance(value, dict):
            found[name] = value
    return found
