"""A server that speaks as much of the Hugging Face Hub's protocol as its own client library needs to list and read.

The hub itself cannot be installed. Here a model's revisions are dictionaries of file names and bytes.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

Revisions = dict[str, dict[str, bytes]]


@contextmanager
def serving(models: dict[str, Revisions]) -> Iterator[str]:
    """The address of a hub that has these models."""
    handler = type("Handler", (_Handler,), {"models": models})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: dict[str, Revisions]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(refs|revision|tree)(?:/([^/]+))?(?:/.*)?)?", path):
            self._about(match[1], match[2], unquote(match[3] or "main"))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(self.models.get(match[1], {}).get(unquote(match[2]), {}).get(unquote(match[3])))
        else:
            self._missing("RepoNotFound")

    def _about(self, model: str, what: str | None, revision: str) -> None:
        revisions = self.models.get(model)
        if revisions is None:
            self._missing("RepoNotFound")
        elif what == "refs":
            refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": "0" * 40} for name in revisions]
            self._json({"branches": refs, "tags": [], "converts": []})
        elif revision not in revisions:
            self._missing("RevisionNotFound")
        elif what == "tree":
            files = revisions[revision].items()
            self._json([{"type": "file", "path": name, "size": len(b), "oid": _oid(b)} for name, b in files])
        else:
            self._json({"id": model, "modelId": model, "sha": "0" * 40, "siblings": []})

    def _file(self, data: bytes | None) -> None:
        if data is None:
            self._missing("EntryNotFound")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if wanted is None:
            self._answer(200, data, "application/octet-stream", {"ETag": _oid(data)})
            return
        begin, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        headers = {"ETag": _oid(data), "Content-Range": f"bytes {begin}-{last}/{len(data)}"}
        self._answer(206, data[begin : last + 1], "application/octet-stream", headers)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), "application/json", {})

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", "application/json", {"X-Error-Code": code})

    def _answer(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
