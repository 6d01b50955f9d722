"""A pinhole camera: the nearest quad per pixel (z-buffer), then light, shadow and air, once per pixel."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from landmark.scene.mesh import MIP_LEVELS


@dataclass
class Camera:
    """A pinhole over the picture's centre. Rows of `axes`: right, down, forward; focal length in pixels."""

    place: np.ndarray
    axes: np.ndarray
    focal: float
    width: int
    height: int

    def project(self, points):
        """World points (..., 3) to pixels (..., 2) and depth in metres (...)."""
        seen = (points - self.place) @ self.axes.T
        depth = seen[..., 2]
        safe = np.where(depth > 0.2, depth, 0.2)[..., None]
        return seen[..., :2] / safe * self.focal + (self.width / 2, self.height / 2), depth


def look(place, target, field_of_view, width, height, roll=0.0):
    """A camera at `place` that looks at `target`; field of view along the longer side and roll in degrees."""
    place, target = np.asarray(place, float), np.asarray(target, float)
    forward = (target - place) / np.linalg.norm(target - place)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    axes = np.array([c * right + s * down, c * down - s * right, forward])
    focal = float(max(width, height) / 2 / np.tan(np.radians(field_of_view) / 2))
    return Camera(place, axes, focal, width, height)


def rasterise(pixels, nearness, scene, near, hit, u=None, v=None):
    """Draw quads into the z-buffer in place.

    pixels (F, 4, 2) and nearness (F, 4), which must be linear over the picture (1/depth, or minus depth under
    parallel rays). near (h, w) float32 keeps the largest nearness, hit (h, w) int32 the quad, and u, v where
    in its texture (0..1).
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (pixels[:, k].T for k in range(4))
    sx, sy = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    ax, ay, bx, by = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    det = ax * by - ay * bx
    det = np.where(np.abs(det) < 1e-9, 1e-9, det)
    g, h = (sx * by - sy * bx) / det, (ax * sy - ay * sx) / det
    square = np.array(
        [
            [x1 - x0 + g * x1, x3 - x0 + h * x3, x0],
            [y1 - y0 + g * y1, y3 - y0 + h * y3, y0],
            [g, h, np.ones_like(g)],
        ]
    )
    square = np.moveaxis(square, 2, 0)
    good = np.abs(np.linalg.det(square)) > 1e-6
    inverse = np.linalg.inv(np.where(good[:, None, None], square, np.eye(3)))
    inverse /= np.abs(inverse).max((1, 2), keepdims=True)
    edges = np.concatenate([pixels[:, [0, 1, 3]], np.ones((len(pixels), 3, 1))], axis=2)
    flat = np.abs(np.linalg.det(edges)) > 1e-6
    good &= flat
    plane = np.linalg.solve(np.where(flat[:, None, None], edges, np.eye(3)), nearness[:, [0, 1, 3], None])[..., 0]
    low = np.clip(np.floor(pixels.min(1)), 0, None).astype(int)
    high = np.minimum(np.ceil(pixels.max(1)) + 1, near.shape[::-1]).astype(int)
    good &= (high > low).all(1)
    xs, ys = (
        np.arange(near.shape[1], dtype=np.float32) + 0.5,
        np.arange(near.shape[0], dtype=np.float32)[:, None] + 0.5,
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # a quad may meet its vanishing line off its face
        for f in np.flatnonzero(good).tolist():
            part = slice(low[f, 1], high[f, 1]), slice(low[f, 0], high[f, 0])
            x, y = xs[part[1]], ys[part[0]]
            a, m = plane[f].tolist(), inverse[f].tolist()
            depth = a[0] * x + (a[1] * y + a[2])
            seen = depth > near[part]
            if not seen.any():
                continue
            scale = 1 / (m[2][0] * x + (m[2][1] * y + m[2][2]))
            s = (m[0][0] * x + (m[0][1] * y + m[0][2])) * scale
            t = (m[1][0] * x + (m[1][1] * y + m[1][2])) * scale
            seen &= (s >= -1e-3) & (s <= 1.001) & (t >= -1e-3) & (t <= 1.001)
            left, top, right, bottom = scene.windows[f].tolist()
            s, t = left + (right - left) * s, top + (bottom - top) * t
            solid = scene.solids[scene.picks[f]]
            if solid is not None:
                rows = np.clip(t * solid.shape[0], 0, solid.shape[0] - 1).astype(np.int32)
                columns = np.clip(s * solid.shape[1], 0, solid.shape[1] - 1).astype(np.int32)
                seen &= solid[rows, columns]
            np.copyto(near[part], depth, where=seen)
            np.copyto(hit[part], f, where=seen)
            if u is not None:
                np.copyto(u[part], s, where=seen)
                np.copyto(v[part], t, where=seen)


@dataclass
class Weather:
    """Light and air. Colours are linear BGR; `sun` points at the sun; `haze` is the share lost per metre."""

    sun: np.ndarray
    sunlight: np.ndarray
    skylight: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    clouds: np.ndarray  # (h, w) in 0..1, stretched over the picture
    haze: float
    lamps: float  # how brightly windows glow


LINEAR = (np.arange(256, dtype=np.float32) / 255) ** 2.2
REACH, SHADE_SIZE = 75.0, 640  # metres to each side, and pixels, of what the sun sees
TILE = 12  # metres after which the ground repeats
WARM = np.float32([0.25, 0.6, 1.0])


def sunlit(scene, sun, spot):
    """The share of sunlight (h, w) that reaches the world points spot: three (h, w) arrays x, y, z."""
    right = np.cross(sun, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    axes = np.array([right, np.cross(right, sun), sun])
    seen = scene.corners @ axes.T
    near = np.full((SHADE_SIZE, SHADE_SIZE), -1e6, np.float32)
    half = SHADE_SIZE / 2
    rasterise((seen[..., :2] / REACH + 1) * half, seen[..., 2], scene, near, np.empty(near.shape, np.int32))
    axes[:2] *= half / REACH
    x, y, toward = (a[0] * spot[0] + a[1] * spot[1] + a[2] * spot[2] for a in axes.astype(np.float32))
    first = cv2.remap(near, x + half, y + half, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, -1e6)
    return cv2.blur((first < toward + 0.45).astype(np.float32), (5, 5))


def read_textures(scene, area, hit, u, v):
    """Colour and relief (h, w, 3) uint8 of the quads hit (h, w); area (F,) is their size in the picture."""
    shown, full = scene.windows, scene.places[scene.picks, 0]
    texels = full[:, 2] * full[:, 3] * (shown[:, 2] - shown[:, 0]) * (shown[:, 3] - shown[:, 1])
    # The smaller copy that has about as many texels as the picture has samples, judged once per quad.
    level = np.clip(np.round(0.5 * np.log2(texels / area)), 0, MIP_LEVELS - 1).astype(int)
    place = np.vstack([scene.places[scene.picks, level], np.zeros((1, 4), np.float32)])
    left, top, width, height = (np.take(place[:, k], hit) for k in range(4))
    x, y = left + u * width - 0.5, top + v * height - 0.5
    return (cv2.remap(atlas, x, y, cv2.INTER_LINEAR) for atlas in (scene.colour, scene.relief))


def frames(corners):
    """Unit vectors of quads (F, 4, 3): along the texture's right and down, and out of the surface."""
    right = corners[:, 1] - corners[:, 0] + corners[:, 2] - corners[:, 3]
    down = corners[:, 3] - corners[:, 0] + corners[:, 2] - corners[:, 1]
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down -= (down * right).sum(1, keepdims=True) * right
    down /= np.linalg.norm(down, axis=1, keepdims=True) + 1e-9
    return right, down, np.cross(down, right)


def pave(ground, x, y, distance):
    """The ground's colours (n, 3) at world points (n,); far away the tile fades into its mean."""
    scale = np.float32(len(ground) / TILE)
    rows, columns = ((a % TILE * scale).astype(np.int32) % len(ground) for a in (y, x))
    fade = np.clip(distance / 45, 0, 1)[:, None]
    return ground[rows, columns] * (1 - fade) + ground.mean((0, 1), dtype=np.float32) * fade


def heaven(weather, rise, cover):
    """The sky's colour (n, 3) for rays that rise by `rise` (n,) under the cloud cover (n,)."""
    rise, cover = rise[:, None], cover[:, None] * np.clip(rise[:, None] * 5, 0, 1)
    air = weather.horizon + (weather.zenith - weather.horizon) * np.clip(rise * 2.2, 0, 1) ** np.float32(0.7)
    return air + (weather.horizon * np.float32(1.15) + np.float32(0.1) - air) * cover


def photograph(scene, camera, weather, ground):
    """The scene as linear BGR (h, w, 3) float32; ground: a tile (n, n, 3) uint8 that repeats."""
    shape = camera.height, camera.width
    x = (np.arange(camera.width, dtype=np.float32) + 0.5 - camera.width / 2) / camera.focal
    y = ((np.arange(camera.height, dtype=np.float32) + 0.5 - camera.height / 2) / camera.focal)[:, None]
    rays = [axis[0] * x + (axis[1] * y + axis[2]) for axis in camera.axes.T.astype(np.float32)]
    place = camera.place.astype(np.float32)

    pixels, depth = camera.project(scene.corners)
    after = np.roll(pixels, -1, 1)
    area = (pixels[..., 0] * after[..., 1] - after[..., 0] * pixels[..., 1]).sum(1) / 2
    faces = np.flatnonzero((depth.min(1) > 0.25) & (area > 0.5))  # before the camera, and turned to it
    seen = replace(scene, corners=scene.corners[faces], windows=scene.windows[faces], picks=scene.picks[faces])
    near = np.maximum(rays[2] / -place[2], np.float32(1e-4))  # the ground; the sky where it stays at its least
    hit = np.full(shape, -1, np.int32)
    u, v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    rasterise(pixels[faces], 1 / depth[faces], seen, near, hit, u, v)
    sky = (hit < 0) & (near <= 1e-4)
    floor = (hit < 0) & ~sky
    distance = 1 / near
    spot = [distance * ray + start for ray, start in zip(rays, place, strict=True)]

    colour, relief = read_textures(seen, area[faces], hit, u, v)
    colour[floor] = pave(ground, spot[0][floor], spot[1][floor], distance[floor])

    # The last entry of each table is the ground's, which hit = -1 picks.
    tables = [np.append(vectors @ weather.sun, 0).astype(np.float32) for vectors in frames(seen.corners)]
    tables[2][-1] = weather.sun[2]
    upward = np.append(frames(seen.corners)[2][:, 2], 1).astype(np.float32)
    slope = (relief[..., :2].astype(np.float32) - 128) * np.float32(1 / 64)
    facing = np.take(tables[2], hit)
    lit = facing + slope[..., 0] * np.take(tables[0], hit) + slope[..., 1] * np.take(tables[1], hit)
    lit = np.clip(lit, 0, 1.4) * (facing > 0)
    if weather.sunlight.max() > 0.1:
        lit *= sunlit(scene, weather.sun, spot)

    # Corners and crannies see less of the sky.
    log = np.log(distance)
    hollow = np.clip(log - cv2.blur(log, (41, 41)), 0, 0.12) * 5
    ambient = (0.72 + 0.28 * np.take(upward, hit)) * (1 - hollow) * (1 - 0.25 * np.abs(slope[..., 1]))
    picture = ambient[..., None] * weather.skylight
    picture += lit[..., None] * weather.sunlight
    picture *= LINEAR[colour]
    gloss = relief[..., 2] * np.float32(1 / 255) * (hit >= 0)
    picture += gloss[..., None] * (np.float32(0.22) * weather.horizon)
    if weather.lamps:
        picture += ((gloss > 0.62) * gloss)[..., None] * (WARM * np.float32(weather.lamps))
    picture += (weather.horizon - picture) * (1 - np.exp(distance * np.float32(-weather.haze)))[..., None]
    cover = cv2.resize(weather.clouds, shape[::-1])
    picture[sky] = heaven(weather, np.clip(rays[2][sky], 0, 1), cover[sky])
    return picture
