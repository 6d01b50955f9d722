"""Google Landmarks v2 out of its bucket: what is missing, whether it fits on the disk, and the work itself."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Lock, Semaphore

import requests

from landmark.errors import UserError
from landmark.gldv2 import METADATA, OPTIONAL, Shard, ShardFiles, state_folder
from landmark.parallel import unattended_map
from landmark.progress import meter, track
from landmark.recipe import Recipe
from landmark.shards import extract, open_pool
from landmark.transfer import Missing, Remote, bytes_had, fetch, is_source, look_up, read_text, source_path

# Transfers of a shard whose sum is wrong, before it is given up.
_SUM_TRIES = 3
# Shards that fail before the rest is not tried any more: then it is the network, the bucket or the disk.
_MOST_FAILURES = 20
# Google Landmarks v2 was published with about so many pixels on the longest side.
_PUBLISHED_SIDE = 800


def missing_metadata(session: requests.Session, recipe: Recipe) -> dict[str, Remote]:
    """Published tables that are not there, or whose size or ETag is not that of the server's file now.

    Raises UserError for one that is neither there to fetch nor optional.
    """
    missing = {}
    for name, path in METADATA.items():
        try:
            remote = look_up(session, f"{recipe.bucket.url}/{path}")
        except Missing as error:
            if name not in OPTIONAL:
                raise UserError(f"{error}; it belongs to the data that bucket.url names") from error
            print(f"download: {error}; {name} is passed over")
            continue
        target = recipe.data / "metadata" / name
        same = target.exists() and target.stat().st_size == remote.size
        if not (same and is_source(remote, _metadata_state(recipe, name))):
            missing[name] = remote
    return missing


def fetch_metadata(session: requests.Session, recipe: Recipe, missing: dict[str, Remote]) -> None:
    """Fetch published tables into data/metadata/, each whole or not at all."""
    parts = {name: _metadata_state(recipe, name).with_suffix(".part") for name in missing}
    had = sum(bytes_had(remote, parts[name]) for name, remote in missing.items())
    with meter(sum(remote.size for remote in missing.values()), "metadata", "B", initial=had) as advance:
        for name, remote in missing.items():
            fetch(session, remote, parts[name], advance)
            target = recipe.data / "metadata" / name
            target.parent.mkdir(exist_ok=True)
            os.replace(parts[name], target)
            os.replace(source_path(parts[name]), source_path(_metadata_state(recipe, name)))


def _metadata_state(recipe: Recipe, name: str) -> Path:
    """Beside this name lies what the table in data/metadata/ was fetched as."""
    return state_folder(recipe.data) / "metadata" / name


def missing_shards(session: requests.Session, recipe: Recipe, shards: list[Shard]) -> dict[Shard, Remote]:
    """The server's file of each shard that is not done. Raises UserError when it has none."""
    missing = []
    for shard in track(shards, len(shards), "shards that are done", "shards"):
        if not ShardFiles(recipe.data, shard).is_done(recipe.bucket.longest_side):
            missing.append(shard)

    def ask(shard: Shard) -> tuple[Shard, Remote]:
        try:
            return shard, look_up(session, f"{recipe.bucket.url}/{shard.path}")
        except Missing as error:
            raise UserError(f"{error}; bucket.url and bucket.shards say that it is there") from error

    found = dict(unattended_map(ask, missing, recipe.bucket.connections))
    return {shard: found[shard] for shard in missing}


def disk_need(recipe: Recipe, tables: Iterable[Remote], shards: dict[Shard, Remote]) -> int:
    """Bytes that the download will take beside what is there: about, and with `longest_side` an estimate.

    Photographs take as much as their tars, and tars lie there while they are fetched and extracted.
    """
    sizes = sorted((remote.size for remote in shards.values()), reverse=True)
    side = recipe.bucket.longest_side
    share = 1.0 if side is None else min(1.0, (side / _PUBLISHED_SIDE) ** 2)
    had = sum(ShardFiles(recipe.data, shard).bytes_had(remote) for shard, remote in shards.items())
    # Once as published, and once of what is at hand.
    published = 2 * sum(remote.size for remote in tables)
    return max(0, published + round(share * sum(sizes)) + sum(sizes[: tars_at_a_time(recipe)]) - had)


def tars_at_a_time(recipe: Recipe) -> int:
    """Some are extracted while others are fetched."""
    return 2 * recipe.bucket.connections


def free_space(folder: Path) -> int:
    """Bytes that are free where `folder` is or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def in_words(size: int) -> str:
    """A number of bytes for people."""
    unit, scale = next((pair for pair in (("GB", 1e9), ("MB", 1e6)) if size >= pair[1]), ("kB", 1e3))
    return f"{size / scale:.{0 if size >= 10 * scale else 1}f} {unit}"


def fetch_shards(
    session: requests.Session, recipe: Recipe, shards: dict[Shard, Remote], accepted: set[Shard]
) -> list[str]:
    """Fetch, check and extract shards, several at a time; returns what went wrong, by shard in order.

    accepted: those whose sum may differ from the published one.
    """
    files = {shard: ShardFiles(recipe.data, shard) for shard in shards}
    had = sum(files[shard].bytes_had(remote) for shard, remote in shards.items())
    failures: dict[Shard, str] = {}
    done = 0
    total = sum(remote.size for remote in shards.values())

    def note() -> str:
        return f"{done} of {len(shards)} shards done"

    try:
        with open_pool(recipe.threads) as pool, meter(total, "shards", "B", note, had) as advance:
            bring = ShardBringer(session, recipe, pool, accepted, advance)
            for shard, error in unattended_map(bring, shards.items(), tars_at_a_time(recipe)):
                if error is None:
                    done += 1
                    continue
                failures[shard] = error
                if len(failures) == _MOST_FAILURES:
                    break
    except BrokenProcessPool:
        raise UserError(
            "a process that extracts photographs was killed, perhaps for want of memory; run the same command"
            " again, with --set workers=N for fewer of them"
        ) from None
    told = [failures[shard] for shard in shards if shard in failures]
    untried = len(shards) - done - len(failures)
    return told + [f"{untried} others were not tried after so many"] * bool(untried)


class ShardBringer:
    """Brings one shard after another to the disk; called by several threads."""

    def __init__(
        self,
        session: requests.Session,
        recipe: Recipe,
        pool: ProcessPoolExecutor,
        accepted: set[Shard],
        advance: Callable[[int], None],
    ):
        self.session, self.recipe, self.pool, self.accepted = session, recipe, pool, accepted
        self._advance = advance
        self._counting = Lock()
        self._connections = Semaphore(recipe.bucket.connections)

    def __call__(self, item: tuple[Shard, Remote]) -> tuple[Shard, str | None]:
        """Returns what went wrong with the shard, or None."""
        shard, remote = item
        try:
            self._bring(shard, remote, ShardFiles(self.recipe.data, shard))
        except (UserError, OSError) as error:
            return shard, f"{shard.name}: {error}"
        return shard, None

    def _bring(self, shard: Shard, remote: Remote, files: ShardFiles) -> None:
        with self._connections:
            if not files.tar_is_whole(remote):
                files.tar.unlink(missing_ok=True)
                self._fetch(shard, remote, files.part)
                os.replace(files.part, files.tar)
        side = self.recipe.bucket.longest_side
        # Not before: until photographs are replaced, an earlier record tells truly what is at hand.
        files.record.unlink(missing_ok=True)
        try:
            extracted = self.pool.submit(extract, files.tar, files.photographs, side).result()
        except UserError as error:
            raise UserError(f"{error}; {_AGAIN.format(files.tar)}") from error
        files.finish(extracted, side)
        if extracted.bad:
            bad = "; ".join(f"{image_id}.jpg: {why}" for image_id, why in extracted.bad.items())
            raise UserError(
                f"{len(extracted.bad)} photographs do not decode: {bad}; the other {len(extracted.ids):,} are on"
                f" disk and in the tables, so that the steps can do without; {_AGAIN.format(files.tar)}"
            )
        files.clear()

    def _fetch(self, shard: Shard, remote: Remote, part: Path) -> None:
        """Make `part` the whole tar, of the published sum unless that need not be."""
        published = self._published_sum(shard)
        for attempt in range(_SUM_TRIES):
            if attempt:
                self._count(-part.stat().st_size)
                part.unlink()
            remote = fetch(self.session, remote, part, self._count)
            with part.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found == published:
                return
            if shard in self.accepted:
                print(f"download: {shard.name}: md5 {found} is accepted; published is {published or 'none'}")
                return
        # The last one stays, so that it need not be fetched again to be accepted.
        raise UserError(
            f"md5 is {found}, published is {published}, after {_SUM_TRIES} transfers; if you trust what came:"
            f" --accept-md5 {shard.name}"
        )

    def _published_sum(self, shard: Shard) -> str | None:
        url = f"{self.recipe.bucket.url}/{shard.sum_path}"
        try:
            words = read_text(self.session, url).split()
        except Missing as error:
            if shard in self.accepted:
                return None
            raise UserError(f"{error}; to do without its sum: --accept-md5 {shard.name}") from error
        if not words or len(words[0]) != 32:
            raise UserError(f"{url} does not begin with an md5 sum")
        return words[0].lower()

    def _count(self, size: int) -> None:
        with self._counting:
            self._advance(size)


_AGAIN = "to fetch it anew, delete {} and run the same command again"
