"""The rendered sample competition: its files, its noise, its geometry and its care for what is there."""

import json
import os

import cv2
import numpy as np
import pandas as pd
import pytest

from landmark import sample
from landmark.scene import camera, views
from landmark.scene.buildings import build
from landmark.settings import Sample

SMALL = Sample(landmarks=5, train_views=4, index_views=2, test_views=2, longest_side=96)
TINY = Sample(landmarks=2, train_views=2, index_views=1, test_views=1, longest_side=64)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered") / "small"
    sample.render_competition(folder, SMALL, seed=7, workers=2)
    return folder


def read(folder, name):
    return pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def photo(building, azimuth, height=8.0, distance=55.0):
    """A photograph (360, 480) in plain daylight, and its camera; azimuth in degrees."""
    rng = np.random.default_rng(5)
    angle = np.radians(azimuth)
    place = distance * np.sin(angle), -distance * np.cos(angle), height
    eye = camera.look(place, (0.0, 2.0, 8.0), 50.0, 480, 360)
    weather = views.draw_weather(rng)
    weather.sun, weather.haze, weather.clouds = np.array([-0.4, -0.7, 0.6]), 0.0005, weather.clouds * 0
    weather.sun /= np.linalg.norm(weather.sun)
    picture = camera.photograph(building, eye, weather, np.full((32, 32, 3), 120, np.uint8))
    return (np.clip(picture, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8), eye


def inliers(first, second):
    """RootSIFT points that one homography explains to 6 px."""
    found = []
    for picture in (first, second):
        points, descriptors = cv2.SIFT_create(800).detectAndCompute(picture, None)
        found.append((points, np.sqrt(descriptors / descriptors.sum(1, keepdims=True))))
    (points_a, a), (points_b, b) = found
    near = cv2.BFMatcher().knnMatch(a, b, k=2)
    back = {match.queryIdx: match.trainIdx for match in cv2.BFMatcher().match(b, a)}
    good = [m for m, n in near if m.distance < 0.85 * n.distance and back[m.trainIdx] == m.queryIdx]
    if len(good) < 8:
        return 0
    start = np.float32([points_a[m.queryIdx].pt for m in good])
    end = np.float32([points_b[m.trainIdx].pt for m in good])
    mask = cv2.findHomography(start, end, cv2.USAC_MAGSAC, 6.0)[1]
    return 0 if mask is None else int(mask.sum())


@pytest.fixture(scope="module")
def buildings():
    """A gate, its look-alike, and a hall."""
    return build(1, 10, "gate", 0), build(1, 11, "gate", 0), build(2, 12, "hall", 1)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path):
    for workers in (1, 2):
        sample.render_competition(tmp_path / str(workers), TINY, seed=3, workers=workers)
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert one == two
    assert len({data for name, data in one.items() if name.endswith(".jpg")}) == 2 * 4 + 1  # all differ


def test_another_seed_gives_other_ids():
    ids = [{shot.id for shot in sample.plan(seed, TINY)[0]} for seed in (1, 2)]
    assert not ids[0] & ids[1]


def test_layout_and_tables(small):
    train, index, test = (read(small, name) for name in ("train", "index", "test"))
    assert list(train) == ["id", "url", "landmark_id"]
    assert list(index) == ["id"] and list(test) == ["id"]
    assert (train.url == "").all() and len(train) == 20 and len(index) == 12 and len(test) == 15
    for split, table in (("train", train), ("index", index), ("test", test)):
        on_disk = sorted(path.relative_to(small / split).as_posix() for path in small.glob(f"{split}/**/*.jpg"))
        assert on_disk == sorted(f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in table.id)
        assert table.id.str.fullmatch("[0-9a-f]{16}").all()
        sizes = {cv2.imread(str(small / split / path)).shape[:2] for path in on_disk}
        assert {max(size) for size in sizes} == {96} and len(sizes) > 1
    names = read(small, "landmarks")
    assert list(names) == ["landmark_id", "name"] and names.name.is_unique
    assert names.landmark_id.tolist() == ["1000", "1037", "1074", "1111", "1148"]
    assert set(train.landmark_id) <= set(names.landmark_id)


def test_solutions(small):
    recognition, retrieval = read(small, "recognition_solution"), read(small, "retrieval_solution")
    assert list(recognition) == ["id", "landmarks", "Usage"] and list(retrieval) == ["id", "images", "Usage"]
    assert recognition.id.tolist() == retrieval.id.tolist() == read(small, "test").id.tolist()
    assert (recognition.Usage == "Public").sum() == 5 and set(recognition.Usage) == {"Public", "Private"}
    empty = recognition.landmarks == ""
    assert empty.sum() == 5
    assert (retrieval.images[empty] == "None").all() and (retrieval.Usage[empty] == "Ignored").all()
    assert (retrieval.Usage[~empty] == recognition.Usage[~empty]).all()
    relevant = [images.split() for images in retrieval.images[~empty]]
    assert all(len(images) == 2 for images in relevant)
    assert set(sum(relevant, [])) < set(read(small, "index").id)  # some index images show no landmark


def test_noise_is_what_was_promised(small):
    shots, labels = sample.plan(2019, Sample())
    swapped = [a for a, b in labels if b >= 0 and a != b]
    junk = [number for number, (_, b) in enumerate(labels) if b < 0]
    assert len(labels) == 336 and len(swapped) == 40 and len(junk) == 34
    assert {shots[number].kind for number in junk} == set(sample.JUNK)
    for split, count in (("index", 36), ("test", 48)):
        others = [shot.kind for shot in shots if shot.split == split and shot.subject < 0]
        assert len(others) == count and len(set(others)) > 4
    noise, train = read(small, "label_noise"), read(small, "train").set_index("id").landmark_id
    assert list(noise) == ["id", "landmark_id", "true_landmark_id"]
    assert (noise.true_landmark_id == "").sum() == 2 and len(noise) == 4
    assert (train[noise.id].to_numpy() == noise.landmark_id).all()
    assert (noise.landmark_id != noise.true_landmark_id).all()


def test_two_viewpoints_verify_and_show_parallax(buildings):
    gate = buildings[0]
    (left, eye_left), (right, eye_right) = photo(gate, -12), photo(gate, 14)
    assert inliers(left, right) >= 15
    points = np.unique(gate.corners.reshape(-1, 3), axis=0)
    front = np.abs(points[:, 1]) < 0.01
    (a, _), (b, _) = eye_left.project(points), eye_right.project(points)
    plane = cv2.findHomography(a[front], b[front])[0]
    shift = np.linalg.norm(cv2.perspectiveTransform(a[None], plane)[0] - b, axis=1)
    assert shift[front].max() < 0.1 and np.median(shift[~front]) > 6


def test_pixels_lie_where_the_pinhole_puts_them():
    eye = camera.look((0.0, -10.0, 2.0), (0.0, 0.0, 2.0), 90.0, 200, 100)
    pixels, depth = eye.project(np.array([[0.0, 0.0, 2.0], [5.0, 0.0, 2.0], [0.0, 0.0, 4.0]]))
    np.testing.assert_allclose(pixels, [[100, 50], [150, 50], [100, 30]], atol=1e-9)
    np.testing.assert_allclose(depth, 10)


def test_other_landmarks_do_not_verify(buildings):
    gate, twin, hall = buildings
    view, again = photo(gate, 0)[0], inliers(photo(gate, 0)[0], photo(gate, 20)[0])
    assert inliers(view, photo(hall, 20)[0]) < 8
    assert inliers(view, photo(twin, 20)[0]) < 0.2 * again


def test_look_alikes_share_their_shape_and_not_their_ornaments(buildings):
    gate, twin, hall = buildings
    assert gate.corners.shape == twin.corners.shape
    assert np.abs(gate.corners - twin.corners).mean() < 0.06 * np.abs(gate.corners).mean()
    small = [cv2.resize(photo(b, 0)[0], (16, 12), interpolation=cv2.INTER_AREA).astype(float) for b in buildings]
    assert np.abs(small[0] - small[1]).mean() < 0.4 * np.abs(small[0] - small[2]).mean()
    pairs = sample.twins(24)
    assert 2 * len(pairs) >= 24 / 4 and len({k for pair in pairs for k in pair}) == 2 * len(pairs)
    a, b = (sample.stand(7, landmark, 5) for landmark in sample.twins(5)[0])
    assert a.corners.shape == b.corners.shape


def test_an_existing_sample_is_recognised(small):
    assert sample.is_rendered(small, SMALL, seed=7)
    assert not sample.is_rendered(small, SMALL, seed=8)
    assert not sample.is_rendered(small.with_name("absent"), SMALL, seed=7)


def test_a_sample_with_a_picture_missing_is_not_whole(small):
    path = next(small.glob("train/**/*.jpg"))
    data = path.read_bytes()
    path.unlink()
    assert not sample.is_rendered(small, SMALL, seed=7)
    path.write_bytes(data[:-9])
    assert not sample.is_rendered(small, SMALL, seed=7)
    path.write_bytes(data)
    assert sample.is_rendered(small, SMALL, seed=7)


@pytest.mark.parametrize("name", ["thesis.txt", "train.csv"])
def test_a_foreign_folder_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="not a rendered sample"):
        sample.render_competition(tmp_path, TINY, seed=3, workers=1)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_sample_with_something_of_the_users_is_not_replaced(tmp_path):
    (tmp_path / "sample.json").write_text(json.dumps({"version": 0}))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        sample.render_competition(tmp_path, TINY, seed=3, workers=1)


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    stale, busy = tmp_path / "s.part-999999999", tmp_path / f"s.part-{os.getppid()}"
    stale.mkdir()
    busy.mkdir()
    monkeypatch.setattr(sample, "write_tables", fail)
    with pytest.raises(OSError, match="disk full"):
        sample.render_competition(tmp_path / "s", TINY, seed=3, workers=1)
    assert list(tmp_path.iterdir()) == [busy]  # a run under way keeps its folder


def test_a_sample_of_other_settings_is_replaced(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "sample.json").write_text(json.dumps({"version": 0}))
    sample.render_competition(folder, TINY, seed=3, workers=1)
    assert sample.is_rendered(folder, TINY, seed=3)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
