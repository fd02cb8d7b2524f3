"""Whether a request is signed with a key, as S3 checks it (AWS Signature Version 4)."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote

ALGORITHM = "AWS4-HMAC-SHA256"
_SIGNED = re.compile(
    ALGORITHM
    + r" ?Credential=(?P<key>[^/]+)/(?P<scope>(?P<day>\d{8})/(?P<region>[^/]+)/s3/aws4_request), ?"
    + r"SignedHeaders=(?P<names>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


def signed_with(key: str, secret: str, region: str, method: str, target: str, headers: Mapping[str, str]) -> bool:
    """Whether the header ``Authorization`` of a request is what ``key`` and ``secret`` give.

    Args:
        key: access key.
        secret: secret key.
        region: of the store.
        method: GET, HEAD ...
        target: path and query as they came.
        headers: of the request, found whatever their case.
    """
    found = _SIGNED.fullmatch(headers.get("Authorization", ""))
    names = found["names"].split(";") if found else []
    if found is None or (found["key"], found["region"]) != (key, region) or "host" not in names:
        return False
    path, _, query = target.partition("?")
    pairs = sorted((_encoded(name), _encoded(value)) for name, value in parse_qsl(query, keep_blank_values=True))
    canonical = [
        method,
        quote(unquote(path), safe="/-_.~"),
        "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
        "",
        found["names"],
        headers.get("x-amz-content-sha256", ""),
    ]
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    signing = f"AWS4{secret}".encode()
    for part in (found["day"], region, "s3", "aws4_request"):
        signing = _keyed(signing, part)
    text = "\n".join([ALGORITHM, headers.get("x-amz-date", ""), found["scope"], digest])
    return hmac.compare_digest(_keyed(signing, text).hex(), found["signature"])


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _keyed(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
