"""Files fetched over HTTP, gone on with where a connection was cut or a process was killed."""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from landmark.errors import UserError
from landmark.store import write_json

# In a row, none of which brought a byte more of the file than there had been. With the waits between them they
# take some five minutes, within which a line may come back.
TRIES = 10
_LONGEST_WAIT = 60.0
# Seconds to connect, and that a server may be silent.
_TIMEOUT = (15, 60)
# Bytes; of a connection that is cut less than this is lost.
_CHUNK = 1 << 16
_WAY_OUT = "check the network and the address, and run it again"


class Missing(UserError):
    """The server does not have the file, or does not show it."""


@dataclass(frozen=True)
class Remote:
    """A file as a server has it.

    size: in bytes. validator: the ETag, or else the date of the last change, that tells this version of the file
    from another; empty where the server gives neither.
    """

    url: str
    size: int
    validator: str


def open_session(connections: int) -> requests.Session:
    """A session for so many threads; where a server does not answer or is at its limit, it tries again."""
    session = requests.Session()
    retry = Retry(
        total=3,
        backoff_factor=1,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET", "HEAD"),
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(
            scheme, HTTPAdapter(max_retries=retry, pool_connections=connections, pool_maxsize=connections)
        )
    # What is compressed on the way has neither the size nor the byte ranges of the file.
    session.headers["Accept-Encoding"] = "identity"
    # Cookies are all that threads would change in a session.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


def look_up(session: requests.Session, url: str) -> Remote:
    """Ask for a file's size and version. Raises Missing, and UserError when the server cannot be asked."""
    try:
        with session.head(url, timeout=_TIMEOUT, allow_redirects=True) as response:
            return _remote(url, response)
    except requests.RequestException as error:
        raise UserError(f"{url}: {in_one_line(error)}; {_WAY_OUT}") from error


def read_text(session: requests.Session, url: str) -> str:
    """The text of a small file. Raises as look_up."""
    try:
        with session.get(url, timeout=_TIMEOUT) as response:
            _check(url, response)
            return response.text
    except requests.RequestException as error:
        raise UserError(f"{url}: {in_one_line(error)}; {_WAY_OUT}") from error


def bytes_had(remote: Remote, part: Path) -> int:
    """How many bytes of `part` are the beginning of the file; none where they are of another version of it."""
    if not (part.exists() and is_source(remote, part)):
        return 0
    size = part.stat().st_size
    return size if size <= remote.size else 0


def is_source(remote: Remote, part: Path) -> bool:
    """Whether `part` was begun as this version of this file."""
    return _source(part) == remote


def source_path(part: Path) -> Path:
    """Where it is noted which file the bytes of `part` are of."""
    return part.with_name(f"{part.name}.json")


def _source(part: Path) -> Remote | None:
    try:
        return Remote(**json.loads(source_path(part).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def fetch(session: requests.Session, remote: Remote, part: Path, count: Callable[[int], None]) -> Remote:
    """Make `part` the whole file, going on from the bytes that are there; returns what was fetched.

    That is another version where the server's file changed meanwhile. count: told of bytes as they arrive, and of
    bytes given up, as less than 0. Raises Missing, and UserError after TRIES that brought nothing.
    """
    most = bytes_had(remote, part)
    failures = 0
    while (had := bytes_had(remote, part)) < remote.size or not part.exists():
        if had == 0:
            _begin(remote, part)
        try:
            _receive(session, remote, part, had, count)
            reason = f"{remote.size:,} bytes were announced and others came"
        except requests.RequestException as error:
            reason = in_one_line(error)
        remote = _source(part)
        had = bytes_had(remote, part)
        failures = 0 if had > most or had == remote.size else failures + 1
        most = max(most, had)
        if failures == TRIES:
            raise UserError(f"{remote.url}: {reason}; after {TRIES} tries without progress; run it again to go on")
        if failures:
            time.sleep(min(_LONGEST_WAIT, 2.0 ** (failures - 1)))
    with part.open("rb") as file:
        os.fsync(file.fileno())
    return remote


def _receive(
    session: requests.Session, remote: Remote, part: Path, had: int, count: Callable[[int], None]
) -> None:
    """Append what the server sends to `part`, or begin it anew where it sends the whole file."""
    headers = {}
    if had:
        headers["Range"] = f"bytes={had}-"
        if remote.validator and not remote.validator.startswith("W/"):
            headers["If-Range"] = remote.validator
    with session.get(remote.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416 or (response.status_code == 206 and not _goes_on(response, remote, had)):
            _begin(remote, part)
            count(-had)
            return
        _check(remote.url, response)
        if response.status_code != 206:
            # Noted beside the part, so that it is known even where this connection is cut.
            remote = _remote(remote.url, response)
            _begin(remote, part)
            count(-had)
        with part.open("ab") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                count(len(chunk))
                if file.tell() > remote.size:
                    break  # more than was announced, and perhaps without end


def _goes_on(response: requests.Response, remote: Remote, had: int) -> bool:
    """Whether what is sent are the file's bytes from `had` on, of the same version."""
    start = re.fullmatch(rf"bytes {had}-\d+/{remote.size}", response.headers.get("Content-Range", ""))
    return bool(start) and _validator(response) in ("", remote.validator)


def _begin(remote: Remote, part: Path) -> None:
    """Make `part` empty, and note what it is going to be."""
    part.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    write_json(source_path(part), asdict(remote))
    part.touch()


def _remote(url: str, response: requests.Response) -> Remote:
    _check(url, response)
    size = response.headers.get("Content-Length", "")
    if not size.isdecimal():
        raise UserError(f"{url}: the server does not tell the file's size")
    return Remote(url, int(size), _validator(response))


def _validator(response: requests.Response) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified", "")


def _check(url: str, response: requests.Response) -> None:
    """Raise Missing or, for what may pass, requests' HTTPError where the answer is no file."""
    # A bucket that may not be listed answers 403 for what is not there.
    if response.status_code in (403, 404, 410):
        raise Missing(f"{url}: {response.status_code} {response.reason}")
    response.raise_for_status()


def in_one_line(error: requests.RequestException) -> str:
    """What is wrong, in one line; of a failed connection the innermost reason, without the addresses around it."""
    reason = getattr(error.args[0] if error.args else None, "reason", None) or error
    return " ".join(str(reason).rpartition("): ")[2].split())
