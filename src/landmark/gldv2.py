"""Google Landmarks v2 as its bucket holds it, and what the download keeps of it beside the data."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from landmark.competition import SPLITS
from landmark.errors import UserError
from landmark.settings import Bucket
from landmark.shards import Extracted, photograph_path
from landmark.store import write_json
from landmark.transfer import Remote, bytes_had, is_source, source_path

# What is published beside the photographs: name in data/metadata/ -> path in the bucket.
METADATA = {
    "train.csv": "metadata/train.csv",
    "train_clean.csv": "metadata/train_clean.csv",
    "index.csv": "metadata/index.csv",
    "test.csv": "metadata/test.csv",
    "train_label_to_category.csv": "metadata/train_label_to_category.csv",
    "recognition_solution_v2.1.csv": "ground_truth/recognition_solution_v2.1.csv",
    "retrieval_solution_v2.1.csv": "ground_truth/retrieval_solution_v2.1.csv",
}
# Those that data of this layout may do without.
OPTIONAL = ("train_clean.csv", "train_label_to_category.csv")


@dataclass(frozen=True)
class Shard:
    """One of a split's tar files of photographs."""

    split: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.split}/{self.number:03}"

    @property
    def path(self) -> str:
        """In the bucket."""
        return f"{self.split}/images_{self.number:03}.tar"

    @property
    def sum_path(self) -> str:
        """In the bucket, of its md5 sum."""
        return f"md5sum/{self.split}/md5.images_{self.number:03}.txt"


def choose_shards(bucket: Bucket, splits: Iterable[str], numbers: str | None) -> list[Shard]:
    """The bucket's shards of these splits, of each only those of `numbers` (0,3,7-9) that it has.

    Raises UserError for numbers that cannot be read, and when none is left.
    """
    wanted = None if numbers is None else _parse_numbers(numbers)
    counts = {split: bucket.shards.get(split, 0) for split in dict.fromkeys(splits)}
    chosen = [
        Shard(split, number)
        for split, count in counts.items()
        for number in range(count)
        if wanted is None or any(number in some for some in wanted)
    ]
    if not chosen:
        has = ", ".join(f"{split} has {count} shards from 0" for split, count in counts.items())
        raise UserError(f"--shards {numbers or 'all'}: there is nothing to fetch; {has} (bucket.shards)")
    return chosen


def _parse_numbers(text: str) -> list[range]:
    ranges = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise UserError(f"--shards {text}: write numbers and ranges, as in 0,3,7-9")
        ranges.append(range(int(first), int(last) + 1))
    return ranges


def named_shards(bucket: Bucket, names: Iterable[str]) -> set[Shard]:
    """The shards called train/000 and the like. Raises UserError for a name that none has."""
    shards = set()
    for name in names:
        split, _, number = name.partition("/")
        if not (number.isdecimal() and int(number) < bucket.shards.get(split, 0)):
            has = ", ".join(f"{s}/000 to {s}/{count - 1:03}" for s, count in bucket.shards.items())
            raise UserError(f"--accept-md5 {name}: there is no such shard; there are {has}")
        shards.add(Shard(split, int(number)))
    return shards


def check_is_ours(data: Path) -> None:
    """Raise UserError where the folder has tables that no download wrote and that this one would replace."""
    for split in SPLITS:
        if (data / f"{split}.csv").exists() and not state_folder(data).exists():
            raise UserError(
                f"data: {data / split}.csv is not of a download, which would replace it; give an empty folder with"
                " --set data=FOLDER"
            )


def state_folder(data: Path) -> Path:
    """Where the download keeps what is half-way, and what is done."""
    return data / ".download"


class ShardFiles:
    """The files of one shard: its tar while it is there, and the record of a shard that is extracted."""

    def __init__(self, data: Path, shard: Shard):
        folder = state_folder(data) / shard.split
        self.photographs = data / shard.split
        # As it arrives, and renamed when its sum is right or accepted.
        self.part = folder / f"{shard.number:03}.part"
        self.tar = folder / f"{shard.number:03}.tar"
        self.record = folder / f"{shard.number:03}.json"

    def is_done(self, longest_side: int | None) -> bool:
        """Whether all its photographs are on disk.

        Sizes are summed, which takes 0.05 to 0.2 s for a shard's 8,000 files; nothing is read again. Raises
        UserError where they were extracted with another longest side: fetching all anew is seldom what is meant.
        """
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            if record["longest_side"] != longest_side:
                was, now = (side or "null" for side in (record["longest_side"], longest_side))
                raise UserError(
                    f"bucket.longest_side: {self.photographs} was extracted with {was}, and now it is {now}; add"
                    f" --set bucket.longest_side={was}, or take another folder with --set data=FOLDER"
                )
            if record["bad"]:
                return False
            size = sum(photograph_path(self.photographs, i).stat().st_size for i in record["ids"])
        except FileNotFoundError:
            return False
        return size == record["size"]

    def clear(self) -> None:
        """Remove the tar of a shard that is done; killed just before, the next run does."""
        for path in (self.part, self.tar, source_path(self.part)):
            path.unlink(missing_ok=True)

    def bytes_had(self, remote: Remote) -> int:
        """How many bytes of the tar need not be fetched."""
        if self.tar_is_whole(remote):
            return remote.size
        return bytes_had(remote, self.part)

    def tar_is_whole(self, remote: Remote) -> bool:
        """Whether the tar lies there, of this version and with its sum checked."""
        return self.tar.exists() and is_source(remote, self.part) and self.tar.stat().st_size == remote.size

    def finish(self, extracted: Extracted, longest_side: int | None) -> None:
        """Record what was extracted."""
        write_json(self.record, {"longest_side": longest_side, **asdict(extracted)})


def ids_at_hand(data: Path, split: str) -> list[str]:
    """The ids of a split's photographs that are extracted, shard by shard."""
    ids = []
    for record in sorted((state_folder(data) / split).glob("[0-9]*[0-9].json")):
        ids += json.loads(record.read_text(encoding="utf-8"))["ids"]
    return ids
