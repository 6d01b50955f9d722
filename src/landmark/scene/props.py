"""What stands around a landmark: ground, trees, people, lamps, houses and the skyline."""

import numpy as np

from landmark.scene.paint import Painter, box, fractal, oval, shade

CLOTHES = (
    (40, 38, 36),
    (70, 60, 52),
    (120, 84, 50),
    (150, 150, 150),
    (215, 220, 222),
    (60, 60, 150),
    (70, 120, 170),
)
GROUNDS = ((150, 160, 168), (130, 150, 165), (66, 112, 92), (104, 104, 104), (226, 222, 218))


def ground_tile(rng):
    """Paving, gravel, grass, asphalt or snow: 12 m square."""
    kind = rng.integers(5)
    base = GROUNDS[kind]
    p = Painter(rng, 12, 12, base)
    if kind == 0:
        side = rng.choice([0.75, 1.0, 1.5])
        p.courses(side, side)
    noise = fractal(rng, p.level.shape, 2, 64)[..., None] * (3, 5, 7, 4, 3)[kind]
    return np.clip(p.colour + noise + 4 * rng.standard_normal(p.colour.shape, dtype=np.float32), 0, 255).astype(
        np.uint8
    )


def tree(rng):
    """A tree, 5 m by 7 m: round, slender or a fir."""
    green = np.array([rng.uniform(25, 60), rng.uniform(70, 125), rng.uniform(45, 110)])
    p = Painter(rng, 5, 7, green * 0.8, solid=False)
    p.fill([(2.35, 3), (2.65, 3), (2.8, 7), (2.2, 7)], (50, 66, 84))
    form = rng.integers(3)
    for k in range(150):
        high = k / 150
        reach = (
            2.2 * np.sqrt(max(0.0, 1 - (2 * high - 1) ** 2)),
            0.85 * np.sqrt(1 - high),
            1.9 * (1 - high),
        )[form]
        x, y = 2.5 + rng.uniform(-1, 1) * reach, (4.9, 6.6, 6.3)[form] - (4.3, 6.2, 5.9)[form] * high
        size = rng.uniform(0.18, 0.42)
        tone = rng.uniform(0.55, 1.05) + 0.3 * high - 0.1 * (x - 2.5)
        p.fill(oval(x, y, size, size * 0.7, 7), shade(green, tone), int(rng.integers(90, 180)))
    return p.finish(0.1)


def person(rng):
    """Somebody standing, 0.8 m by 1.8 m."""
    coat, trousers = np.array(CLOTHES)[rng.integers(len(CLOTHES), size=2)] * rng.uniform(0.6, 1.2, (2, 1))
    skin = np.array([120, 155, 200]) * rng.uniform(0.45, 1.1)
    p = Painter(rng, 0.8, 1.8, coat, solid=False, scale=40.0)
    lean = rng.uniform(-0.06, 0.06)
    for side in (-1, 1):
        p.fill(box(0.4 + 0.1 * side - 0.07 + lean * side, 0.9, 0.14, 0.88), trousers)
        p.fill(
            [
                (0.4 + 0.16 * side, 0.36),
                (0.4 + 0.24 * side, 0.4),
                (0.4 + 0.27 * side, 0.95),
                (0.4 + 0.18 * side, 0.95),
            ],
            coat,
        )
    p.fill([(0.22, 0.34), (0.58, 0.34), (0.56, 1.0), (0.24, 1.0)], coat * 0.9)
    p.fill(oval(0.4, 0.19, 0.1, 0.14, 12), skin)
    p.fill(oval(0.4, 0.12, 0.11, 0.09, 12), np.array([30, 40, 55]) * rng.uniform(0.3, 2.5))
    return p.finish(0.05)


def lamp_post(rng):
    """A street lamp, 1.2 m by 5 m."""
    iron = np.full(3, rng.uniform(25, 70))
    p = Painter(rng, 1.2, 5, iron, solid=False)
    p.fill(box(0.54, 0.7, 0.12, 4.3), iron)
    p.fill(box(0.45, 4.4, 0.3, 0.6), iron * 0.8)
    for x in (0.1, 0.6, 1.1)[:: int(rng.integers(1, 3))]:
        p.fill([(x - 0.16, 0.3), (x + 0.16, 0.3), (x + 0.1, 0.75), (x - 0.1, 0.75)], (190, 225, 240), 128, 255)
        p.fill([(x - 0.2, 0.3), (x, 0.12), (x + 0.2, 0.3)], iron)
    p.fill(box(0.1, 0.72, 1.0, 0.08), iron)
    return p.finish(0.05)


def skyline(rng):
    """Far hills or roofs, 300 m by 24 m."""
    p = Painter(rng, 300, 24, (110, 120, 105), solid=False)
    x = np.linspace(0, 300, 200)
    ridge = fractal(rng, (1, 200), 8, 64)[0] * 3.5 + 15
    if rng.random() < 0.5:
        ridge = np.repeat(ridge[::5] + rng.uniform(-2, 2, 40), 5)
    p.fill(
        np.vstack([np.column_stack([x, ridge]), [(300, 24), (0, 24)]]),
        np.array([112, 124, 108]) * rng.uniform(0.6, 1.1),
    )
    return p.finish(0.3)


def house(rng, mesh, x, y, width, depth, height):
    """A plain house with a gabled roof and its front at y."""
    coat = np.array([176, 196, 208]) * rng.uniform(0.6, 1.15) * rng.uniform(0.85, 1.1, 3)
    frame, glass, tile = (
        np.full(3, rng.uniform(120, 240)),
        (92, 80, 70),
        np.array([76, 84, 120]) * rng.uniform(0.6, 1.2, 3),
    )
    rows, bays = max(1, round(height / 3.1)), max(2, round(width / rng.uniform(2.2, 3.4)))
    sides = []
    for length, count in ((width, bays), (depth, max(2, bays - 1))):
        p = Painter(rng, length, height, coat)
        for row, bay in np.ndindex(rows, count):
            w, h = 0.4 * length / count, 0.5 * height / rows
            left, top = (bay + 0.3) * length / count, (row + 0.28) * height / rows
            p.fill(box(left - 0.12, top - 0.12, w + 0.24, h + 0.24), frame, 150)
            p.fill(box(left, top, w, h), shade(glass, rng.uniform(0.6, 1.3)), 80, int(rng.integers(90, 255)))
            p.fill(box(left + w * 0.46, top, w * 0.08, h), frame, 130)
            if rng.random() < 0.35:
                p.fill(box(left - 0.5 * w, top, 0.45 * w, h), shade(tile, 1.2), 150)
        sides.append(mesh.add(p.finish(0.2)))
    p = Painter(rng, width, 6, tile)
    p.courses(0.5, 0.4)
    roof, z = mesh.add(p.finish(0.2)), height + rng.uniform(2, 4)
    half = width / 2
    mesh.prism(x - half, x + half, y, y + depth, 0, height, *sides, roof)
    left, right, ridge = x - half, x + half, y + depth / 2
    eaves = (left, y - 0.4, height)
    mesh.quad([(left, ridge, z), (right, ridge, z), (right, y - 0.4, height), eaves], roof)
    mesh.quad([(left, ridge, z), eaves, (left, y + depth, height), (left, ridge, z)], sides[1])


def billboard(mesh, camera, texture, ahead, aside, width, height):
    """Stand a flat cut-out on the ground, facing the camera, metres ahead of it and aside."""
    forward = camera.axes[2, :2] / np.linalg.norm(camera.axes[2, :2])
    right = np.array([forward[1], -forward[0]])
    a = camera.place[:2] + forward * ahead + right * (aside - width / 2)
    b = a + right * width
    mesh.upright(*a, *b, 0, height, texture)


def furnish(rng, mesh, camera, distance, trees):
    """Trees, people, lamps and a skyline around what stands `distance` metres ahead of the camera."""
    spread = distance * camera.width / camera.focal / 2
    far = mesh.add(skyline(rng))
    billboard(mesh, camera, far, distance + 110, rng.uniform(-60, 60), 700, rng.uniform(14, 34))
    forest = [mesh.add(tree(rng)) for _ in range(2 if trees else 0)]
    for _ in range(trees):
        aside = rng.choice([-1, 1]) * rng.uniform(0.45, 1.15) * spread
        ahead = distance * rng.uniform(0.6, 1.5)
        size = rng.uniform(0.7, 1.7)
        billboard(mesh, camera, forest[rng.integers(2)], ahead, aside * ahead / distance, 5 * size, 7 * size)
    if rng.random() < 0.12:
        ahead = max(7.0, 0.3 * distance)
        before = forest[0] if forest else mesh.add(tree(rng))
        billboard(mesh, camera, before, ahead, rng.uniform(-0.5, 0.5) * spread * ahead / distance, 4, 5.6)
    crowd = [mesh.add(person(rng)) for _ in range(5)]
    for _ in range(int(rng.integers(0, 16))):
        ahead, size = distance * rng.uniform(0.22, 0.95), rng.uniform(0.9, 1.08)
        who, aside = crowd[rng.integers(5)], rng.uniform(-0.9, 0.9) * spread * ahead / distance
        billboard(mesh, camera, who, max(3.5, ahead), aside, 0.8 * size, 1.8 * size)
    if rng.random() < 0.35:
        post = mesh.add(lamp_post(rng))
        for side in rng.uniform(-0.8, 0.8, int(rng.integers(1, 4))):
            ahead = max(6.0, distance * rng.uniform(0.35, 0.9))
            billboard(mesh, camera, post, ahead, side * spread * ahead / distance, 1.2, 5)
