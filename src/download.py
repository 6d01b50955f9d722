"""The recipe's data: Google Landmarks v2 from its bucket, or what the recipe names on Kaggle.

Reads   the bucket (settings `bucket`), or Kaggle (settings `kaggle`)
Writes  of the bucket DATA/metadata/ (tables as published), DATA/<split>/a/b/c/<id>.jpg, of what is at hand
        DATA/train.csv, index.csv, test.csv, train_clean.csv, landmarks.csv and both solutions; and DATA/.download/
        (what is done, and what is half-way)
Run     bash run.sh download --recipe gld2019
        python src/download.py --recipe gld2019 --splits index test --shards 0-4 --set bucket.longest_side=512
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import groupby
from pathlib import Path

from landmark.cli import errors_told, recipe_parser
from landmark.competition import DOWNLOAD_LOCK, SPLITS
from landmark.download import (
    disk_need,
    fetch_metadata,
    fetch_shards,
    free_space,
    in_words,
    missing_metadata,
    missing_shards,
)
from landmark.errors import UserError
from landmark.gldv2 import Shard, ShardFiles, check_is_ours, choose_shards, named_shards
from landmark.gldv2_tables import write_tables
from landmark.recipe import Recipe, load_recipe
from landmark.runs import locked
from landmark.transfer import Remote, open_session

# They choose of a bucket's files.
BUCKET_OPTIONS = ("splits", "shards", "accept_md5", "dry_run")


def main(recipe: Recipe, given: argparse.Namespace) -> None:
    """given: the options, as main's parser below names them."""
    check_options(recipe, given)
    if recipe.bucket is not None:
        download_bucket(recipe, given)
    if recipe.bucket is None or given.competition_files:
        with hold(recipe.data):
            download_from_kaggle(recipe, given.competition_files)


def check_options(recipe: Recipe, given: argparse.Namespace) -> None:
    """Raise UserError where there is nothing to download, or not what the options speak of."""
    kaggle = recipe.kaggle
    if recipe.bucket is None and kaggle.dataset is None and not kaggle.competitions:
        raise UserError(
            f"recipe {recipe.name}: it has nothing to download, neither `bucket` nor `kaggle`; its data is made by"
            " step 00, or yours (--set data=FOLDER)"
        )
    of_bucket = [f"--{name.replace('_', '-')}" for name in BUCKET_OPTIONS if getattr(given, name)]
    if recipe.bucket is None and of_bucket:
        raise UserError(f"{of_bucket[0]}: recipe {recipe.name} has no bucket to choose from; leave it out")
    if given.competition_files and not kaggle.competitions:
        raise UserError(f"--competition-files: recipe {recipe.name} names no Kaggle competition; leave it out")
    if given.competition_files and given.dry_run:
        raise UserError("--dry-run: it tells of the bucket alone; leave out --competition-files")
    if recipe.bucket is None and kaggle.dataset is None and not given.competition_files:
        raise UserError(f"recipe {recipe.name}: it names Kaggle competitions alone; add --competition-files")


def download_from_kaggle(recipe: Recipe, competition_files: bool) -> None:
    """Fetch the recipe's data set, where it has no bucket, and if asked for the files of its competitions."""
    # Imported here, since the bucket is to be had without a Kaggle account.
    from landmark.kaggle_files import download_competition, download_dataset

    if recipe.bucket is None and recipe.kaggle.dataset is not None:
        download_dataset(recipe.kaggle.dataset, recipe.data)
    for name in recipe.kaggle.competitions.values() if competition_files else ():
        download_competition(name, recipe.data / "kaggle" / name)


def download_bucket(recipe: Recipe, given: argparse.Namespace) -> None:
    """Fetch what is missing of the shards that are asked for, and write the tables of all that is at hand."""
    check_is_ours(recipe.data)
    chosen = choose_shards(recipe.bucket, given.splits or SPLITS, given.shards)
    accepted = named_shards(recipe.bucket, given.accept_md5)
    session = open_session(recipe.bucket.connections)
    with nullcontext() if given.dry_run else hold(recipe.data):
        tables = missing_metadata(session, recipe)
        shards = missing_shards(session, recipe, chosen)
        print(f"download: {len(chosen) - len(shards)} of {len(chosen)} shards are done")
        if given.dry_run:
            for split, remotes in groupby(shards.items(), lambda item: item[0].split):
                sizes = [remote.size for _, remote in remotes]
                print(f"would fetch {len(sizes)} shards of {split}, {in_words(sum(sizes))}")
        else:
            for shard in set(chosen) - shards.keys():
                ShardFiles(recipe.data, shard).clear()
        if tables or shards:
            check_disk(recipe, [*tables.values()], shards)
        if given.dry_run:
            return
        fetch_metadata(session, recipe, tables)
        failures = fetch_shards(session, recipe, shards, accepted) if shards else []
        for split, (rows, published) in write_tables(recipe.data).items():
            print(f"download: {split}.csv has {rows:,} of {published:,} photographs")
    if failures:
        raise UserError("\n  ".join([f"{recipe.data} is not complete; run it again to go on", *failures]))
    print(f"download: all that was asked for is in {recipe.data}")


@contextmanager
def hold(data: Path) -> Iterator[None]:
    """Hold the data folder. Raises UserError when another download does."""
    data.mkdir(parents=True, exist_ok=True)
    # Beside what the download of a bucket keeps, and not in it, since that tells this kind of data.
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(data / DOWNLOAD_LOCK))
        except BlockingIOError:
            raise UserError(f"another download is at work in {data}; wait for it, or --set data=FOLDER") from None
        yield


def check_disk(recipe: Recipe, tables: list[Remote], shards: dict[Shard, Remote]) -> None:
    """Say what the download takes. Raises UserError when the disk has less."""
    need, free = disk_need(recipe, tables, shards), free_space(recipe.data)
    side = recipe.bucket.longest_side
    words = f"needs about {in_words(need)}" + (f" (estimated, for bucket.longest_side {side})" if side else "")
    if need > free:
        raise UserError(
            f"data: {recipe.data} {words}, and {in_words(free)} are free; take a part with --splits or --shards,"
            " smaller photographs with --set bucket.longest_side=512, or another disk with --set data=FOLDER"
        )
    print(f"download: {words}, {in_words(free)} free")


if __name__ == "__main__":
    parser = recipe_parser(__doc__)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="only these; default: all")
    parser.add_argument("--shards", metavar="NUMBERS", help="of each split only these, as in 0,3,7-9")
    parser.add_argument(
        "--accept-md5",
        nargs="+",
        action="extend",
        default=[],
        metavar="SHARD",
        help="shards such as train/000 whose md5 sum may differ from the published one",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be fetched, and write nothing")
    parser.add_argument(
        "--competition-files", action="store_true", help="also the files of the recipe's Kaggle competitions"
    )
    given = parser.parse_args()
    with errors_told():
        main(load_recipe(given.recipe, given.set), given)
