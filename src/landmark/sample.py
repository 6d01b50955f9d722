"""A small landmark competition, rendered: the layout of the real one, with its noise and distractors."""

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from landmark.progress import track
from landmark.scene import views
from landmark.scene.buildings import STYLES, build
from landmark.settings import Sample
from landmark.store import write_json

VERSION = 1  # raise when the same arguments would give other pictures
SWAPPED_SHARE, JUNK_SHARE = 0.12, 0.10  # of the train labels
INDEX_DISTRACTORS, TEST_DISTRACTORS = 0.25, 0.5  # per view of a landmark
PUBLIC_SHARE = 1 / 3
JUNK = ("street", "landscape", "stone", "sign", "interior")
DISTRACTORS = ("building", "street", "landscape", "interior", "map", "flowers", "stamp", "stamp")
NAMES = (
    ("San", "Alta", "Monte", "Nova", "Villa", "Castel", "Port", "Bel"),
    ("dora", "mira", "varo", "lune", "sera", "tano", "brio"),
)
FILES = (
    "train.csv",
    "index.csv",
    "test.csv",
    "recognition_solution.csv",
    "retrieval_solution.csv",
    "landmarks.csv",
    "label_noise.csv",
)


@dataclass(frozen=True)
class Shot:
    """One picture to make: subject is a landmark's number, -1 for none; kind says what it shows."""

    number: int
    id: str
    split: str
    subject: int
    kind: str


def landmark_id(landmark):
    return 1000 + 37 * landmark


def twins(landmarks: int) -> list[tuple[int, int]]:
    """The look-alike pairs: a third of the landmarks, two by two."""
    return [(2 * k, 2 * k + 1) for k in range(min(-(-landmarks // 6), landmarks // 2))]


@functools.lru_cache(maxsize=2)
def stand(seed, landmark, landmarks):
    """The landmark's mesh. Numbers from `landmarks` on are buildings that the competition does not know."""
    first = {b: a for a, b in twins(landmarks)}
    layout = first.get(landmark, landmark)
    distinct = layout - sum(b < layout for b in first)  # twins count once, so that all styles get their turn
    style, palette = STYLES[distinct % len(STYLES)], 3 * distinct + distinct // len(STYLES)
    return build((seed, 1, layout), (seed, 2, landmark), style, palette)


def plan(seed: int, settings: Sample):
    """All pictures, and the train labels as (label, true label or -1) by picture number."""
    landmarks, train_views = settings.landmarks, settings.train_views
    rng = np.random.default_rng((seed, 0))
    subjects, kinds, splits = [], [], []
    for split, count, extra in (
        ("train", train_views, 0),
        ("index", settings.index_views, INDEX_DISTRACTORS),
        ("test", settings.test_views, TEST_DISTRACTORS),
    ):
        shown = [landmark for landmark in range(landmarks) for _ in range(count)]
        others = round(extra * len(shown))
        subjects += shown + [-1] * others
        kinds += ["building"] * len(shown) + [str(kind) for kind in rng.choice(DISTRACTORS, others)]
        splits += [split] * (len(shown) + others)
    count = landmarks * train_views
    labels = np.repeat(np.arange(landmarks), train_views)
    wrong = rng.permutation(count)[: round(JUNK_SHARE * count) + round(SWAPPED_SHARE * count)]
    junk, swapped = np.split(wrong, [round(JUNK_SHARE * count)])
    truth = labels.copy()
    truth[junk] = -1
    labels[swapped] = (labels[swapped] + rng.integers(1, max(2, landmarks), len(swapped))) % landmarks
    for number in junk.tolist():
        subjects[number], kinds[number] = -1, str(rng.choice(JUNK))
    shots = []
    for number, (split, subject, kind) in enumerate(zip(splits, subjects, kinds, strict=True)):
        name = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).hexdigest()
        shots.append(Shot(number, name, split, subject, kind))
    return shots, list(zip(labels.tolist(), truth.tolist(), strict=True))


def take(seed, landmarks, shot, longest_side):
    """The JPEG bytes of one picture."""
    rng = np.random.default_rng((seed, 3, shot.number))
    if shot.kind != "building":
        return views.take(rng, longest_side, shot.kind)
    subject = shot.subject if shot.subject >= 0 else landmarks + shot.number
    return views.take(rng, longest_side, shot.kind, stand(seed, subject, landmarks))


def image_path(folder, shot):
    return Path(folder, shot.split, *shot.id[:3], f"{shot.id}.jpg")


def take_all(folder, seed, landmarks, shots, longest_side):
    cv2.setNumThreads(1)
    for shot in shots:
        path = image_path(folder, shot)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(take(seed, landmarks, shot, longest_side))


def write_tables(folder, seed, landmarks, shots, labels):
    """The seven CSV files."""
    rng = np.random.default_rng((seed, 4))
    ids = {split: [shot.id for shot in shots if shot.split == split] for split in ("train", "index", "test")}
    order = rng.permutation(len(labels))
    rows = [(ids["train"][k], landmark_id(labels[k][0]), labels[k]) for k in order]
    noise = [(name, label, landmark_id(t) if t >= 0 else None) for name, label, (a, t) in rows if a != t]
    names = [f"{NAMES[0][k % 8]} {NAMES[1][k % 7].title()}{k // 56 or ''}" for k in range(landmarks)]
    index = {}
    for shot in shots:
        if shot.split == "index" and shot.subject >= 0:
            index.setdefault(shot.subject, []).append(shot.id)
    test = sorted((shot for shot in shots if shot.split == "test"), key=lambda shot: shot.id)
    public = set(rng.permutation(len(test))[: round(PUBLIC_SHARE * len(test))].tolist())
    recognition, retrieval = [], []
    for k, shot in enumerate(test):
        usage = "Public" if k in public else "Private"
        found = " ".join(sorted(index.get(shot.subject, [])))
        recognition.append((shot.id, landmark_id(shot.subject) if shot.subject >= 0 else None, usage))
        retrieval.append((shot.id, found or "None", usage if found else "Ignored"))
    tables = {
        "train": (["id", "url", "landmark_id"], [(name, None, label) for name, label, _ in rows]),
        "index": (["id"], [(name,) for name in sorted(ids["index"])]),
        "test": (["id"], [(shot.id,) for shot in test]),
        "recognition_solution": (["id", "landmarks", "Usage"], recognition),
        "retrieval_solution": (["id", "images", "Usage"], retrieval),
        "landmarks": (["landmark_id", "name"], [(landmark_id(k), name) for k, name in enumerate(names)]),
        "label_noise": (["id", "landmark_id", "true_landmark_id"], noise),
    }
    for name, (columns, rows) in tables.items():
        pd.DataFrame(rows, columns=columns, dtype=object).to_csv(
            folder / f"{name}.csv", index=False, lineterminator="\n"
        )


def is_rendered(folder: Path, settings: Sample, seed: int) -> bool:
    """Whether `folder` holds, whole, the sample that render_competition would make with these settings."""
    try:
        made = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return made == {**arguments(settings, seed), "content": content(folder)}


def content(folder: Path) -> str:
    """A digest of all files but sample.json, by name and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "sample.json"):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def arguments(settings: Sample, seed: int) -> dict:
    """What the pictures depend on."""
    return {**settings.model_dump(), "seed": seed, "version": VERSION}


def check_free(folder):
    """Raise FileExistsError unless the folder is missing, empty or an earlier sample and nothing else."""
    ours = {*FILES, "sample.json", "train", "index", "test"}
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and (
        not folder.is_dir() or (present and ("sample.json" not in present or not present <= ours))
    ):
        raise FileExistsError(f"{folder} exists and is not a rendered sample: give another folder or move it away")


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove_stale(folder):
    """Delete what runs that were killed left beside the folder."""
    for path in folder.parent.glob(f"{folder.name}.part-*"):
        process = path.name.rpartition("-")[2]
        if process.isdigit() and not alive(int(process)):
            shutil.rmtree(path)


def render_competition(folder: Path, settings: Sample, seed: int, workers: int) -> None:
    """Write the sample competition to `folder`, whole or not at all; same bytes for any number of workers.

    Replaces a sample made with other settings. Raises FileExistsError where the folder holds anything else.
    """
    folder = folder.absolute()
    check_free(folder)
    remove_stale(folder)
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    for split in ("train", "index", "test"):
        (part / split).mkdir(parents=True)
    shots, labels = plan(seed, settings)
    # A worker stands a landmark up once and takes all its pictures; the others go in small groups.
    groups = [[shot for shot in shots if shot.subject == landmark] for landmark in range(settings.landmarks)]
    rest = [shot for shot in shots if shot.subject < 0]
    groups += [rest[k : k + 8] for k in range(0, len(rest), 8)]
    jobs = [(part, seed, settings.landmarks, group, settings.longest_side) for group in groups if group]
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(take_all, *job) for job in jobs]
            try:
                for finished in track(as_completed(futures), len(futures), "rendering", unit="groups"):
                    finished.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else every picture would be made before the error shows
                raise
        write_tables(part, seed, settings.landmarks, shots, labels)
        write_json(part / "sample.json", {**arguments(settings, seed), "content": content(part)})
        if folder.exists():
            old = folder.with_name(f"{folder.name}.part-old-{os.getpid()}")
            folder.rename(old)
            part.rename(folder)
            shutil.rmtree(old)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
