"""Cosine softmax losses: ArcFace and CosFace."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def arcface_logits(cosine: torch.Tensor, labels: torch.Tensor, margin: float, scale: float) -> torch.Tensor:
    """s cos(theta + m) for the true class, s cos(theta) for the others (Deng et al., CVPR 2019, eq. 3).

    cosine: (B, C) in [-1, 1]; labels: (B,) int64. Beyond theta + m = pi the cosine would rise again; there the
    target falls on with cos(theta) - m sin(m), as in the authors' published code, which keeps it decreasing.
    cos(theta + m) is expanded, since acos has no finite slope at 1.
    """
    target = cosine.gather(1, labels[:, None])
    sine = torch.sqrt((1 - target.square()).clamp(min=1e-7))
    shifted = target * math.cos(margin) - sine * math.sin(margin)
    shifted = torch.where(target > -math.cos(margin), shifted, target - margin * math.sin(margin))
    return scale * cosine.scatter(1, labels[:, None], shifted)


def cosface_logits(cosine: torch.Tensor, labels: torch.Tensor, margin: float, scale: float) -> torch.Tensor:
    """s (cos(theta) - m) for the true class, s cos(theta) for the others (Wang et al., CVPR 2018, eq. 4)."""
    return scale * cosine.scatter_add(1, labels[:, None], torch.full_like(cosine[:, :1], -margin))


LOGITS = {"arcface": arcface_logits, "cosface": cosface_logits}


class CosineHead(nn.Module):
    """A class centre per label and the cross entropy over margin logits.

    forward: descriptors (B, D) of any length, labels (B,) int64 -> mean loss, a float32 scalar. It is computed
    in float32 whatever autocast says: at scale 30 the rounding of bfloat16 is as large as the margin's effect.
    """

    def __init__(self, dim: int, classes: int, loss: str, margin: float, scale: float):
        super().__init__()
        self.centres = nn.Parameter(nn.init.xavier_uniform_(torch.empty(classes, dim)))
        self.logits = LOGITS[loss]
        self.margin, self.scale = margin, scale

    def forward(self, descriptors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(descriptors.device.type, enabled=False):
            cosine = F.linear(F.normalize(descriptors.float()), F.normalize(self.centres.float()))
            return F.cross_entropy(self.logits(cosine, labels, self.margin, self.scale), labels)
