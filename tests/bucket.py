"""A bucket like that of Google Landmarks v2, in a folder and over HTTP on this machine, with faults where asked."""

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Split -> shards, each a list of (id, bytes of the photograph).
Shards = dict[str, list[list[tuple[str, bytes]]]]


def make_bucket(folder: Path, shards: Shards, tables: dict[str, str]) -> Path:
    """Write the bucket's files. tables: path in the bucket, as metadata/train.csv, -> text."""
    for split, of in shards.items():
        for number, photographs in enumerate(of):
            members = [(f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg", data) for i, data in photographs]
            put_shard(folder, split, number, make_tar(members))
    for path, text in tables.items():
        put(folder / path, text.encode())
    return folder


def put_shard(folder: Path, split: str, number: int, tar: bytes) -> None:
    """Write a shard and its sum."""
    put(folder / split / f"images_{number:03}.tar", tar)
    line = f"{hashlib.md5(tar).hexdigest()}  images_{number:03}.tar\n"
    put(folder / "md5sum" / split / f"md5.images_{number:03}.txt", line.encode())


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def make_tar(members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    """A tar file with the folders that the members lie in, as the published ones have."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        folders = set()
        for member, data in members:
            if isinstance(member, str):
                for parent in reversed(Path(member).parents[:-1]):
                    if parent not in folders and ".." not in parent.parts and not parent.is_absolute():
                        folders.add(parent)
                        info = tarfile.TarInfo(str(parent))
                        info.type = tarfile.DIRTYPE
                        tar.addfile(info)
                member = tarfile.TarInfo(member)
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


class BucketServer(ThreadingHTTPServer):
    """Serves a folder with byte ranges. Faults by path (`train/images_000.tar`):

    cut: numbers of bytes after which the next answers break off. status: codes of the next answers. whole: paths
    whose ranges are ignored. shifted: paths whose ranges begin elsewhere than was asked. delay: seconds to wait
    after each 64 KiB. requests: what was asked, (method, path, Range or None).
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        self.folder = folder
        self.cut: dict[str, list[int]] = {}
        self.status: dict[str, list[int]] = {}
        self.whole: set[str] = set()
        self.shifted: set[str] = set()
        self.delay = 0.0
        self.requests: list[tuple[str, str, str | None]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, path: str) -> list[str | None]:
        """The ranges that were asked of a path."""
        return [r for method, p, r in self.requests if method == "GET" and p == path]

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: BucketServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server, path = self.server, self.path.lstrip("/")
        asked = self.headers.get("Range")
        server.requests.append((self.command, path, asked))
        file = server.folder / path
        status = server.status.get(path)
        if body and status:
            return self._plain(status.pop(0))
        if not file.is_file():
            return self._plain(404)
        data = file.read_bytes()
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        start = 0
        if asked and path not in server.whole and self.headers.get("If-Range", etag) == etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(data):
                return self._plain(416)
            shift = 1 if path in server.shifted else 0
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start - shift}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            self._send(data[start:], server.cut.get(path))
        return None

    def _plain(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes, cuts: list[int] | None) -> None:
        if cuts:
            data = data[: cuts.pop(0)]
            self.close_connection = True
        pause = threading.Event()
        for start in range(0, len(data), 1 << 16):
            self.wfile.write(data[start : start + (1 << 16)])
            if self.server.delay:
                pause.wait(self.server.delay)

    def log_message(self, *_) -> None:
        """Quiet."""


@contextmanager
def serve(folder: Path) -> Iterator[BucketServer]:
    """Serve a bucket while the block runs."""
    with BucketServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
