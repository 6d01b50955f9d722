"""The recipes of the real data from download to scores, on miniatures in exactly the published layout."""

import io
import json
import zipfile

import pandas as pd
import pytest
import yaml
from bucket import make_bucket, serve

from landmark.submission import validate_recognition, validate_retrieval

SPLITS = ("train", "index", "test")
SHARDS = {"train": 3, "index": 2, "test": 1}
MICRO = "google-landmark-dataset-v2-micro"
SMALL = {"sizes": "XS", "batch_size": 8}


def shrink(project, name: str, changes: dict) -> dict:
    """The shipped recipe with networks, images and epochs made small, and these changes; nothing else."""
    path = project / "src/recipes" / f"{name}.yaml"
    recipe = json.loads(json.dumps(yaml.safe_load(path.read_text())))

    def shrink_part(part: dict) -> None:
        part.update(SMALL)
        kinds = [stage["augmentation"] for stage in part.get("stages", [{"augmentation": "soft"}])]
        part["stages"] = [{"augmentation": kind, "epochs": 1} for kind in kinds]

    for round_ in (recipe, recipe.get("bootstrap") or {}):
        for model in round_.get("models", []):
            if model.get("loss", "arcface"):
                model.update(backbone="tf_efficientnet_lite0")
                shrink_part(model.setdefault("training", {}))
                model["training"]["dim"] = 48
            if model.get("finetune", {}) is not None:
                shrink_part(model.setdefault("finetune", {}))
        if "delf" in round_:
            shrink_part(round_["delf"]["training"])
    recipe.setdefault("extraction", {})["longest_side"] = 160
    recipe.setdefault("local_features", {}).update(longest_side=160, max_points=200)
    for key, value in changes.items():
        recipe[key] = {**recipe.get(key, {}), **value}
    path.write_text(yaml.safe_dump(recipe))
    return recipe


def read(folder, name: str, **options) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False, **options)


@pytest.fixture
def published(tiny_data, tmp_path):
    """The tiny competition as Google Landmarks v2 is published, tars of a/b/c/<id>.jpg among it."""
    shards = {}
    for split in SPLITS:
        photographs = [
            (i, (tiny_data / split / i[0] / i[1] / i[2] / f"{i}.jpg").read_bytes())
            for i in read(tiny_data, split)["id"]
        ]
        shards[split] = [photographs[n :: SHARDS[split]] for n in range(SHARDS[split])]
    tables = {f"metadata/{split}.csv": (tiny_data / f"{split}.csv").read_text() for split in SPLITS}
    for task in ("recognition", "retrieval"):
        tables[f"ground_truth/{task}_solution_v2.1.csv"] = (tiny_data / f"{task}_solution.csv").read_text()
    train, wrong = read(tiny_data, "train"), set(read(tiny_data, "label_noise")["id"])
    clean = train[~train["id"].isin(wrong)].groupby("landmark_id")["id"].agg(" ".join)
    tables["metadata/train_clean.csv"] = clean.rename("images").to_csv()
    names = read(tiny_data, "landmarks")
    address = "http://commons.wikimedia.org/wiki/Category:" + names["name"].str.replace(" ", "_")
    tables["metadata/train_label_to_category.csv"] = names.assign(category=address)[
        ["landmark_id", "category"]
    ].to_csv(index=False)
    with serve(make_bucket(tmp_path / "bucket", shards, tables)) as server:
        yield server


def test_gld2019_from_its_bucket_to_two_scored_submissions(project, run_sh, tiny_data, published):
    recipe = shrink(project, "gld2019", {"bucket": {"url": published.url, "shards": SHARDS}})
    fetched = run_sh("download", "--recipe", "gld2019")
    assert fetched.returncode == 0, fetched.stderr
    data = project / "input/google-landmark"
    for split in SPLITS:
        assert sorted(read(data, split)["id"]) == sorted(read(tiny_data, split)["id"])

    command = ["--recipe", "gld2019", "--set", "cleaning.published=input/google-landmark/train_clean.csv"]
    done = run_sh(*command)
    assert done.returncode == 0, done.stderr
    clean = read(data, "train_clean")
    assert f"kept {clean['images'].str.split().str.len().sum()} of 32 images, 4 labels" in done.stdout
    trained = {f"02 train: {model['name']} on" for model in recipe["models"]} | {"02 train: delf on"}
    assert len(trained) == 7 and all(text in done.stdout for text in trained)
    out, ids = project / "submissions/gld2019", {split: read(data, split)["id"].tolist() for split in SPLITS}
    validate_retrieval(out / "retrieval.csv", ids["test"], ids["index"])
    validate_recognition(
        out / "recognition.csv", ids["test"], read(data, "train")["landmark_id"].astype(int).tolist()
    )
    scores = json.loads((out / "scores.json").read_text())
    assert scores["retrieval"]["map100"]["all"] > 0 and scores["recognition"]["gap"]["all"] is not None
    assert set(read(out, "answers")["name"]) <= set(read(tiny_data, "landmarks")["name"])

    again = run_sh("download", "--recipe", "gld2019")
    assert "6 of 6 shards are done" in again.stdout
    assert "kept" not in run_sh(*command, "--only", "01").stdout


def test_gld2019_fetches_the_files_of_its_competitions_from_kaggle(
    project, run_sh, published, signed_in, monkeypatch
):
    shrink(project, "gld2019", {"bucket": {"url": published.url, "shards": SHARDS}})
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # the bucket is asked directly, and Kaggle through its proxy
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("test.csv", "id\nttt1\n")
    signed_in.archive = archive.getvalue()
    fetched = run_sh("download", "--recipe", "gld2019", "--splits", "test", "--competition-files")
    assert fetched.returncode == 0, fetched.stderr
    names = ["landmark-retrieval-2019", "landmark-recognition-2019"]
    asked = [request["competitionName"] for call, request in signed_in.calls if call == "DownloadDataFiles"]
    assert sorted(asked) == sorted(names)
    for name in names:
        assert (project / "input/google-landmark/kaggle" / name / "test.csv").read_text() == "id\nttt1\n"


def test_gldv2_micro_from_kaggle_to_two_scored_submissions(project, run_sh, tiny_data, signed_in):
    shrink(project, "gldv2_micro", {})
    train, wrong = read(tiny_data, "train"), set(read(tiny_data, "label_noise")["id"])
    train = train[~train["id"].isin(wrong)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for i in train["id"]:
            file.write(tiny_data / "train" / i[0] / i[1] / i[2] / f"{i}.jpg", f"gldv2_micro/images/{i}.jpg")
        rows = train.assign(filename=train["id"] + ".jpg")[["filename", "landmark_id"]]
        file.writestr("gldv2_micro/gldv2_micro.csv", rows.to_csv(index=False))
    signed_in.archive = archive.getvalue()
    fetched = run_sh("download", "--recipe", "gldv2_micro")
    assert fetched.returncode == 0, fetched.stderr
    assert signed_in.calls[-2] == ("DownloadDataset", {"ownerSlug": "confirm", "datasetSlug": MICRO})
    done = run_sh("--recipe", "gldv2_micro")
    assert done.returncode == 0, done.stderr

    tables = project / "input/gldv2_micro/competition"
    assert set(read(tables, "train")["landmark_id"]) == set(train["landmark_id"])
    assert sum(len(read(tables, split)) for split in SPLITS) == len(train)
    scores = json.loads((project / "submissions/gldv2_micro/scores.json").read_text())
    assert scores["retrieval"]["map100"]["all"] > 0.5 and scores["recognition"]["gap"]["all"] > 0.3
    assert "is up to date" in run_sh("download", "--recipe", "gldv2_micro").stdout
