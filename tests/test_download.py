"""run.sh download: Google Landmarks v2 out of a bucket, as a user runs it."""

import dataclasses
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
import types

import pandas as pd
import pytest
from bucket import IDS, PER_SHARD, SHARDS, csv, make_tar, miniature, put, put_shard, serve, tables
from PIL import Image

import download
import landmark.download
from landmark.competition import SPLITS, open_competition
from landmark.download import disk_need
from landmark.errors import UserError
from landmark.gldv2 import Shard, ShardFiles
from landmark.gldv2_tables import landmark_name
from landmark.recipe import load_recipe
from landmark.store import write_json
from landmark.transfer import Remote, source_path


@pytest.fixture
def server(tmp_path):
    with serve(miniature(tmp_path / "bucket")) as server:
        yield server


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def settings(server, data):
    counts = ", ".join(f"{split}: {len(shards)}" for split, shards in SHARDS.items())
    return [
        f"data={data}",
        f"bucket.url={server.url}",
        f"bucket.shards={{{counts}}}",
        "bucket.connections=2",
        "workers=2",
    ]


@pytest.fixture
def run(run_step, settings):
    """Run the command; returns stdout and stderr."""

    def run(*arguments, fails=False, more=()):
        return run_step("download", "--recipe", "gld2019", "--set", *settings, *more, *arguments, fails=fails)

    return run


@pytest.fixture
def start(project, settings):
    """Start the command, and leave it running."""

    def start(**options):
        command = [sys.executable, str(project / "src/download.py"), "--recipe", "gld2019", "--set", *settings]
        return subprocess.Popen(command, **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options})

    return start


def main_with(settings, **given):
    """The command in this process, with options as argparse has them."""
    options = {
        "splits": SPLITS,
        "shards": None,
        "accept_md5": [],
        "dry_run": False,
        "competition_files": False,
        **given,
    }
    download.main(load_recipe("gld2019", settings), types.SimpleNamespace(**options))


def wait_for_tar(server) -> None:
    """Wait until a shard is asked for."""
    until = time.monotonic() + 60
    while not transferred(server):
        assert time.monotonic() < until
        time.sleep(0.01)


def wait_for_requests(server, count, process) -> None:
    """Wait until so many requests were made, or the process has ended."""
    while len(server.requests) < count and process.poll() is None:
        time.sleep(0.01)


def state(folder) -> dict[str, bytes]:
    """All that a download leaves, without its own records and locks."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".download" not in p.parts
    }


def photographs(folder, split) -> dict[str, bytes]:
    return {p.stem: p.read_bytes() for p in (folder / split).rglob("*.jpg")}


def transferred(server) -> list[str]:
    return [path for method, path, _ in server.requests if method == "GET" and path.endswith(".tar")]


def column(path, name="id") -> list[str]:
    return pd.read_csv(path, dtype=str, keep_default_na=False)[name].tolist()


def test_all_of_it_and_again(server, data, run, settings):
    out, _ = run()
    assert "train.csv has 12 of 12 photographs" in out
    assert "kB, " in out or "MB, " in out  # what it needs
    for split, shards in SHARDS.items():
        assert photographs(data, split) == {i: image for shard in shards for i, image in shard}
        assert column(data / f"{split}.csv") == IDS[split]
    assert (data / "metadata/test.csv").read_text() == tables()["metadata/test.csv"]
    for name in ("train_clean.csv", "train.csv", "retrieval_solution_v2.1.csv", "recognition_solution_v2.1.csv"):
        assert (data / name).read_bytes() == (data / "metadata" / name).read_bytes()
    assert (data / "landmarks.csv").read_text() == "landmark_id,name\n1,Café de Flore\n2,B\n"
    competition = open_competition(load_recipe("gld2019", settings))
    assert competition.submission_ids() == IDS["test"]
    assert competition.solution("retrieval") == data / "retrieval_solution_v2.1.csv"
    assert not [*data.glob(".download/**/*.tar"), *data.glob(".download/**/*.part")]
    # Again: nothing is fetched, and nothing changes.
    times = {p: p.stat().st_mtime_ns for p in data.glob("*.csv")}
    server.requests.clear()
    out, _ = run()
    assert "6 of 6 shards are done" in out
    assert {method for method, _, _ in server.requests} == {"HEAD"}
    assert {p: p.stat().st_mtime_ns for p in data.glob("*.csv")} == times
    # A photograph is lost: its shard alone is brought again.
    lost = IDS["index"][0]
    next(data.glob(f"index/*/*/*/{lost}.jpg")).unlink()
    run()
    assert transferred(server) == ["index/images_000.tar"]
    assert lost in photographs(data, "index")
    # A published table changes: it alone is fetched.
    server.requests.clear()
    put(server.folder / "metadata/train_clean.csv", csv("landmark_id,images", [("1", IDS["train"][0])]).encode())
    run()
    assert [path for method, path, _ in server.requests if method == "GET"] == ["metadata/train_clean.csv"]
    assert column(data / "train_clean.csv", "images") == IDS["train"][:1]


def test_a_part_has_the_tables_of_the_part(server, data, run, settings):
    run("--shards", "0,5-9")
    assert sorted(transferred(server)) == [f"{s}/images_000.tar" for s in ("index", "test", "train")]
    train, index, test = IDS["train"], IDS["index"], IDS["test"]
    assert column(data / "train.csv") == train[:PER_SHARD]
    assert column(data / "index.csv") == index[:PER_SHARD]
    assert column(data / "train_clean.csv", "images") == [" ".join(train[:PER_SHARD:2])]
    truth = pd.read_csv(data / "retrieval_solution_v2.1.csv", keep_default_na=False)
    assert truth["images"].tolist() == [index[0], "None", "None", "None"]
    assert truth["Usage"].tolist() == ["Public", "Private", "Ignored", "Ignored"]
    run("--splits", "train", "--shards", "1-2")
    assert column(data / "train.csv") == train
    assert column(data / "test.csv") == test


def test_a_split_alone_leaves_the_other_tables_empty(server, data, run, settings):
    run("--splits", "train", "--shards", "2")
    competition = open_competition(load_recipe("gld2019", settings))
    assert competition.ids("train") == IDS["train"][2 * PER_SHARD :]
    assert competition.ids("index") == competition.ids("test") == []
    assert competition.submission_ids() == IDS["test"]


def test_a_dry_run_says_what_it_would_fetch_and_writes_nothing(server, data, run):
    out, _ = run("--dry-run", "--splits", "index")
    assert f"would fetch {server.url}/index/images_001.tar (" in out
    assert "needs about" in out
    assert not data.exists()
    assert {method for method, _, _ in server.requests} == {"HEAD"}


def test_a_smaller_longest_side_brings_the_photographs_anew(server, data, run):
    run("--splits", "test")
    out, _ = run("--splits", "test", more=["bucket.longest_side=60"])
    assert "estimated, for bucket.longest_side 60" in out
    assert {Image.open(io.BytesIO(image)).size for image in photographs(data, "test").values()} == {(60, 40)}
    out, _ = run("--splits", "test", more=["bucket.longest_side=60"])
    assert "1 of 1 shards are done" in out


def test_a_wrong_sum_is_tried_thrice_and_told_and_accepted(server, data, run):
    wrong = "0" * 32
    put(server.folder / "md5sum/train/md5.images_000.txt", f"{wrong}  images_000.tar\n".encode())
    right = hashlib.md5((server.folder / "train/images_000.tar").read_bytes()).hexdigest()
    _, err = run(fails=True)
    assert transferred(server).count("train/images_000.tar") == 3
    told = f"train/000: md5 is {right}, published is {wrong}, after 3 transfers"
    assert told in err
    assert "--accept-md5 train/000" in err
    assert "Traceback" not in err
    assert column(data / "train.csv") == IDS["train"][PER_SHARD:]
    assert column(data / "index.csv") == IDS["index"]
    server.requests.clear()
    out, _ = run("--accept-md5", "train/000")
    assert transferred(server) == []
    assert f"train/000: md5 {right} is accepted" in out
    assert column(data / "train.csv") == IDS["train"]


def test_an_accepted_tar_must_still_be_whole(server, data, run):
    path = server.folder / "test/images_000.tar"
    path.write_bytes(path.read_bytes()[:30_000])
    _, err = run("--splits", "test", "--accept-md5", "test/000", fails=True)
    assert "test/000: the tar file is broken" in err
    assert f"delete {data}/.download/test/000.tar" in err
    assert column(data / "test.csv") == []


def test_a_shard_that_holds_something_else_is_refused_by_name(server, data, run, tmp_path):
    put_shard(server.folder, "train", 1, make_tar([("../../../evil.jpg", b"x")]))
    _, err = run("--splits", "train", fails=True)
    assert "train/001: '../../../evil.jpg' is not a photograph" in err
    assert not [*tmp_path.rglob("evil.jpg")]
    assert column(data / "train.csv") == IDS["train"][:PER_SHARD] + IDS["train"][2 * PER_SHARD :]


def test_a_photograph_that_does_not_decode_is_named_each_time(server, data, run):
    (bad, image), *others = SHARDS["test"][0]
    members = [(f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg", data) for i, data in [(bad, image[:-500]), *others]]
    put_shard(server.folder, "test", 0, make_tar(members))
    for _ in range(2):
        _, err = run("--splits", "test", fails=True)
        assert f"test/000: 1 photographs do not decode: {bad}.jpg: image file is truncated" in err
        assert photographs(data, "test") == dict(others)
        assert column(data / "test.csv") == IDS["test"][1:]
    assert transferred(server) == ["test/images_000.tar"]


def test_killed_at_any_moment_it_ends_with_the_same_bytes(server, data, start, run):
    server.delay = 0.1
    draw = random.Random(5)
    for _ in range(4):
        process = start()
        # Of the first run 13 requests are of sizes, 7 of tables, and the others of shards and their sums.
        wait_for_requests(server, len(server.requests) + draw.randint(14, 28), process)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.wait()
    server.delay = 0
    server.requests.clear()
    done = [p.relative_to(data / ".download").with_suffix("") for p in data.glob(".download/*/00?.json")]
    run()
    assert {f"{p.parent}/images_{p.name}.tar" for p in done}.isdisjoint(transferred(server))
    undisturbed = data.with_name("undisturbed")
    run(more=[f"data={undisturbed}"])
    assert state(data) == state(undisturbed)


def test_ctrl_c_ends_it_at_once_and_it_goes_on(server, data, start, run):
    server.delay = 10
    process = start(stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_tar(server)
    # As a terminal does, to the processes that extract as well.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert err == "stopped; run the same command again to go on\n"
    server.delay = 0
    run()
    assert column(data / "train.csv") == IDS["train"]


def test_two_downloads_do_not_share_a_folder(server, data, start, settings):
    server.delay = 10
    first = start()
    wait_for_tar(server)
    with pytest.raises(UserError, match=f"another download is at work in {data}"):
        main_with(settings)
    first.kill()
    first.wait()
    with pytest.raises(UserError, match="is a download that has not ended"):
        open_competition(load_recipe("gld2019", settings))


def test_optional_tables_may_be_missing_and_others_may_not(server, data, run):
    (server.folder / "metadata/train_clean.csv").unlink()
    (server.folder / "metadata/train_label_to_category.csv").unlink()
    out, _ = run("--splits", "test")
    assert "train_clean.csv is passed over" in out
    assert not (data / "landmarks.csv").exists()
    (server.folder / "metadata/index.csv").unlink()
    _, err = run(fails=True)
    assert f"error: {server.url}/metadata/index.csv: 404" in err
    assert "bucket.url" in err
    assert "Traceback" not in err


def test_a_shard_that_the_bucket_lacks_names_the_setting(server, run):
    (server.folder / "train/images_002.tar").unlink()
    _, err = run(fails=True)
    assert f"error: {server.url}/train/images_002.tar: 404" in err
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
def test_wrong_options_are_told(settings, given, said):
    with pytest.raises(UserError, match=said):
        main_with(settings, **given)


def test_too_small_a_disk_is_told_before_anything_is_fetched(server, data, settings, monkeypatch):
    monkeypatch.setattr(landmark.download.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    told = r"needs about \d+ kB, and 1.0 kB are free.*--splits.*longest_side.*data=FOLDER"
    with pytest.raises(UserError, match=told):
        main_with(settings)
    assert state(data) == {}
    assert transferred(server) == []


def test_what_is_had_is_not_needed_again(data, settings):
    recipe = load_recipe("gld2019", [*settings, "bucket.connections=1"])
    shards = {Shard("train", n): Remote(f"http://x/{n}", size, "") for n, size in enumerate((1000, 4000, 2000))}
    table = Remote("http://x/t", 10, "")
    # Published and at hand; all photographs; two tars at a time.
    assert disk_need(recipe, [table], shards) == 20 + 7000 + 6000
    half = load_recipe("gld2019", [*settings, "bucket.connections=1", "bucket.longest_side=400"])
    assert disk_need(half, [], shards) == 7000 / 4 + 6000
    part = ShardFiles(data, Shard("train", 1)).part
    put(part, bytes(1500))
    write_json(source_path(part), dataclasses.asdict(shards[Shard("train", 1)]))
    assert disk_need(recipe, [], shards) == 7000 + 6000 - 1500


def test_many_failures_end_it(server, settings, monkeypatch):
    monkeypatch.setattr(landmark.download, "_MOST_FAILURES", 1)
    for path in server.folder.glob("md5sum/train/*"):
        path.write_text("nonsense")
    with pytest.raises(UserError, match="does not begin with an md5 sum\n  2 others were not tried"):
        main_with(settings, splits=["train"])


def test_kaggle_is_asked_where_the_recipe_has_no_bucket(data, settings, monkeypatch):
    asked = []
    files = types.SimpleNamespace(
        download_dataset=lambda *a: asked.append(a), download_competition=lambda *a: asked.append(a)
    )
    monkeypatch.setitem(sys.modules, "landmark.kaggle_files", files)
    own = [f"data={data}", "bucket=null"]
    main_with([*own, "kaggle.dataset=a/b"])
    assert asked == [("a/b", data)]
    with pytest.raises(UserError, match="competitions alone; add --competition-files"):
        main_with(own)
    main_with(own, competition_files=True)
    assert asked[1:] == [
        (name, data / "kaggle" / name) for name in load_recipe("gld2019").kaggle.competitions.values()
    ]


def test_a_recipe_without_a_source_says_so(run_step):
    _, err = run_step("download", "--recipe", "sample", fails=True)
    assert err.startswith("error: recipe sample: it has nothing to download")


def test_names_are_read_from_the_categories_address():
    assert landmark_name("http://commons.wikimedia.org/wiki/Category:Mus%C3%A9e_d%27Orsay") == "Musée d'Orsay"
