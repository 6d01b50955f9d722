"""Which train images are kept, on cases that can be followed by hand."""

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark import cleaning
from landmark.competition import open_competition
from landmark.descriptor_files import DescriptorFile
from landmark.local_features import extract_local, open_extractor
from landmark.neighbours import same_label, top_k
from landmark.recipe import load_recipe
from landmark.settings import Agreement
from landmark.verification import count_inliers


def on_circle(*degrees):
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_neighbours_are_the_nearest_of_the_same_label_among_the_k_nearest():
    vectors = on_circle(0, 1, 2, 4, 8, 16)
    labels = np.array([5, 6, 5, 5, 6, 5])
    near = same_label(top_k(vectors, vectors, 4, 1)[1], labels, range(6), limit=100)
    # Of 0 the three nearest are 1, 2, 3; of 5 they are 4, 3, 2.
    assert [row[row >= 0].tolist() for row in near] == [[2, 3], [], [3, 0], [2, 0], [1], [3, 2]]
    one = same_label(top_k(vectors[2:5], vectors, 1001, 1)[1], labels, range(2, 5), limit=1)
    assert one.tolist() == [[3], [2], [1]]


def test_a_copy_does_not_make_room_for_one_neighbour_more():
    vectors, labels = on_circle(0, 0, 0, 5, 6), np.zeros(5, int)
    # Image 2 stands behind its copies 0 and 1 and may be missing among its own 3 nearest.
    near = same_label(top_k(vectors, vectors, 3, 1)[1], labels, range(5), limit=100)
    assert (near >= 0).sum(axis=1).tolist() == [2] * 5 and not (near == np.arange(5)[:, None]).any()


def padded(*rows):
    width = max(map(len, rows))
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows])


def test_each_unordered_pair_is_verified_once_and_counts_for_each_that_looks_at_the_other():
    neighbours = padded([1, 2], [0], [0, 1], [])
    assert cleaning.pairs_of(neighbours).tolist() == [[0, 1], [0, 2], [1, 2]]
    asked = []

    def verifies(one, two):
        asked.append((one, two))
        return (one, two) != (0, 2)

    counts, tried = cleaning.count_verified(neighbours, verifies, (1, 2, 3))
    # 2 is not among the neighbours that 1 looks at, so the pair counts for 2 alone.
    assert counts.tolist() == [1, 1, 1, 0]
    assert tried == 3 and sorted(asked) == [(0, 1), (0, 2), (1, 2)]


def test_an_image_is_decided_by_its_third_or_when_it_can_no_longer_reach_three():
    star = padded([1, 2, 3, 4, 5], [], [], [], [], [])
    asked = []
    for answers, needed in (([1, 1, 1], 3), ([0, 0, 0], 3), ([1, 0, 1, 0, 1], 5), ([0, 1, 0, 1, 0], 5)):
        asked.clear()

        def verifies(one, two, answers=answers):
            asked.append((one, two))
            return bool(answers[len(asked) - 1])

        assert cleaning.count_verified(star, verifies, (3,))[1] == needed
        # The nearest first.
        assert asked == [(0, other) for other in range(1, needed + 1)]


@pytest.mark.parametrize("thresholds", [(3,), (1, 2), (1,)])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_early_decisions_are_those_of_verifying_every_pair(thresholds, data):
    """On random graphs, thick and thin."""
    size = data.draw(st.integers(1, 14))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    look, agree = data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1))
    rows = []
    for i in range(size):
        others = rng.permutation([j for j in range(size) if j != i])
        rows.append(others[rng.random(len(others)) < look].tolist())
    truth = np.triu(rng.random((size, size)) < agree)
    calls = []

    def verifies(one, two):
        calls.append((one, two))
        return truth[one, two]

    neighbours = padded(*rows, [0] * 0) if any(rows) else np.full((size, 1), -1)
    counts, tried = cleaning.count_verified(neighbours[:size], verifies, thresholds)
    whole = np.array([sum(truth[min(i, j), max(i, j)] for j in row) for i, row in enumerate(rows)])
    for threshold in thresholds:
        assert ((counts >= threshold) == (whole >= threshold)).all()
    assert len(set(calls)) == len(calls) == tried <= len(cleaning.pairs_of(neighbours))


def test_a_set_of_clean_labels_needs_few_of_its_pairs():
    """120 views of a landmark of which a near pair mostly verifies: 3 of 100 neighbours each decide."""
    rng = np.random.default_rng(0)
    place = np.sort(rng.random(120)) * 10
    distance = np.abs(place[:, None] - place)
    neighbours = np.argsort(distance, axis=1)[:, 1:101]
    chance = rng.random((120, 120))

    def verifies(one, two):
        return chance[one, two] < np.exp(-distance[one, two])

    counts, tried = cleaning.count_verified(neighbours, verifies, (3,))
    assert (counts >= 3).all()
    assert tried < 0.1 * len(cleaning.pairs_of(neighbours))


def test_neighbours_are_renumbered_within_their_label():
    neighbours = padded([4, 2], [], [0], [], [2, 0])
    rows = np.array([0, 2, 4])
    assert cleaning.within_label(neighbours, rows).tolist() == [[2, 1], [0, -1], [1, 0]]
    assert [r.tolist() for r in cleaning.rows_by_label(np.array([7, 3, 7, 3, 9]))] == [[1, 3], [0, 2], [4]]
    assert cleaning.count_neighbours(neighbours).tolist() == [2, 0, 1, 0, 2]


def frame(**columns):
    size = len(columns["verified"])
    defaults = {"landmark_id": [1] * size, "neighbours": [9] * size, "voted": [1] * size, "support": [0.0] * size}
    return pd.DataFrame(defaults | columns)


def test_more_than_two_verified_is_kept_and_two_is_not():
    judged = cleaning.decide(frame(verified=[3, 2, 3, 0]), more_than=2, min_support=None, min_images=2)
    assert judged["kept"].tolist() == [True, False, True, False]
    assert judged["reason"].tolist() == [
        "verified", "too few neighbours verified", "verified", "no neighbour verified",
    ]  # fmt: skip


def test_reasons_tell_what_was_seen():
    judged = cleaning.decide(frame(verified=[0, 0, 1], neighbours=[2, 9, 9]), 2, None, 2)
    assert judged["reason"].tolist() == [
        "too few neighbours of its label", "no neighbour verified", "too few neighbours verified",
    ]  # fmt: skip


def test_a_label_left_with_one_image_drops():
    judged = cleaning.decide(
        frame(landmark_id=[1, 1, 2, 2], verified=[5, 5, 5, 0]), more_than=2, min_support=None, min_images=2
    )
    assert judged["kept"].tolist() == [True, True, False, False]
    assert judged["reason"][2] == "label left with too few images"


def test_agreement_keeps_what_geometry_leaves_out_and_marks_what_it_contradicts():
    table = frame(verified=[3, 0, 0, 0, 3], voted=[1, 1, 1, 2, 2], support=[0.0, 0.5, 0.1, 0.5, 0.5])
    judged = cleaning.decide(table, more_than=2, min_support=0.2, min_images=2)
    assert judged["kept"].tolist() == [True, True, False, False, True]
    assert judged["contradicted"].tolist() == [False, False, False, True, False]
    assert judged["reason"][3] == "verified images vote for another label"
    without = cleaning.decide(table, more_than=2, min_support=None, min_images=2)
    assert without["kept"].tolist() == [True, False, False, False, True] and not without["contradicted"].any()


def test_the_proved_images_vote_on_every_image_but_themselves():
    vectors = on_circle(0, 10, 20, 90, 100, 5, 95)
    labels = np.array([1, 1, 1, 2, 2, 1, 1])
    seeds = np.array([True, True, True, True, True, False, False])
    voted, support = cleaning.agreement(vectors, labels, seeds, Agreement(neighbours=2, min_support=0.2), 1)

    def similarity(*degrees):
        return sum(2 * np.cos(np.radians(d)) - 1 for d in degrees) / 2

    # 0 is backed by 10 and 20; 5 by 0 and 10; 95 (labelled 1) is among 90 and 100 of label 2.
    assert voted[[0, 5, 6]].tolist() == [1, 1, 2]
    assert support[0] == pytest.approx(similarity(10, 20), abs=1e-5)
    assert support[5] == pytest.approx(similarity(5, 5), abs=1e-5)
    assert support[6] == pytest.approx(similarity(5, 5), abs=1e-5)


def test_without_a_proved_image_nothing_is_backed():
    labels = np.array([4, 4, 5])
    voted, support = cleaning.agreement(on_circle(0, 1, 2), labels, np.zeros(3, bool), Agreement(), 1)
    assert voted.tolist() == labels.tolist() and support.tolist() == [0, 0, 0]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the photographs of ../shared")
def test_on_real_photographs_hardly_a_wrong_label_is_kept(run_step, project):
    """The photos recipe on monuments-small: at least 55 % of the right images, at most 1 % of the kept wrong."""
    data = SHARED / "monuments-small"
    run_step("01_clean", "--recipe", "photos", "--set", f"data={data}", "run=real")
    decisions = pd.read_csv(project / "input" / "real" / "clean_decisions.csv", dtype={"id": str})
    wrong = decisions["id"].isin(pd.read_csv(data / "label_noise.csv", dtype=str)["id"])
    kept = decisions["kept"]
    assert (kept & ~wrong).sum() >= 0.55 * (~wrong).sum()
    assert (kept & wrong).sum() <= 0.01 * kept.sum()

    # Id for id what verifying every pair gives.
    recipe = load_recipe("photos", [f"data={data}"])
    folder = project / "input" / "real" / "cleaning"
    vectors, ids = DescriptorFile(folder, "train").read()
    neighbours, labels = np.load(folder / "neighbours.npy"), open_competition(recipe).labels_of(ids)
    pairs = cleaning.pairs_of(neighbours)
    paths = enumerate(open_competition(recipe).path("train", i) for i in ids)
    extractor = open_extractor(recipe.local_features, None, "cpu")
    features = extract_local(paths, recipe.local_features, extractor, recipe.threads)
    inliers = count_inliers(pairs, features, features, recipe.verification, recipe.threads)
    proved = {tuple(pair) for pair in pairs[inliers >= recipe.verification.min_inliers].tolist()}
    verified = np.array(
        [sum((min(i, j), max(i, j)) in proved for j in row if j >= 0) for i, row in enumerate(neighbours.tolist())]
    )
    voted, support = cleaning.agreement(vectors, labels, verified > 0, recipe.cleaning.agreement, 1.0)
    table = pd.DataFrame({"landmark_id": labels, "neighbours": cleaning.count_neighbours(neighbours)})
    table = table.assign(verified=verified, voted=voted, support=support.round(4))
    every = cleaning.decide(table, recipe.cleaning.more_than, recipe.cleaning.agreement.min_support, 2)
    assert every["kept"].tolist() == kept.tolist() and decisions["id"].tolist() == ids
    assert every["contradicted"].tolist() == decisions["contradicted"].tolist()
