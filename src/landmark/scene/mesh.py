"""Quads with textures, and the one picture that holds all textures of a scene."""

from dataclasses import dataclass, field

import cv2
import numpy as np

MIP_LEVELS = 5
ATLAS_WIDTH = 2048
BORDER = 2  # texels repeated around each texture, so that bilinear reading never meets a neighbour


@dataclass
class Mesh:
    """Quads: corners (top left, top right, bottom right, bottom left seen from outside), texture, window."""

    corners: list = field(default_factory=list)
    windows: list = field(default_factory=list)  # the part of the texture shown: left, top, right, bottom in 0..1
    picks: list = field(default_factory=list)
    textures: list = field(default_factory=list)

    def add(self, texture):
        self.textures.append(texture)
        return len(self.textures) - 1

    def quad(self, corners, texture, window=(0, 0, 1, 1)):
        self.corners.append(corners)
        self.windows.append(window)
        self.picks.append(texture)

    def upright(self, x0, y0, x1, y1, z0, z1, texture, window=(0, 0, 1, 1)):
        """A vertical wall from (x0, y0) on its left to (x1, y1) on its right."""
        self.quad([(x0, y0, z1), (x1, y1, z1), (x1, y1, z0), (x0, y0, z0)], texture, window)

    def prism(self, x0, x1, y0, y1, z0, z1, front, side=None, top=None, shrink=0.0):
        """A box, or with shrink > 0 a truncated pyramid whose top is smaller by that much on every side."""
        side, top = front if side is None else side, front if top is None else top
        low = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        s = shrink
        high = [(x0 + s, y0 + s), (x1 - s, y0 + s), (x1 - s, y1 - s), (x0 + s, y1 - s)]
        for k, texture in enumerate((front, side, front, side)):
            a, b = k, (k + 1) % 4
            self.quad([(*high[a], z1), (*high[b], z1), (*low[b], z0), (*low[a], z0)], texture)
        self.quad([(*high[3], z1), (*high[2], z1), (*high[1], z1), (*high[0], z1)], top)
        self.quad([(*low[0], z0), (*low[1], z0), (*low[2], z0), (*low[3], z0)], top)

    def turned(self, cx, cy, profile, sides, texture, repeats=1):
        """A surface of revolution: profile is [(radius, z)] from the top down."""
        angle = np.arange(sides + 1) * (2 * np.pi / sides)
        ring = np.column_stack([np.sin(angle), -np.cos(angle)])
        length = np.cumsum(
            [0.0] + [np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in zip(profile, profile[1:], strict=False)]
        )
        v = length / length[-1]
        for row, ((r1, z1), (r0, z0)) in enumerate(zip(profile, profile[1:], strict=False)):
            for k in range(sides):
                u = k * repeats / sides % 1
                (ax, ay), (bx, by) = ring[k], ring[k + 1]
                quad = [
                    (cx + r * x, cy + r * y, z)
                    for r, z, x, y in ((r1, z1, ax, ay), (r1, z1, bx, by), (r0, z0, bx, by), (r0, z0, ax, ay))
                ]
                self.quad(quad, texture, (u, v[row], min(u + repeats / sides, 1), v[row + 1]))


@dataclass
class Packed:
    """A mesh as arrays, its textures with their smaller copies in one picture."""

    corners: np.ndarray  # (F, 4, 3)
    windows: np.ndarray  # (F, 4)
    picks: np.ndarray  # (F,)
    colour: np.ndarray  # atlas (H, ATLAS_WIDTH, 3)
    relief: np.ndarray
    places: np.ndarray  # (T, MIP_LEVELS, 4): x, y, width, height of each copy in the atlas
    solids: list  # T masks or None

    def joined(self, other):
        """Both scenes as one."""
        places = other.places + np.array([0, len(self.colour), 0, 0], np.float32)
        pairs = (
            (self.corners, other.corners),
            (self.windows, other.windows),
            (self.picks, other.picks + len(self.solids)),
        )
        pairs += ((self.colour, other.colour), (self.relief, other.relief), (self.places, places))
        return Packed(*(np.concatenate(pair) for pair in pairs), self.solids + other.solids)


def pack(mesh):
    """Lay all textures and their smaller copies on shelves of one atlas."""
    copies = []
    for number, texture in enumerate(mesh.textures):
        colour, relief = texture.colour, texture.relief
        for level in range(MIP_LEVELS):
            if level:
                size = max(1, colour.shape[1] // 2), max(1, colour.shape[0] // 2)
                colour, relief = (cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in (colour, relief))
            copies.append((number, level, colour, relief))
    copies.sort(key=lambda copy: (-copy[2].shape[0], copy[0], copy[1]))
    places = np.zeros((len(mesh.textures), MIP_LEVELS, 4), np.float32)
    x = y = shelf = 0
    for number, level, colour, _ in copies:
        h, w = colour.shape[0] + 2 * BORDER, colour.shape[1] + 2 * BORDER
        if x + w > ATLAS_WIDTH:
            x, y, shelf = 0, y + shelf, 0
        places[number, level] = x + BORDER, y + BORDER, colour.shape[1], colour.shape[0]
        x, shelf = x + w, max(shelf, h)
    atlases = np.zeros((2, y + shelf, ATLAS_WIDTH, 3), np.uint8)
    for number, level, *pictures in copies:
        x, y, w, h = (places[number, level] + (-BORDER, -BORDER, 2 * BORDER, 2 * BORDER)).astype(int)
        for atlas, picture in zip(atlases, pictures, strict=True):
            atlas[y : y + h, x : x + w] = cv2.copyMakeBorder(picture, *[BORDER] * 4, cv2.BORDER_REPLICATE)
    solids = [texture.solid for texture in mesh.textures]
    corners, windows = np.array(mesh.corners, np.float64), np.array(mesh.windows, np.float64)
    return Packed(corners, windows, np.array(mesh.picks), *atlases, places, solids)
