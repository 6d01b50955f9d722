"""Step 06: recognition by voting of the nearest train images, with an inlier term, then the distractor ban.

Reads   input/<run>/descriptors/{train,test}.npy, the labels of the train set, and the images
Writes  input/<run>/recognition_plain.csv (similarity alone) and recognition.csv, id,landmarks each, and the
        neighbours that voted in recognition_neighbours.csv
Run     python src/06_recognize.py --recipe sample
"""

import numpy as np
import pandas as pd

from landmark.cli import run_step
from landmark.competition import Competition, open_competition, write_table
from landmark.descriptor_files import DescriptorFile
from landmark.gallery import Gallery, gallery_inputs, load_gallery
from landmark.plan import made_by, open_job
from landmark.recipe import Recipe
from landmark.submission import write_recognition
from landmark.weights import delf_inputs


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    test = DescriptorFile(recipe.work / "descriptors", "test")
    plain, final = recipe.work / "recognition_plain.csv", recipe.work / "recognition.csv"
    neighbours = recipe.work / "recognition_neighbours.csv"
    job = open_job(
        recipe,
        "06_recognize",
        reads=gallery_inputs(recipe, competition)
        | dict.fromkeys(test.paths, made_by("04_extract"))
        | delf_inputs(recipe),
        writes=[plain, final, neighbours],
        images=[competition.state("train"), competition.state("test")],
    )
    if job.is_done():
        print(f"06 recognize: up to date ({final})")
        return
    job.start()
    # Imported here, so that a step with nothing to do ends before faiss is loaded.
    from landmark.neighbours import top_k
    from landmark.voting import ban_frequent, inlier_term, similarity_term, vote

    settings = recipe.recognition
    vectors, ids = test.read()
    gallery = load_gallery(recipe, competition)
    cosine, rows = top_k(vectors, gallery.vectors, settings.vote_neighbours, recipe.memory_gib)
    inliers = inliers_of_neighbours(recipe, competition, ids, gallery, rows)
    labels, similarity = gallery.labels[rows], similarity_term(cosine)
    write_recognition(plain, ids, *vote(labels, similarity))
    voted, scores = vote(labels, similarity + inlier_term(inliers, settings.inlier_cap, settings.inlier_floor))
    banned = 0
    if settings.ban_above is not None:
        before, scores = scores, ban_frequent(voted, scores, settings.ban_above)
        banned = len(np.unique(voted[scores != before]))
    write_recognition(final, ids, voted, scores)
    write_table(
        neighbours,
        pd.DataFrame(
            {
                "id": np.repeat(ids, rows.shape[1]),
                "train_id": gallery.ids[rows].ravel(),
                "landmark_id": labels.ravel(),
                "similarity": similarity.ravel().round(5),
                "inliers": inliers.ravel(),
            }
        ),
    )
    job.finish()
    print(f"06 recognize: {len(ids)} images, {banned} labels banned as distractors -> {final}")


def inliers_of_neighbours(
    recipe: Recipe, competition: Competition, ids: list[str], gallery: Gallery, rows: np.ndarray
) -> np.ndarray:
    """Inliers of each test image with each of its neighbours: (Q, K) for rows (Q, K) of the gallery."""
    from landmark.devices import pick_device
    from landmark.local_features import extract_local, images_within, open_extractor
    from landmark.progress import track
    from landmark.verification import count_inliers
    from landmark.weights import delf_weights

    extractor = open_extractor(recipe.local_features, delf_weights(recipe), str(pick_device(recipe)))
    inliers = np.zeros(rows.shape, np.int64)
    # Local features are held for one block of test images and their neighbours.
    block = max(1, images_within(recipe.memory_gib, recipe.local_features) // (1 + rows.shape[1]))
    starts = range(0, len(ids), block)
    for start in track(starts, len(starts), "06 verifying neighbours", unit="blocks"):
        part = range(start, min(start + block, len(ids)))
        tests = extract_local(
            ((q, competition.path("test", ids[q])) for q in part), recipe.local_features, extractor, recipe.threads
        )
        trains = extract_local(
            ((row, competition.path("train", gallery.ids[row])) for row in np.unique(rows[part]).tolist()),
            recipe.local_features,
            extractor,
            recipe.threads,
        )
        pairs = np.array([(q, row) for q in part for row in rows[q]], np.int64)
        found = count_inliers(pairs, tests, trains, recipe.verification, recipe.threads)
        inliers[part] = found.reshape(-1, rows.shape[1])
    return inliers


if __name__ == "__main__":
    run_step(main)
