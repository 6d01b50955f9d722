"""Step 05: retrieval, the 100 nearest index images of each test image, then discriminative re-ranking.

Reads   input/<run>/descriptors/{train,index,test}.npy and the labels of the train set
Writes  input/<run>/retrieval_plain.csv (by distance) and retrieval.csv (re-ranked), id,images each
Run     python src/05_retrieve.py --recipe sample     (or torchrun --nproc_per_node N src/05_retrieve.py …)
"""

import shutil

import numpy as np

from landmark.cli import run_step
from landmark.competition import open_competition
from landmark.descriptor_files import DescriptorFile
from landmark.gallery import gallery_inputs, load_gallery
from landmark.parts import PartFiles
from landmark.plan import made_by, open_job
from landmark.ranks import Ranks
from landmark.recipe import Recipe
from landmark.submission import write_retrieval


def main(recipe: Recipe, ranks: Ranks) -> None:
    competition = ranks.first_then_all(lambda: open_competition(recipe))
    index, test = (DescriptorFile(recipe.work / "descriptors", split) for split in ("index", "test"))
    plain, reranked = recipe.work / "retrieval_plain.csv", recipe.work / "retrieval.csv"
    job = open_job(
        recipe,
        "05_retrieve",
        reads=gallery_inputs(recipe, competition)
        | dict.fromkeys([*index.paths, *test.paths], made_by("04_extract")),
        writes=[plain, reranked],
    )
    if ranks.agree(job.is_done):
        if ranks.first:
            print(f"05 retrieve: up to date ({reranked})")
        return
    if ranks.first:
        job.start()
    # Imported here, so that a step with nothing to do ends before faiss is loaded.
    from landmark.retrieval import Retriever
    from landmark.search import SearchIndex

    index_vectors, index_ids = index.read()
    test_vectors, test_ids = test.read()
    files = PartFiles(recipe.work / "retrieval", job.key(), ranks)
    retriever = Retriever(recipe, files, lambda: load_gallery(recipe, competition))
    found = retriever.search(test_vectors, SearchIndex(index_vectors, recipe))
    ranking = retriever.rerank(found).ranking
    ranks.wait()
    if not ranks.first:
        return
    for path, rows in ((plain, found.ranking), (reranked, ranking)):
        write_lists(path, test_ids, np.array(index_ids), rows)
    job.finish()
    shutil.rmtree(files.folder)
    changed = int((ranking != found.ranking).any(axis=1).sum())
    print(
        f"05 retrieve: {len(test_ids)} queries in {len(index_ids)} images, {changed} lists re-ranked -> {reranked}"
    )


def write_lists(path, ids: list[str], names: np.ndarray, ranking: np.ndarray) -> None:
    """Write rows (Q, R) of the index as a submission; -1 is none."""
    write_retrieval(path, ids, (names[rows[rows >= 0]].tolist() for rows in ranking))


if __name__ == "__main__":
    run_step(main, shared=True)
