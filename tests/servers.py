"""Servers on this machine, among them a hub with one dataset, as `datasets` and `huggingface_hub` ask it."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

DATASET, COMMIT = "owner/name", "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers with the files of one dataset."""

    def __init__(self, files: dict[str, bytes], *arguments: Any) -> None:
        """Keep what is served; the base class answers at once."""
        self._files = files
        super().__init__(*arguments)

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path.startswith(f"/datasets/{DATASET}/resolve/"):
            self._answer_file(path.split("/", 6)[6])
        elif path.startswith(f"/api/datasets/{DATASET}/tree/"):
            self._answer_tree(path.split("/")[7:], deep="recursive=true" in url.query.lower())
        elif path.startswith(f"/api/datasets/{DATASET}"):
            self._answer(json.dumps({"id": DATASET, "sha": COMMIT, "tags": [], "siblings": []}).encode())
        else:
            self._answer(b"", 404, {"X-Error-Code": "RepoNotFound"})

    def _answer_file(self, name: str) -> None:
        content = self._files.get(name)
        if content is None:
            self._answer(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"ETag": f'"{sha1(content, usedforsecurity=False).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(content, 200, headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1]
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        self._answer(part, 206, headers | {"Content-Range": span})

    def _answer_tree(self, parts: list[str], *, deep: bool) -> None:
        folder = "".join(f"{part}/" for part in parts)
        inside = {name.removeprefix(folder): name for name in self._files if name.startswith(folder)}
        folders = {folder + rest.partition("/")[0] for rest in inside if "/" in rest}
        entries: list[dict[str, object]] = [{"type": "directory", "path": name, "oid": "0"} for name in folders]
        for rest, name in inside.items():
            if deep or "/" not in rest:
                content = self._files[name]
                oid = sha1(content, usedforsecurity=False).hexdigest()
                entries.append({"type": "file", "path": name, "size": len(content), "oid": oid})
        self._answer(json.dumps(entries).encode() if inside else b"{}", 200 if inside else 404)

    def _answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on this machine, and give the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """Return a port that nobody listens on; Kedro-Viz takes none above 49151, where the system's own choices lie."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("all ports are taken")
