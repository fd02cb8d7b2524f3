"""A web server over a folder, in a thread: ranges as object stores answer them, and faults on demand."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from aws_signature import signed_with

REGION = "nowhere-1"


class Keys(NamedTuple):
    """Of an S3 store."""

    access: str
    secret: str


_OBJECT = re.compile(r"^/storage/v1/b/([^/]+)/o/")  # of Google's JSON interface; the name's slashes are escaped


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # many connections at once: one that is refused would cost a client one of its attempts
    daemon_threads = True


class StoreServer:
    """Serves ``folder`` at :attr:`address`; folders in it are buckets of an S3 or GCS store.

    :meth:`s3` and :meth:`gs` say under which variables.

    Attributes:
        faults: (regular expression, what to do) for requests: a status, ``"silence"`` (as long as there is any fault),
            or ``"cut"`` in the middle.
        flaky: how many requests a path answers with 503 before the first good one.
        asked: requests by path.
        keys: requests signed with others, or not at all, are refused; None for a store that is open to all.
        token: the same of a bearer token.
    """

    def __init__(self, folder: Path) -> None:
        self.faults: list[tuple[str, int | str]] = []
        self.flaky = 0
        self.asked: Counter[str] = Counter()
        self.keys: Keys | None = None
        self.token: str | None = None
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                path = unquote(_OBJECT.sub(r"/\1/", self.path.partition("?")[0])).lstrip("/")
                outer.asked[path] += 1
                if not outer.admits(self.command, self.path, self.headers):
                    self.answer(403, b"")
                    return
                fault = next((do for pattern, do in outer.faults if re.search(pattern, path)), None)
                if fault == "silence":
                    until = time.monotonic() + 30
                    while outer.faults and time.monotonic() < until and not outer.closing.wait(0.05):
                        pass
                    self.close_connection = True
                    return
                if outer.asked[path] <= outer.flaky:
                    fault = 503
                if isinstance(fault, int):
                    self.answer(fault, b"")
                    return
                file = folder / path
                if not file.is_file():
                    self.answer(404, b"")
                    return
                content = file.read_bytes()
                if fault == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                    return
                wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
                if wanted is None:
                    self.answer(200, content)
                    return
                first, last = wanted.groups()
                start = int(first) if first else max(0, len(content) - int(last))
                stop = int(last) + 1 if first and last else len(content)
                part = content[start : min(stop, len(content))]
                if not part:
                    self.answer(416, b"")
                    return
                described = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(content)}"}
                self.answer(206, part, described)

            do_HEAD = do_GET

            def do_OPTIONS(self):
                self.answer(204, b"", {"Access-Control-Allow-Headers": "Range"})

            def answer(self, status, content, headers=None):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Access-Control-Allow-Origin", "*")  # pages of other servers may read it
                state = hashlib.sha256(content).hexdigest()  # object stores always tell one, each its own way
                self.send_header("ETag", f'"{state[:32]}"')
                self.send_header("x-goog-generation", str(int(state[:12], 16)))
                self.send_header("Last-Modified", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(0)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def admits(self, method: str, target: str, headers: Mapping[str, str]) -> bool:
        """Whether a request shows what this store asks for."""
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return False
        return self.keys is None or signed_with(*self.keys, REGION, method, target, headers)

    def s3(self, keys: Keys | None = None) -> dict[str, str]:
        """Variables with which ``s3://FOLDER/...`` means what lies below ``served/FOLDER``; unsigned without keys."""
        signing = {"AWS_NO_SIGN_REQUEST": "YES"}
        if keys is not None:
            signing = {"AWS_ACCESS_KEY_ID": keys.access, "AWS_SECRET_ACCESS_KEY": keys.secret}
        return {"AWS_ENDPOINT_URL_S3": self.address, "AWS_REGION": REGION, **signing}

    def gs(self, token: str) -> dict[str, str]:
        """Variables with which ``gs://FOLDER/...`` does, for a process that has not asked Google's store yet."""
        return {"TENSORSTORE_GCS_HTTP_URL": self.address, "GOOGLE_AUTH_TOKEN_FOR_TESTING": token}

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
