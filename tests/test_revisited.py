"""Revisited Oxford and Paris: the official figures, crops, and the script as a user runs it."""

import json
import math
import pickle

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import revisited as script
from landmark.descriptor_files import DescriptorFile
from landmark.errors import UserError
from landmark.images import BadImage, inference_size, resize
from landmark.neighbours import top_k
from landmark.network import DescriptorNet, describe
from landmark.recipe import load_recipe
from landmark.revisited import Benchmark, crop, evaluate, read_benchmark
from landmark.sample import Shot, take


def entry(easy=(), hard=(), junk=(), box=(0.0, 0.0, 8.0, 8.0)):
    """What the ground truth says of one query, in numpy arrays as official files may have it."""
    rows = {"easy": easy, "hard": hard, "junk": junk}
    return {"bbx": np.array(box), **{grade: np.array(these, np.int64) for grade, these in rows.items()}}


def content(gnd, images=8):
    return {
        "imlist": [f"image_{row:06d}" for row in range(images)],
        "qimlist": [f"query_{row}" for row in range(len(gnd))],
        "gnd": gnd,
    }


def write(folder, value, name="roxford5k", protocol=2):
    path = folder / name / f"gnd_{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


def in_memory(gnd, images):
    """A benchmark without files."""
    boxes = np.array([e["bbx"] for e in gnd])
    names = content(gnd, images)
    return Benchmark(None, "roxford5k", names["imlist"], names["qimlist"], boxes, gnd)


# Worked out on paper. Twelve images; in each ranking below what is junk in a setup goes out first. AP is the mean
# over the images to find of half the sum of the precision before and after each; p@k is taken at the last hit
# where that stands before k.
#   A  easy 0 4, hard 2, junk 5; ranking 5 0 7 2 4 1 3 6 …
#      easy:   without 5 and 2: 0 7 4 …   hits at 1, 3; AP = ((1 + 1)/2 + (1/2 + 2/3)/2) / 2 = 19/24
#              p@1 = 1, p@5 and p@10 at the last hit, 3: 2/3
#      medium: without 5: 0 7 2 4 …       hits at 1, 3, 4; AP = (1 + (1/2 + 2/3)/2 + (2/3 + 3/4)/2) / 3 = 55/72
#              p@1 = 1, p@5 and p@10 at 4: 3/4
#      hard:   without 5, 0 and 4: 7 2 …  hit at 2; AP = (0 + 1/2)/2 = 1/4; p@1 = 0, then at 2: 1/2
#   B  easy 1, none hard, junk 0 3; ranking 0 3 1 …: easy and medium: 1 … hit at 1, all is 1; left out of hard
#   C  hard 6; ranking 0 1 2 6 …: left out of easy; medium and hard: hit at 4, AP = (0 + 1/4)/2 = 1/8; p@1 = 0,
#      then at 4: 1/4
#   D  easy 10; ranking 0 1 2 3 4 5 10 …: easy and medium: hit at 7, AP = (0 + 1/7)/2 = 1/14; p@1 = p@5 = 0,
#      p@10 at 7: 1/7; left out of hard
WORKED_OUT = [entry([0, 4], [2], [5]), entry([1], [], [0, 3]), entry([], [6]), entry([10])]
RANKS = [
    [5, 0, 7, 2, 4, 1, 3, 6, 8, 9, 10, 11],
    [0, 3, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11],
    [0, 1, 2, 6, 3, 4, 5, 7, 8, 9, 10, 11],
    [0, 1, 2, 3, 4, 5, 10, 6, 7, 8, 9, 11],
]
FIGURES = {
    "easy": {
        "map": (19 / 24 + 1 + 1 / 14) / 3,
        "mp1": 2 / 3,
        "mp5": (2 / 3 + 1 + 0) / 3,
        "mp10": (2 / 3 + 1 + 1 / 7) / 3,
    },
    "medium": {
        "map": (55 / 72 + 1 + 1 / 8 + 1 / 14) / 4,
        "mp1": 2 / 4,
        "mp5": (3 / 4 + 1 + 1 / 4 + 0) / 4,
        "mp10": (3 / 4 + 1 + 1 / 4 + 1 / 7) / 4,
    },
    "hard": {"map": (1 / 4 + 1 / 8) / 2, "mp1": 0, "mp5": (1 / 2 + 1 / 4) / 2, "mp10": (1 / 2 + 1 / 4) / 2},
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_figures_of_a_ground_truth_worked_out_by_hand(tmp_path, protocol):
    write(tmp_path, content(WORKED_OUT, 12), protocol=protocol)
    figures = evaluate(read_benchmark(tmp_path, "roxford5k"), np.array(RANKS))
    assert list(figures) == ["easy", "medium", "hard"]
    for setup, expected in FIGURES.items():
        assert list(figures[setup]) == ["map", "mp1", "mp5", "mp10"]
        assert figures[setup] == pytest.approx(expected, rel=1e-12)


def test_junk_that_ties_with_a_hit_and_comes_first_costs_nothing():
    vectors = np.eye(4, dtype=np.float32)[[2, 0, 0, 1]]  # rows 1 (junk) and 2 (easy) are as near to the query
    _, ranks = top_k(np.eye(4, dtype=np.float32)[:1], vectors, 4, 1.0)
    assert ranks[0, :2].tolist() == [1, 2]
    figures = evaluate(in_memory([entry([2], [], [1])], 4), ranks)
    assert figures["easy"] == figures["medium"] == {"map": 1, "mp1": 1, "mp5": 1, "mp10": 1}
    figures = evaluate(in_memory([entry([2])], 4), ranks)
    assert figures["easy"] == {"map": 0.25, "mp1": 0, "mp5": 0.5, "mp10": 0.5}


def test_a_setup_without_anything_to_find_is_nan_and_half_a_ranking_is_refused():
    benchmark = in_memory([entry([1])], 3)
    assert all(math.isnan(value) for value in evaluate(benchmark, [[0, 1, 2]])["hard"].values())
    for ranks in ([[0, 1]], [[0, 1, 1]], [[1, 2, 3]], [[0, 1, 2]] * 2):
        with pytest.raises(ValueError, match="1 permutations of 3 images"):
            evaluate(benchmark, ranks)


def official(ranks, truth, kappas=(1, 5, 10)):
    """The mean AP and precisions, step by step as the official compute_map and compute_ap go; ranks: (N, Q)."""
    total, precisions, empty = 0.0, np.zeros(len(kappas)), 0
    for query, (ok, junk) in enumerate(truth):
        if len(ok) == 0:
            empty += 1
            continue
        places = np.arange(len(ranks))
        found = places[np.isin(ranks[:, query], ok)]
        passed = places[np.isin(ranks[:, query], junk)]
        skipped = 0
        for hit in range(len(found)):
            while skipped < len(passed) and found[hit] > passed[skipped]:
                skipped += 1
            found[hit] -= skipped
        area, step = 0, 1.0 / len(ok)
        for hit, place in enumerate(found):
            before = 1.0 if place == 0 else float(hit) / place
            after = float(hit + 1) / (place + 1)
            area += (before + after) * step / 2.0
        total += area
        found += 1
        at = np.zeros(len(kappas))
        for number, kappa in enumerate(kappas):
            depth = min(max(found), kappa)
            at[number] = (found <= depth).sum() / depth
        precisions = precisions + at
    rest = len(truth) - empty
    return [total / rest, *(precisions / rest)] if rest else [math.nan] * (1 + len(kappas))


@st.composite
def graded_rankings(draw):
    images = draw(st.integers(1, 30))
    gnd, ranks = [], []
    for _ in range(draw(st.integers(1, 5))):
        grades = np.array(draw(st.lists(st.integers(0, 3), min_size=images, max_size=images)))
        gnd.append(entry(*(np.flatnonzero(grades == grade) for grade in (1, 2, 3))))
        ranks.append(draw(st.permutations(range(images))))
    return images, gnd, np.array(ranks)


@given(graded_rankings())
def test_the_figures_are_the_official_ones_to_the_last_bit(case):
    images, gnd, ranks = case
    figures = evaluate(in_memory(gnd, images), ranks)
    for setup, ok, junk in (
        ("easy", ["easy"], ["junk", "hard"]),
        ("medium", ["easy", "hard"], ["junk"]),
        ("hard", ["hard"], ["junk", "easy"]),
    ):
        truth = [tuple(np.concatenate([g[k] for k in keys]) for keys in (ok, junk)) for g in gnd]
        np.testing.assert_array_equal(list(figures[setup].values()), official(ranks.T, truth))


def test_a_query_is_cropped_as_the_official_code_does_and_stays_within_the_image():
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    # Halves go to the even number: 2.5 to 2, 3.5 to 4.
    for box in ((2.5, 3.5, 20.4, 20.6), (0.0, 0.0, 40.0, 30.0), (5.49, 1.51, 6.5, 2.51), (0.5, 1.5, 39.5, 29.5)):
        np.testing.assert_array_equal(crop(image, box), np.asarray(Image.fromarray(image).crop(box)))
    np.testing.assert_array_equal(crop(image, np.array([2.5, 3.5, 20.4, 20.6])), image[4:21, 2:20])
    np.testing.assert_array_equal(crop(image, (-3.0, 25.2, 44.0, 99.0)), image[25:, :])
    assert crop(image, (41.0, 0.0, 50.0, 10.0)).size == crop(image, (9.0, 9.0, 9.2, 20.0)).size == 0


def test_images_are_read_as_they_are_stored_and_an_empty_box_is_told(tmp_path):
    write(tmp_path, content([entry(box=(10, 0, 50, 20)), entry(box=(60, 0, 70, 9))]))
    benchmark = read_benchmark(tmp_path, "roxford5k")
    (tmp_path / "roxford5k/jpg").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    for name in ("query_0", "query_1", "image_000000"):
        Image.new("RGB", (60, 30)).save(benchmark.path(name), exif=turned)
    assert benchmark.read_image(0).shape == (30, 60, 3) and benchmark.read_query(0).shape == (20, 40, 3)
    with pytest.raises(BadImage, match="query_1.jpg: the query's box 60, 0, 70, 9 holds no pixel of its 60 x 30"):
        benchmark.read_query(1)


def render(folder):
    """A benchmark of two rendered landmarks with three views each, two other pictures, and a query of each."""
    shown = [0, 0, 0, 1, 1, 1, -1, -1, 0, 1]
    gnd = [entry([0, 1], [], [2], [10.5, 8.0, 100.2, 120.7]), entry([3, 4, 5], [], [], [30.0, 20.5, 110.0, 90.0])]
    names = content(gnd)
    write(folder, names)
    (folder / "roxford5k/jpg").mkdir()
    for number, (name, subject) in enumerate(zip(names["imlist"] + names["qimlist"], shown, strict=True)):
        shot = Shot(number, name, "index", subject, "building" if subject >= 0 else "flowers")
        (folder / "roxford5k/jpg" / f"{name}.jpg").write_bytes(take(2019, 2, shot, 160))


def test_an_image_that_does_not_decode_is_told_in_a_line_and_leaves_no_descriptors(tmp_path):
    write(tmp_path, content([entry()], 1))
    (tmp_path / "roxford5k/jpg").mkdir()
    benchmark = read_benchmark(tmp_path, "roxford5k")
    path = benchmark.path("image_000000")
    path.write_bytes(b"no picture")
    file = DescriptorFile(tmp_path / "out", "images")
    net = DescriptorNet("test_resnet", 0)
    with pytest.raises(UserError) as caught:
        script.describe(net, load_recipe("sample", ["device=cpu"]), benchmark, "images", file, "key", "")
    assert str(caught.value).startswith(f"{path} does not decode; ") and "\n" not in str(caught.value)
    assert not any(path.exists() for path in file.paths)


MODELS = "models=[{name: a, backbone: test_resnet, weights: none, loss: null}]"


def test_the_script_scores_a_rendered_benchmark(project, run_step, run_sh, tmp_path):
    folder = tmp_path / "benchmarks"
    render(folder)
    command = ["--recipe", "tiny", "--set", MODELS, "--benchmarks", str(folder), "--names", "roxford5k"]
    image = folder / "roxford5k/jpg/image_000003.jpg"
    image.rename(tmp_path / "away.jpg")
    _, error = run_step("revisited", *command, fails=True)
    assert error.startswith(f"error: {image} is missing; ") and error.count("\n") == 1
    (tmp_path / "away.jpg").rename(image)
    done = run_sh("revisited", *command)
    assert done.returncode == 0, done.stderr

    # Worked out anew: one image at a time, by a plain sort.
    recipe = load_recipe("sample")
    torch.manual_seed(recipe.seed)
    net = DescriptorNet("test_resnet", 0).eval()
    benchmark = read_benchmark(folder, "roxford5k")

    def described(name, box=None):
        picture = cv2.cvtColor(cv2.imread(str(benchmark.path(name))), cv2.COLOR_BGR2RGB)
        if box is not None:
            x1, y1, x2, y2 = box
            picture = picture[y1:y2, x1:x2]
        total = 0
        for scale in (0.75, 1.0):
            height, width = inference_size(*picture.shape[:2], 160 * scale)
            x = torch.from_numpy(resize(picture, width, height)).permute(2, 0, 1)[None]
            with torch.inference_mode():
                total = total + describe(net, x).numpy()[0]
        return total / np.linalg.norm(total)

    images = np.stack([described(name) for name in benchmark.images])
    boxes = [(10, 8, 100, 121), (30, 20, 110, 90)]
    queries = np.stack([described(name, box) for name, box in zip(benchmark.queries, boxes, strict=True)])
    similarity = queries @ images.T
    # Far enough apart that float16, in which descriptors are kept, changes no place.
    assert np.diff(np.sort(similarity, axis=1), axis=1).min() > 1e-4
    expected = evaluate(benchmark, np.argsort(-similarity, axis=1))
    assert 0 < expected["easy"]["map"] < 1

    out = project / "submissions/tiny"
    figures = json.loads((out / "revisited.json").read_text())["roxford5k"]
    assert figures["hard"] == {"map": None, "mp1": None, "mp5": None, "mp10": None}
    table = pd.read_csv(out / "revisited.csv")
    assert table.columns.tolist() == ["benchmark", "setup", "map", "mp1", "mp5", "mp10"] and len(table) == 3
    for row, setup in enumerate(("easy", "medium")):
        assert figures[setup] == pytest.approx(expected[setup], abs=1e-12)
        assert table.loc[row].to_dict() == {"benchmark": "roxford5k", "setup": setup, **figures[setup]}
        assert f"roxford5k  {setup:7}   {expected[setup]['map']:.4f}" in done.stdout

    times = {path: path.stat().st_mtime_ns for path in project.glob("*put/tiny/**/*") if path.is_file()}
    again, _ = run_step("revisited", *command)
    assert again.count("up to date") == 3 and again.endswith(done.stdout[done.stdout.index("      ") :])
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert not list(project.glob("input/tiny/revisited/**/*.parts"))
