"""A bucket like that of Google Landmarks v2, in a folder and over HTTP on this machine, with faults as asked."""

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

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


_COUNTS = {"train": 3, "index": 2, "test": 1}
PER_SHARD = 4


def photograph(split, number, place) -> tuple[str, bytes]:
    """An id, and a photograph of noise, 120 px wide."""
    image_id = hashlib.md5(f"{split} {number} {place}".encode()).hexdigest()[:16]
    noise = np.random.default_rng(int(image_id, 16)).integers(0, 255, (80, 120, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    return image_id, file.getvalue()


SHARDS = {
    s: [[photograph(s, n, i) for i in range(PER_SHARD)] for n in range(count)] for s, count in _COUNTS.items()
}
IDS = {split: [i for shard in shards for i, _ in shard] for split, shards in SHARDS.items()}


def csv(header, rows) -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def miniature(folder: Path) -> Path:
    """Write a bucket of SHARDS and tables()."""
    return make_bucket(folder, SHARDS, tables())


def tables() -> dict[str, str]:
    """Landmark 1 has the even train images, 2 the odd; the first query shows both index shards' first image."""
    train, index, test = IDS["train"], IDS["index"], IDS["test"]
    return {
        "metadata/train.csv": csv(
            "id,url,landmark_id", [(i, "http://x/y", str(n % 2 + 1)) for n, i in enumerate(train)]
        ),
        "metadata/index.csv": csv("id", [(i,) for i in index]),
        "metadata/test.csv": csv("id", [(i,) for i in test]),
        "metadata/train_clean.csv": csv("landmark_id,images", [("1", " ".join(train[::2])), ("2", train[-1])]),
        "metadata/train_label_to_category.csv": csv(
            "landmark_id,category",
            [("1", "http://commons.wikimedia.org/wiki/Category:Caf%C3%A9_de_Flore"), ("2", "Category:B")],
        ),
        "ground_truth/retrieval_solution_v2.1.csv": csv(
            "id,images,Usage",
            [(test[0], f"{index[0]} {index[PER_SHARD]}", "Public"), (test[1], index[PER_SHARD], "Private")]
            + [(i, "None", "Ignored") for i in test[2:]],
        ),
        "ground_truth/recognition_solution_v2.1.csv": csv(
            "id,landmarks,Usage", [(test[0], "1", "Public")] + [(i, "", "Private") for i in test[1:]]
        ),
    }


class BucketServer(ThreadingHTTPServer):
    """Serves a folder with byte ranges. Faults by path (`train/images_000.tar`):

    cut: numbers of bytes after which the next answers break off. status: codes of the next answers. whole: paths
    whose ranges are ignored. shifted: paths whose ranges begin elsewhere than was asked. endless: paths whose
    ranges go on for 64 MiB. delay: seconds to wait after each 64 KiB of a tar. requests: what was asked,
    (method, path, Range or None).
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        self.folder = folder
        self.cut: dict[str, list[int]] = {}
        self.status: dict[str, list[int]] = {}
        self.whole: set[str] = set()
        self.shifted: set[str] = set()
        self.endless: set[str] = set()
        self.delay = 0.0
        self.requests: list[tuple[str, str, str | None]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, path: str) -> list[str | None]:
        """The ranges that were asked of a path."""
        return [r for method, p, r in self.requests if method == "GET" and p == path]

    def transferred(self) -> list[str]:
        """The shards that were asked for, whole or in part."""
        return [path for method, path, _ in self.requests if method == "GET" and path.endswith(".tar")]

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
        if start and path in server.endless:
            return self._send_endless()
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            self._send(data[start:], server.cut.get(path))
        return None

    def _plain(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_endless(self) -> None:
        """As long as the client listens."""
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            for _ in range(1024):
                self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    def _send(self, data: bytes, cuts: list[int] | None) -> None:
        if cuts:
            data = data[: cuts.pop(0)]
            self.close_connection = True
        pause = threading.Event()
        for start in range(0, len(data), 1 << 16):
            self.wfile.write(data[start : start + (1 << 16)])
            if self.server.delay and self.path.endswith(".tar"):
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
