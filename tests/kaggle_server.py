"""A small Kaggle on this machine, which the real client is led to; with faults on order.

With KAGGLE_API_ENVIRONMENT=LOCALHOST the client talks to http://localhost, and this server is its HTTP proxy, so
that any free port will do. As the proxy for https too it would get, and refuse, what is meant for the real Kaggle.
"""

import hashlib
import json
import os
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

TOKEN = "KGAT_good"
_MODIFIED = "Mon, 03 Jun 2019 10:00:00 GMT"


class KaggleServer(ThreadingHTTPServer):
    """What it was asked, and what it is to answer.

    calls: (name, request) of each call in order. faults: by name of a call, answers
    (status, JSON or text) that come once each; None is the right one, status 0 hangs up. pending: how often a
    submission is looked at before it is scored. tells_ref: whether a new submission's number is told. archive: of
    every data set and competition. cuts: after so many bytes a download stalls, once each, until `stall` is set;
    then it breaks off.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[tuple[str, dict]] = []
        self.faults: dict[str, list[tuple[int, object] | None]] = defaultdict(list)
        self.limits = {"numToday": 1, "numTotal": 7, "numAllowedNow": 4}
        self.pending = 0
        self.tells_ref = True
        self.outcome = {"status": "COMPLETE", "publicScore": "0.31415", "privateScore": "0.27182"}
        self.uploads: dict[str, bytes] = {}
        self.submissions: list[dict] = []
        self.archive = b""
        self.cuts: list[int] = []
        self.stall = threading.Event()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that lead the client here, with a token and nothing else of the user's."""
        proxy = f"http://127.0.0.1:{self.server_port}"
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy),
            **dict.fromkeys(("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"), ""),
            **{name: "" for name in os.environ if name.startswith("KAGGLE_") and name != "KAGGLE_API_ENVIRONMENT"},
            "KAGGLE_API_TOKEN": TOKEN,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
        }

    def names(self) -> list[str]:
        """The names of the calls in order."""
        return [name for name, _ in self.calls]

    def StartSubmissionUpload(self, request: dict) -> dict:  # noqa: N802
        token = f"blob-{len(self.uploads)}-{request['fileName']}"
        return {"token": token, "createUrl": f"http://localhost/blob/{token}"}

    def CreateSubmission(self, request: dict) -> dict:  # noqa: N802
        name = request["competitionName"]
        assert request["blobFileTokens"] in self.uploads
        ref = 1000 + len(self.submissions)
        told = {
            "ref": ref,
            "date": "2026-01-02T03:04:05.678Z",
            "fileName": request["blobFileTokens"].split("-", 2)[2],
            "description": request["submissionDescription"],
        }
        self.submissions.insert(0, {"told": told, "looks": 0, "competition": name})
        return {"message": f"Successfully submitted to {name}"} | ({"ref": ref} if self.tells_ref else {})

    def ListSubmissions(self, request: dict) -> dict:  # noqa: N802
        listed = []
        for submission in self.submissions:
            submission["looks"] += 1
            done = self.outcome if submission["looks"] > self.pending else {"status": "PENDING"}
            listed.append(submission["told"] | done)
        return {"submissions": listed}

    def GetSubmissionLimits(self, request: dict) -> dict:  # noqa: N802
        return self.limits


class _Handler(BaseHTTPRequestHandler):
    server: KaggleServer

    def do_POST(self):  # noqa: N802
        name = self.path.rsplit("/", 1)[-1]
        body = json.loads(self._body() or b"{}")
        if name == "IntrospectToken":
            self.server.calls.append((name, {}))
            return self._json(200, {"active": body["token"] == TOKEN, "username": "someone"})
        if self._told(name, body):
            return None
        if not self.headers.get("Authorization"):
            return self._json(401, {"code": 401, "message": "Unauthenticated"})
        if name in ("DownloadDataFiles", "DownloadDataset"):
            self.send_response(302)
            self.send_header("Location", "http://localhost/storage/archive.zip?sig=abc")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self._json(200, getattr(self.server, name)(body))

    def do_PUT(self):  # noqa: N802
        body = self._body()
        if not self._told("blob", {"bytes": len(body)}):
            self.server.uploads[self.path.rsplit("/", 1)[-1]] = body
            self._json(200, {})

    def do_GET(self):  # noqa: N802
        asked = self.headers.get("Range")
        if self._told("storage", {"range": asked}) or urlsplit(self.path).path != "/storage/archive.zip":
            return
        archive, etag = self.server.archive, f'"{hashlib.md5(self.server.archive).hexdigest()}"'
        start = 0
        if asked and self.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        for header, value in (("ETag", etag), ("Last-Modified", _MODIFIED), ("Accept-Ranges", "bytes")):
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(archive) - start))
        self.end_headers()
        end = start + self.server.cuts.pop(0) if self.server.cuts else len(archive)
        self.wfile.write(archive[start:end])
        if end < len(archive):
            self.wfile.flush()
            self.server.stall.wait(30)

    def do_CONNECT(self):  # noqa: N802
        self.server.calls.append(("CONNECT", {"to": self.path}))
        self.send_error(502, "nothing leaves this machine")

    def _told(self, name: str, request: dict) -> bool:
        """Note the call; answer it where a fault is ordered."""
        self.server.calls.append((name, request))
        if not self.server.faults[name]:
            return False
        fault = self.server.faults[name].pop(0)
        if fault is None:
            return False
        status, answer = fault
        if status == 0:
            self.connection.close()
        else:
            self._json(status, answer)
        return True

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, status: int, answer: object) -> None:
        is_text = isinstance(answer, str)
        body = answer.encode() if is_text else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if is_text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass
