"""Files from Kaggle, by Kaggle's own client against a small Kaggle on this machine."""

import io
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from landmark.competition import open_competition
from landmark.errors import UserError
from landmark.kaggle_files import download_competition, download_dataset
from landmark.recipe import load_recipe

SOURCE = Path(__file__).resolve().parents[1] / "src"
MICRO = "confirm/google-landmark-dataset-v2-micro"
# Three images of each landmark, and so much noise that a download takes several pieces.
IMAGES = {f"{n}.jpg": np.random.default_rng(n).bytes(300_000) for n in range(6)}
TABLE = "filename,landmark_id\n" + "".join(f"{n}.jpg,{n // 3}\n" for n in range(6))


def zipped(files: dict[str, bytes | str], links: tuple[str, ...] = ()) -> bytes:
    """A zip of these files; `links` are stored as symbolic links."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK if name in links else stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


MICRO_ZIP = zipped({"gldv2_micro/gldv2_micro.csv": TABLE} | {f"gldv2_micro/images/{n}": IMAGES[n] for n in IMAGES})


def refused(function, *arguments) -> str:
    """The one line that the download ends with."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(".part-*"))


def test_a_data_set_comes_whole_once_and_is_read_as_a_competition(signed_in, tmp_path, capsys, monkeypatch):
    signed_in.archive, folder = MICRO_ZIP, tmp_path / "data"
    download_dataset(MICRO, folder)
    assert {p.name: p.read_bytes() for p in (folder / "gldv2_micro/images").iterdir()} == IMAGES
    assert parts(folder) == []
    asked = dict(signed_in.calls)["DownloadDataset"]
    assert (asked["ownerSlug"], asked["datasetSlug"]) == tuple(MICRO.split("/"))
    recipe = load_recipe("photos", [f"data={folder}"]).model_copy(update={"run": str(tmp_path / "work")})
    assert len(open_competition(recipe).ids("train")) == 2

    monkeypatch.setenv("KAGGLE_API_TOKEN", "")
    signed_in.calls.clear()
    download_dataset(MICRO, folder)
    assert f"{MICRO} is up to date" in capsys.readouterr().out and signed_in.calls == []


def test_a_file_that_went_missing_is_fetched_again(signed_in, tmp_path):
    signed_in.archive = MICRO_ZIP
    download_dataset(MICRO, tmp_path)
    (tmp_path / "gldv2_micro/images/3.jpg").write_bytes(b"half")
    download_dataset(MICRO, tmp_path)
    assert (tmp_path / "gldv2_micro/images/3.jpg").read_bytes() == IMAGES["3.jpg"]


def test_a_competitions_files_join_what_lies_there(signed_in, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/mine.jpg").write_bytes(b"mine")
    (tmp_path / "test.csv").write_text("old")
    signed_in.archive = zipped({"test.csv": "id\nttt1\n", "train/theirs.jpg": b"theirs"})
    download_competition("landmark-retrieval-2019", tmp_path)
    assert dict(signed_in.calls)["DownloadDataFiles"] == {"competitionName": "landmark-retrieval-2019"}
    assert (tmp_path / "test.csv").read_text() == "id\nttt1\n"
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == ["mine.jpg", "theirs.jpg"]
    # Another competition's files have a record of their own.
    signed_in.archive = zipped({"other.csv": "id\n"})
    download_competition("landmark-recognition-2019", tmp_path)
    assert (tmp_path / "other.csv").exists() and len(list(tmp_path.glob(".kaggle-*.json"))) == 2


def test_a_download_that_is_cut_goes_on_where_it_was(signed_in, tmp_path):
    signed_in.archive, signed_in.cuts = MICRO_ZIP, [1_100_000]
    signed_in.stall.set()
    download_dataset(MICRO, tmp_path)
    ranges = [request["range"] for name, request in signed_in.calls if name == "storage"]
    assert ranges == [None, f"bytes={2**20}-"]
    assert (tmp_path / "gldv2_micro/images/5.jpg").read_bytes() == IMAGES["5.jpg"]


def test_a_cut_download_whose_address_expired_begins_anew(signed_in, tmp_path):
    signed_in.archive, signed_in.cuts = MICRO_ZIP, [1_100_000]
    signed_in.stall.set()
    signed_in.faults["storage"] = [None, (403, "<html>expired</html>"), (403, "<html>expired</html>")]
    assert "does not match expected size" in refused(download_dataset, MICRO, tmp_path)
    download_dataset(MICRO, tmp_path)
    assert (tmp_path / "gldv2_micro/images/5.jpg").read_bytes() == IMAGES["5.jpg"]


@pytest.mark.parametrize("changed", [False, True])
def test_killed_and_called_again_it_resumes_unless_the_files_changed(signed_in, tmp_path, changed):
    signed_in.archive, signed_in.cuts = MICRO_ZIP, [1_100_000]
    folder = tmp_path / "data"
    code = f"from landmark.kaggle_files import *; download_dataset({MICRO!r}, Path({str(folder)!r}))"
    started = subprocess.Popen([sys.executable, "-c", code], cwd=SOURCE, stdout=subprocess.DEVNULL)
    half = folder / f".part-{MICRO.replace('/', '-')}/archive.zip"
    while not half.exists() or half.stat().st_size < 1_000_000:
        time.sleep(0.02)
        assert started.poll() is None
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (folder / "gldv2_micro").exists()
    fresh = IMAGES | ({"5.jpg": IMAGES["5.jpg"][::-1]} if changed else {})
    files = {"gldv2_micro/gldv2_micro.csv": TABLE} | {f"gldv2_micro/images/{n}": fresh[n] for n in fresh}
    signed_in.archive = zipped(files)
    signed_in.calls.clear()
    download_dataset(MICRO, folder)
    assert {p.name: p.read_bytes() for p in (folder / "gldv2_micro/images").iterdir()} == fresh
    resumed = [request["range"] for name, request in signed_in.calls if name == "storage"][1:]
    assert resumed == ([] if changed else [f"bytes={2**20}-"])


def test_killed_while_it_unpacked_it_fetches_nothing_again(signed_in, tmp_path, monkeypatch):
    from kaggle.api.kaggle_api_extended import KaggleApi

    def kill(*arguments):
        raise KeyboardInterrupt

    signed_in.archive = MICRO_ZIP
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(zipfile.ZipFile, "extract", kill)
        download_dataset(MICRO, tmp_path)
    assert not (tmp_path / "gldv2_micro").exists()
    monkeypatch.setattr(KaggleApi, "download_file", None)
    download_dataset(MICRO, tmp_path)
    assert (tmp_path / "gldv2_micro/images/5.jpg").read_bytes() == IMAGES["5.jpg"]


@pytest.mark.parametrize(
    "name", ["../outside.txt", "/outside.txt", "a/../../outside.txt", "a\\..\\outside.txt", "link"]
)
def test_an_archive_that_leads_out_of_the_folder_is_refused(signed_in, tmp_path, name):
    signed_in.archive = zipped({"good.txt": "good", name: "/etc/passwd"}, links=("link",))
    message = refused(download_dataset, "a/b", tmp_path / "data")
    assert "leads out of the folder" in message and repr(name) in message
    assert not (tmp_path / "outside.txt").exists() and not (tmp_path / "data/good.txt").exists()


def test_a_damaged_archive_is_told_and_fetched_anew(signed_in, tmp_path):
    damaged, encrypted = bytearray(MICRO_ZIP), bytearray(MICRO_ZIP)
    damaged[500_000] ^= 255
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    for archive in (bytes(damaged), bytes(encrypted), b"<html>not a zip</html>"):
        signed_in.archive = archive
        assert "came damaged" in refused(download_dataset, MICRO, tmp_path)
        assert not (tmp_path / "gldv2_micro").exists()
    signed_in.archive = MICRO_ZIP
    download_dataset(MICRO, tmp_path)
    assert (tmp_path / "gldv2_micro/images/5.jpg").exists()


def test_refusals_have_kaggles_words_and_the_way_out(signed_in, tmp_path):
    rules = "You must accept this competition's rules before you'll be able to download files."
    signed_in.faults["DownloadDataFiles"] = [
        (403, {"code": 403, "message": rules}),
        (404, {"code": 404, "message": "-"}),
    ]
    message = refused(download_competition, "landmark-retrieval-2019", tmp_path)
    assert "https://www.kaggle.com/c/landmark-retrieval-2019/rules" in message and message.endswith(rules)
    assert "kaggle.competitions: Kaggle has no competition 'x'" in refused(download_competition, "x", tmp_path)
    signed_in.faults["DownloadDataset"] = [(404, {"code": 404, "message": "Dataset not found"})]
    assert "kaggle.dataset: Kaggle has no data set 'a/b'" in refused(download_dataset, "a/b", tmp_path)


def test_a_disk_too_small_is_told_before_the_first_byte(signed_in, tmp_path, monkeypatch):
    signed_in.archive = MICRO_ZIP
    usage = shutil.disk_usage(tmp_path)._replace(free=len(MICRO_ZIP))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert "GB are free; make room" in refused(download_dataset, MICRO, tmp_path)
    assert not (parts(tmp_path)[0] / "archive.zip").exists()
