"""ArcFace and CosFace against the formula, written out with angles."""

import math

import numpy as np
import pytest
import torch

from landmark.losses import CosineHead, arcface_logits, cosface_logits

MARGIN, SCALE = 0.3, 30.0


def written_out(cosine, labels, loss):
    """The logits, entry by entry, in float64."""
    logits = np.empty(cosine.shape)
    for i, row in enumerate(cosine):
        for j, c in enumerate(row):
            if j == labels[i]:
                theta = math.acos(c)
                if loss == "cosface":
                    c = math.cos(theta) - MARGIN
                elif theta + MARGIN > math.pi:
                    c = c - MARGIN * math.sin(MARGIN)
                else:
                    c = math.cos(theta + MARGIN)
            logits[i, j] = SCALE * c
    return logits


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    cosine = rng.uniform(-0.99, 0.99, (64, 10))
    cosine[0, 3] = -0.999  # theta + m beyond pi
    labels = rng.integers(0, 10, 64)
    labels[0] = 3
    return cosine, labels


@pytest.mark.parametrize(("name", "function"), [("arcface", arcface_logits), ("cosface", cosface_logits)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.4)])
def test_logits_are_the_formula(case, name, function, dtype, tolerance):
    cosine, labels = case
    got = function(torch.tensor(cosine, dtype=dtype), torch.tensor(labels), MARGIN, SCALE)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.double().numpy(), written_out(cosine, labels, name), atol=tolerance)


def test_arcface_falls_all_the_way_to_the_opposite_direction():
    cosine = torch.linspace(1, -1, 2001, dtype=torch.float64)[:, None]
    logits = arcface_logits(cosine, torch.zeros(2001, dtype=torch.int64), MARGIN, SCALE)
    assert (logits[1:] < logits[:-1]).all()


@pytest.mark.parametrize("target", [1.0, -1.0])
def test_the_slope_is_finite_where_acos_has_none(target):
    cosine = torch.tensor([[target, 0.0]], requires_grad=True)
    arcface_logits(cosine, torch.tensor([0]), MARGIN, SCALE).sum().backward()
    assert torch.isfinite(cosine.grad).all()


@pytest.mark.parametrize("loss", ["arcface", "cosface"])
def test_the_head_is_cross_entropy_over_the_formula_also_under_bfloat16(loss):
    torch.manual_seed(0)
    head = CosineHead(16, 10, loss, MARGIN, SCALE)
    descriptors, labels = torch.randn(8, 16) * 7, torch.arange(8)
    a = descriptors.double().numpy()
    b = head.centres.detach().double().numpy()
    cosine = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    logits = written_out(cosine, labels.numpy(), loss)
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(8), labels.numpy()])
    assert head(descriptors, labels).item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_under_autocast = head(descriptors, labels)
    assert loss_under_autocast.dtype == torch.float32
    assert loss_under_autocast.item() == pytest.approx(expected, rel=1e-5)
