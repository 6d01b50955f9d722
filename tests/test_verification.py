"""Local features and spatial verification on real photographs that scikit-learn brings."""

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from landmark.images import fit
from landmark.local_features import LocalFeatures, extract_local, rootsift
from landmark.recipe import LocalFeatureSettings, VerificationSettings
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
    few = LocalFeatures(features[0].points[:4], features[0].descriptors[:4])
    empty = LocalFeatures(features[0].points[:0], features[0].descriptors[:0])
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
    found = extract_local([(5, tmp_path / "a.png")], settings, workers=2)
    np.testing.assert_array_equal(found[5].points, rootsift(fit(palace, 320), 200).points)
