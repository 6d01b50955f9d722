"""The whole pipeline as a user runs it, on the tiny rendered competition."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from landmark.submission import read_solution, validate_recognition, validate_retrieval

STEPS = ["01_clean", "02_train", "03_finetune", "04_extract", "05_retrieve", "06_recognize", "07_submit"]


def contents(folder):
    """Every file's bytes but the records of what is done and TensorBoard's events, which hold times."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not {"done", "tensorboard"} & set(p.parts)
    }


def test_run_sh_from_nothing_to_two_scored_submissions_and_again(project, run_sh):
    first = run_sh("--recipe", "tiny")
    assert first.returncode == 0, first.stderr
    data, out = project / "input/tiny_data", project / "submissions/tiny"
    ids = {s: pd.read_csv(data / f"{s}.csv", dtype=str)["id"].tolist() for s in ("train", "index", "test")}
    labels = pd.read_csv(data / "train.csv")["landmark_id"].tolist()
    validate_retrieval(out / "retrieval.csv", ids["test"], ids["index"])
    validate_recognition(out / "recognition.csv", ids["test"], labels)
    scores = json.loads((out / "scores.json").read_text())
    for task, names in (("retrieval", ["map100", "map100_plain"]), ("recognition", ["gap", "gap_plain"])):
        assert sorted(scores[task]) == names
        for values in scores[task].values():
            assert sorted(values) == ["Private", "Public", "all"] and 0 < values["all"] <= 1
    for figure in (scores["retrieval"]["map100"]["all"], scores["recognition"]["gap"]["all"]):
        assert f"{figure:.4f}" in first.stdout
    assert cv2.imread(str(out / "retrieved.jpg")) is not None
    answers, names = pd.read_csv(out / "answers.csv", dtype={"id": str}), pd.read_csv(data / "landmarks.csv")
    assert sorted(answers["id"]) == sorted(ids["test"]) and set(answers["name"]) <= set(names["name"])
    assert all((data / path).is_file() for path in answers["path"])
    decisions = pd.read_csv(project / "input/tiny/clean_decisions.csv")
    assert len(decisions) == len(ids["train"]) and decisions["reason"].notna().all()

    times = {p: p.stat().st_mtime_ns for p in [*project.glob("input/**/*"), *project.glob("submissions/**/*")]}
    second = run_sh("--recipe", "tiny")
    assert second.returncode == 0, second.stderr
    assert times == {p: p.stat().st_mtime_ns for p in times}
    assert second.stdout.count("up to date") == 1 + 1 + 1 + 1 + 6 + 1 + 1 + 1
    assert "rendering" not in second.stderr

    only = run_sh("--recipe", "tiny", "--only", "05", "--set", "retrieval.insert_above=0.9")
    assert only.returncode == 0 and "05 retrieve: 12 queries" in only.stdout and "06 recognize" not in only.stdout
    rest = run_sh("--recipe", "tiny", "--from", "06")
    assert "05 retrieve" not in rest.stdout and "06 recognize: up to date" in rest.stdout


def test_run_sh_tells_what_it_can_do_and_what_it_cannot(run_sh):
    shown = run_sh("--help")
    assert shown.returncode == 0 and all(
        word in shown.stdout for word in ("--recipe", "--set", "--from", "--only", "test")
    )
    several = run_sh("--recipe", "tiny", "--only", "07", "--set", "run=x", "extraction.longest_sid=1")
    assert "unknown setting extraction.longest_sid; did you mean longest_side?" in several.stderr
    for arguments in (["--from", "9"], ["--recipe"], ["--fro", "05"], ["--from", "05", "--only", "06"]):
        wrong = run_sh(*arguments)
        assert wrong.returncode != 0 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1


@pytest.fixture
def at_hand(project, tiny_data):
    """The project with its tiny competition already rendered."""
    shutil.copytree(tiny_data, project / "input/tiny_data")
    return project


def test_step_by_step_from_another_folder_equals_a_run_that_was_killed(at_hand, run_step, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    seconds = {}
    for step in STEPS:
        begin = time.monotonic()
        run_step(step, "--recipe", "tiny", cwd=elsewhere)
        seconds[step] = time.monotonic() - begin
    assert list(elsewhere.iterdir()) == []
    undisturbed = contents(at_hand / "input/tiny") | contents(at_hand / "submissions/tiny")
    shutil.rmtree(at_hand / "input/tiny")
    shutil.rmtree(at_hand / "submissions/tiny")
    for step in STEPS:
        command = [sys.executable, str(at_hand / "src" / f"{step}.py"), "--recipe", "tiny"]
        # Killed somewhat before its end, then run to its end.
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.8 * seconds[step])
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        run_step(step, "--recipe", "tiny")
    again = contents(at_hand / "input/tiny") | contents(at_hand / "submissions/tiny")
    assert again.keys() == undisturbed.keys()
    assert [name for name in again if again[name] != undisturbed[name]] == []


@pytest.mark.parametrize(
    ("step", "missing", "maker"),
    [
        ("01_clean", "tiny_data/train.csv", "00_sample.py"),
        ("02_train", "train_clean.csv", "01_clean.py"),
        ("03_finetune", "train_clean.csv", "01_clean.py"),
        ("05_retrieve", "descriptors/train.npy", "04_extract.py"),
        ("06_recognize", "descriptors/train.npy", "04_extract.py"),
        ("07_submit", "retrieval.csv", "05_retrieve.py"),
    ],
)
def test_a_missing_input_names_the_step_that_makes_it(project, run_step, tiny_data, step, missing, maker):
    if step != "01_clean":
        shutil.copytree(tiny_data, project / "input/tiny_data")
    _, error = run_step(step, "--recipe", "tiny", fails=True)
    assert error.startswith("error: ") and error.count("\n") == 1
    assert missing in error and maker in error


def test_a_step_does_not_build_on_results_of_other_settings(at_hand, run_step):
    for step in STEPS:
        run_step(step, "--recipe", "tiny")
    changes = {
        "cleaning.more_than=1": ("02_train", "01 .*cleaning.more_than was 0, is now 1"),
        "models.arcface.training.margin=0.2": ("04_extract", "02 .*margin was 0.3, is now 0.2"),
        "extraction.longest_side=192": ("05_retrieve", "04 .*extraction.longest_side was 160, is now 192"),
        "models.imagenet.weight=0.1": ("06_recognize", "04 .*weights.imagenet was 0.7, is now 0.1"),
        "retrieval.insert_above=0.9": ("07_submit", "05 .*insert_above was 0.6, is now 0.9"),
    }
    for change, (step, message) in changes.items():
        _, error = run_step(step, "--recipe", "tiny", "--set", change, fails=True)
        assert re.search(f"results of step {message}", error)
    # What a step itself depends on may change, and what comes after it.
    assert "re-ranked" in run_step("05_retrieve", "--recipe", "tiny", "--set", "retrieval.insert_above=0.9")[0]


def test_under_torchrun_the_other_processes_leave_the_files_alone(at_hand, run_step, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run_step("07_submit", "--recipe", "tiny")[0] == ""
    assert not (at_hand / "input/tiny").exists()


def test_a_bootstrap_round_trains_what_step_01_starts_from(at_hand, run_step, run_sh):
    small = {"stages": [{"augmentation": "soft", "epochs": 1}], "sizes": "XS", "batch_size": 8}
    first = {"name": "first", "backbone": "test_resnet", "weights": "none", "finetune": None}
    tiny = yaml.safe_load((at_hand / "src/recipes/tiny.yaml").read_text())
    tiny["bootstrap"] = {
        "cleaning": {"more_than": -1},
        "models": [first | {"training": small | {"dim": 48}}],
        "delf": {"of": "first", "training": small},
    }
    tiny["cleaning"]["representation"]["weights"] = "bootstrap"
    tiny["local_features"] = {"features": "delf", "longest_side": 160, "max_points": 200}
    (at_hand / "src/recipes/two_rounds.yaml").write_text(yaml.safe_dump(tiny))
    _, error = run_step("01_clean", "--recipe", "two_rounds", fails=True)
    assert "two_rounds-bootstrap/models/first.pt is missing" in error
    assert "src/02_train.py" in error and "--round bootstrap" in error

    done = run_sh("--recipe", "two_rounds", "--only", "01")
    assert done.returncode == 0, done.stderr
    rounds = ["every image is kept", "02 train: first on", "02 train: delf on", "pairs verified of"]
    assert sorted(done.stdout.index(text) for text in rounds) == [done.stdout.index(text) for text in rounds]
    # The neck's 48 numbers: it is the trained model that describes.
    assert np.load(at_hand / "input/two_rounds/cleaning/train.npy").shape == (32, 48)
    again = run_sh("--recipe", "two_rounds", "--only", "01")
    assert again.stdout.count("up to date") == 4
    # Other labels in the first round, other first models: step 01 notices.
    stale = at_hand / "input/two_rounds-bootstrap/models/first.pt"
    stale.write_bytes((at_hand / "input/two_rounds-bootstrap/models/delf.pt").read_bytes())
    _, error = run_step("01_clean", "--recipe", "two_rounds", fails=True)
    assert "first.pt" in error
    assert (
        "has no bootstrap round" in run_step("01_clean", "--recipe", "tiny", "--round", "bootstrap", fails=True)[1]
    )


def test_a_published_list_takes_the_place_of_cleaning(at_hand, run_step, tmp_path):
    train = pd.read_csv(at_hand / "input/tiny_data/train.csv", dtype=str)
    label = train["landmark_id"][0]
    some = train.loc[train["landmark_id"] == label, "id"].tolist()[:3]
    published = tmp_path / "train_clean.csv"
    published.write_text(f"landmark_id,images\n{label},{' '.join(some)}\n")
    options = ["--recipe", "tiny", "--set", f"cleaning.published={published}"]
    assert "kept 3 of 32 images, 1 labels" in run_step("01_clean", *options)[0]
    assert (at_hand / "input/tiny/train_clean.csv").read_text() == published.read_text()
    assert "up to date" in run_step("01_clean", *options)[0]
    for wrong, message in (
        (f"{label},{some[0]} zzz", "image zzz of .* is not there"),
        (f"9,{some[0]}", "has landmark"),
    ):
        published.write_text(f"landmark_id,images\n{wrong}\n")
        _, error = run_step("01_clean", *options, fails=True)
        assert error.count("\n") == 1 and re.search(message, error)


def test_broken_photographs_are_left_out_by_name_and_every_test_image_keeps_its_row(at_hand, run_step):
    data = at_hand / "input/tiny_data"
    broken, paths = {}, {}
    for split in ("train", "index", "test"):
        broken[split] = pd.read_csv(data / f"{split}.csv", dtype=str)["id"][0]
        name = broken[split]
        paths[split] = data / split / name[0] / name[1] / name[2] / f"{name}.jpg"
        paths[split].write_bytes(b"half a photograph")
    for step in STEPS:
        run_step(step, "--recipe", "tiny")
    decisions = pd.read_csv(at_hand / "input/tiny/clean_decisions.csv", index_col="id")
    assert decisions.loc[broken["train"], "reason"] == f"{paths['train']} does not decode"
    for split in ("train", "index", "test"):
        skipped = pd.read_csv(at_hand / f"input/tiny/descriptors/imagenet/{split}.skipped.csv")
        assert skipped.to_numpy().tolist() == [[broken[split], f"{paths[split]} does not decode"]]
    lists = pd.read_csv(at_hand / "submissions/tiny/retrieval.csv", index_col="id", keep_default_na=False)
    labels = pd.read_csv(at_hand / "submissions/tiny/recognition.csv", index_col="id", keep_default_na=False)
    assert lists.loc[broken["test"], "images"] == "" and labels.loc[broken["test"], "landmarks"] == ""
    assert not lists["images"].str.contains(broken["index"]).any()
    assert (lists["images"] != "").sum() == len(lists) - 1


def test_with_train_images_alone_models_are_trained_and_step_04_says_what_is_missing(at_hand, run_step):
    for split in ("index", "test"):
        (at_hand / f"input/tiny_data/{split}.csv").write_text("id\n")
    for step in STEPS[:3]:
        run_step(step, "--recipe", "tiny")
    _, error = run_step("04_extract", "--recipe", "tiny", fails=True)
    assert error.count("\n") == 1 and "index.csv lists no image" in error


def test_two_images_of_each_landmark_leave_none_to_hold_out_and_none_at_all_is_told(at_hand, run_step):
    train = pd.read_csv(at_hand / "input/tiny_data/train.csv", dtype=str)
    clean = at_hand / "input/tiny/train_clean.csv"
    clean.parent.mkdir(parents=True)
    two = train.groupby("landmark_id").head(2).groupby("landmark_id")["id"].agg(" ".join)
    two.rename("images").reset_index().to_csv(clean, index=False)
    assert "arcface on 8 images, 4 labels" in run_step("02_train", "--recipe", "tiny")[0]
    clean.write_text("landmark_id,images\n")
    _, error = run_step("02_train", "--recipe", "tiny", fails=True)
    assert error.count("\n") == 1 and "no image was kept, and training needs two landmarks" in error


def test_one_model_alone_learns_without_what_broke_since_cleaning(at_hand, run_step):
    run_step("01_clean", "--recipe", "tiny", "--set", "cleaning.more_than=-1")
    options = ["--recipe", "tiny", "--set", "cleaning.more_than=-1"]
    assert "did you mean arcface?" in run_step("02_train", *options, "--model", "arcfac", fails=True)[1]
    broken = pd.read_csv(at_hand / "input/tiny/train_clean.csv")["images"][0].split()[0]
    path = at_hand / f"input/tiny_data/train/{broken[0]}/{broken[1]}/{broken[2]}/{broken}.jpg"
    path.write_bytes(path.read_bytes()[:50])
    shown = run_step("02_train", *options, "--model", "arcface")[0]
    assert "imagenet" not in shown and "arcface on 29 images, 4 labels, 1 left out" in shown
    scanned = pd.read_csv(at_hand / "input/tiny/train_images.csv", dtype={"id": str}, index_col="id")
    assert len(scanned) == 32 and scanned["reason"].dropna().to_dict() == {broken: f"{path} does not decode"}
    assert (scanned.drop(broken)["width"] > 0).all()
    rows = pd.read_csv(at_hand / "input/tiny/models/arcface.history.csv")
    assert rows["top1"].between(0, 1).all() and rows["map"].between(0, 1).all()
    # The same again for step 03, and as a file for use outside.
    pytest.importorskip("onnxruntime")
    assert "03 onnx: arcface differs by at most" in run_step("03_finetune", *options, "--onnx")[0]
    assert (at_hand / "input/tiny/models/arcface-finetuned.onnx").exists()
    assert "03 onnx: arcface is up to date" in run_step("03_finetune", *options, "--onnx")[0]


def test_class_folders_of_ones_own_run_to_the_end(project, run_step, tiny_data, tmp_path):
    """The tiny competition's landmarks as plain class folders, with the photos recipe made small."""
    train = pd.read_csv(tiny_data / "train.csv", dtype=str)
    for image, label in zip(train["id"], train["landmark_id"], strict=True):
        target = tmp_path / "mine" / f"landmark {label}" / f"{image}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_data / "train" / image[0] / image[1] / image[2] / f"{image}.jpg", target)
    small = ["cleaning.more_than=0", "cleaning.agreement.min_support=0", "extraction.longest_side=160"]
    small += ["models=[{name: imagenet, loss: null}]", "verification.min_inliers=6"]
    for step in STEPS:
        run_step(step, "--recipe", "photos", "--set", f"data={tmp_path / 'mine'}", *small)
    out = project / "submissions/photos-mine"
    assert set(read_solution(project / "input/photos-mine/competition/retrieval_solution.csv", "retrieval").usage)
    assert json.loads((out / "scores.json").read_text())["recognition"]["gap"]["all"] > 0.2
    assert not list((tmp_path / "mine").glob("*.csv"))


def test_a_change_of_weights_redoes_only_what_depends_on_it(at_hand, run_step):
    for step in STEPS[:5]:
        run_step(step, "--recipe", "tiny")
    models = contents(at_hand / "input/tiny/models")
    vectors = np.load(at_hand / "input/tiny/descriptors/test.npy")
    change = ["--recipe", "tiny", "--set", "models.imagenet.weight=0.2"]
    assert "up to date" in run_step("02_train", *change)[0]
    shown = run_step("04_extract", *change)[0]
    assert shown.count("is up to date") == 6 and shown.count("descriptors of") == 3
    assert not np.array_equal(vectors, np.load(at_hand / "input/tiny/descriptors/test.npy"))
    assert "re-ranked" in run_step("05_retrieve", *change)[0]
    assert contents(at_hand / "input/tiny/models") == models
