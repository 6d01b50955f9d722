"""Data attached to a Kaggle notebook: where it is found, and how it is cut for a trial run."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from landmark.competition import SPLITS, Competition, open_competition
from landmark.errors import UserError
from landmark.kaggle_input import cut_data, find_data
from landmark.kaggle_kit import hub_backbones
from landmark.recipe import load_recipe
from landmark.submission import read_solution


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def table(path: Path, header: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def test_tables_and_images_are_found_in_different_datasets_and_the_competition_says_what_is_asked(tmp_path):
    root, target = tmp_path / "input", tmp_path / "attached"
    photographs, asked = root / "datasets/me/gld", root / "competitions/landmark"
    table(photographs / "metadata/train.csv", "id,url,landmark_id", "aaa,,1")
    table(photographs / "metadata/test.csv", "id", "ccc")
    table(photographs / "metadata/recognition_solution_v2.1.csv", "id,landmarks,Usage", "ccc,1,Public")
    for name in ("train/a/a/a/aaa", "index/b/b/b/bbb", "test/c/c/c/ccc"):
        image(photographs / "images" / f"{name}.jpg")
    table(root / "another/train.csv", "name,price", "x,1")
    assert find_data(root, [], target) == target
    found = Competition(target, target)
    assert [found.ids(split) for split in SPLITS] == [["aaa"], ["bbb"], ["ccc"]]
    assert found.path("index", "bbb").exists() and found.solution("recognition") is not None

    table(asked / "sample_submission.csv", "id,landmarks", "ddd,1 0.5")
    image(asked / "test/d/d/d/ddd.jpg")
    find_data(root, [], target)
    found = Competition(target, target)
    assert found.ids("test") == ["ddd"] and found.path("test", "ddd").exists()
    assert found.path("train", "aaa").exists() and found.solution("recognition") is None
    # A competition that lists no index of its own has it in its folder; another's list is of other images.
    table(asked / "train.csv", "id,landmark_id", "aaa,1")
    table(photographs / "metadata/index.csv", "id", "bbb", "eee")
    image(asked / "index/f/f/f/fff.jpg")
    find_data(root, [], target)
    assert Competition(target, target).ids("index") == ["fff"]
    shutil.rmtree(asked / "index")
    shutil.rmtree(photographs / "images/index")
    find_data(root, ["landmark"], target)
    assert Competition(target, target).ids("index") == ["ddd"] and found.path("index", "ddd").exists()
    shutil.rmtree(photographs / "images/train")
    with pytest.raises(UserError, match="nowhere train/"):
        find_data(root, [], target)


def test_other_kinds_of_data_are_found_and_the_favourite_first(tmp_path):
    root, target = tmp_path / "input", tmp_path / "attached"
    for number in range(2):
        image(root / f"datasets/me/zoo/pictures/animal {number}/1.png")
        image(root / f"datasets/him/houses/house {number}/1.png")
    assert find_data(root, [], target) == root / "datasets/him/houses"
    assert find_data(root, ["zoo"], target) == root / "datasets/me/zoo/pictures"
    for number in range(2):
        image(root / f"numbered/{number}/1.png")
    assert find_data(root, ["numbered"], target) == root / "numbered"
    table(root / "micro/gldv2_micro/gldv2_micro.csv", "filename,landmark_id", "x.jpg,1")
    assert find_data(root, [], target) == root / "micro/gldv2_micro"
    assert not target.exists()


def test_a_cut_keeps_landmarks_whole_and_what_can_be_answered(tmp_path):
    whole, target = tmp_path / "whole", tmp_path / "cut"
    labels = np.repeat(np.arange(20), 6)
    ids = {"train": [f"a{i:04}" for i in range(120)], "index": [f"b{i:04}" for i in range(40)]}
    ids["test"] = [f"c{i:04}" for i in range(30)]
    table(whole / "train.csv", "id,landmark_id", *(f"{i},{k}" for i, k in zip(ids["train"], labels, strict=True)))
    for split in ("index", "test"):
        table(whole / f"{split}.csv", "id", *ids[split])
    # Test images 0 to 9 show landmarks 0 to 9, each with two index images; the others show none.
    shows = [f"{i},{k if k < 10 else ''},Public" for k, i in enumerate(ids["test"])]
    table(whole / "recognition_solution.csv", "id,landmarks,Usage", *shows)
    finds = [
        f"{i},{f'b{2 * k:04} b{2 * k + 1:04},Private' if k < 10 else 'None,Ignored'}"
        for k, i in enumerate(ids["test"])
    ]
    table(whole / "retrieval_solution.csv", "id,images,Usage", *finds)
    for split in SPLITS:
        for name in ids[split]:
            image(whole / split / name[0] / name[1] / name[2] / f"{name}.jpg")
    assert not cut_data(Competition(whole, whole), target, 120)
    assert cut_data(Competition(whole, whole), target, 20)
    part = Competition(target, target)
    counts = part.train["landmark_id"].value_counts()
    assert counts.tolist() == [6, 6, 6] and counts.index.max() < 10
    assert len(part.ids("index")) == len(part.ids("test")) == 20
    assert part.submission_ids() == ids["test"]
    truth = read_solution(part.solution("recognition"), "recognition").truth
    assert truth.keys() == set(part.ids("test")) and set().union(*truth.values()) == set(counts.index)
    wanted = read_solution(part.solution("retrieval"), "retrieval")
    assert wanted.ids == set(part.ids("test")) and set().union(*wanted.truth.values()) <= set(part.ids("index"))
    assert all(len(images) == 2 for images in wanted.truth.values())
    # Where no two landmarks fit, half of the images of each.
    assert cut_data(Competition(whole, whole), tmp_path / "small", 9)
    small = Competition(tmp_path / "small", tmp_path / "small").train["landmark_id"].value_counts()
    assert small.tolist() == [4, 4]
    assert part.path("train", part.ids("train")[0]).is_symlink()

    # Tables of all, and of the images only the last.
    for split, name in (("train", "a000*"), ("train", "a004*"), ("index", "b000*"), ("test", "c000*")):
        for path in (whole / split).rglob(f"{name}.jpg"):
            path.unlink()
    assert cut_data(Competition(whole, whole), tmp_path / "rest", 100)
    rest = Competition(tmp_path / "rest", tmp_path / "rest")
    assert [len(rest.ids(split)) for split in SPLITS] == [100, 30, 20]
    assert all(rest.path(split, i).exists() for split in SPLITS for i in rest.ids(split))
    shutil.rmtree(whole / "index")
    with pytest.raises(UserError, match="index.csv lists 40 images, and none is attached"):
        cut_data(Competition(whole, whole), tmp_path / "rest", 100)


def test_a_cut_of_class_folders_is_a_gldv2_layout_of_links(tmp_path):
    mine = tmp_path / "mine"
    for number in range(60):
        image(mine / f"house {number % 6}/{number}.png")
    recipe = load_recipe("photos", [f"data={mine}"]).model_copy(update={"run": str(tmp_path / "run")})
    whole = open_competition(recipe)
    assert cut_data(whole, tmp_path / "cut", 12)
    part = Competition(tmp_path / "cut", tmp_path / "cut")
    assert part.train["landmark_id"].nunique() == 2 and len(part.ids("index")) == 12
    linked = {part.path(split, i).resolve() for split in SPLITS for i in part.ids(split)}
    assert len(linked) == sum(len(part.ids(split)) for split in SPLITS)
    assert all(path.exists() and path.parent.parent == mine for path in linked)


def test_backbones_whose_weights_an_offline_notebook_wants():
    resnet = ["data=x", "models.imagenet.backbone=resnet50.a1_in1k"]
    assert hub_backbones(load_recipe("gldv2_micro", resnet), trained=True) == ["resnet50.a1_in1k"]
    micro, photos, gld = (load_recipe(name, ["data=x"]) for name in ("gldv2_micro", "photos", "gld2019"))
    assert hub_backbones(micro, trained=False) == []
    assert hub_backbones(photos, trained=False) == [] == hub_backbones(gld, trained=True)
    assert hub_backbones(gld, trained=False) == ["resnet101", "seresnext101_32x4d"]
