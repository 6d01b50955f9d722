"""A run that begins with what another run has done, without a second copy on disk."""

import json
import os
import shutil
from pathlib import Path

from landmark.store import write_json

# What steps 01 to 06 make for good. Not among it: what is written in place or belongs to work that has not ended
# (TensorBoard's events, a journal's lines, parts, checkpoints), locks, and recipe.json, which is each run's own.
_RESULTS = (
    "*.csv",
    "competition/*",
    "cleaning/*",
    "models/*",
    "descriptors/*",
    "descriptors/*/*",
    "recognition/*",
    "done/0[1-6]_*.json",
)


def seed_run(source: Path, target: Path) -> None:
    """Link the results in the run folder `source` into `target`, so that the steps take them for done there.

    A file that is missing in target is linked; one that was linked before is linked anew when source has another
    since; one that target's own steps made stays. That is only to save work: whether a result is up to date the
    steps tell by its record and its content. They replace files and never write into one that is there, so that
    nothing of source changes with target. seeded.json has size and time of what was linked.
    """
    manifest = target / "seeded.json"
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    linked = {}
    for path in _results(source):
        name = path.relative_to(source).as_posix()
        theirs, mine = _state(path), _state(target / name)
        if mine is None or mine == known.get(name) != theirs:
            link(path, target / name)
            mine = theirs
        if mine == theirs:
            linked[name] = theirs
    if linked != known:
        write_json(manifest, linked)


def records(folder: Path) -> list[Path]:
    """The records of what steps 01 to 06 have done in a run folder; they change with every result."""
    return sorted((folder / "done").glob("0[1-6]_*.json"))


def _results(folder: Path) -> list[Path]:
    found = (path for pattern in _RESULTS for path in sorted(folder.glob(pattern)))
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _state(path: Path) -> list[int] | None:
    """Size and time of a file, or None if it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def link(path: Path, target: Path) -> None:
    """Put a hard link to `path`, or a copy where there can be none, in the place of `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name that no step writes to: it would write into the linked file after a kill in between.
    link = target.with_name(f".link-{target.name}")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        # Two file systems, or one without links.
        shutil.copy2(path, link)
    os.replace(link, target)
