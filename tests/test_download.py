"""run.sh download: Google Landmarks v2 out of a bucket, as a user runs it."""

import dataclasses
import hashlib
import io
import os
import sys
import types

import pandas as pd
import pytest
from bucket import IDS, PER_SHARD, SHARDS, csv, make_tar, put, put_shard, tables
from PIL import Image

import download
import landmark.download
from landmark.competition import open_competition
from landmark.download import disk_need
from landmark.errors import UserError
from landmark.gldv2 import Shard, ShardFiles
from landmark.gldv2_tables import landmark_name
from landmark.recipe import load_recipe
from landmark.store import write_json
from landmark.transfer import Remote, source_path


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def main_with(settings, **given):
    """The command in this process, with options as argparse has them."""
    options = {
        "splits": None,
        "shards": None,
        "accept_md5": [],
        "dry_run": False,
        "competition_files": False,
        **given,
    }
    download.main(load_recipe("gld2019", settings), types.SimpleNamespace(**options))


def photographs(folder, split) -> dict[str, bytes]:
    return {p.stem: p.read_bytes() for p in (folder / split).rglob("*.jpg")}


def column(path, name="id") -> list[str]:
    return pd.read_csv(path, dtype=str, keep_default_na=False)[name].tolist()


def test_all_of_it_and_again(bucket, data, run_download, bucket_settings):
    out, _ = run_download()
    assert "train.csv has 12 of 12 photographs" in out
    assert "kB, " in out or "MB, " in out  # what it needs
    for split, shards in SHARDS.items():
        assert photographs(data, split) == {i: image for shard in shards for i, image in shard}
        assert column(data / f"{split}.csv") == IDS[split]
    assert (data / "metadata/test.csv").read_text() == tables()["metadata/test.csv"]
    for name in ("train_clean.csv", "train.csv", "retrieval_solution_v2.1.csv", "recognition_solution_v2.1.csv"):
        assert (data / name).read_bytes() == (data / "metadata" / name).read_bytes()
    assert (data / "landmarks.csv").read_text() == "landmark_id,name\n1,Café de Flore\n2,B\n"
    competition = open_competition(load_recipe("gld2019", bucket_settings))
    assert competition.submission_ids() == IDS["test"]
    assert competition.solution("retrieval") == data / "retrieval_solution_v2.1.csv"
    assert not [*data.glob(".download/**/*.tar"), *data.glob(".download/**/*.part")]
    # Again: nothing is fetched, and nothing changes.
    times = {p: p.stat().st_mtime_ns for p in data.glob("*.csv")}
    bucket.requests.clear()
    out, _ = run_download()
    assert "6 of 6 shards are done" in out
    assert {method for method, _, _ in bucket.requests} == {"HEAD"}
    assert {p: p.stat().st_mtime_ns for p in data.glob("*.csv")} == times
    # A photograph is lost: its shard alone is brought again.
    lost = IDS["index"][0]
    next(data.glob(f"index/*/*/*/{lost}.jpg")).unlink()
    run_download()
    assert bucket.transferred() == ["index/images_000.tar"]
    assert lost in photographs(data, "index")
    # A published table changes: it alone is fetched.
    bucket.requests.clear()
    put(bucket.folder / "metadata/train_clean.csv", csv("landmark_id,images", [("1", IDS["train"][0])]).encode())
    run_download()
    assert [path for method, path, _ in bucket.requests if method == "GET"] == ["metadata/train_clean.csv"]
    assert column(data / "train_clean.csv", "images") == IDS["train"][:1]


def test_a_part_has_the_tables_of_the_part(bucket, data, run_download, bucket_settings):
    run_download("--shards", "0,5-9")
    assert sorted(bucket.transferred()) == [f"{s}/images_000.tar" for s in ("index", "test", "train")]
    train, index, test = IDS["train"], IDS["index"], IDS["test"]
    assert column(data / "train.csv") == train[:PER_SHARD]
    assert column(data / "index.csv") == index[:PER_SHARD]
    assert column(data / "train_clean.csv", "images") == [" ".join(train[:PER_SHARD:2])]
    truth = pd.read_csv(data / "retrieval_solution_v2.1.csv", keep_default_na=False)
    assert truth["images"].tolist() == [index[0], "None", "None", "None"]
    assert truth["Usage"].tolist() == ["Public", "Private", "Ignored", "Ignored"]
    run_download("--splits", "train", "--shards", "1-2")
    assert column(data / "train.csv") == train
    assert column(data / "test.csv") == test


def test_a_split_alone_leaves_the_other_tables_empty(bucket, data, run_download, bucket_settings):
    run_download("--splits", "train", "--shards", "2")
    competition = open_competition(load_recipe("gld2019", bucket_settings))
    assert competition.ids("train") == IDS["train"][2 * PER_SHARD :]
    assert competition.ids("index") == competition.ids("test") == []
    assert competition.submission_ids() == IDS["test"]


def test_a_dry_run_says_what_it_would_fetch_and_writes_nothing(bucket, data, run_download):
    out, _ = run_download("--dry-run", "--splits", "index")
    assert "would fetch 2 shards of index, " in out
    assert "needs about" in out
    assert not data.exists()
    assert {method for method, _, _ in bucket.requests} == {"HEAD"}


def test_a_tar_left_over_by_a_kill_goes_with_the_next_run_and_not_with_a_dry_one(bucket, data, run_download):
    run_download("--splits", "test")
    left = data / ".download/test/000.tar"
    put(left, b"left over")
    run_download("--splits", "test", "--dry-run")
    assert left.exists()
    run_download("--splits", "test")
    assert not left.exists()


def test_what_was_there_stays_in_the_tables_until_better_comes(bucket, data, run_download):
    run_download("--splits", "train")
    next(data.glob(f"train/*/*/*/{IDS['train'][0]}.jpg")).unlink()
    put(bucket.folder / "md5sum/train/md5.images_000.txt", b"nonsense")
    run_download("--splits", "train", fails=True)
    assert column(data / "train.csv") == IDS["train"]


def test_what_is_smaller_at_hand_is_not_fetched_anew_for_a_forgotten_setting(bucket, data, run_download):
    smaller = ["bucket.longest_side=60"]
    out, _ = run_download("--splits", "test", more=smaller)
    assert "estimated, for bucket.longest_side 60" in out
    assert {Image.open(io.BytesIO(image)).size for image in photographs(data, "test").values()} == {(60, 40)}
    out, _ = run_download("--splits", "test", more=smaller)
    assert "1 of 1 shards are done" in out
    bucket.requests.clear()
    _, err = run_download("--splits", "test", fails=True)
    assert "was extracted with 60, and now it is null; add --set bucket.longest_side=60" in err
    assert bucket.transferred() == []


def test_tables_of_the_users_own_are_not_replaced(data, run_download):
    data.mkdir()
    (data / "index.csv").write_text("id\nmine\n")
    _, err = run_download(fails=True)
    assert f"{data}/index.csv is not of a download" in err
    assert (data / "index.csv").read_text() == "id\nmine\n"


def test_the_steps_name_a_download_that_has_not_ended(bucket, run_download, run_step, bucket_settings):
    run_download(fails=True, more=[f"bucket.url={bucket.url}/nowhere"])
    _, err = run_step("01_clean", "--recipe", "gld2019", "--set", *bucket_settings, fails=True)
    assert "a download that has not ended; bash run.sh download --recipe gld2019 goes on" in err


def test_a_wrong_sum_is_tried_thrice_and_told_and_accepted(bucket, data, run_download):
    wrong = "0" * 32
    put(bucket.folder / "md5sum/train/md5.images_000.txt", f"{wrong}  images_000.tar\n".encode())
    right = hashlib.md5((bucket.folder / "train/images_000.tar").read_bytes()).hexdigest()
    _, err = run_download(fails=True)
    assert bucket.transferred().count("train/images_000.tar") == 3
    told = f"train/000: md5 is {right}, published is {wrong}, after 3 transfers"
    assert told in err
    assert "--accept-md5 train/000" in err
    assert "Traceback" not in err
    assert column(data / "train.csv") == IDS["train"][PER_SHARD:]
    assert column(data / "index.csv") == IDS["index"]
    bucket.requests.clear()
    out, _ = run_download("--accept-md5", "train/000")
    assert bucket.transferred() == []
    assert f"train/000: md5 {right} is accepted" in out
    assert column(data / "train.csv") == IDS["train"]


def test_an_accepted_tar_must_still_be_whole(bucket, data, run_download):
    path = bucket.folder / "test/images_000.tar"
    path.write_bytes(path.read_bytes()[:30_000])
    _, err = run_download("--splits", "test", "--accept-md5", "test/000", fails=True)
    assert "test/000: the tar file is broken" in err
    assert f"delete {data}/.download/test/000.tar" in err
    assert column(data / "test.csv") == []


def test_a_shard_that_holds_something_else_is_refused_by_name(bucket, data, run_download, tmp_path):
    put_shard(bucket.folder, "train", 1, make_tar([("../../../evil.jpg", b"x")]))
    _, err = run_download("--splits", "train", fails=True)
    assert "train/001: '../../../evil.jpg' is not a photograph" in err
    assert not [*tmp_path.rglob("evil.jpg")]
    assert column(data / "train.csv") == IDS["train"][:PER_SHARD] + IDS["train"][2 * PER_SHARD :]


def test_a_photograph_that_does_not_decode_is_named_each_time(bucket, data, run_download):
    (bad, image), *others = SHARDS["test"][0]
    members = [(f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg", data) for i, data in [(bad, image[:-500]), *others]]
    put_shard(bucket.folder, "test", 0, make_tar(members))
    for _ in range(2):
        _, err = run_download("--splits", "test", fails=True)
        assert f"test/000: 1 photographs do not decode: {bad}.jpg: image file is truncated" in err
        assert photographs(data, "test") == dict(others)
        assert column(data / "test.csv") == IDS["test"][1:]
    assert bucket.transferred() == ["test/images_000.tar"]


def test_optional_tables_may_be_missing_and_others_may_not(bucket, data, run_download):
    (bucket.folder / "metadata/train_clean.csv").unlink()
    (bucket.folder / "metadata/train_label_to_category.csv").unlink()
    out, _ = run_download("--splits", "test")
    assert "train_clean.csv is passed over" in out
    assert not (data / "landmarks.csv").exists()
    (bucket.folder / "metadata/index.csv").unlink()
    _, err = run_download(fails=True)
    assert f"error: {bucket.url}/metadata/index.csv: 404" in err
    assert "bucket.url" in err
    assert "Traceback" not in err


def test_a_shard_that_the_bucket_lacks_names_the_setting(bucket, run_download):
    (bucket.folder / "train/images_002.tar").unlink()
    _, err = run_download(fails=True)
    assert f"error: {bucket.url}/train/images_002.tar: 404" in err
    assert "bucket.shards" in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shards": "7-3"}, "--shards 7-3: write numbers and ranges"),
        ({"shards": "3-9"}, "there is nothing to fetch; train has 3 shards"),
        ({"accept_md5": ["train/003"]}, "there is no such shard; there are train/000 to train/002"),
        ({"accept_md5": ["nonsense"]}, "--accept-md5 nonsense: there is no such shard"),
    ],
)
def test_wrong_options_are_told(bucket_settings, given, said):
    with pytest.raises(UserError, match=said):
        main_with(bucket_settings, **given)


def test_too_small_a_disk_is_told_before_anything_is_fetched(bucket, data, bucket_settings, monkeypatch):
    monkeypatch.setattr(landmark.download.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    told = r"needs about \d+ kB, and 1.0 kB are free.*--splits.*longest_side.*data=FOLDER"
    with pytest.raises(UserError, match=told):
        main_with(bucket_settings)
    assert not [*data.rglob("*.csv")]
    assert bucket.transferred() == []


def test_what_is_had_is_not_needed_again(data, bucket_settings):
    recipe = load_recipe("gld2019", [*bucket_settings, "bucket.connections=1"])
    shards = {Shard("train", n): Remote(f"http://x/{n}", size, "") for n, size in enumerate((1000, 4000, 2000))}
    table = Remote("http://x/t", 10, "")
    # Published and at hand; all photographs; two tars at a time.
    assert disk_need(recipe, [table], shards) == 20 + 7000 + 6000
    half = load_recipe("gld2019", [*bucket_settings, "bucket.connections=1", "bucket.longest_side=400"])
    assert disk_need(half, [], shards) == 7000 / 4 + 6000
    part = ShardFiles(data, Shard("train", 1)).part
    put(part, bytes(1500))
    write_json(source_path(part), dataclasses.asdict(shards[Shard("train", 1)]))
    assert disk_need(recipe, [], shards) == 7000 + 6000 - 1500


def end_process(*_) -> None:
    os._exit(1)


def test_a_process_that_is_killed_at_extracting_is_told(bucket, bucket_settings, monkeypatch):
    monkeypatch.setattr(landmark.download, "extract", end_process)
    with pytest.raises(UserError, match="a process that extracts photographs was killed.*--set workers=N"):
        main_with(bucket_settings, splits=["test"])


def test_many_failures_end_it(bucket, bucket_settings, monkeypatch):
    monkeypatch.setattr(landmark.download, "_MOST_FAILURES", 1)
    for path in bucket.folder.glob("md5sum/train/*"):
        path.write_text("nonsense")
    with pytest.raises(UserError, match="does not begin with an md5 sum\n  2 others were not tried"):
        main_with(bucket_settings, splits=["train"])


@pytest.fixture
def asked(monkeypatch):
    """What is asked of Kaggle: (name, folder)."""
    asked = []
    files = types.SimpleNamespace(
        download_dataset=lambda *a: asked.append(a), download_competition=lambda *a: asked.append(a)
    )
    monkeypatch.setitem(sys.modules, "landmark.kaggle_files", files)
    return asked


def test_kaggle_is_asked_where_the_recipe_has_no_bucket(data, asked):
    own = [f"data={data}", "bucket=null"]
    main_with([*own, "kaggle.dataset=a/b"])
    assert asked == [("a/b", data)]
    with pytest.raises(UserError, match="competitions alone; add --competition-files"):
        main_with(own)
    main_with(own, competition_files=True)
    assert asked[1:] == [
        (name, data / "kaggle" / name) for name in load_recipe("gld2019").kaggle.competitions.values()
    ]


def test_two_downloads_from_kaggle_do_not_share_a_folder(data, asked):
    with download.hold(data), pytest.raises(UserError, match=f"another download is at work in {data}"):
        main_with([f"data={data}", "bucket=null", "kaggle.dataset=a/b"])
    assert asked == []
    # That would tell of a bucket's download that has not ended.
    assert not (data / ".download").exists()


@pytest.mark.parametrize(
    ("settings", "given", "said"),
    [
        (["bucket=null"], {"splits": ["train"]}, "--splits: recipe gld2019 has no bucket"),
        (["bucket=null"], {"shards": "0"}, "--shards: recipe gld2019 has no bucket"),
        (["bucket=null"], {"accept_md5": ["train/000"]}, "--accept-md5: recipe gld2019 has no bucket"),
        (["bucket=null"], {"dry_run": True}, "--dry-run: recipe gld2019 has no bucket"),
        (["kaggle.competitions={}"], {"competition_files": True}, "--competition-files: .* names no Kaggle"),
        ([], {"dry_run": True, "competition_files": True}, "leave out --competition-files"),
    ],
)
def test_options_that_would_do_nothing_are_told(bucket, bucket_settings, data, asked, settings, given, said):
    with pytest.raises(UserError, match=said):
        main_with([*bucket_settings, "kaggle.dataset=a/b", *settings], **given)
    assert asked == bucket.requests == []
    assert not data.exists()


def test_a_recipe_without_a_source_says_so(run_step):
    _, err = run_step("download", "--recipe", "sample", fails=True)
    assert err.startswith("error: recipe sample: it has nothing to download")


def test_names_are_read_from_the_categories_address():
    assert landmark_name("http://commons.wikimedia.org/wiki/Category:Mus%C3%A9e_d%27Orsay") == "Musée d'Orsay"
