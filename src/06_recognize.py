"""Step 06: recognition by voting of the nearest train images, with an inlier term, then the distractor ban.

Reads   input/<run>/descriptors/{train,test}.npy, the labels of the train set, and the images
Writes  input/<run>/recognition_plain.csv (similarity alone) and recognition.csv, id,landmarks each, and the
        neighbours that voted in recognition_neighbours.csv (inliers are empty where they could change nothing)
Run     python src/06_recognize.py --recipe sample     (or torchrun --nproc_per_node N src/06_recognize.py …)
"""

from pathlib import Path

import numpy as np
import pandas as pd

from landmark.cli import run_step
from landmark.competition import Competition, open_competition, write_table
from landmark.descriptor_files import DescriptorFile
from landmark.gallery import Gallery, gallery_inputs, load_gallery
from landmark.parts import PartFiles, clear_parts
from landmark.plan import made_by, open_job
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.submission import write_recognition
from landmark.weights import delf_inputs

_QUERIES = 16_384  # that are searched at a time
_VERIFIED = 256  # test images whose neighbours are verified at a time: what a killed run loses


def main(recipe: Recipe, ranks: Ranks) -> None:
    competition = ranks.first_then_all(lambda: open_competition(recipe))
    test = DescriptorFile(recipe.work / "descriptors", "test")
    reads = gallery_inputs(recipe, competition) | dict.fromkeys(test.paths, made_by("04_extract"))
    neighbours, inliers = verify(recipe, competition, test, reads, ranks)
    plain, final = recipe.work / "recognition_plain.csv", recipe.work / "recognition.csv"
    voters = recipe.work / "recognition_neighbours.csv"
    job = open_job(
        recipe,
        "06_recognize",
        reads=reads | dict.fromkeys([neighbours, inliers], made_by("06_recognize")),
        writes=[plain, final, voters],
    )
    if ranks.agree(job.is_done):
        if ranks.first:
            print(f"06 recognize: up to date ({final})")
    elif ranks.first:
        job.start()
        found, counts = (np.load(path, mmap_mode="r", allow_pickle=False) for path in (neighbours, inliers))
        banned = recognize(
            recipe, test.read()[1], load_gallery(recipe, competition), found, counts, plain, final, voters
        )
        job.finish()
        print(f"06 recognize: {len(found)} images, {banned} labels banned as distractors -> {final}")


def verify(
    recipe: Recipe, competition: Competition, test: DescriptorFile, reads: dict[Path, str], ranks: Ranks
) -> tuple[Path, Path]:
    """The nearest train images of each test image, and their inliers, -1 where not verified, as files."""
    folder = recipe.work / "recognition"
    targets = folder / "neighbours.npy", folder / "inliers.npy"
    job = open_job(
        recipe,
        "06_verify",
        reads=reads | delf_inputs(recipe),
        writes=[*targets],
        images=ranks.agree(lambda: [competition.state("train"), competition.state("test")]),
    )
    if ranks.agree(job.is_done):
        return targets
    if ranks.first:
        job.start()
    # Imported here, so that a step with nothing to do ends before faiss is loaded.
    from landmark.recognition import InlierCounter, nearest, verified
    from landmark.search import SearchIndex

    settings = recipe.recognition
    vectors, ids = test.read()
    gallery = load_gallery(recipe, competition)
    files = PartFiles(folder, job.key(), ranks)
    index = SearchIndex(gallery.vectors, recipe)
    k = settings.refine or settings.vote_neighbours
    found = files.array(
        "neighbours",
        len(ids),
        _QUERIES,
        lambda rows: nearest(index, vectors[rows.start : rows.stop], k),
        "06 neighbours",
    )
    with InlierCounter(recipe, competition, ids, gallery.ids, folder) as counter:
        counts = files.array(
            "inliers",
            len(ids),
            _VERIFIED,
            lambda rows: verified(found[rows.start : rows.stop], gallery, settings, counter.of(rows)),
            "06 verifying neighbours",
        )
    if ranks.first:
        job.finish()
        for target in targets:
            clear_parts(target)
        tried = int((counts >= 0).sum())
        print(f"06 recognize: {tried} of {counts.size} pairs verified; the others could change nothing")
    return targets


def recognize(
    recipe: Recipe,
    ids: list[str],
    gallery: Gallery,
    found: np.ndarray,
    inliers: np.ndarray,
    plain: Path,
    final: Path,
    voters: Path,
) -> int:
    """Write the predictions and who voted for them; how many labels were banned."""
    from landmark.recognition import predict
    from landmark.voting import ban_frequent, similarity_term, vote

    settings = recipe.recognition
    k = settings.vote_neighbours
    nearest_labels = gallery.labels_of(found["row"][:, :k])
    write(plain, ids, *vote(nearest_labels, similarity_term(found["similarity"][:, :k])))
    labels, scores, place = predict(found, inliers, gallery, settings)
    banned = 0
    if settings.ban_above is not None:
        before, scores = scores, ban_frequent(labels, scores, settings.ban_above)
        banned = len(np.unique(labels[scores != before]))
    write(final, ids, labels, scores)
    rows, similarity, counts = (
        np.take_along_axis(side, place, axis=1).ravel() for side in (found["row"], found["similarity"], inliers)
    )
    table = pd.DataFrame(
        {
            "id": np.repeat(ids, place.shape[1]),
            "train_id": gallery.ids[rows],
            "landmark_id": gallery.labels_of(rows),
            "similarity": (2 * similarity - 1).round(5),
            "inliers": pd.array(counts, "Int64"),
        }
    )
    table.loc[counts < 0, "inliers"] = pd.NA
    write_table(voters, table[rows >= 0])
    return banned


def write(path: Path, ids: list[str], labels: np.ndarray, scores: np.ndarray) -> None:
    """Write predictions; a label of -1 is none."""
    write_recognition(path, ids, [None if label < 0 else int(label) for label in labels], scores)


if __name__ == "__main__":
    run_step(main, shared=True)
