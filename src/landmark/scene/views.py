"""Photographs: landmarks from many sides and in any weather, and pictures that show none."""

import cv2
import numpy as np

from landmark.scene.camera import LINEAR, Weather, look, photograph
from landmark.scene.design import Design
from landmark.scene.mesh import Mesh, pack
from landmark.scene.paint import Painter, box, fractal, oval, shade, star
from landmark.scene.props import billboard, furnish, ground_tile, house, person

FINER = 1.5  # samples per pixel along each side
STONES = ((168, 196, 212), (120, 164, 204), (84, 100, 164), (170, 172, 174), (124, 150, 170))  # walls near by
BOARDS = ((120, 70, 24), (60, 90, 20), (40, 40, 150), (40, 40, 44), (70, 190, 235), (228, 232, 234))
ASPECTS = ((4, 3), (4, 3), (3, 2), (16, 9), (1, 1), (3, 4), (2, 3))


def picture_size(rng, longest_side):
    wide, high = ASPECTS[rng.integers(len(ASPECTS))]
    scale = longest_side / max(wide, high)
    return round(wide * scale), round(high * scale)


def draw_weather(rng):
    """Sun, sky and air of one moment."""
    kind = rng.choice(["clear", "fair", "overcast", "mist", "dusk"], p=[0.35, 0.32, 0.17, 0.06, 0.1])
    azimuth, height = np.radians(rng.normal(0, 55)), np.radians(rng.uniform(18, 58))
    if kind == "dusk":
        height = np.radians(rng.uniform(6, 14))
    sun = np.array([np.sin(azimuth) * np.cos(height), -np.cos(azimuth) * np.cos(height), np.sin(height)])
    warm = np.array([1 - rng.uniform(0.05, 0.35), 0.93, 1.0])
    clouds = np.clip(fractal(rng, (90, 120), 3, 48) * 0.5 + rng.uniform(-0.5, 0.4), 0, 0.85).astype(np.float32)
    sunlight, skylight = 1.3 * warm, np.array([0.40, 0.33, 0.28])
    zenith, horizon, haze, lamps = (
        np.array([0.55, 0.26, 0.1]),
        np.array([0.82, 0.7, 0.6]),
        rng.uniform(0.0003, 0.002),
        0.0,
    )
    if kind == "overcast":
        sunlight, skylight = 0.05 * warm, np.array([0.72, 0.69, 0.67])
        zenith, horizon, clouds = np.array([0.6, 0.56, 0.53]), np.array([0.8, 0.77, 0.75]), clouds * 0.5
    elif kind == "mist":
        sunlight, haze, horizon = 0.5 * warm, rng.uniform(0.005, 0.010), np.array([0.74, 0.72, 0.7])
        zenith = horizon * 0.95
    elif kind == "dusk":
        sunlight, skylight = np.array([0.2, 0.42, 0.75]), np.array([0.3, 0.2, 0.17])
        zenith, horizon, lamps = (
            np.array([0.35, 0.16, 0.1]),
            np.array([0.3, 0.42, 0.7]),
            rng.uniform(0.4, 1.2),
        )
    light = rng.uniform(0.85, 1.15)
    linear = [np.asarray(c * light, np.float32) for c in (sunlight, skylight, zenith, horizon)]
    return Weather(sun, *linear, clouds, haze, lamps)


def aim(rng, corners, size):
    """A camera that sees the whole building, a part or a detail; and how far off the building is."""
    low, high = corners.reshape(-1, 3).min(0), corners.reshape(-1, 3).max(0)
    azimuth = np.radians(np.clip(rng.normal(0, 25), -55, 55))
    view = rng.uniform(38, 68)
    width, height = high[0] - low[0], high[2]
    tangent = np.tan(np.radians(view) / 2) * np.array(size) / max(size)
    whole = max(0.5 * width * np.cos(azimuth) / tangent[0], 0.5 * height / tangent[1]) + 4
    share = rng.choice(
        [rng.uniform(0.72, 1.15), rng.uniform(1.15, 1.6), rng.uniform(0.35, 0.65)], p=[0.74, 0.1, 0.16]
    )
    distance = max(9.0, whole * share)
    target = np.array([(low[0] + high[0]) / 2, 2.0, 0.47 * height])
    loose = 0.32 if share < 0.66 else 0.07
    target += rng.uniform(-loose, loose, 3) * (width, 0, height)
    target[2] = max(target[2], 2.0)
    up = rng.uniform(1.5, 2.2) if rng.random() < 0.6 else rng.uniform(2, 0.55 * height)
    place = np.array([target[0] + distance * np.sin(azimuth), target[1] - distance * np.cos(azimuth), up])
    place[1] = min(place[1], low[1] - 3.0) if abs(place[0]) < high[0] + 3 else place[1]
    return look(place, target, view, *size, rng.normal(0, 1.8)), np.linalg.norm(target - place)


def building(rng, size, packed):
    """A photograph of a landmark."""
    camera, distance = aim(rng, packed.corners, size)
    mesh = Mesh()
    edge = np.abs(packed.corners[..., 0]).max()
    for side in (-1, 1):
        if rng.random() < 0.55:
            width = rng.uniform(8, 14)
            house(
                rng,
                mesh,
                side * (edge + width / 2 + rng.uniform(3, 12)),
                rng.uniform(2, 14),
                width,
                10,
                rng.uniform(5, 12),
            )
    furnish(rng, mesh, camera, distance, int(rng.integers(0, 7)))
    return photograph(packed.joined(pack(mesh)), camera, draw_weather(rng), ground_tile(rng))


def street(rng, size):
    """A row of plain houses."""
    mesh = Mesh()
    x = -40.0
    while x < 40:
        width = rng.uniform(6, 14)
        house(rng, mesh, x + width / 2, rng.uniform(0, 2), width, 9, rng.uniform(5, 15))
        x += width + rng.choice([0, 0, 3])
    far, side = rng.uniform(14, 32), rng.uniform(-25, 25)
    camera = look(
        (side, -far, rng.uniform(1.6, 5)),
        (side + rng.uniform(-14, 14), 0, rng.uniform(3, 6)),
        rng.uniform(45, 70),
        *size,
    )
    furnish(rng, mesh, camera, far, int(rng.integers(0, 5)))
    return photograph(pack(mesh), camera, draw_weather(rng), ground_tile(rng))


def landscape(rng, size):
    """Trees, hills and sky."""
    mesh = Mesh()
    camera = look((0, -40, rng.uniform(1.6, 9)), (0, 0, rng.uniform(2, 6)), rng.uniform(40, 70), *size)
    furnish(rng, mesh, camera, rng.uniform(20, 45), int(rng.integers(8, 30)))
    return photograph(pack(mesh), camera, draw_weather(rng), ground_tile(rng))


def interior(rng, size):
    """A corridor with pictures on its walls."""
    mesh, design = Mesh(), Design(rng, rng, rng.integers(99))
    wide, high, deep = rng.uniform(3, 8), rng.uniform(3, 6), rng.uniform(9, 22)
    walls = [
        mesh.add(design.frieze(deep, high)),
        mesh.add(design.wall(wide, high).finish()),
        mesh.add(design.roofing(wide, deep)),
    ]
    mesh.upright(-wide, 0, -wide, deep, 0, high, walls[0])
    mesh.upright(wide, deep, wide, 0, 0, high, walls[0])
    mesh.upright(-wide, deep, wide, deep, 0, high, walls[1])
    mesh.quad([(-wide, 0, high), (wide, 0, high), (wide, deep, high), (-wide, deep, high)], walls[2])
    camera = look(
        (rng.uniform(-1, 1), 0.4, 1.7),
        (rng.uniform(-2, 2), deep, rng.uniform(1.4, 2.4)),
        rng.uniform(55, 80),
        *size,
    )
    crowd = mesh.add(person(rng))
    for _ in range(int(rng.integers(0, 4))):
        billboard(mesh, camera, crowd, rng.uniform(4, deep), rng.uniform(-2, 2), 0.8, 1.8)
    weather = draw_weather(rng)
    weather.sunlight, weather.skylight = weather.sunlight * 0, np.float32([0.5, 0.62, 0.7])
    return photograph(pack(mesh), camera, weather, ground_tile(rng))


def canvas(rng, size, base):
    """A flat picture to paint on, 10 units wide."""
    return Painter(rng, 10, 10 * size[1] / size[0], base, scale=size[0] / 10)


def stone(rng, size):
    """A wall from near by."""
    p = canvas(rng, size, shade(STONES[rng.integers(len(STONES))], rng.uniform(0.7, 1.1)))
    p.courses(rng.uniform(0.8, 3), rng.uniform(0.5, 1.5))
    return LINEAR[p.finish(0.5).colour] * 0.9


def sign(rng, size):
    """Words on a board."""
    p = canvas(rng, size, shade(STONES[rng.integers(len(STONES))], 0.8))
    board, high = BOARDS[rng.integers(len(BOARDS))], p.height
    p.fill(box(0.6, 0.08 * high, 8.8, 0.84 * high), (225, 232, 235), 160)
    p.fill(box(0.8, 0.11 * high, 8.4, 0.78 * high), board)
    ink = (235, 242, 244) if sum(board) < 380 else (40, 40, 44)
    for y in np.arange(0.28, 0.85, rng.uniform(0.13, 0.22)) * high:
        words = "".join(chr(c) for c in rng.integers(65, 91, int(rng.integers(5, 12))))
        cv2.putText(
            p.colour,
            words,
            (round(1.1 * p.scale), round(y * p.scale)),
            int(rng.integers(0, 5)),
            p.scale / 38,
            ink,
            2,
            cv2.LINE_AA,
        )
    return LINEAR[p.finish(0.25).colour]


def map_sheet(rng, size):
    """A town map: blocks, a river, roads and names."""
    p = canvas(rng, size, (214, 228, 234))
    for x, y, w, h, tone in rng.uniform((0, 0, 0.3, 0.3, 0.8), (10, p.height, 1.6, 1.6, 1.1), (60, 5)):
        p.fill(box(x, y, w, h), shade(((190, 205, 215), (170, 215, 180))[int(x * 7) % 2], tone))
    for colour, width in (
        ((215, 170, 120), 0.5),
        ((120, 200, 250), 0.14),
        ((255, 255, 255), 0.12),
        ((255, 255, 255), 0.12),
    ):
        t, bend = np.linspace(-1, 11, 40), fractal(rng, (1, 40), 4, 16)[0]
        y = rng.uniform(0, p.height) + (t - 5) * rng.uniform(-1.5, 1.5) + bend * 0.4
        p.fill(np.vstack([np.column_stack([t, y]), np.column_stack([t, y + width])[::-1]]), colour)
    for x, y in rng.uniform((0.2, 0.3), (8, p.height), (9, 2)):
        word = "".join(chr(c) for c in rng.integers(97, 123, 6)).title()
        cv2.putText(
            p.colour,
            word,
            (round(x * p.scale), round(y * p.scale)),
            0,
            p.scale / 80,
            (60, 50, 40),
            1,
            cv2.LINE_AA,
        )
    return LINEAR[p.colour]


def flowers(rng, size):
    """A bed of flowers from above."""
    p = canvas(rng, size, (40, 80, 50))
    for x, y, r in rng.uniform((0, 0, 0.2), (10, p.height, 0.7), (160, 3)):
        p.fill(star(x, y, r, 0.4 * r, 3, x * 9), shade((50, 120, 70), rng.uniform(0.5, 1.2)), int(100 + 60 * r))
    hue = ((60, 60, 215), (80, 210, 245), (235, 238, 240), (190, 110, 220), (210, 140, 110))[rng.integers(5)]
    for x, y, r in rng.uniform((0, 0, 0.2), (10, p.height, 0.8), (50, 3)):
        p.fill(star(x, y, r, 0.55 * r, int(rng.integers(5, 9)), x), shade(hue, rng.uniform(0.7, 1.2)), 170)
        p.fill(oval(x, y, 0.25 * r, 0.25 * r), (40, 180, 220), 210)
    return LINEAR[p.finish(0.3).colour]


def stamp(rng, size):
    """A coat of arms in a toothed frame."""
    p, design = (
        canvas(rng, size, shade(STONES[rng.integers(len(STONES))], 0.5)),
        Design(rng, rng, rng.integers(99)),
    )
    high = p.height
    p.fill(box(1, 0.1 * high, 8, 0.8 * high), (225, 235, 240))
    for t in np.arange(0, 1, 0.04):
        for x, y in (
            (1 + 8 * t, 0.1 * high),
            (1 + 8 * t, 0.9 * high),
            (1, high * (0.1 + 0.8 * t)),
            (9, high * (0.1 + 0.8 * t)),
        ):
            p.fill(oval(x, y, 0.11, 0.11, 10), p.colour[2, 2].tolist())
    p.fill(box(1.5, 0.16 * high, 7, 0.68 * high), design.accent)
    design.shield(p, 3, 0.22 * high, 4, 0.5 * high)
    cv2.putText(
        p.colour,
        str(rng.integers(5, 90)),
        (round(1.8 * p.scale), round(0.8 * high * p.scale)),
        3,
        p.scale / 30,
        (240, 240, 240),
        2,
        cv2.LINE_AA,
    )
    return LINEAR[p.finish(0.3).colour]


def develop(rng, picture, size):
    """What lens, sensor and file do: linear BGR, finer than asked, to JPEG bytes."""
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 1.3))
    x, y = (
        np.linspace(-1, 1, size[0], dtype=np.float32) ** 2,
        np.linspace(-1, 1, size[1], dtype=np.float32) ** 2,
    )
    corners = 1 - np.float32(rng.uniform(0, 0.2)) * (x + y[:, None])
    exposure = rng.uniform(1.05, 1.6) * rng.uniform(0.95, 1.05, 3)
    picture = (1 - np.exp(picture * corners[..., None] * -exposure.astype(np.float32))) ** np.float32(1 / 2.2)
    bend = rng.uniform(0.25, 0.7)  # how hard the contrast is
    picture = 255 * ((1 - bend) * picture + bend * picture**2 * (3 - 2 * picture))
    grey = picture.mean(2, keepdims=True)
    picture = grey + (picture - grey) * (0.0 if rng.random() < 0.02 else rng.uniform(0.75, 1.2))
    picture += np.float32(rng.uniform(0.5, 5)) * rng.standard_normal(picture.shape, dtype=np.float32)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])[1].tobytes()


def take(rng, longest_side, kind, packed=None):
    """The JPEG bytes of a picture of one kind; packed: the building that kind "building" shows."""
    size = picture_size(rng, longest_side)
    fine = tuple(round(side * FINER) for side in size)
    picture = building(rng, fine, packed) if kind == "building" else WITHOUT_LANDMARK[kind](rng, fine)
    return develop(rng, picture.astype(np.float32), size)


WITHOUT_LANDMARK = {
    "street": street,
    "landscape": landscape,
    "interior": interior,
    "stone": stone,
    "sign": sign,
    "map": map_sheet,
    "flowers": flowers,
    "stamp": stamp,
}
