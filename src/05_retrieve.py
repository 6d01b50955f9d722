"""Step 05: retrieval, the 100 nearest index images of each test image, then discriminative re-ranking.

Reads   input/<run>/descriptors/{train,index,test}.npy and the labels of the train set
Writes  input/<run>/retrieval_plain.csv (by distance) and retrieval.csv (re-ranked), id,images each
Run     python src/05_retrieve.py --recipe sample
"""

import numpy as np

from landmark.cli import run_step
from landmark.competition import open_competition
from landmark.descriptor_files import DescriptorFile
from landmark.gallery import gallery_inputs, load_gallery
from landmark.plan import made_by, open_job
from landmark.recipe import Recipe
from landmark.submission import write_retrieval


def main(recipe: Recipe) -> None:
    competition = open_competition(recipe)
    index, test = (DescriptorFile(recipe.work / "descriptors", split) for split in ("index", "test"))
    plain, reranked = recipe.work / "retrieval_plain.csv", recipe.work / "retrieval.csv"
    job = open_job(
        recipe,
        "05_retrieve",
        reads=gallery_inputs(recipe, competition)
        | dict.fromkeys([*index.paths, *test.paths], made_by("04_extract")),
        writes=[plain, reranked],
    )
    if job.is_done():
        print(f"05 retrieve: up to date ({reranked})")
        return
    job.start()
    # Imported here, so that a step with nothing to do ends before faiss is loaded.
    from landmark.neighbours import top_k
    from landmark.reranking import discriminative_rerank
    from landmark.voting import soft_labels

    settings = recipe.retrieval
    index_vectors, index_ids = index.read()
    test_vectors, test_ids = test.read()
    _, ranking = top_k(test_vectors, index_vectors, settings.top, recipe.memory_gib)
    gallery = load_gallery(recipe, competition)
    votes = [
        soft_labels(vectors, gallery.vectors, gallery.labels, settings.vote_neighbours, recipe.memory_gib)
        for vectors in (test_vectors, index_vectors)
    ]
    (test_labels, test_scores), (index_labels, index_scores) = votes
    lists = discriminative_rerank(
        ranking, test_labels, test_scores, index_labels, index_scores, settings.insert_above
    )
    names = np.array(index_ids)
    write_retrieval(plain, test_ids, [names[rows].tolist() for rows in ranking])
    write_retrieval(reranked, test_ids, [names[rows].tolist() for rows in lists])
    job.finish()
    changed = sum(not np.array_equal(new, old) for new, old in zip(lists, ranking, strict=True))
    print(
        f"05 retrieve: {len(test_ids)} queries in {len(index_ids)} images, {changed} lists re-ranked -> {reranked}"
    )


if __name__ == "__main__":
    run_step(main)
