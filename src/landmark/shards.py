"""Photographs out of a tar file of Google Landmarks v2: only what belongs there, each whole and decoded once."""

import multiprocessing
import os
import re
import signal
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Thread

import cv2
from PIL import Image, UnidentifiedImageError

from landmark.errors import UserError
from landmark.images import BadImage, fit, largest_shrink, read_image

LARGEST_FILE = 64 << 20
_JPEG_QUALITY = 90
# What a .jpg may be in truth, for the steps read it. Pillow knows more, and has Ghostscript run PostScript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_PHOTOGRAPH = re.compile(r"(?:\./)?([0-9a-f])/([0-9a-f])/([0-9a-f])/(\1\2\3[0-9a-f]{13})\.jpg")
_FOLDER = re.compile(r"\.|(?:\./)?[0-9a-f](?:/[0-9a-f]){0,2}")


@dataclass
class Extracted:
    """What a shard came to: the ids on disk, their files' bytes together, and by id why others do not decode."""

    ids: list[str]
    size: int
    bad: dict[str, str]


def photograph_path(folder: Path, image_id: str) -> Path:
    """folder/a/b/c/<id>.jpg"""
    return folder / image_id[0] / image_id[1] / image_id[2] / f"{image_id}.jpg"


def extract(tar: Path, folder: Path, longest_side: int | None) -> Extracted:
    """Write the photographs of a tar file below `folder`; when it returns they are on the disk for good.

    longest_side: larger ones are shrunk to it and compressed anew; the others keep their bytes. Raises UserError
    that names the member for anything but photographs, and for a tar file that breaks off.
    """
    done = Extracted([], 0, {})
    seen = set()
    # Of the shard's own name, so that a run after one that was killed overwrites it.
    part = folder / f".part-{tar.stem}.jpg"
    for image_id, data in photographs(tar):
        if image_id in seen:
            raise UserError(f"{image_id}.jpg is in it twice")
        seen.add(image_id)
        path = photograph_path(folder, image_id)
        try:
            height, width = decoded_size(data)
            done.size += _write(part, path, data, height, width, longest_side)
            done.ids.append(image_id)
        except BadImage as error:
            done.bad[image_id] = str(error)
    # Once for thousands of files: an fsync of each took 2.5 times as long as writing them on a fast disk, and
    # would cost a turn of the platter on a slow one. Until it returns the shard is not done.
    os.sync()
    return done


def photographs(tar: Path) -> Iterator[tuple[str, bytes]]:
    """The id and the bytes of each photograph, in the tar file's order. Raises UserError as `extract`."""
    try:
        # Read as a stream, so that no member can refer to another, and nothing but its bytes is ever used.
        with tarfile.open(tar, "r|") as archive:
            for member in archive:
                if member.isdir() and _FOLDER.fullmatch(member.name):
                    continue
                match = _PHOTOGRAPH.fullmatch(member.name)
                if match is None or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise UserError(f"{_shown(member)} is not a photograph a/b/c/<id>.jpg")
                if member.size > LARGEST_FILE:
                    raise UserError(f"{_shown(member)} has {member.size:,} bytes; {LARGEST_FILE:,} are allowed")
                yield match[4], archive.extractfile(member).read()
                archive.members.clear()  # tarfile would remember all
            end = archive.offset
    except (UserError, OSError):
        raise
    except Exception as error:  # whatever tarfile makes of odd bytes: odd extended headers are a ValueError
        raise UserError(f"the tar file is broken: {error}") from error
    # tarfile takes a file that ends between two members, or goes on with rubbish, for one that ends well.
    with tar.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UserError(f"the tar file is broken: it has no end mark at byte {end:,}")


def _shown(member: tarfile.TarInfo) -> str:
    kinds = {tarfile.SYMTYPE: "symbolic link ", tarfile.LNKTYPE: "hard link ", tarfile.DIRTYPE: "folder "}
    return f"{kinds.get(member.type, '')}{member.name!r}"


def decoded_size(data: bytes) -> tuple[int, int]:
    """Height and width of an encoded image that decodes to its last row, before it is turned. Raises BadImage."""
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            # A JPEG at an eighth of its size and grey: all its bytes are decoded, in three quarters of the time.
            image.draft("L", (1, 1))
            image.load()
    except UnidentifiedImageError as error:  # which would tell an address in memory
        raise BadImage(f"it is none of {', '.join(_FORMATS)}") from error
    except Exception as error:  # whatever a decoder makes of odd bytes
        raise BadImage(" ".join(str(error).split()).removesuffix(".") or type(error).__name__) from error
    return height, width


def _write(part: Path, path: Path, data: bytes, height: int, width: int, longest_side: int | None) -> int:
    """Write a photograph by way of `part`, whole or not at all; returns its file's size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(data)
        if longest_side is not None and max(height, width) > longest_side:
            data = _shrunk(part, height, width, longest_side)
            part.write_bytes(data)
        # What is there already keeps its time, so that no step takes it for another photograph.
        if not (path.is_file() and path.read_bytes() == data):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return len(data)


def _shrunk(path: Path, height: int, width: int, longest_side: int) -> bytes:
    """The photograph as a JPEG with the longest side given, turned as its EXIF orientation says."""
    scale = longest_side / max(height, width)
    shrink = largest_shrink(height, width, round(height * scale), round(width * scale))
    image = fit(read_image(path, shrink), longest_side)
    good, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not good:
        raise BadImage("it cannot be compressed anew")
    return data.tobytes()


@contextmanager
def open_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes to extract in, that end at once with an error, with Ctrl-C, or with the process that uses them."""
    # Started anew and not forked: the threads of transfers hold locks that a fork would copy.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin_process)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        # Killed at any moment, they leave no half photographs.
        for process in multiprocessing.active_children():
            process.kill()
        pool.shutdown(cancel_futures=True)
        raise


def _begin_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that uses them ends them
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Where that one was killed, they would wait for work for good.
    multiprocessing.parent_process().join()
    os._exit(1)
