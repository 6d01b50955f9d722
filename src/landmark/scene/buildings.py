"""Ten styles of building, put together from walls, roofs, columns, towers and domes.

Lengths are metres: x to the right, y away from the front, z up; the front lies near y = 0, looking to -y.
"""

import numpy as np

from landmark.scene.design import Design
from landmark.scene.mesh import Mesh, pack


class Builder:
    """Puts a building's parts into a mesh."""

    def __init__(self, design):
        self.d, self.mesh, self.decide = design, Mesh(), design.layout.uniform
        self.plain = self.mesh.add(design.wall(8, 8).finish())
        self.tiles = self.mesh.add(design.roofing(12, 8))
        self.ribs = self.mesh.add(design.roofing(14, 9, ribs=True))
        self.column = self.mesh.add(design.shaft(6))
        self.band = self.mesh.add(design.frieze(22, 1.4))

    def draw(self, low, high):
        """A length: the twins' common one, give or take a few hundredths."""
        return self.d.layout.uniform(low, high) * self.d.detail.uniform(0.95, 1.05)

    def block(self, x0, x1, y0, y1, z0, z1, rows, bays, feature=None, cornice=0.5):
        """A house with windows on three sides and a cornice."""
        sides = max(1, round(bays * (y1 - y0) / (x1 - x0)))
        front = self.mesh.add(self.d.facade(x1 - x0, z1 - z0, rows, bays, feature))
        self.mesh.upright(x0, y0, x1, y0, z0, z1, front)
        for a, b, x in ((y1, y0, x0), (y0, y1, x1)):
            side = self.mesh.add(self.d.facade(y1 - y0, z1 - z0, rows, sides))
            self.mesh.upright(x, a, x, b, z0, z1, side)
        c = cornice
        self.mesh.prism(x0 - c, x1 + c, y0 - c, y1 + c, z1, z1 + 1.6 * c, self.band, self.band, self.plain)

    def steps(self, x0, x1, y0, y1, height, count):
        for k in range(count):
            out = (count - k) * 0.5
            self.mesh.prism(
                x0 - out, x1 + out, y0 - out, y1, height * k / count, height * (k + 1) / count, self.plain
            )

    def columns(self, xs, y, z0, z1, radius):
        for x in xs:
            self.mesh.turned(x, y, [(radius * 0.86, z1), (radius, z0)], 8, self.column)
            r = 1.25 * radius
            self.mesh.prism(x - r, x + r, y - r, y + r, z1 - 0.4, z1, self.plain)

    def roof(self, x0, x1, y0, y1, z, height, rose=False):
        """A gabled roof whose gable looks to the front."""
        middle, top, out = (x0 + x1) / 2, z + height, 0.4
        front = self.mesh.add(self.d.gable(x1 - x0, height, rose))
        self.mesh.upright(x0, y0 + 0.3, x1, y0 + 0.3, z, top, front)
        self.mesh.quad([(middle, y1, top), (middle, y0, top), (x0 - out, y0, z), (x0 - out, y1, z)], self.tiles)
        self.mesh.quad([(middle, y0, top), (middle, y1, top), (x1 + out, y1, z), (x1 + out, y0, z)], self.tiles)

    def porch(self, middle, width, depth, z0, z1, count):
        """Columns under a pediment, standing before y = 0."""
        x0, x1, radius = middle - width / 2, middle + width / 2, 0.07 * (z1 - z0)
        self.columns(np.linspace(x0 + radius, x1 - radius, count), -depth + radius, z0, z1, radius)
        self.mesh.prism(x0, x1, -depth, 0, z1, z1 + 1.3, self.band, self.band, self.plain)
        self.roof(x0, x1, -depth, 0, z1 + 1.3, 0.17 * width)

    def dome(self, cx, cy, z, radius, drum, onion=False, sides=20):
        """A drum of windows, a dome and its lantern."""
        r, top = radius, z + drum
        skin = self.mesh.add(self.d.facade(2 * np.pi * r / 2, drum, 1, max(4, round(r * 1.6))))
        self.mesh.turned(cx, cy, [(r, top), (r, z)], sides, skin, repeats=2)
        self.mesh.turned(cx, cy, [(1.06 * r, top + 0.08 * r), (1.06 * r, top - 0.02 * r)], sides, self.band, 1)
        if onion:
            profile = [
                (0.02, 2.1),
                (0.12, 1.6),
                (0.42, 1.25),
                (0.85, 0.95),
                (1.12, 0.6),
                (1.08, 0.3),
                (0.85, 0.0),
            ]
        else:
            profile = [(np.cos(t), 1.1 * np.sin(t)) for t in np.linspace(0.49, 0, 6) * np.pi]
        self.mesh.turned(
            cx, cy, [(a * r, top + 0.05 * r + b * r) for a, b in profile], sides, self.ribs, repeats=2
        )
        peak = top + (2.05 if onion else 1.12) * r
        self.mesh.turned(
            cx, cy, [(0.02, peak + 0.55 * r), (0.1 * r, peak + 0.3 * r), (0.12 * r, peak)], 8, self.column
        )

    def tower(self, cx, cy, half, heights, cap, feature=None):
        """Storeys one on another, each a little narrower, under a cap: spire, dome, onion or flat."""
        z = 0.0
        for k, height in enumerate(heights):
            s = half * (1 - 0.1 * k)
            last = k == len(heights) - 1
            self.block(
                cx - s,
                cx + s,
                cy - s,
                cy + s,
                z,
                z + height,
                max(1, round(height / 5)),
                2,
                feature if last else None,
                0.35,
            )
            z += height + 0.56
        if cap == "spire":
            self.mesh.prism(cx - s, cx + s, cy - s, cy + s, z, z + 4.5 * s, self.tiles, shrink=0.96 * s)
        elif cap == "flat":
            notches = self.mesh.add(self.d.arcade(2 * s, 1.6, 4, battlement=True))
            self.mesh.prism(cx - s, cx + s, cy - s, cy + s, z, z + 1.6, notches, notches, notches)
        else:
            self.dome(cx, cy, z, 0.8 * s, 0.5 * s, cap == "onion", 12)
        return z

    def turret(self, cx, cy, radius, height, cap):
        """A round tower: cap is cone, flat or balcony."""
        skin = self.mesh.add(self.d.facade(np.pi * radius, height, max(2, round(height / 4)), 4))
        self.mesh.turned(cx, cy, [(radius * (0.75 if cap == "balcony" else 1), height), (radius, 0)], 14, skin, 2)
        r = 1.2 * radius
        self.mesh.turned(cx, cy, [(r, height + 1.2), (r, height), (0.9 * radius, height - 0.8)], 14, self.band)
        if cap == "cone":
            self.mesh.turned(
                cx, cy, [(0.03, height + 1.2 + 2.6 * radius), (1.1 * r, height + 1.2)], 14, self.tiles, 2
            )
        elif cap == "balcony":
            self.columns(cx + radius * 0.6 * np.array([-1, 1]), cy, height + 1.2, height + 3.2, 0.16 * radius)
            self.dome(cx, cy, height + 3.2, 0.9 * radius, 0.3, True, 10)
        else:
            notches = self.mesh.add(self.d.arcade(2 * np.pi * r, 1.5, 16, battlement=True))
            self.mesh.turned(cx, cy, [(r, height + 2.7), (r, height + 1.2)], 14, notches)

    def forecourt(self):
        """Paving around the building, with a rose laid into it."""
        points = np.array(self.mesh.corners).reshape(-1, 3)
        (x0, y0), (x1, y1) = points.min(0)[:2] - (5, 14), points.max(0)[:2] + (5, 3)
        p = self.d.wall(x1 - x0, y1 - y0)
        self.d.rose(p, (x1 - x0) / 2, y1 - y0 - 7, 4.5)
        z, paving = 0.03, self.mesh.add(p.finish())
        self.mesh.quad([(x0, y1, z), (x1, y1, z), (x1, y0, z), (x0, y0, z)], paving)

    # Each style takes its decisions and lengths from the layout, so that twins have the same silhouette.
    def temple(self):
        w, h, count = self.draw(20, 30), self.draw(8, 12), int(self.decide(3, 5)) * 2
        self.steps(-w / 2, w / 2, -4, 24, 2.0, 5)
        self.block(-w / 2 + 2, w / 2 - 2, 0, 24, 2.0, 2 + h, 2, count - 1, "portal")
        self.porch(0, w, 4, 2.0, 2 + h, count)
        self.roof(-w / 2, w / 2, 0, 24, 3.3 + h, 0.17 * w)

    def cathedral(self):
        w, h, half = self.draw(11, 15), self.draw(14, 19), self.draw(3.0, 4.2)
        cap = "spire" if self.decide() < 0.6 else "flat"
        self.block(-w / 2, w / 2, 0, 38, 0, h, 3, 3, "portal")
        self.roof(-w / 2, w / 2, 0, 38, h + 0.8, 0.62 * w, rose=True)
        for x in (-w / 2 - half, w / 2 + half):
            self.tower(x, half - 1.5, half, [h * 0.6, h * 0.5, h * 0.45], cap)
        for y in range(14, 36, 6):
            for x in (-w / 2 - 2, w / 2 + 2):
                self.mesh.prism(x - 0.9, x + 0.9, y, y + 1.4, 0, h * 0.8, self.plain, shrink=0.35)

    def mausoleum(self):
        w, h, far = self.draw(20, 26), self.draw(13, 17), self.draw(6, 10)
        self.mesh.prism(-w / 2 - far, w / 2 + far, -far, w + far, 0, 2.2, self.band, self.band, self.plain)
        self.block(-w / 2, w / 2, 0, w, 2.2, h, 2, 5)
        iwan = self.mesh.add(self.d.facade(0.42 * w, h, 1, 1, "portal"))
        self.mesh.prism(-0.21 * w, 0.21 * w, -1.6, 2, 2.2, h + 2.6, iwan, self.plain, self.plain)
        self.dome(0, w / 2, h, 0.27 * w, 0.14 * w, onion=self.decide() < 0.5)
        for x in (-0.33 * w, 0.33 * w):
            self.dome(x, 0.2 * w, h, 0.09 * w, 1.4, True, 10)
        for x, y in ((-1, 0), (1, 0), (-1, 1), (1, 1)):
            self.turret(
                x * (w / 2 + far - 1.5),
                y * w + (1.5 - far) * (1 - 2 * y),
                1.3,
                h * self.draw(1.3, 1.32),
                "balcony",
            )

    def palace(self):
        w, h, wing = self.draw(16, 22), self.draw(13, 17), self.draw(10, 14)
        self.steps(-w * 0.3, w * 0.3, -5, 0, 1.2, 3)
        self.block(-w / 2, w / 2, 0, 16, 0, h, 3, 5, "portal")
        self.mesh.prism(-w / 2, w / 2, 0, 16, h + 0.8, h + 5.5, self.tiles, shrink=2.4)
        for side in (-1, 1):
            a, b = sorted((side * w / 2, side * (w / 2 + wing)))
            self.block(a, b, 2, 14, 0, h * 0.75, 3, 4)
            self.mesh.prism(a, b, 2, 14, h * 0.75 + 0.8, h * 0.75 + 4, self.tiles, shrink=2)
            a, b = sorted((side * (w / 2 + wing), side * (w / 2 + wing + 7)))
            self.block(a, b, -4, 12, 0, h * 0.85, 3, 2, "clock" if side > 0 else "rose")
            self.mesh.prism(a, b, -4, 12, h * 0.85 + 0.8, h * 0.85 + 6, self.tiles, shrink=3)
        self.porch(0, 0.55 * w, 4, 1.2, 0.55 * h, 4)
        self.dome(0, 8, h + 4.5, 3.2, 2.4)

    def hall(self):
        w, h, base = self.draw(22, 30), self.draw(11, 14), self.draw(4.5, 6)
        bays = int(w / 3.6)
        arches = self.mesh.add(self.d.arcade(w, base, bays))
        self.mesh.upright(-w / 2, -3.5, w / 2, -3.5, 0, base, arches)
        self.mesh.prism(-w / 2, w / 2, -3.5, 0, base, base + 0.9, self.band, self.band, self.plain)
        self.block(-w / 2, w / 2, 0, 14, 0, base, 1, bays)
        self.block(-w / 2, w / 2, -0.6, 14, base + 0.9, h + base, 2, bays)
        self.mesh.prism(-w / 2, w / 2, -0.6, 14, h + base + 0.8, h + base + 6, self.tiles, shrink=4.5)
        self.tower(
            self.draw(-0.3, 0.3) * w,
            1.2,
            3.0,
            [h + base, 9, 5],
            "spire" if self.decide() < 0.5 else "dome",
            "clock",
        )

    def rotunda(self):
        r, h, count = self.draw(8, 11), self.draw(9, 12), 18
        self.steps(-r - 3, r + 3, -3, 2 * r + 6, 1.5, 4)
        skin = self.mesh.add(self.d.facade(np.pi * r, h, 2, 9))
        self.mesh.turned(0, r + 3, [(r, h + 1.5), (r, 1.5)], 24, skin, 2)
        for angle in np.linspace(-0.62, 0.62, count) * np.pi:
            self.columns([(r + 2) * np.sin(angle)], r + 3 - (r + 2) * np.cos(angle), 1.5, h * 0.7, 0.5)
        self.mesh.turned(
            0,
            r + 3,
            [(r, h * 0.7 + 1.3), (r + 2.6, h * 0.7 + 1.2), (r + 2.6, h * 0.7), (r, h * 0.7)],
            24,
            self.band,
            2,
        )
        self.dome(0, r + 3, h + 1.5, 0.86 * r, 0.25 * r, sides=24)
        self.porch(0, 1.1 * r, 3, 1.5, h * 0.66, 4)

    def gate(self):
        w, h, r = self.draw(10, 14), self.draw(11, 14), self.draw(3.6, 5)
        cap = "cone" if self.decide() < 0.6 else "flat"
        self.block(-w / 2, w / 2, 0, 10, 0, h, 3, 3, "portal")
        notches = self.mesh.add(self.d.arcade(w, 1.6, 7, battlement=True))
        self.mesh.upright(-w / 2, -0.4, w / 2, -0.4, h + 0.8, h + 2.4, notches)
        for side in (-1, 1):
            self.turret(side * (w / 2 + r * 0.7), 1.5, r, h * 1.25, cap)
            a, b = sorted((side * (w / 2 + r), side * (w / 2 + r + 12)))
            self.block(a, b, 3, 6, 0, h * 0.6, 2, 4)
        self.tower(0, 9, 3.2, [h * 1.2, 7], "spire", "clock")

    def triumph(self):
        w, h, d = self.draw(17, 23), self.draw(13, 17), self.draw(6, 8)
        x = np.array([-0.5, -0.36, -0.2, 0.2, 0.36, 0.5]) * w
        for a, b in ((0, 1), (1, 2), (3, 4), (4, 5)):
            self.block(x[a], x[b], 0 if b in (1, 5) else -0.6, d, 0, h * 0.78, 3, 1, cornice=0.25)
        opening = self.mesh.add(self.d.arcade(0.4 * w, h * 0.78, 1))
        for y in (0.3, d - 0.3):
            self.mesh.upright(x[2], y, x[3], y, 0, h * 0.78, opening)
        self.block(-w / 2, w / 2, -0.3, d, h * 0.78 + 0.4, h * 1.25, 1, 5, "rose", 0.8)
        self.columns(x[[0, 2, 3, 5]] * np.array([0.97, 1.15, 1.15, 0.97]), -1.3, 0.6, h * 0.78, 0.55)
        self.mesh.prism(
            -4, 4, 1, d - 1, h * 1.25 + 1, h * 1.25 + 3.6, self.band, self.plain, self.plain, shrink=0.5
        )

    def pagoda(self):
        w, tiers, h = self.draw(15, 20), int(self.decide(4, 6.99)), self.draw(4.2, 5.4)
        self.steps(-w / 2 - 1, w / 2 + 1, -3, w, 1.6, 4)
        z = 1.6
        for k in range(tiers):
            s = w / 2 * (1 - 0.13 * k) * 0.78
            y = w / 2
            self.block(-s, s, y - s, y + s, z, z + h * 0.62, 1, max(3, 6 - k), "portal" if k == 0 else None, 0.15)
            out = 1.9
            self.mesh.prism(
                -s - out, s + out, y - s - out, y + s + out, z + h * 0.66, z + h, self.tiles, shrink=out + 0.4
            )
            z += h
        self.mesh.turned(0, w / 2, [(0.05, z + 5), (0.5, z + 2), (0.9, z)], 8, self.column)

    def basilica(self):
        w, h, onion = self.draw(18, 24), self.draw(9, 12), self.decide() < 0.6
        self.steps(-w * 0.3, w * 0.3, -3, 0, 1.2, 3)
        self.block(-w / 2, w / 2, 0, w, 0, h, 2, 5, "portal")
        self.porch(0, 0.45 * w, 3, 1.2, 0.7 * h, 4)
        self.dome(0, w / 2, h, 0.2 * w, 0.32 * w, onion, 16)
        for x, y in ((-0.32, 0.18), (0.32, 0.18), (-0.32, 0.8), (0.32, 0.8)):
            self.dome(x * w, y * w, h, 0.11 * w, 0.22 * w, onion, 12)


STYLES = (
    "cathedral",
    "mausoleum",
    "temple",
    "hall",
    "gate",
    "palace",
    "basilica",
    "triumph",
    "pagoda",
    "rotunda",
)


def build(layout_seed, detail_seed, style, palette):
    """The building as a packed mesh; twins differ in detail_seed only. palette: any whole number."""
    design = Design(np.random.default_rng(layout_seed), np.random.default_rng(detail_seed), palette)
    builder = Builder(design)
    getattr(builder, style)()
    builder.forecourt()
    return pack(builder.mesh)
