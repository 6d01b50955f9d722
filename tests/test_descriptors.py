"""Multi-scale extraction, files of descriptors, and their ensemble."""

import cv2
import numpy as np
import pytest
import torch

from landmark.descriptor_files import DescriptorFile, concatenate
from landmark.descriptors import extract
from landmark.errors import UserError
from landmark.images import inference_size, read_image, resize
from landmark.network import DescriptorNet, describe
from landmark.settings import Scales


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 2), (64, 2)])
def test_batches_of_mixed_shapes_give_what_one_image_at_a_time_gives(tmp_path, batch_size, workers):
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
        expected.append(unit(total)[0])
    paths.insert(2, tmp_path / "absent.png")
    settings = Scales(longest_side=200, scales=scales, batch_size=batch_size)
    vectors, bad = extract(net, paths, settings, torch.device("cpu"), workers, "")
    assert bad == {2: f"{paths[2]} is missing"} and not vectors[2].any()
    np.testing.assert_allclose(np.delete(vectors, 2, axis=0), expected, atol=1e-5)


def test_the_ensemble_is_the_weighted_concatenation_of_unit_length():
    rng = np.random.default_rng(0)
    a, b = unit(rng.normal(size=(6, 4))), unit(rng.normal(size=(6, 3)))
    joined = concatenate([a, b], [0.5, 1.0])
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, rtol=1e-6)
    # Cosines are the mean of the members' cosines, weighted by the squared weights.
    np.testing.assert_allclose(joined @ joined.T, (0.25 * a @ a.T + b @ b.T) / 1.25, atol=1e-6)


def test_files_give_back_what_was_written_and_join_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("landmark.descriptor_files._ROWS", 2)
    rng = np.random.default_rng(0)
    members = []
    for k, dim in enumerate((4, 3)):
        members.append(DescriptorFile(tmp_path / str(k), "test"))
        (tmp_path / str(k)).mkdir()
        np.save(members[-1].vectors_path, unit(rng.normal(size=(5, dim))).astype(np.float16))
        members[-1].write_ids(list("vwxyz"), {"q": "is missing"})
    vectors, ids = members[0].read()
    assert vectors.dtype == np.float16 and ids == list("vwxyz")
    assert members[0].skipped_path.read_text() == "id,reason\nq,is missing\n"
    assert members[1].read()[0].shape == (5, 3)
    joined = DescriptorFile(tmp_path, "test")
    joined.write_joined(members, [0.7, 0.3])
    expected = concatenate([m.read()[0] for m in members], [0.7, 0.3])
    np.testing.assert_allclose(joined.read()[0], expected, atol=1e-3)
    assert joined.skipped_path.read_text() == members[0].skipped_path.read_text()
    members[1].write_ids(list("vwxyq"), {})
    with pytest.raises(UserError, match="do not describe the same images"):
        joined.write_joined(members, [0.7, 0.3])
