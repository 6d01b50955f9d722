"""Results that are written down one by one, so that a killed run loses only the one it was at."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from landmark.store import keyed_folder


class Journal:
    """Lines of JSON in one file per writer. The folder's name holds `key`: other work's lines are never read."""

    def __init__(self, folder: Path, key: str):
        self.folder = folder / key

    def open(self) -> None:
        """Make the folder, and remove the lines of other work."""
        keyed_folder(self.folder.parent, self.folder.name)

    def read(self) -> Iterator[dict]:
        """Every whole line of every writer. The last line of one that was killed may be torn; it is left out."""
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def write(self, writer: int, entries: Iterator[dict]) -> None:
        """Append entries as they come."""
        path = self.folder / f"{writer}.jsonl"
        with path.open("a+b") as file:
            # Behind a torn line the next one would be lost too.
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            for entry in entries:
                file.write(json.dumps(entry).encode() + b"\n")
                file.flush()

    def clear(self) -> None:
        """Remove all lines, once what came of them is recorded as done."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)
