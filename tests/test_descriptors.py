"""Multi-scale extraction, files of descriptors, their ensemble, and whitening."""

import cv2
import numpy as np
import pytest
import torch

from landmark import descriptors
from landmark.descriptor_files import DescriptorFile, EnsembleFiles, concatenate
from landmark.descriptors import extract
from landmark.errors import UserError
from landmark.images import inference_size, read_image, resize
from landmark.network import DescriptorNet, describe
from landmark.settings import Scales
from landmark.whitening import learn_whitening, read_whitening

CPU = torch.device("cpu")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("waiting", "workers", "flip"), [(1, 1, False), (24, 2, True), (2, 2, False)])
def test_batches_of_mixed_shapes_give_what_one_image_at_a_time_gives(
    tmp_path, monkeypatch, waiting, workers, flip
):
    monkeypatch.setattr(descriptors, "_WAITING", waiting)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net = DescriptorNet("test_resnet", 8, 3.0).eval()
    scales, paths, expected = [0.5, 0.75, 1.0], [], []
    for k, shape in enumerate([(150, 200), (200, 150), (150, 200), (210, 200), (150, 200)]):
        paths.append(tmp_path / f"{k}.png")
        cv2.imwrite(str(paths[-1]), rng.integers(0, 255, (*shape, 3), np.uint8))
        image, total = read_image(paths[-1]), 0
        for scale in scales:
            height, width = inference_size(*shape, 200 * scale)
            x = torch.from_numpy(resize(image, width, height)).permute(2, 0, 1)[None]
            with torch.inference_mode():
                total = total + describe(net, x).numpy()
                total = total + (describe(net, x.flip(3)).numpy() if flip else 0)
        expected.append(unit(total)[0])
    paths.insert(2, tmp_path / "absent.png")
    settings = Scales(longest_side=200, scales=scales, flip=flip, precision="fp32")
    vectors, bad = extract(net, lambda row: read_image(paths[row]), len(paths), settings, CPU, workers, "")
    assert bad == {2: f"{paths[2]} is missing"} and not vectors[2].any()
    np.testing.assert_allclose(np.delete(vectors, 2, axis=0), expected, atol=1e-5)


def test_batches_are_full_until_too_many_images_wait():
    shapes = {"wide": (96, 192, 3), "tall": (192, 96, 3), "square": (128, 128, 3)}
    order = ["wide"] * 5 + ["tall", "square"] + ["wide"] * 3 + ["tall"] * 4
    images = [(row, np.empty(shapes[name])) for row, name in enumerate(order)]
    batches = [[row for row, _ in batch] for batch in descriptors._by_shape(images, 4)]
    assert batches == [[0, 1, 2, 3], [4, 7, 8, 9], [5, 10, 11, 12], [13], [6]]

    given, held, out = 0, [], []

    def of_many_shapes():
        nonlocal given
        for row in range(200):
            held.append(given - sum(map(len, out)))
            given += 1
            yield row, np.empty((1 + row % 150, 8, 3))

    for batch in descriptors._by_shape(of_many_shapes(), 4):
        out.append(batch)
    assert sorted(row for batch in out for row, _ in batch) == list(range(200))
    assert max(held) <= 4 * descriptors._WAITING < 200


def test_an_image_is_read_once_for_all_scales():
    read = []

    def read_one(row):
        read.append(row)
        return np.zeros((100, 150, 3), np.uint8)

    settings = Scales(longest_side=160, scales=[1.0, 0.9, 0.8], flip=True)
    extract(DescriptorNet("test_resnet", 0, 3.0), read_one, 3, settings, CPU, 2, "")
    assert sorted(read) == [0, 1, 2]


def test_reduced_precision_gives_nearly_the_same_descriptors():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net, images = DescriptorNet("test_resnet", 0, 3.0), rng.integers(0, 255, (3, 128, 160, 3), np.uint8)

    def vectors(precision):
        settings = Scales(longest_side=160, scales=[1.0], precision=precision)
        return extract(net, images.__getitem__, 3, settings, CPU, 1, "")[0]

    full, reduced = vectors("fp32"), vectors("bf16")
    assert reduced.dtype == np.float32 and (full != reduced).any()
    assert ((full * reduced).sum(axis=1) > 0.999).all()


def test_the_ensemble_is_the_weighted_concatenation_of_unit_length():
    rng = np.random.default_rng(0)
    a, b = unit(rng.normal(size=(6, 4))), unit(rng.normal(size=(6, 3)))
    joined = concatenate([a, b], [0.5, 1.0])
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, rtol=1e-6)
    # Cosines are the mean of the members' cosines, weighted by the squared weights.
    np.testing.assert_allclose(joined @ joined.T, (0.25 * a @ a.T + b @ b.T) / 1.25, atol=1e-6)


def write_members(folder, count=5, dims=(4, 3)):
    rng = np.random.default_rng(0)
    members = []
    for k, dim in enumerate(dims):
        members.append(DescriptorFile(folder / str(k), "test"))
        (folder / str(k)).mkdir()
        np.save(members[-1].vectors_path, unit(rng.normal(size=(count, dim))).astype(np.float16))
        members[-1].write_ids([f"i{row}" for row in range(count)], {"q": "is missing"})
    return members


def test_files_give_back_what_was_written_and_join_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("landmark.descriptor_files._ROWS", 2)
    members = write_members(tmp_path)
    vectors, ids = members[0].read()
    assert vectors.dtype == np.float16 and ids == ["i0", "i1", "i2", "i3", "i4"]
    assert members[0].skipped_path.read_text() == "id,reason\nq,is missing\n"
    assert members[1].read()[0].shape == (5, 3)
    joined = DescriptorFile(tmp_path, "test")
    joined.write_joined(EnsembleFiles(members, [0.7, 0.3]))
    expected = concatenate([m.read()[0] for m in members], [0.7, 0.3])
    np.testing.assert_allclose(joined.read()[0], expected, atol=1e-3)
    assert joined.skipped_path.read_text() == members[0].skipped_path.read_text()
    members[1].write_ids(list("vwxyq"), {})
    with pytest.raises(UserError, match="do not describe the same images"):
        EnsembleFiles(members, [0.7, 0.3])


def test_whitened_descriptors_are_uncorrelated_of_equal_variance_and_in_the_order_of_variance(tmp_path):
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    vectors = (rng.normal(size=(4000, 6)) * [3, 1, 0.5, 2, 0.1, 0.05] + [1, 0, 0, 0, 0, 2]) @ turned
    learned = learn_whitening(iter([vectors[:1500], vectors[1500:1501], vectors[1501:]]), 4)
    learned.write(tmp_path / "w.npz")
    whitening = read_whitening(tmp_path / "w.npz")
    projected = (vectors - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(4), atol=1e-4)
    # Of unit variance each, a direction's length tells its standard deviation: the largest first.
    deviations = 1 / np.linalg.norm(whitening.projection, axis=0)
    np.testing.assert_allclose(deviations, [3, 2, 1, 0.5], rtol=0.05)
    np.testing.assert_allclose(whitening.apply(vectors), unit(projected), atol=1e-6)


def test_whitening_to_more_numbers_than_the_descriptors_vary_in_says_how_many_there_are():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 8))
    with pytest.raises(UserError, match=r"ensemble.whiten: 4 is too many; 50 train .* vary in 3 directions"):
        learn_whitening(iter([flat]), 4)


def test_the_joined_file_is_whitened_by_what_its_own_sample_of_rows_teaches(tmp_path):
    members = write_members(tmp_path, count=60)
    ensemble = EnsembleFiles(members, [1.0, 0.5])
    everything = concatenate([m.read()[0] for m in members], [1.0, 0.5])
    assert len(np.concatenate(list(ensemble.sample(20)))) == 20
    np.testing.assert_array_equal(np.concatenate(list(ensemble.sample(100))), everything)
    whitening = learn_whitening(ensemble.sample(100), 5)
    joined = DescriptorFile(tmp_path, "test")
    joined.write_joined(ensemble, whitening)
    assert joined.read()[0].shape == (60, 5) and joined.read()[0].dtype == np.float16
    np.testing.assert_allclose(joined.read()[0], whitening.apply(everything), atol=1e-3)
