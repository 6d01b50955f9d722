"""Step 01: clean the noisy train set.

Reads   train.csv and the train images
Writes  input/<run>/train_clean.csv, and why each image was kept or not in input/<run>/clean_decisions.csv; on the
        way descriptors and neighbours in input/<run>/cleaning/
Run     python src/01_clean.py --recipe sample
        torchrun --nproc_per_node 2 src/01_clean.py --recipe sample
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from landmark.cli import run_step
from landmark.competition import Competition, open_competition, read_table, write_table
from landmark.descriptor_files import DescriptorFile
from landmark.errors import UserError
from landmark.journal import Journal
from landmark.parts import Parts, clear_parts
from landmark.plan import made_by, open_job
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.weights import delf_inputs, representation_inputs

# Queries of one part of the neighbour search, which a killed run loses at most.
_QUERIES = 16_384


def main(recipe: Recipe, ranks: Ranks) -> None:
    competition = ranks.first_then_all(lambda: open_competition(recipe))
    ranks.agree(lambda: competition.require_images("train"))
    images = ranks.agree(lambda: competition.state("train")) if recipe.cleaning.looks else None
    if recipe.cleaning.looks:
        file = describe(recipe, competition, images, ranks)
        neighbours = find_neighbours(recipe, competition, file, ranks)
        reads = dict.fromkeys([*file.paths, neighbours], made_by("01_clean")) | delf_inputs(recipe)
    elif recipe.cleaning.published:
        reads = {Path(recipe.cleaning.published): "cleaning.published is the path of a train_clean.csv"}
    else:
        reads = {}
    clean, decisions = recipe.work / "train_clean.csv", recipe.work / "clean_decisions.csv"
    job = open_job(
        recipe,
        "01_clean",
        reads={competition.table("train.csv"): "it belongs to the competition's data"} | reads,
        writes=[clean, decisions],
        images=images,
    )
    if ranks.agree(job.is_done):
        if ranks.first:
            print(f"01 clean: up to date ({clean})")
        return
    if ranks.first:
        job.start()
    journal = Journal(recipe.work / "cleaning" / "verified", job.key())
    if recipe.cleaning.looks:
        table = judge(recipe, competition, file, np.load(neighbours, mmap_mode="r"), journal, ranks)
    else:
        table = believe(recipe, competition)
    if ranks.first:
        kept = table[table["kept"]]
        if kept.empty:
            # Written all the same: the decisions tell why.
            print("01 clean: no image was kept; --set cleaning.more_than=-1 keeps every one")
        by_label = kept.groupby("landmark_id")["id"].agg(" ".join)
        write_table(clean, by_label.rename("images").reset_index())
        write_table(decisions, table)
        job.finish()
        journal.clear()
        print(f"01 clean: kept {len(kept)} of {len(table)} images, {len(by_label)} labels -> {clean}")
        print(table["reason"].value_counts().to_string(header=False))


def describe(recipe: Recipe, competition: Competition, images: str, ranks: Ranks) -> DescriptorFile:
    """The first representation of the train images; `images` is their state."""
    file = DescriptorFile(recipe.work / "cleaning", "train")
    job = open_job(
        recipe,
        "01_describe",
        reads={competition.table("train.csv"): "it belongs to the competition's data"}
        | representation_inputs(recipe),
        writes=file.paths,
        images=images,
    )
    if not ranks.agree(job.is_done):
        if ranks.first:
            job.start()
        # Imported here, so that a step with nothing to do ends before torch is loaded.
        from landmark.descriptors import describe_split
        from landmark.weights import open_representation

        describe_split(
            open_representation(recipe),
            competition,
            "train",
            recipe.cleaning.representation,
            recipe,
            file,
            key=job.key(),
            ranks=ranks,
            what="01 descriptors",
        )
        if ranks.first:
            job.finish()
            clear_parts(file.vectors_path)
    return file


def find_neighbours(recipe: Recipe, competition: Competition, file: DescriptorFile, ranks: Ranks) -> Path:
    """The nearest images of the same label, (N, same_label) int32, as a file."""
    settings, target = recipe.cleaning, recipe.work / "cleaning" / "neighbours.npy"
    job = open_job(
        recipe,
        "01_neighbours",
        reads={competition.table("train.csv"): "it belongs to the competition's data"}
        | dict.fromkeys(file.paths, made_by("01_clean")),
        writes=[target],
    )
    if not ranks.agree(job.is_done):
        if ranks.first:
            job.start()
        from landmark.neighbours import same_label
        from landmark.search import SearchIndex

        vectors, ids = file.read()
        labels = competition.labels_of(ids)
        index = SearchIndex(vectors, recipe)

        def search(rows: range) -> tuple[np.ndarray, dict]:
            _, found = index.top_k(vectors[rows.start : rows.stop], settings.neighbours + 1)
            return same_label(found, labels, rows, settings.same_label), {}

        Parts(target, len(ids), _QUERIES, job.key()).make(ranks, search, "01 neighbours")
        if ranks.first:
            job.finish()
            clear_parts(target)
    return target


def judge(
    recipe: Recipe,
    competition: Competition,
    file: DescriptorFile,
    neighbours: np.ndarray,
    journal: Journal,
    ranks: Ranks,
) -> pd.DataFrame | None:
    """The decisions, one row per train image (see cleaning.decide), in the first process."""
    from landmark import cleaning

    settings = recipe.cleaning
    vectors, ids = file.read()
    labels = competition.labels_of(ids)
    groups = cleaning.rows_by_label(labels)
    if ranks.first:
        journal.open()
    ranks.wait()
    done = {entry["label"] for entry in journal.read()}
    ranks.wait()
    if done and ranks.first:
        print(f"01 clean: going on, {len(done)} of {len(groups)} labels are verified already")
    todo = [rows for rows in groups if int(labels[rows[0]]) not in done]
    counts = cleaning.count_neighbours(neighbours)
    mine = ranks.share(todo, [int(counts[rows].sum()) for rows in todo])
    journal.write(ranks.rank, verify_labels(recipe, competition, ids, labels, neighbours, mine))
    ranks.wait()
    if not ranks.first:
        return None

    verified, tried, possible = np.zeros(len(ids), np.int64), 0, 0
    rows_of = {int(labels[rows[0]]): rows for rows in groups}
    for entry in journal.read():
        verified[rows_of[entry["label"]]] = entry["verified"]
        tried, possible = tried + entry["tried"], possible + entry["possible"]
    share = f" ({tried / possible:.1%})" if possible else ""
    print(f"01 clean: {tried} pairs verified of {possible}{share}; the others could change no decision")
    seen = pd.DataFrame({"id": ids, "landmark_id": labels, "neighbours": counts, "verified": verified})
    minimum = None
    if settings.agreement:
        minimum = settings.agreement.min_support
        seen["voted"], support = cleaning.agreement(
            vectors, labels, verified > 0, settings.agreement, recipe.process_gib
        )
        seen["support"] = support.round(4)
    judged = cleaning.decide(seen, settings.more_than, minimum, settings.min_images)
    unread = read_table(file.skipped_path, ["id", "reason"])
    unread = unread.assign(landmark_id=competition.labels_of(unread["id"]), kept=False, contradicted=False)
    whole = pd.concat([judged, unread]) if len(unread) else judged
    # Nullable numbers: what was never looked at stays empty.
    return whole.astype({name: "Int64" for name in ("neighbours", "verified", "voted") if name in whole})


def verify_labels(
    recipe: Recipe,
    competition: Competition,
    ids: list[str],
    labels: np.ndarray,
    neighbours: np.ndarray,
    groups: list[np.ndarray],
) -> Iterator[dict]:
    """Verify label by label, as many at a time as there are workers: a line of the journal for each."""
    from landmark import cleaning
    from landmark.devices import pick_device
    from landmark.local_features import FeatureCache, find_features, open_extractor
    from landmark.parallel import unordered_map
    from landmark.progress import track
    from landmark.verification import one_blas_thread, verify
    from landmark.weights import delf_weights

    settings = recipe.verification
    extractor = open_extractor(recipe.local_features, delf_weights(recipe), str(pick_device(recipe)))
    memory = int(recipe.process_gib * 2**30 / recipe.threads)

    def one_label(rows: np.ndarray) -> dict:
        near = cleaning.within_label(neighbours, rows)

        def find(image: int):
            path = competition.path("train", ids[rows[image]])
            return find_features(path, recipe.local_features, extractor)

        with FeatureCache(find, memory, recipe.work / "cleaning") as features:

            def verifies(one: int, two: int) -> bool:
                return verify(features[one], features[two], settings).inliers >= settings.min_inliers

            counts, tried = cleaning.count_verified(near, verifies, recipe.cleaning.thresholds)
        return {
            "label": int(labels[rows[0]]),
            "verified": counts.tolist(),
            "tried": tried,
            "possible": len(cleaning.pairs_of(near)),
        }

    with one_blas_thread():
        lines = unordered_map(one_label, groups, recipe.threads)
        yield from track(lines, len(groups), "01 verifying", unit="labels")


def believe(recipe: Recipe, competition: Competition) -> pd.DataFrame:
    """The decisions without a look at the images: every label, or those of a published list."""
    table = competition.train.assign(kept=True, contradicted=False, reason="every image is kept")
    if not recipe.cleaning.published:
        return table
    path = Path(recipe.cleaning.published)
    listed = read_table(path, ["landmark_id", "images"])
    entries = [(image, label) for label, images in listed.itertuples(index=False) for image in images.split()]
    known = dict(zip(table["id"], table["landmark_id"].astype(str), strict=True))
    for image, label in entries:
        if known.get(image) != label:
            fault = f"has landmark {known[image]}" if image in known else "is not there"
            raise UserError(f"{path}: in {competition.table('train.csv')} image {image} of {label} {fault}")
    table["kept"] = table["id"].isin({image for image, _ in entries})
    table["reason"] = np.where(table["kept"], "in the published list", "not in the published list")
    return table


if __name__ == "__main__":
    run_step(main, shared=True)
