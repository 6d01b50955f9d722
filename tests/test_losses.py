"""ArcFace, CosFace and AdaCos against the formula, written out with angles; and the head over a sample."""

import math

import numpy as np
import pytest
import torch

from landmark.errors import UserError
from landmark.losses import CosineHead, SampledHead, arcface, cosface

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


@pytest.mark.parametrize(("name", "function"), [("arcface", arcface), ("cosface", cosface)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.4)])
def test_the_margin_is_the_formula(case, name, function, dtype, tolerance):
    cosine, labels = case
    rows = np.arange(len(labels))
    got = SCALE * function(torch.tensor(cosine[rows, labels], dtype=dtype), MARGIN)
    assert got.dtype == dtype
    expected = written_out(cosine, labels, name)[rows, labels]
    np.testing.assert_allclose(got.double().numpy(), expected, atol=tolerance)


def test_arcface_falls_all_the_way_to_the_opposite_direction():
    shifted = arcface(torch.linspace(1, -1, 2001, dtype=torch.float64), MARGIN)
    assert (shifted[1:] < shifted[:-1]).all()


@pytest.mark.parametrize("target", [1.0, -1.0])
def test_the_slope_is_finite_where_acos_has_none(target):
    cosine = torch.tensor([target], requires_grad=True)
    arcface(cosine, MARGIN).sum().backward()
    assert torch.isfinite(cosine.grad).all()


def cosines(descriptors, head):
    a, b = descriptors.detach().double().numpy(), head.centres.detach().double().numpy()
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def cross_entropies(logits, labels):
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


@pytest.mark.parametrize("loss", ["arcface", "cosface"])
def test_the_head_is_cross_entropy_over_the_formula_also_under_bfloat16(loss):
    torch.manual_seed(0)
    head = CosineHead(16, 10, loss, MARGIN, SCALE)
    descriptors, labels = torch.randn(8, 16) * 7, torch.arange(8)
    expected = cross_entropies(written_out(cosines(descriptors, head), labels.numpy(), loss), labels.numpy())
    assert head(descriptors, labels).item() == pytest.approx(expected.mean(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_under_autocast = head(descriptors, labels)
    assert loss_under_autocast.dtype == torch.float32
    assert loss_under_autocast.item() == pytest.approx(expected.mean(), rel=1e-5)
    weights = torch.linspace(0.2, 2, 8)
    weighted = (expected * weights.numpy()).mean()
    assert head(descriptors, labels, weights).item() == pytest.approx(weighted, rel=1e-5)


def test_the_head_has_the_gradient_of_cross_entropy():
    torch.manual_seed(0)
    head = CosineHead(16, 10, "arcface", MARGIN, SCALE)
    descriptors, labels = torch.randn(8, 16, requires_grad=True), torch.arange(8)
    got = torch.autograd.grad(head(descriptors, labels), [descriptors, head.centres])
    unit = torch.nn.functional.normalize
    cosine = unit(descriptors) @ unit(head.centres).T
    theta = torch.acos(cosine) + MARGIN * torch.nn.functional.one_hot(labels, 10)
    plain = torch.nn.functional.cross_entropy(SCALE * torch.cos(theta), labels)
    for ours, theirs in zip(got, torch.autograd.grad(plain, [descriptors, head.centres]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_adacos_finds_its_scale_as_in_the_paper():
    torch.manual_seed(0)
    head = CosineHead(16, 50, "adacos", MARGIN, SCALE)
    scale = math.sqrt(2) * math.log(49)
    assert head.scale.item() == pytest.approx(scale)
    for _ in range(3):
        descriptors, labels = torch.randn(8, 16), torch.randint(0, 50, (8,))
        cosine, rows = cosines(descriptors, head), np.arange(8)
        true = cosine[rows, labels]
        others = np.exp(scale * cosine).sum(axis=1) - np.exp(scale * true)
        angle = np.sort(np.arccos(true))[3]  # torch's median is the lower of the two in the middle
        scale = math.log(others.mean()) / math.cos(min(math.pi / 4, angle))
        expected = cross_entropies(scale * cosine, labels.numpy()).mean()
        assert head(descriptors, labels).item() == pytest.approx(expected, rel=1e-5)
        assert head.scale.item() == pytest.approx(scale, rel=1e-5)
    head.eval()(descriptors, labels)
    assert head.scale.item() == pytest.approx(scale, rel=1e-5)


def test_adacos_needs_a_third_label():
    with pytest.raises(UserError, match="adacos needs three or more labels, here are 2"):
        CosineHead(4, 2, "adacos", 0.3, 30)


def optimised(head, sample_rate_seed, steps=6):
    """The head after some steps of SGD, and the losses of these."""
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for number in range(steps):
        descriptors = torch.randn(8, 16, generator=generator)
        labels = torch.randint(0, 40, (8,), generator=generator)
        with head.step(optimizer, labels, [sample_rate_seed, number]):
            loss = head(descriptors, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("loss", ["arcface", "cosface"])
def test_a_sample_of_everything_is_the_full_softmax(loss):
    torch.manual_seed(0)
    full = CosineHead(16, 40, loss, MARGIN, SCALE)
    torch.manual_seed(0)
    sampled = SampledHead(16, 40, loss, MARGIN, SCALE, sample_rate=1.0)
    assert optimised(sampled, 0) == pytest.approx(optimised(full, 0), rel=1e-5)
    torch.testing.assert_close(sampled.centres, full.centres.data)


def test_a_sample_holds_the_batch_moves_nothing_else_and_is_drawn_anew():
    torch.manual_seed(0)
    head = SampledHead(16, 40, "arcface", MARGIN, SCALE, sample_rate=0.25)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9)
    labels, drawn = torch.tensor([3, 3, 17]), []
    for number in range(2):
        before = head.centres.clone()
        with head.step(optimizer, labels, [0, number]):
            descriptors = torch.randn(3, 16)
            loss = head(descriptors, labels)
            assert head.rows().shape == (10, 16)
            loss.backward()
            optimizer.step()
        moved = (head.centres != before).any(dim=1).nonzero()[:, 0].tolist()
        assert len(moved) == 10 and {3, 17} <= set(moved)
        places = np.searchsorted(moved, labels.numpy())
        logits = written_out(cosines(descriptors, head_with(before[moved])), places, "arcface")
        expected = cross_entropies(logits, places).mean()
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        drawn.append(moved)
    assert drawn[0] != drawn[1]


def head_with(centres):
    head = CosineHead(centres.shape[1], len(centres), "arcface", MARGIN, SCALE)
    head.centres.data = centres
    return head
