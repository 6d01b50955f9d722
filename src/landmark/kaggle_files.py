"""Data sets and competition files from Kaggle: whole or not at all, resumed after a kill, fetched once."""

import json
import os
import shutil
import stat
import sys
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile, ZipInfo

from landmark.errors import UserError
from landmark.kaggle_client import errors_explained, open_client
from landmark.progress import track
from landmark.store import write_json

if TYPE_CHECKING:
    from kagglesdk import KaggleClient
    from requests import Response


def download_competition(name: str, folder: Path) -> None:
    """Fetch all files of a competition into `folder`; where they lie there already nothing is asked of Kaggle.

    Raises UserError when Kaggle does not give them (rules not accepted, no such name), when the disk is too full,
    and for an archive that is damaged or leads out of the folder. A later call goes on with what there is.
    """

    def ask(client: "KaggleClient") -> "Response":
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

        request = ApiDownloadDataFilesRequest()
        request.competition_name = name
        return client.competitions.competition_api_client.download_data_files(request)

    _download(name, "kaggle.competitions", folder, ask)


def download_dataset(name: str, folder: Path) -> None:
    """Fetch the files of a data set, owner/name, into `folder`. As `download_competition`, with its errors."""

    def ask(client: "KaggleClient") -> "Response":
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = name.split("/")
        return client.datasets.dataset_api_client.download_dataset(request)

    _download(name, "kaggle.dataset", folder, ask)


def _download(name: str, setting: str, folder: Path, ask: Callable[["KaggleClient"], "Response"]) -> None:
    """Fetch the archive that `ask` opens, unpack it aside, move its files into place and record them.

    Half-way files lie in a hidden folder inside `folder`, on its disk, so that moving them is renaming.
    """
    label = name.replace("/", "-")
    record, part = folder / f".kaggle-{label}.json", folder / f".part-{label}"
    if _is_whole(record, folder):
        shutil.rmtree(part, ignore_errors=True)
        print(f"download: {name} is up to date ({folder})")
        return
    part.mkdir(parents=True, exist_ok=True)
    archive, unpacked = part / "archive.zip", part / "files"
    modified = _fetch(name, setting, archive, ask)
    files = _unpack(name, archive, unpacked)
    for path in sorted(unpacked.iterdir()):
        _move(path, folder / path.name)
    write_json(record, {"name": name, "modified": modified, "files": files})
    shutil.rmtree(part)
    print(f"download: {name}: {len(files)} files in {folder}")


def _is_whole(record: Path, folder: Path) -> bool:
    """Whether every recorded file lies there in its size."""
    try:
        files = json.loads(record.read_text(encoding="utf-8"))["files"]
        return all((folder / path).stat().st_size == size for path, size in files.items())
    except FileNotFoundError:
        return False


def _fetch(name: str, setting: str, archive: Path, ask: Callable[["KaggleClient"], "Response"]) -> str | None:
    """Download the archive, going on where a killed download ended; returns its date, where Kaggle tells it."""
    api = open_client()
    with errors_explained(name, setting):
        client = api.build_kaggle_client()
        response = ask(client)
    size = int(response.headers.get("Content-Length", 0))
    there = archive.stat().st_size if archive.exists() else 0
    print(f"download: {name}, {size / 1e6:,.1f} MB zipped, {there / 1e6:,.1f} MB of it there already")
    # Photographs hardly shrink in a zip, so that unpacked they take as much again.
    _require_room(archive.parent, 2 * size - there, name)
    with errors_explained(name, setting), response:
        if api.download_needed(response, str(archive)):
            quiet = not sys.stderr.isatty()
            try:
                api.download_file(response, str(archive), client.http_client(), quiet=quiet, resume=True)
            except ValueError:
                # Of another size than it should have: a refused retry (an expired address) was written into it.
                archive.unlink()
                raise
    return response.headers.get("Last-Modified")


def _unpack(name: str, archive: Path, target: Path) -> dict[str, int]:
    """Unpack into an empty `target`; returns the size in bytes of every file by its path. Checks each checksum."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        with ZipFile(archive) as zipped:
            entries = [entry for entry in zipped.infolist() if not entry.is_dir()]
            for entry in entries:
                if not _stays_inside(entry):
                    raise UserError(f"{name}: its archive has {entry.filename!r}, which leads out of the folder")
            _require_room(target, sum(entry.file_size for entry in entries), name)
            for entry in track(entries, len(entries), "unpacking", unit="files"):
                zipped.extract(entry, target)
    # RuntimeError: encrypted, or of another method.
    except (BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        archive.unlink()
        raise UserError(f"{name}: the archive came damaged ({error}); run the same command again") from error
    return {entry.filename: entry.file_size for entry in entries}


def _stays_inside(entry: ZipInfo) -> bool:
    """Whether an entry is a file below the folder that it is unpacked in, and no link."""
    path = PurePosixPath(entry.filename)
    is_link = stat.S_ISLNK(entry.external_attr >> 16)
    return not (path.is_absolute() or ".." in path.parts or "\\" in entry.filename or is_link)


def _move(source: Path, target: Path) -> None:
    """Put a file or folder in its place. What lies there already stays, but for files of the same name."""
    if source.is_dir() and target.is_dir():
        for child in source.iterdir():
            _move(child, target / child.name)
    else:
        os.replace(source, target)


def _require_room(folder: Path, needed: int, name: str) -> None:
    """Raise UserError when fewer than `needed` bytes are free on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{name}: {needed / 1e9:.1f} GB more are needed in {folder}, {free / 1e9:.1f} GB are free; make room,"
            " or take another disk with --set data=FOLDER"
        )
