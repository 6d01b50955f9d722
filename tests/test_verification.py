"""Local features and spatial verification on real photographs that scikit-learn brings."""

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from landmark.images import fit
from landmark.local_features import FeatureCache, LocalFeatures, extract_local, open_extractor, rootsift
from landmark.settings import LocalFeatureSettings, VerificationSettings
from landmark.verification import count_inliers, match, verify

TRUE = np.array([[0.9, -0.15, 60], [0.12, 0.85, 10], [0.0002, 0.0001, 1]])


@pytest.fixture(scope="module")
def palace():
    return load_sample_image("china.jpg")


@pytest.fixture(scope="module")
def features(palace):
    height, width = palace.shape[:2]
    warped = cv2.warpPerspective(palace, TRUE, (width, height))
    views = {0: palace, 1: warped, 2: load_sample_image("flower.jpg")}
    return {key: rootsift(image, 800) for key, image in views.items()}


@pytest.mark.parametrize("model", ["homography", "affine"])
def test_a_warped_copy_verifies_and_another_photograph_does_not(features, model):
    settings = VerificationSettings(model=model)
    same, other = verify(features[0], features[1], settings), verify(features[0], features[2], settings)
    assert same.inliers > 100
    assert other.inliers < 8


def test_the_transform_maps_the_first_image_to_the_second(features):
    transform = verify(features[0], features[1], VerificationSettings()).transform
    corners = np.array([[[100, 100], [500, 100], [500, 350], [100, 350]]], np.float64)
    got, expected = cv2.perspectiveTransform(corners, transform), cv2.perspectiveTransform(corners, TRUE)
    assert np.abs(got - expected).max() < 3


def test_an_affine_transform_is_three_by_three(features):
    transform = verify(features[0], features[1], VerificationSettings(model="affine")).transform
    assert transform.shape == (3, 3) and transform[2].tolist() == [0, 0, 1]


def test_too_few_matches_are_no_proof(features):
    few = LocalFeatures(features[0].points[:4], features[0].descriptors[:4], features[0].size)
    empty = LocalFeatures(features[0].points[:0], features[0].descriptors[:0], features[0].size)
    for a, b in ((few, few), (empty, features[0]), (features[0], empty)):
        assert verify(a, b, VerificationSettings()).inliers == 0


def test_matches_are_mutual_and_pass_the_ratio_test():
    def at(*degrees):
        return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(np.float32)

    # 0 finds 2 (the second, 60, is far); 58 lies between 60 and 55; 90's nearest is 60, which prefers 58.
    a, b = at(0, 58, 90), at(2, 60, 55)
    assert match(a, b, ratio=0.8).tolist() == [[0, 0], [1, 1]]
    assert match(a, b, ratio=0.5).tolist() == [[0, 0]]


def test_rootsift_has_unit_length_and_at_most_as_many_points_as_asked_for(palace):
    found = rootsift(palace, 300)
    assert len(found.points) == len(found.descriptors) == 300
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-4)
    assert len(rootsift(np.zeros((64, 64, 3), np.uint8), 300).points) == 0


def test_many_pairs_give_what_one_by_one_gives(features):
    pairs, settings = np.array([[0, 1], [0, 2], [1, 2]]), VerificationSettings()
    expected = [verify(features[i], features[j], settings).inliers for i, j in pairs]
    for workers in (1, 3):
        assert count_inliers(pairs, features, features, settings, workers).tolist() == expected


def test_images_are_shrunk_before_points_are_sought(palace, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), palace[..., ::-1])
    settings = LocalFeatureSettings(longest_side=320, max_points=200)
    found = extract_local([(5, tmp_path / "a.png")], settings, open_extractor(settings, None, "cpu"), workers=2)
    np.testing.assert_array_equal(found[5].points, rootsift(fit(palace, 320), 200).points)


LINES = (
    "STOCKPHOTO 4711 www.agency.example (c) 2019 all rights reserved",
    "second line, photographer unknown, 1998",
)


def with_bar(image, lines, top=False):
    """The photograph with a stock agency's bar of text along a side."""
    image = image.copy()
    high = 6 + 27 * len(lines)
    bar = image[:high] if top else image[-high:]
    bar[:] = 20
    for number, line in enumerate(lines):
        place = (8, 22 + 26 * number)
        cv2.putText(bar, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def with_caption(image):
    return with_bar(image, LINES[:1])


def with_frame(image):
    """The photograph in a patterned frame."""
    coarse = np.random.default_rng(0).integers(0, 255, (image.shape[0] // 4, image.shape[1] // 4, 3), np.uint8)
    framed = cv2.resize(coarse, image.shape[1::-1])
    framed[24:-24, 24:-24] = image[24:-24, 24:-24]
    return framed


PRINTED = {
    "a line below": with_caption,
    "two lines below": lambda image: with_bar(image, LINES),
    "a line above and one below": lambda image: with_bar(with_caption(image), LINES[1:], top=True),
    "a line upright": lambda image: np.rot90(with_caption(image)).copy(),
    "a frame": with_frame,
}


@pytest.mark.parametrize("what", PRINTED)
def test_a_caption_or_a_frame_alone_verifies_nothing(palace, what):
    a, b = (rootsift(PRINTED[what](image), 800) for image in (palace, load_sample_image("flower.jpg")))
    assert verify(a, b, VerificationSettings(strip=0, border=0)).inliers >= 30
    assert verify(a, b, VerificationSettings()).inliers < 8


def test_a_mark_across_the_middle_verifies_nothing(palace):
    def marked(image):
        image = image.copy()
        image[200:232] = with_caption(image)[-32:]
        return image

    a, b = (rootsift(marked(image), 800) for image in (palace, load_sample_image("flower.jpg")))
    assert verify(a, b, VerificationSettings(strip=0)).inliers >= 30
    assert verify(a, b, VerificationSettings()).inliers < 8


def test_behind_a_shared_caption_the_building_still_verifies(palace):
    warped = cv2.warpPerspective(palace, TRUE, palace.shape[1::-1])
    a, b = rootsift(with_caption(palace), 800), rootsift(with_caption(warped), 800)
    found = verify(a, b, VerificationSettings())
    assert found.inliers > 100
    corners = np.array([[[100, 100], [500, 300]]], np.float64)
    expected = cv2.perspectiveTransform(corners, TRUE)
    assert np.abs(cv2.perspectiveTransform(corners, found.transform) - expected).max() < 3


def test_a_match_may_not_be_farther_than_the_limit():
    a = np.eye(3, dtype=np.float32)
    b = np.array([[0.8, 0.6, 0], [0, 1, 0], [0, 0, -1]], np.float32)
    assert match(a, b, 1.0, 0.5).tolist() == [[1, 1]]
    assert match(a, b, 1.0, 0.7).tolist() == [[0, 0], [1, 1]]  # 0 is sqrt(0.4) = 0.63 away


def test_features_are_found_once_and_held_within_the_memory_given(features, tmp_path):
    found = []

    def find(key):
        found.append(key)
        return features[key]

    one = features[0].nbytes
    with FeatureCache(find, int(2.5 * one), tmp_path) as cache:
        for key in (0, 1, 2, 0, 2, 1, 0):
            again = cache[key]
            np.testing.assert_array_equal(again.points, features[key].points)
            np.testing.assert_array_equal(again.descriptors, features[key].descriptors)
            assert again.size == features[key].size
            assert sum(held.nbytes for held in cache._held.values()) <= 2.5 * one
    assert found == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []
