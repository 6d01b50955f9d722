"""Files that are written whole or not at all, and the record that tells whether a file is still up to date."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landmark.errors import UserError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is flushed to disk and renamed to `target`.

    A process that dies in between leaves `target` as it was; the next writer overwrites the left-over.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part-{target.name}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def keyed_folder(folder: Path, key: str) -> Path:
    """Make folder/key for half-way files of the work that `key` names, and remove those of any other work."""
    mine = folder / key
    if folder.exists():
        for other in folder.iterdir():
            if other != mine:
                shutil.rmtree(other)
    mine.mkdir(parents=True, exist_ok=True)
    return mine


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as part:
        part.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _identity(path: Path, known: dict | None = None) -> dict | None:
    """Size, time and content hash of a file, or None if it is not there.

    As git does, the content is read again only when size or time differ from what is `known`.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    if known and (known["size"], known["mtime_ns"]) == (stat.st_size, stat.st_mtime_ns):
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "blake2b": digest}


def _unchanged(path: Path, known: dict | None) -> bool:
    now = _identity(path, known)
    return (now and now["blake2b"]) == (known and known["blake2b"])


class Job:
    """One piece of a step's work: the files it reads, the settings it depends on, the files it makes.

    `reads` maps each input to the words that say how to make it. A job is done when its record says that the
    present outputs were made from the present inputs under the present settings; files are told by their place in
    the lists and their content, so that a moved project stays done.
    """

    def __init__(self, record: Path, *, reads: dict[Path, str], settings: dict, writes: list[Path]):
        self.record = record
        self.reads = reads
        # Through JSON, so that it compares equal to what is read back.
        self.settings = json.loads(json.dumps(settings))
        self.writes = writes
        self._began: list[dict | None] = []

    def is_done(self) -> bool:
        """True when nothing has to be done. Raises UserError when an input is missing."""
        for path, maker in self.reads.items():
            if not path.exists():
                raise UserError(f"{path} is missing; {maker}")
        try:
            known = json.loads(self.record.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return known["settings"] == self.settings and all(
            len(known[side]) == len(paths) and all(map(_unchanged, paths, known[side]))
            for side, paths in (("reads", self.reads), ("writes", self.writes))
        )

    def key(self) -> str:
        """A digest of settings and inputs, for work that is continued from a half-way file."""
        state = [self.settings, [_identity(p)["blake2b"] for p in self.reads]]
        return hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()

    def start(self) -> None:
        """Note the inputs as they are now, and forget an older result.

        A run that dies half-way is then not taken for done, nor is one whose inputs change while it works.
        """
        self._began = [_identity(p) for p in self.reads]
        self.record.unlink(missing_ok=True)

    def finish(self) -> None:
        """Record that the outputs on disk belong to the settings and the inputs of `start`."""
        write_json(
            self.record,
            {
                "settings": self.settings,
                "reads": self._began,
                "writes": [_identity(p) for p in self.writes],
            },
        )
