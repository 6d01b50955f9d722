"""Textures painted from polygons: colour, height and what is solid. Lengths are metres, colours BGR."""

from dataclasses import dataclass

import cv2
import numpy as np

TEXELS_PER_METRE = 24.0
LARGEST_TEXTURE = 800  # texels along the longer side


@dataclass
class Texture:
    """Colour (h, w, 3), relief (h, w, 3: slope right, slope down, gloss), what is solid (h, w) or None."""

    colour: np.ndarray
    relief: np.ndarray
    solid: np.ndarray | None = None


def shade(colour, factor):
    """The colour made darker (factor < 1) or lighter."""
    return tuple(min(max(float(channel) * factor, 0.0), 255.0) for channel in colour)


def box(x, y, w, h):
    return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]


def oval(cx, cy, rx, ry, points=20):
    angle = np.arange(points) * (2 * np.pi / points)
    return np.column_stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)])


def star(cx, cy, outer, inner, tips, turn=0.0):
    angle = turn + np.arange(2 * tips) * (np.pi / tips)
    radius = np.where(np.arange(2 * tips) % 2, inner, outer)
    return np.column_stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)])


def arch(x, y, w, h, pointed=False):
    """An opening w wide and h high, its head round or pointed."""
    rise = min(h * 0.7, w * (0.8 if pointed else 0.5))
    t = np.linspace(-1, 1, 15)
    lift = (1 - np.abs(t)) ** 0.62 if pointed else np.sqrt(1 - t**2)
    head = np.column_stack([x + w * (t + 1) / 2, y + rise * (1 - lift)])
    return np.vstack([[(x, y + h)], head, [(x + w, y + h)]])


def fractal(rng, shape, finest=4, coarsest=96):
    """Smooth noise (h, w) float32, mean 0 and deviation 1, octaves from `coarsest` to `finest` pixels."""
    total, cell = np.zeros(shape, np.float32), coarsest
    while cell >= finest:
        grid = rng.standard_normal((shape[0] // cell + 3, shape[1] // cell + 3), dtype=np.float32)
        total += cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC) * cell**0.5
        cell //= 2
    return (total - total.mean()) / (total.std() + 1e-6)


class Painter:
    """A texture being painted, in metres from its top left corner."""

    def __init__(self, rng, width, height, colour, solid=True, scale=None):
        self.rng, self.width, self.height = rng, width, height
        self.scale = scale or min(TEXELS_PER_METRE, LARGEST_TEXTURE / max(width, height))
        shape = max(8, round(height * self.scale)), max(8, round(width * self.scale))
        self.colour = np.full((*shape, 3), colour, np.uint8)
        self.level = np.full(shape, 128, np.uint8)
        self.gloss = np.zeros(shape, np.uint8)
        self.solid = None if solid else np.zeros(shape, np.uint8)

    def fill(self, outline, colour=None, level=None, gloss=0, solid=255):
        """Paint a polygon; level is its height out of the wall (128: flush, 8 to a centimetre or so)."""
        points = [np.round(np.asarray(outline) * (self.scale * 16)).astype(np.int32)]
        for plane, value in (
            (self.colour, colour),
            (self.level, level),
            (self.gloss, gloss),
            (self.solid, solid),
        ):
            if plane is not None and value is not None:
                cv2.fillPoly(plane, points, value, cv2.LINE_AA, 4)

    def courses(self, length, height):
        """Lay blocks of stone over everything painted so far, each of its own shade, with joints between."""
        rows, columns = self.level.shape
        start_x, start_y = self.rng.uniform(0, 1, 2)
        y = (start_y + np.arange(rows)[:, None] / (height * self.scale)).astype(np.float32)
        x = (start_x + np.arange(columns)[None] / (length * self.scale)).astype(np.float32)
        x = x + 0.5 * (np.floor(y) % 2)
        row, column = y.astype(np.int32), x.astype(np.int32)
        wide = int(column.max()) + 1
        tone = 1 + np.float32(0.09) * self.rng.standard_normal((int(row.max()) + 1) * wide, dtype=np.float32)
        tone = np.take(tone, row * wide + column)
        joint = (y - row < 0.1) | (x - column < 0.1 * height / length)
        self.colour = np.clip(self.colour * np.where(joint, np.float32(0.78), tone)[..., None], 0, 255).astype(
            np.uint8
        )
        self.level[joint] -= 22

    def finish(self, damage=0.22):
        """Weather the surface and return the texture."""
        shape = self.level.shape
        patches = fractal(self.rng, shape, 3, 128)
        streaks = cv2.blur(fractal(self.rng, shape, 2, 16), (1, 61))
        soot = np.linspace(-0.3, 0.45, shape[0], dtype=np.float32)[:, None] ** 3
        tone = 1 - damage * (0.32 * patches + 0.5 * streaks + 2 * np.abs(soot))
        tone += np.float32(0.025) * self.rng.standard_normal(shape, dtype=np.float32)
        colour = np.clip(self.colour * np.clip(tone, 0.35, 1.5)[..., None], 0, 255).astype(np.uint8)
        level = cv2.GaussianBlur(self.level.astype(np.float32), (0, 0), 0.8) + 5 * patches
        slopes = [cv2.Sobel(level, cv2.CV_32F, *axis, ksize=3) * -0.7 + 128 for axis in ((1, 0), (0, 1))]
        relief = np.clip(np.dstack([*slopes, self.gloss]), 0, 255).astype(np.uint8)
        return Texture(colour, relief, None if self.solid is None else self.solid > 127)
