"""An S3 endpoint on loopback that can be told to fail."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUSY = b"<Error><Code>ServiceUnavailable</Code><Message>healing</Message></Error>"
NO_LENGTH = b"<Error><Code>MissingContentLength</Code></Error>"
NO_KEY = b"<Error><Code>NoSuchKey</Code></Error>"
STAMP = "2026-01-01T00:00:00.000Z"
Query = dict[str, list[str]]


class Bucket:
    """One bucket, ``store``, in memory; as much of S3 as pyarrow asks for.

    Args:
        chunks: Whether uploads may come without their length; Ceph 16 refuses that.
    """

    def __init__(self, *, chunks: bool = True) -> None:
        self.chunks = chunks
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.refused = 0
        self._until = 0.0
        handler = type("Handler", (_Handler,), {"bucket": self})
        self.server = _Server(("127.0.0.1", 0), handler)

    @property
    def uri(self) -> str:
        """Names a store in it."""
        at = f"127.0.0.1%3A{self.server.server_port}"
        return f"s3://key:secret@store/here?scheme=http&endpoint_override={at}"

    def fail_for(self, seconds: float) -> None:
        """Answer 503 to everything for so long."""
        self._until = time.monotonic() + seconds

    def fails(self) -> bool:
        """Whether it does."""
        return time.monotonic() < self._until

    def __enter__(self) -> Bucket:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A driver that is killed breaks its connection."""


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._serve(self._head)

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_PUT(self) -> None:
        self._serve(self._put)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def _serve(self, verb: Any) -> None:
        body = self._body()
        if self.bucket.fails():
            self.bucket.refused += 1
            self._answer(503, BUSY)
            return
        if not self.bucket.chunks and "Transfer-Encoding" in self.headers:
            self._answer(411, NO_LENGTH)
            return
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        verb(unquote(parts.path).removeprefix("/store").lstrip("/"), query, body)

    def _body(self) -> bytes:
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = _unchunked(self.rfile)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            return _unchunked(io.BytesIO(body))
        return body

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, key: str, _query: Query, _body: bytes) -> None:
        found = self.bucket.objects.get(key, b"")
        if key and key not in self.bucket.objects:
            self._answer(404)
            return
        self._answer(200, length=str(len(found)), ETag=_etag(found))

    def _get(self, key: str, query: Query, _body: bytes) -> None:
        if not key:
            self._answer(200, self._listing(query), Content_Type="application/xml")
            return
        content = self.bucket.objects.get(key)
        if content is None:
            self._answer(404, NO_KEY)
            return
        wanted = self.headers.get("Range")
        if not wanted:
            self._answer(200, content, ETag=_etag(content))
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(content)), len(content) - 1)
        span = f"bytes {start}-{end}/{len(content)}"
        part = content[start : end + 1]
        self._answer(206, part, Content_Range=span, ETag=_etag(content))

    def _put(self, key: str, query: Query, body: bytes) -> None:
        source = self.headers.get("x-amz-copy-source")
        if "partNumber" in query:
            upload = self.bucket.uploads[query["uploadId"][0]]
            upload[int(query["partNumber"][0])] = body
        elif source:
            name = unquote(source).lstrip("/").removeprefix("store/")
            self.bucket.objects[key] = self.bucket.objects[name]
            tag = "CopyObjectResult"
            self._answer(200, f"<{tag}><ETag>{_etag(body)}</ETag></{tag}>".encode())
            return
        elif key:
            self.bucket.objects[key] = body
        self._answer(200, ETag=_etag(body))

    def _post(self, key: str, query: Query, _body: bytes) -> None:
        if "uploads" in query:
            name = f"u{time.monotonic_ns()}"
            self.bucket.uploads[name] = {}
            tag = "InitiateMultipartUploadResult"
            self._answer(200, f"<{tag}><UploadId>{name}</UploadId></{tag}>".encode())
            return
        parts = self.bucket.uploads.pop(query["uploadId"][0])
        self.bucket.objects[key] = b"".join(parts[n] for n in sorted(parts))
        tag = "CompleteMultipartUploadResult"
        self._answer(200, f"<{tag}><Key>{escape(key)}</Key></{tag}>".encode())

    def _delete(self, key: str, _query: Query, _body: bytes) -> None:
        self.bucket.objects.pop(key, None)
        self._answer(204)

    def _listing(self, query: Query) -> bytes:
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        rows, folders = [], set()
        for key in sorted(self.bucket.objects):
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            size = len(self.bucket.objects[key])
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
                f"<LastModified>{STAMP}</LastModified></Contents>"
            )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>"
            for f in sorted(folders)
        )
        count = len(rows) + len(folders)
        return (
            f"<ListBucketResult><Name>store</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>"
            f"{''.join(rows)}{common}</ListBucketResult>"
        ).encode()


def _unchunked(file: BinaryIO) -> bytes:
    """Chunks, each after a line with its size, up to an empty one and its trailer."""
    plain = b""
    while size := int(file.readline().partition(b";")[0], 16):
        plain += file.read(size)
        file.readline()
    while file.readline().strip():
        pass
    return plain


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
