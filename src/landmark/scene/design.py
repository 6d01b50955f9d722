"""What a building is made of: stone, windows and ornaments, no two of them alike."""

import numpy as np

from landmark.scene.paint import Painter, arch, box, oval, shade, star

PALETTES = (  # stone, trim, roof, accent
    ((168, 196, 212), (198, 218, 228), (104, 104, 104), (96, 120, 160)),
    ((118, 162, 204), (160, 194, 220), (70, 86, 124), (104, 88, 60)),
    ((72, 86, 152), (188, 206, 216), (74, 70, 76), (150, 170, 186)),
    ((212, 218, 222), (228, 232, 234), (140, 156, 130), (134, 112, 76)),
    ((150, 153, 156), (188, 190, 192), (84, 80, 74), (86, 116, 156)),
    ((110, 180, 222), (216, 230, 236), (64, 84, 140), (78, 108, 84)),
    ((158, 168, 208), (216, 218, 228), (100, 96, 92), (104, 88, 124)),
    ((98, 108, 120), (156, 166, 174), (64, 70, 96), (80, 150, 186)),
    ((96, 130, 190), (206, 216, 222), (112, 138, 104), (70, 84, 132)),
    ((178, 208, 226), (216, 228, 234), (76, 90, 136), (132, 104, 70)),
)


class Design:
    """What a building is made of. Twins share `layout` (palette, proportions); `detail` is their own."""

    def __init__(self, layout, detail, palette):
        self.layout, self.detail = layout, detail
        tint = layout.uniform(0.9, 1.06) * layout.uniform(0.97, 1.03, 3)
        self.stone, self.trim, self.roof, self.accent = (
            tuple(np.clip(np.multiply(c, tint), 0, 255)) for c in PALETTES[palette % len(PALETTES)]
        )
        self.window = str(layout.choice(["round", "pointed", "square", "pediment"]))
        self.course = layout.uniform(0.28, 0.7)
        self.pilasters = bool(layout.integers(2))
        self.pointed = self.window == "pointed"

    def ornament(self, p, x, y, w, h):
        """Carve or lay one ornament, never the same twice, into a rectangle of the painting."""
        kinds = (self.rosette, self.statue, self.shield, self.panel, self.mosaic, self.scroll)
        kinds[self.detail.integers(len(kinds))](p, x, y, w, h)

    def rosette(self, p, x, y, w, h):
        r, rng = min(w, h) / 2, self.detail
        cx, cy, tips = x + w / 2, y + h / 2, int(rng.integers(4, 11))
        p.fill(oval(cx, cy, r, r), shade(self.trim, rng.uniform(0.5, 0.8)), 90)
        p.fill(star(cx, cy, 0.95 * r, rng.uniform(0.3, 0.6) * r, tips, rng.uniform(0, 3)), self.trim, 190)
        p.fill(star(cx, cy, 0.6 * r, 0.25 * r, int(rng.integers(3, 8)), rng.uniform(0, 3)), self.accent, 150)
        p.fill(oval(cx, cy, 0.2 * r, 0.2 * r), shade(self.trim, 1.1), 220)

    def statue(self, p, x, y, w, h):
        rng = self.detail
        p.fill(arch(x, y, w, h, self.pointed), shade(self.stone, 0.42), 50)
        cx = x + w * rng.uniform(0.44, 0.56)
        half = w * rng.uniform(0.16, 0.3, 5)
        tops = y + h * np.array([0.32, 0.46, 0.6, 0.8, 1.0])
        outline = np.vstack([np.column_stack([cx - half, tops]), np.column_stack([cx + half * 0.9, tops])[::-1]])
        p.fill(outline, shade(self.trim, rng.uniform(0.8, 1.1)), 180)
        p.fill(oval(cx, y + h * 0.24, w * 0.12, h * 0.09), shade(self.trim, rng.uniform(0.8, 1.1)), 200)
        for fold in rng.uniform(-0.15, 0.15, 4):
            p.fill(
                box(cx + fold * w, y + h * rng.uniform(0.4, 0.6), w * 0.04, h * 0.38),
                shade(self.stone, 0.6),
                130,
            )
        arm = rng.uniform(-0.4, 0.4)
        p.fill([(cx, y + h * 0.4), (cx + arm * w, y + h * 0.2), (cx + arm * w, y + h * 0.3)], self.trim, 210)

    def shield(self, p, x, y, w, h):
        rng, t = self.detail, np.linspace(0, 1, 8)
        side = 0.5 * w * np.sqrt(np.clip(1 - t**3, 0, 1))
        left, right = (np.column_stack([x + w / 2 + sign * side, y + h * t]) for sign in (-1, 1))
        p.fill(np.vstack([left, right[::-1]]), self.trim, 190)
        for k in range(4):
            colour = (self.accent, self.roof, shade(self.trim, 0.7), shade(self.accent, 1.5))[rng.integers(4)]
            left, top = x + w * (0.15 + 0.36 * (k % 2)), y + h * (0.1 + 0.32 * (k // 2))
            p.fill(box(left, top, w * 0.34, h * 0.3), colour, 160)
            inner, tips, turn = w * rng.uniform(0.04, 0.12), int(rng.integers(2, 7)), rng.uniform(0, 3)
            p.fill(star(left + 0.17 * w, top + 0.15 * h, w * 0.15, inner, tips, turn), self.trim, 210)

    def panel(self, p, x, y, w, h):
        rng = self.detail
        p.fill(box(x, y, w, h), shade(self.trim, 0.95), 170)
        ground = shade(self.stone, rng.uniform(0.5, 0.75))
        p.fill(box(x + 0.06 * w, y + 0.06 * h, w * 0.88, h * 0.88), ground, 80)
        least, most = (0.15, 0.15, 0.04, 0.05, 0.6), (0.85, 0.85, 0.14, 0.2, 1.2)
        for cx, cy, rx, ry, tone in rng.uniform(least, most, (14, 5)):
            outline = oval(x + cx * w, y + cy * h, rx * w, ry * h, 10)
            p.fill(outline, shade(self.trim, tone), int(120 + 90 * cy))

    def mosaic(self, p, x, y, w, h):
        rng, n = self.detail, 8
        colours = [self.accent, self.roof, self.trim]
        colours += [shade(self.accent, 0.6), shade(self.stone, 0.7), (60, 150, 190)]
        pick = rng.integers(0, len(colours), (n, n // 2))
        pick = np.hstack([pick, pick[:, ::-1]])
        for row, column in np.ndindex(n, n):
            cell = box(x + w * column / n, y + h * row / n, w / n * 1.02, h / n * 1.02)
            p.fill(cell, colours[pick[row, column]], 128)

    def scroll(self, p, x, y, w, h):
        rng = self.detail
        p.fill(box(x, y, w, h), shade(self.stone, 0.72), 95)
        turn = np.cumsum(rng.normal(0, 0.8, 36)) + rng.uniform(0, 6)
        path = np.cumsum(np.column_stack([np.cos(turn), np.sin(turn)]), axis=0)
        path = (path - path.min(0)) / (np.ptp(path, axis=0) + 1e-6)
        for px, py in path:
            cx, cy = x + w * (0.12 + 0.76 * px), y + h * (0.12 + 0.76 * py)
            p.fill(oval(cx, cy, w * 0.05, w * 0.05, 8), self.trim, 190)

    def opening(self, p, x, y, w, h):
        """One window; its bars, blinds and glass are its own."""
        rng, edge = self.detail, 0.14 * w
        arched = self.window in ("round", "pointed")
        shape = (lambda *r: arch(*r, self.pointed)) if arched else box
        p.fill(shape(x - edge, y - edge, w + 2 * edge, h + edge), self.trim, 185)
        glass = shade((96, 80, 66), rng.uniform(0.4, 1.3))
        p.fill(shape(x, y, w, h), glass, 40, int(rng.integers(90, 255)))
        if rng.random() < 0.5:
            p.fill(
                box(x, y + h * 0.45, w, h * rng.uniform(0.1, 0.4)),
                shade((170, 190, 200), rng.uniform(0.5, 1)),
                60,
            )
        for k in range(1, int(rng.integers(2, 5))):
            p.fill(box(x, y + h * (0.3 + 0.16 * k), w, 0.05 * h), self.trim, 120)
        bars = int(rng.integers(1, 4))
        for k in range(1, bars + 1):
            p.fill(box(x + w * k / (bars + 1) - 0.03 * w, y + 0.2 * h, 0.06 * w, 0.8 * h), self.trim, 120)
        if arched:
            p.fill(
                star(x + w / 2, y + 0.25 * h, 0.3 * w, 0.12 * w, int(rng.integers(3, 8)), rng.uniform(0, 3)),
                self.trim,
                130,
            )
        if self.window == "pediment":
            p.fill(
                [(x - 2 * edge, y - edge), (x + w / 2, y - 0.3 * h), (x + w + 2 * edge, y - edge)],
                self.trim,
                215,
            )
        p.fill(box(x - 1.6 * edge, y + h, w + 3.2 * edge, 0.07 * h), shade(self.trim, 0.95), 205)

    def portal(self, p, x, y, w, h):
        """A door under stepped arches, with a carved field above."""
        for k in range(5):
            inset = 0.07 * w * k
            tone = (1.0, 0.7, 1.05, 0.65, 0.9)[k]
            p.fill(
                arch(x + inset, y + inset, w - 2 * inset, h - inset, self.pointed),
                shade(self.trim, tone),
                210 - 35 * k,
            )
        p.fill(box(x + 0.3 * w, y + 0.5 * h, 0.4 * w, 0.5 * h), shade(self.accent, 0.4), 40)
        p.fill(box(x + 0.49 * w, y + 0.5 * h, 0.02 * w, 0.5 * h), self.trim, 80)
        for k in range(6):
            self.panel(p, x + w * (0.32 + 0.19 * (k % 2)), y + h * (0.53 + 0.155 * (k // 2)), 0.16 * w, 0.13 * h)
        self.ornament(p, x + 0.36 * w, y + 0.25 * h, 0.28 * w, 0.22 * h)

    def rose(self, p, cx, cy, r):
        """A round window of tracery."""
        rng, tips = self.detail, int(self.detail.integers(6, 15))
        p.fill(oval(cx, cy, 1.15 * r, 1.15 * r, 40), self.trim, 205)
        p.fill(oval(cx, cy, r, r, 40), (70, 52, 44), 40, 200)
        for k in range(tips):
            angle = 2 * np.pi * k / tips
            colour = shade(
                ((150, 70, 50), (60, 60, 160), (70, 130, 80), (60, 150, 190))[rng.integers(4)],
                rng.uniform(0.5, 1),
            )
            p.fill(
                oval(cx + 0.72 * r * np.cos(angle), cy + 0.72 * r * np.sin(angle), 0.17 * r, 0.17 * r, 12),
                colour,
                30,
                220,
            )
            p.fill(star(cx, cy, 0.98 * r, 0.02 * r, 1, angle + 0.2), self.trim, 160)
        self.rosette(p, cx - 0.4 * r, cy - 0.4 * r, 0.8 * r, 0.8 * r)

    def clock(self, p, cx, cy, r):
        """A dial; its hands stand still."""
        hour, minute = self.detail.uniform(0, 6.28, 2)
        p.fill(oval(cx, cy, 1.15 * r, 1.15 * r, 32), self.accent, 200)
        p.fill(oval(cx, cy, r, r, 32), (222, 232, 236), 150)
        for angle in np.arange(12) * np.pi / 6:
            p.fill(
                oval(cx + 0.8 * r * np.cos(angle), cy + 0.8 * r * np.sin(angle), 0.08 * r, 0.08 * r, 6),
                (40, 40, 40),
            )
        for angle, length in ((hour, 0.5), (minute, 0.75)):
            p.fill(star(cx, cy, length * r, 0.06 * r, 2, angle), (30, 30, 30), 170)

    def wall(self, width, height, solid=True):
        """Bare masonry to paint on."""
        p = Painter(self.detail, width, height, self.stone, solid)
        course = self.course * self.detail.uniform(0.85, 1.2)
        p.courses(2.1 * course, course)
        return p

    def facade(self, width, height, rows, bays, feature=None):
        """A wall of windows with ornaments between; feature: portal, rose, clock or None."""
        p, wide, draw = self.wall(width, height), width / bays, self.detail.uniform
        # Storeys, windows and dentils are laid out anew per facade: twins must not agree to the inch.
        floors = np.linspace(0, height, rows + 1)
        floors[1:-1] += draw(-0.12, 0.12, rows - 1) * height / rows
        share, sill, spacing = draw(0.34, 0.5), draw(0.8, 0.92), draw(0.5, 0.95)
        for row, bay in np.ndindex(rows, bays):
            x, y, tall = bay * wide, floors[row], floors[row + 1] - floors[row]
            w, h = min(share * wide, 0.6 * tall), draw(0.46, 0.54) * tall
            self.opening(p, x + (wide - w) / 2 + draw(-0.05, 0.05) * wide, y + sill * tall - h, w, h)
            s = min(0.2 * tall, 0.3 * wide)
            self.ornament(p, x + (wide - s) / 2 + draw(-0.1, 0.1) * wide, y + 0.06 * tall, s, s * 0.9)
            if self.pilasters:
                p.fill(box(x - 0.07 * wide, y, 0.14 * wide, tall), shade(self.trim, 0.94), 190)
            self.ornament(p, x + 0.02 * wide, y + draw(0.36, 0.48) * tall, 0.16 * wide, 0.3 * tall)
        for y in floors[:-1]:
            p.fill(box(0, y, width, 0.05 * height / rows), self.trim, 210)
            for x in np.arange(draw(0, 0.5), width, spacing):
                dentil = box(x, y + 0.05 * height / rows, 0.45 * spacing, 0.03 * height / rows)
                p.fill(dentil, shade(self.trim, 0.9), 200)
        if feature == "portal":
            h = min(0.8 * height, 1.1 * width)
            self.portal(p, width / 2 - 0.36 * h, height - h, 0.72 * h, h)
        elif feature:
            getattr(self, feature)(p, width / 2, draw(0.3, 0.37) * height, draw(0.23, 0.28) * min(width, height))
        return p.finish()

    def roofing(self, width, height, ribs=False):
        """Tiles, or the ribs of a dome."""
        p = Painter(self.detail, width, height, self.roof)
        size = self.detail.uniform(0.3, 0.6)
        p.courses(1.3 * size, size)
        for x in np.linspace(0, width, int(self.detail.integers(5, 10)))[: -1 if ribs else 0]:
            p.fill(box(x, 0, 0.3, height), self.trim, 200)
            self.rosette(p, x + 0.5, height * self.detail.uniform(0.2, 0.8), 1.2, 1.2)
        return p.finish()

    def frieze(self, width, height):
        """A band of ornaments."""
        p = self.wall(width, height)
        for x in np.arange(0.1, width - height, 1.15 * height):
            self.ornament(p, x, 0.18 * height, 0.9 * height, 0.6 * height)
        p.fill(box(0, 0, width, 0.1 * height), self.trim, 220)
        p.fill(box(0, 0.88 * height, width, 0.12 * height), self.trim, 205)
        return p.finish()

    def shaft(self, height):
        """The skin of a column, with its base and capital."""
        width = 0.3 * height
        p = Painter(self.detail, width, height, self.trim)
        for x in np.linspace(0, width, int(self.detail.integers(13, 22))):
            p.fill(box(x, 0, width / 40, height), shade(self.trim, 0.7), 60)
        p.fill(box(0, 0, width, 0.12 * height), self.trim, 200)
        for x in np.arange(0, width, width / 8):
            self.ornament(p, x, 0.02 * height, width / 8.5, 0.09 * height)
        p.fill(box(0, 0.93 * height, width, 0.07 * height), shade(self.trim, 0.85), 200)
        return p.finish()

    def gable(self, width, height, rose=False):
        """A triangle with carvings; what is outside the triangle is open."""
        p = Painter(self.detail, width, height, self.stone, solid=False)
        p.courses(2.1 * self.course, self.course)
        p.fill([(0, height), (width / 2, 0), (width, height)], self.trim, 210)
        p.fill(
            [(0.1 * width, 0.93 * height), (width / 2, 0.13 * height), (0.9 * width, 0.93 * height)],
            shade(self.stone, 0.85),
            120,
        )
        size = 0.42 * height
        for k in range(-3, 4):
            s = size * (1 - 0.2 * abs(k))
            self.ornament(p, width / 2 + 0.105 * k * width - s / 2, 0.88 * height - s, s, s)
        if rose:
            self.rose(p, width / 2, 0.6 * height, 0.22 * height)
        return p.finish()

    def arcade(self, width, height, bays, battlement=False):
        """A wall with open arches below, or open notches above."""
        p = self.wall(width, height, solid=False)
        p.fill(box(0, 0, width, height), None, None, None)
        wide = width / bays
        for bay in range(bays):
            if battlement:
                p.fill(box((bay + 0.6) * wide, 0, 0.4 * wide, 0.5 * height), None, None, None, 0)
                continue
            x = bay * wide
            p.fill(arch(x + 0.1 * wide, 0.12 * height, 0.8 * wide, 0.88 * height, self.pointed), self.trim, 190)
            p.fill(
                arch(x + 0.17 * wide, 0.18 * height, 0.66 * wide, 0.82 * height, self.pointed),
                None,
                None,
                None,
                0,
            )
            self.ornament(p, x - 0.08 * wide, 0.05 * height, 0.17 * wide, 0.2 * height)
        return p.finish()
