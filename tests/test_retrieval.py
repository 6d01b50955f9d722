"""Retrieval as a recipe says, against each way worked out plainly."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from landmark.errors import UserError
from landmark.gallery import Gallery
from landmark.parts import PartFiles
from landmark.ranks import ALONE
from landmark.recipe import load_recipe
from landmark.reranking import discriminative_rerank
from landmark.retrieval import Retriever
from landmark.search import SearchIndex

WAYS = ["dqe", "aqe", "alpha_qe", "dba", "k_reciprocal", "diffusion"]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class World:
    """Test, index and train images of six landmarks, as float16 descriptors."""

    def __init__(self, folder, index=80, seed=0):
        rng = np.random.default_rng(seed)
        self.folder, centres = folder, rng.normal(size=(6, 12))

        def images(count):
            labels = rng.integers(0, 6, count)
            return unit(centres[labels] + 1.2 * rng.normal(size=(count, 12))).astype(np.float16), labels

        (self.test, _), (self.index, _), (train, labels) = images(15), images(index), images(60)
        self.gallery = Gallery(train, labels, np.arange(60).astype(str))

    def retrieve(self, *changes):
        """The rankings before and after the recipe's `rerank`."""
        recipe = load_recipe("sample", ["device=cpu", "retrieval.top=20", *changes])
        # Arrays of one recipe are not another's.
        files = PartFiles(Path(tempfile.mkdtemp(dir=self.folder)), "key", ALONE)
        retriever = Retriever(recipe, files, lambda: self.gallery)
        found = retriever.search(self.test, SearchIndex(self.index, recipe))
        return found.ranking, retriever.rerank(found).ranking


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def nearest(queries, database, k):
    cosine = queries.astype(np.float32) @ database.astype(np.float32).T
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k]


def with_neighbours(own, database, near, alpha):
    """Each descriptor plus its neighbours' by the power of their cosines, in the files' half precision."""
    own, database = own.astype(float), database.astype(float)
    sums = [
        vector + sum(max(vector @ database[row], 0) ** alpha * database[row] for row in rows)
        for vector, rows in zip(own, near, strict=True)
    ]
    return unit(np.array(sums)).astype(np.float16)


def voted(vectors, gallery, k=3):
    """Soft votes of the k nearest train images: labels and scores."""
    labels, scores = [], []
    for vector, near in zip(vectors.astype(float), nearest(vectors, gallery.vectors, k), strict=True):
        sums = {}
        for row in near:
            term = 1 - ((vector - gallery.vectors[row].astype(float)) ** 2).sum()
            sums[gallery.labels[row]] = sums.get(gallery.labels[row], 0) + term
        labels.append(max(sums, key=sums.get))
        scores.append(sums[labels[-1]] / k)
    return np.array(labels), np.array(scores)


def test_without_rerank_the_ranking_is_that_of_the_search(world):
    before, after = world.retrieve("retrieval.rerank=[]")
    np.testing.assert_array_equal(before, nearest(world.test, world.index, 20))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(("way", "alpha"), [("aqe", 0.0), ("alpha_qe", 2.0)])
def test_query_expansion_searches_again_with_the_expanded_queries(world, way, alpha):
    settings = ["retrieval.expansion.neighbours=4", "retrieval.expansion.alpha=2"]
    before, after = world.retrieve(f"retrieval.rerank=[{way}]", *settings)
    queries = with_neighbours(world.test, world.index, before[:, :4], alpha)
    np.testing.assert_array_equal(after, nearest(queries, world.index, 20))
    assert (after != before).any()


def test_database_augmentation_searches_an_index_in_which_each_image_takes_in_its_neighbours(world):
    settings = ["retrieval.expansion.neighbours=4", "retrieval.expansion.alpha=2"]
    before, after = world.retrieve("retrieval.rerank=[dba]", *settings)
    others = np.array(
        [[r for r in near if r != i][:4] for i, near in enumerate(nearest(world.index, world.index, 5))]
    )
    index = with_neighbours(world.index, world.index, others, 2)
    np.testing.assert_array_equal(after, nearest(world.test, index, 20))
    assert (after != before).any()


def test_ways_follow_each_other_each_with_what_the_one_before_it_left(world):
    _, after = world.retrieve("retrieval.rerank=[alpha_qe, dqe]", "retrieval.insert_above=0.3")
    queries = with_neighbours(world.test, world.index, nearest(world.test, world.index, 10), 3)
    expanded = nearest(queries, world.index, 20)
    labels = *voted(queries, world.gallery), *voted(world.index, world.gallery)
    expected = discriminative_rerank(expanded, *labels, 0.3)
    np.testing.assert_array_equal(after, expected)
    assert (expected != expanded).any()
    assert (after != world.retrieve("retrieval.rerank=[dqe, alpha_qe]", "retrieval.insert_above=0.3")[1]).any()


def test_the_settings_of_dqe_are_heard(world):
    settings = ["retrieval.vote_neighbours=5", "retrieval.sort=false", "retrieval.insert_above=0.1"]
    before, after = world.retrieve("retrieval.rerank=[dqe]", *settings)
    labels = *voted(world.test, world.gallery, 5), *voted(world.index, world.gallery, 5)
    np.testing.assert_array_equal(after, discriminative_rerank(before, *labels, 0.1, sort=False))


@pytest.mark.parametrize("way", ["k_reciprocal", "diffusion"])
def test_reordering_by_neighbour_lists_is_the_same_a_few_queries_at_a_time(world, way, monkeypatch):
    changes = f"retrieval.rerank=[{way}]"
    before, whole = world.retrieve(changes)
    monkeypatch.setattr("landmark.retrieval._QUERIES", 7)
    np.testing.assert_array_equal(world.retrieve(changes)[1], whole)
    np.testing.assert_array_equal(np.sort(whole, axis=1), np.sort(before, axis=1))
    assert (whole != before).any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("images", [1, 2, 8])
def test_an_index_of_few_images_is_ranked_whole(tmp_path, way, images):
    _, after = World(tmp_path, index=images).retrieve(f"retrieval.rerank=[{way}]")
    assert np.sort(after, axis=1).tolist() == [list(range(images))] * 15


@pytest.mark.parametrize(
    "settings",
    [
        ("k_reciprocal", "k_reciprocal.k1=20", "k_reciprocal.k1=9", "k_reciprocal.k2=6"),
        ("k_reciprocal", "k_reciprocal.k2=15", "k_reciprocal.k2=10", "k_reciprocal.k1=5"),
        ("diffusion", "diffusion.neighbours=50", "diffusion.neighbours=9", "diffusion.alpha=0.9"),
    ],
)
def test_more_neighbours_than_there_are_mean_all(tmp_path, settings):
    way, *changes = settings
    more, all_, other = [f"retrieval.{change}" for change in changes]
    world = World(tmp_path, index=10)
    results = [world.retrieve(f"retrieval.rerank=[{way}]", number, other)[1] for number in (more, all_)]
    np.testing.assert_array_equal(*results)


def test_k2_may_be_greater_than_k1(world):
    changes = "retrieval.rerank=[k_reciprocal]", "retrieval.k_reciprocal.k1=3"
    narrow, wide = (world.retrieve(*changes, f"retrieval.k_reciprocal.k2={k2}")[1] for k2 in (4, 8))
    assert (narrow != wide).any()


@pytest.mark.parametrize("ways", ["dqe, dba", "dba, dba"])
def test_augmenting_the_database_comes_first_and_once(ways):
    with pytest.raises(UserError, match="dba changes the index itself; put it first, and once"):
        load_recipe("sample", [f"retrieval.rerank=[{ways}]"])


def test_an_approximate_search_tells_its_recall_and_every_way_can_follow(tmp_path, capsys):
    world = World(tmp_path, index=500)
    ways = f"retrieval.rerank=[{', '.join(['dba', *(way for way in WAYS if way != 'dba')])}]"
    before, after = world.retrieve("search.index=HNSW32", ways)
    exact = nearest(world.test, world.index, 20)
    found = np.mean([np.isin(a, b).mean() for a, b in zip(exact, before, strict=True)])
    assert found > 0.9
    # One line each for the index, for dba's index and, by dqe, for the train images.
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("search: HNSW32 finds")]
    assert lines[0] == f"search: HNSW32 finds {found:.1%} of the 20 nearest, by 15 queries"
    assert len(lines) == 3
    assert all(len(set(row)) == 20 and row.min() >= 0 for row in after)
