"""A folder of one's own: GLDv2 layout, class folders, and what is wrong with a third."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from landmark import competition
from landmark.competition import open_competition
from landmark.errors import UserError
from landmark.recipe import load_recipe
from landmark.submission import read_solution


def recipe_for(data, work, seed=2019):
    return load_recipe("photos", [f"data={data}", f"seed={seed}", f"run={work}"])


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """Class folders with 10, 5 and 1 images, some with odd names, and things that are no images."""
    monkeypatch.setattr("landmark.recipe.ROOT", tmp_path)
    data = tmp_path / "my photos"
    for name, count in (("Eiffel Tower", 10), ("Père Lachaise", 5), ("lonely", 1)):
        for k in range(count):
            path = data / name / ("sub" if k % 2 else "") / f"IMG {k}.{'JPG' if k % 3 else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((8, 8, 3), k, np.uint8))
    (data / "Eiffel Tower" / "notes.txt").write_text("no image")
    (data / ".cache").mkdir()
    return data


def test_class_folders_become_a_competition(classes):
    found = open_competition(recipe_for(classes, "work"))
    ids = {split: found.ids(split) for split in competition.SPLITS}
    assert [len(ids[split]) for split in competition.SPLITS] == [5 + 2 + 1, 3 + 2, 2 + 1]
    everything = [i for split in competition.SPLITS for i in ids[split]]
    assert len(set(everything)) == 16 and all(len(i) == 16 and int(i, 16) >= 0 for i in everything)
    names = pd.read_csv(found.table("landmarks.csv"))
    assert names["name"].tolist() == ["Eiffel Tower", "Père Lachaise", "lonely"]
    for split in competition.SPLITS:
        assert all(found.path(split, i).is_file() for i in ids[split])


def test_solutions_of_class_folders_name_the_class(classes):
    found = open_competition(recipe_for(classes, "work"))
    retrieval = read_solution(found.table("retrieval_solution.csv"), "retrieval")
    recognition = read_solution(found.table("recognition_solution.csv"), "recognition")
    for image in found.ids("test"):
        name = found.path("test", image).relative_to(classes).parts[0]
        relevant = {i for i in found.ids("index") if found.path("index", i).relative_to(classes).parts[0] == name}
        assert retrieval.truth[image] == relevant
        assert recognition.truth[image] == {["Eiffel Tower", "Père Lachaise", "lonely"].index(name)}


def test_splits_repeat_follow_the_seed_and_leave_other_classes_alone(classes):
    def splits(work, seed=2019):
        found = open_competition(recipe_for(classes, work, seed))
        return {
            found.path(s, i).relative_to(classes).as_posix(): s for s in competition.SPLITS for i in found.ids(s)
        }

    first = splits("a")
    assert splits("b") == first
    assert splits("c", seed=1) != first
    (classes / "Arc").mkdir()
    cv2.imwrite(str(classes / "Arc" / "x.png"), np.zeros((8, 8, 3), np.uint8))
    assert first.items() <= splits("d").items()


def test_a_changed_or_new_image_changes_the_state(classes):
    recipe = recipe_for(classes, "work")
    before = open_competition(recipe).state("train")
    assert open_competition(recipe).state("train") == before
    path = open_competition(recipe).path("train", open_competition(recipe).ids("train")[0])
    path.write_bytes(path.read_bytes() + b"x")
    assert open_competition(recipe).state("train") != before


def test_a_gldv2_folder_is_taken_as_it_is(tiny_data):
    found = open_competition(load_recipe("photos", [f"data={tiny_data}"]))
    assert found.tables == tiny_data
    assert found.train.columns.tolist() == ["id", "landmark_id"] and len(found.train) == 32
    image = found.ids("index")[0]
    assert found.path("index", image) == tiny_data / "index" / image[0] / image[1] / image[2] / f"{image}.jpg"
    assert found.path("index", image).is_file()


@pytest.fixture(params=["", "gldv2_micro"])
def micro(request, tmp_path, monkeypatch):
    """GLDv2-micro's layout, as its archive unpacks and one folder further down: landmarks 7, 70 and 203093."""
    monkeypatch.setattr("landmark.recipe.ROOT", tmp_path)
    folder = tmp_path / "data" / request.param
    (folder / "images").mkdir(parents=True)
    rows = [
        (f"{label:08x}{k:08x}.jpg", label) for label, count in ((203093, 6), (7, 5), (70, 4)) for k in range(count)
    ]
    for name, label in rows:
        cv2.imwrite(str(folder / "images" / name), np.full((8, 8, 3), label % 251, np.uint8))
    pd.DataFrame(rows, columns=["filename", "landmark_id"]).to_csv(folder / "gldv2_micro.csv", index=False)
    return folder


def test_gldv2_micro_keeps_its_landmark_ids_and_gets_splits(micro, tmp_path):
    found = open_competition(recipe_for(tmp_path / "data", "work"))
    ids = {split: found.ids(split) for split in competition.SPLITS}
    assert {split: len(ids[split]) for split in ids} == {"train": 3 + 2 + 2, "index": 2 + 2 + 1, "test": 3}
    assert found.train["landmark_id"].value_counts().to_dict() == {203093: 3, 7: 2, 70: 2}
    paths = {found.path(split, image) for split in ids for image in ids[split]}
    assert paths == set((micro / "images").iterdir())
    truth = read_solution(found.solution("recognition"), "recognition").truth
    assert {i: {int(found.path("test", i).name[:8], 16)} for i in ids["test"]} == truth


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,seven", "row 2: landmark_id 'seven' is not a whole number"),
        ("../../a.jpg,7", "row 2: filename '../../a.jpg' is not the name of a file in images/"),
    ],
)
def test_faults_of_gldv2_micro_are_named_by_row(micro, tmp_path, row, message):
    (micro / "gldv2_micro.csv").write_text(f"filename,landmark_id\n{row}\n")
    with pytest.raises(UserError, match=message):
        open_competition(recipe_for(tmp_path / "data", "work"))


def test_a_split_without_images_is_told(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "part")
    (tmp_path / "part/index.csv").write_text("id\n")
    part = open_competition(load_recipe("photos", [f"data={tmp_path / 'part'}"]))
    part.require_images("train", "test")
    with pytest.raises(UserError, match="part/index.csv lists no image.*a download without --splits"):
        part.require_images("train", "index", "test")


def test_a_part_of_a_competition_submits_a_row_for_every_test_image_of_the_whole(tiny_data, tmp_path):
    data = tmp_path / "part"
    shutil.copytree(tiny_data, data)
    whole = open_competition(load_recipe("photos", [f"data={data}"])).submission_ids()
    (data / "metadata").mkdir()
    shutil.move(data / "test.csv", data / "metadata")
    (data / "test.csv").write_text(f"id\n{whole[0]}\n")
    part = open_competition(load_recipe("photos", [f"data={data}"]))
    assert part.ids("test") == whole[:1] and part.submission_ids() == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,url,landmark_id\nabc,,7\nabd,,x\n", "row 3: landmark_id 'x' is not a whole number"),
        ("id,url,landmark_id\nabc,,7.5\n", "row 2: landmark_id '7.5' is not a whole number"),
        ("id,url,landmark_id\nabc,,7\nabc,,7\n", "row 3: id 'abc' stands there twice"),
        ("id,url,landmark_id\nabc,,7\nmy photo,,7\n", "row 3: id 'my photo' is not an image id"),
        ("id,url,landmark_id\n../../etc/x,,7\n", "row 2: id '../../etc/x' is not an image id"),
        ("id,url,landmark_id\n12,,7\n", "row 2: id '12' is not an image id"),
        ("id,url\nabc,\n", "no column landmark_id"),
        ("", "not a readable CSV"),
    ],
)
def test_faults_of_train_csv_are_named_by_row(tmp_path, text, message):
    for name in ("train.csv", "index.csv", "test.csv"):
        (tmp_path / name).write_text(text)
    found = open_competition(load_recipe("photos", [f"data={tmp_path}"]))
    with pytest.raises(UserError, match=message):
        _ = found.train


def test_the_published_name_of_a_solution_is_found(tmp_path):
    for name in ("train.csv", "index.csv", "test.csv"):
        (tmp_path / name).write_text("id,url,landmark_id\nabc,,7\n")
    found = open_competition(load_recipe("photos", [f"data={tmp_path}"]))
    assert found.solution("retrieval") is None
    (tmp_path / "retrieval_solution_v2.1.csv").write_text("id,images,Usage\n")
    assert found.solution("retrieval").name == "retrieval_solution_v2.1.csv"


@pytest.mark.parametrize(("count", "shares"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (5, 3, 2))])
def test_small_classes_have_a_query_only_where_something_can_be_found(classes, count, shares):
    for k in range(count):
        path = classes / "small" / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8, 3), k, np.uint8))
    found = open_competition(recipe_for(classes, "work"))
    counts = (sum(found.path(s, i).parent.name == "small" for i in found.ids(s)) for s in competition.SPLITS)
    assert tuple(counts) == shares


def test_classes_too_small_to_search_in_are_an_error_before_any_work(classes):
    for name in ("Eiffel Tower", "Père Lachaise"):
        shutil.rmtree(classes / name)
    with pytest.raises(UserError, match="no class of three or more images"):
        open_competition(recipe_for(classes, "work"))


def test_a_folder_with_nothing_usable_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="neither train.csv .* nor class folders"):
        open_competition(load_recipe("photos", [f"data={tmp_path}"]))
    with pytest.raises(UserError, match="absent is not there"):
        open_competition(load_recipe("photos", [f"data={tmp_path / 'absent'}"]))
    with pytest.raises(UserError, match="step 00 makes it"):
        open_competition(load_recipe("sample", [f"data={tmp_path}"]))
    (tmp_path / "train.csv").write_text("id,url,landmark_id\nabc,,7\n")
    with pytest.raises(UserError, match="index.csv is missing"):
        open_competition(load_recipe("photos", [f"data={tmp_path}"]))
