"""Photographs out of a tar file: what belongs there and nothing else, whole, and decoded."""

import tarfile
from io import BytesIO

import cv2
import numpy as np
import pytest
from bucket import make_tar
from PIL import Image

from landmark import shards
from landmark.errors import UserError
from landmark.images import read_image
from landmark.shards import extract, photograph_path

ID = "abc0123456789def"
NAME = f"a/b/c/{ID}.jpg"


def jpeg(height=48, width=64, seed=0, **options) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(cv2.resize(small, (width, height))).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


@pytest.fixture
def run(tmp_path):
    """Extract a tar file of these members, or these bytes."""

    def run(members, longest_side=None):
        path = tmp_path / "000.tar"
        path.write_bytes(members if isinstance(members, bytes) else make_tar(members))
        return extract(path, tmp_path / "data/train", longest_side)

    return run


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def link(kind, name=NAME, to="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info, b""


def sized(name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def test_photographs_are_written_byte_for_byte(run, tmp_path):
    other = "fff0123456789def"
    done = run([(NAME, jpeg()), sized(f"./f/f/f/{other}.jpg", jpeg(seed=1))])
    assert done.ids == [ID, other]
    assert done.bad == {}
    assert photograph_path(tmp_path / "data/train", ID).read_bytes() == jpeg()
    assert photograph_path(tmp_path / "data/train", other).read_bytes() == jpeg(seed=1)
    assert done.size == len(jpeg()) + len(jpeg(seed=1))
    assert files(tmp_path) == ["000.tar", "data/train/a/b/c/abc0123456789def.jpg", f"data/train/f/f/f/{other}.jpg"]


HOSTILE = {
    "parent": sized(f"a/b/../c/{ID}.jpg", b"x"),
    "outside": sized("../../outside.jpg", b"x"),
    "absolute": sized(f"/a/b/c/{ID}.jpg", b"x"),
    "symbolic link": link(tarfile.SYMTYPE),
    "folder link": link(tarfile.SYMTYPE, "a", "/tmp"),
    "hard link": link(tarfile.LNKTYPE),
    "device": link(tarfile.CHRTYPE),
    "pipe": link(tarfile.FIFOTYPE),
    "sparse": link(tarfile.GNUTYPE_SPARSE),
    "wrong folder": sized(f"a/b/d/{ID}.jpg", b"x"),
    "capitals": sized(f"A/B/C/{ID.upper()}.jpg", b"x"),
    "long": sized(f"a/b/c/{ID}0.jpg", b"x"),
    "new line": sized(f"{NAME}\n", b"x"),
    "suffix": sized(f"a/b/c/{ID}.png", b"x"),
    "other": sized("readme.txt", b"x"),
    "other folder": link(tarfile.DIRTYPE, "a/b/c/d"),
    "folder outside": link(tarfile.DIRTYPE, "../a"),
}


@pytest.mark.parametrize("member", HOSTILE.values(), ids=HOSTILE)
def test_anything_else_refuses_the_shard_and_is_not_written(run, tmp_path, member):
    good = "0000000000000000"
    with pytest.raises(UserError) as error:
        run([sized(f"0/0/0/{good}.jpg", jpeg()), member])
    assert repr(member[0].name) in str(error.value)
    assert files(tmp_path) == ["000.tar", f"data/train/0/0/0/{good}.jpg"]
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


def test_a_photograph_twice_refuses_the_shard(run):
    with pytest.raises(UserError, match=f"{ID}.jpg is in it twice"):
        run([sized(NAME, jpeg()), sized(f"./{NAME}", jpeg(seed=1))])


def test_a_file_that_is_too_large_refuses_the_shard(run, monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "LARGEST_FILE", 1000)
    with pytest.raises(UserError, match=f"{NAME}.* has 1,001 bytes; 1,000 are allowed"):
        run([sized(NAME, bytes(1001))])
    assert files(tmp_path) == ["000.tar"]


@pytest.mark.parametrize("cut", ["data", "between", "header", "empty"])
def test_a_tar_that_breaks_off_is_refused(run, cut):
    members = [sized(NAME, jpeg()), sized("d/e/f/def0123456789def.jpg", jpeg(seed=1))]
    first = len(make_tar([sized(NAME, jpeg())]).rstrip(b"\0"))
    first += -first % 512
    size = {"data": first + 600, "between": first, "header": first + 100, "empty": 0}[cut]
    with pytest.raises(UserError, match="tar file is broken"):
        run(make_tar(members)[:size])


def test_rubbish_between_members_is_not_taken_for_the_end(run):
    tar = bytearray(make_tar([sized(NAME, jpeg()), sized("d/e/f/def0123456789def.jpg", jpeg(seed=1))]))
    first = len(make_tar([sized(NAME, jpeg())]).rstrip(b"\0"))
    first += -first % 512
    tar[first : first + 100] = b"?" * 100
    with pytest.raises(UserError, match="tar file is broken"):
        run(bytes(tar))


@pytest.mark.parametrize(
    "headers", [{"GNU.sparse.map": "abc"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}]
)
def test_extended_headers_that_tarfile_stumbles_over_are_a_broken_tar(run, tmp_path, headers):
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info, data = sized(NAME, jpeg())
        info.pax_headers = headers
        tar.addfile(info, BytesIO(data))
    with pytest.raises(UserError, match="tar file is broken"):
        run(file.getvalue())
    assert files(tmp_path) == ["000.tar"]


def test_postscript_is_not_run(run, monkeypatch):
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: ran.append(True))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    done = run([sized(NAME, script)])
    assert done.bad == {ID: "it is none of JPEG, PNG, WEBP, BMP, TIFF"}
    assert not ran


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 30, 500])
def test_a_photograph_that_breaks_off_is_told_and_left_out(run, tmp_path, cut, progressive):
    good = "d/e/f/def0123456789def.jpg"
    done = run([sized(NAME, jpeg(progressive=progressive)[:-cut]), sized(good, jpeg())])
    assert done.ids == ["def0123456789def"]
    assert list(done.bad) == [ID]
    assert "truncated" in done.bad[ID]
    assert files(tmp_path / "data/train") == [good]


def test_larger_photographs_are_shrunk_and_others_left_alone(run, tmp_path):
    run([sized(NAME, jpeg(600, 400)), sized("d/e/f/def0123456789def.jpg", jpeg(100, 80))], longest_side=100)
    path = photograph_path(tmp_path / "data/train", ID)
    image = read_image(path)
    assert image.shape == (100, 67, 3)
    whole = cv2.imdecode(np.frombuffer(jpeg(600, 400), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(cv2.resize(whole, (67, 100), interpolation=cv2.INTER_AREA).astype(int) - image).mean() < 3
    assert photograph_path(tmp_path / "data/train", "def0123456789def").read_bytes() == jpeg(100, 80)


def test_a_shrunk_photograph_is_turned_as_it_is_shown(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    run([sized(NAME, jpeg(600, 400, exif=exif))], longest_side=100)
    assert read_image(photograph_path(tmp_path / "data/train", ID)).shape == (67, 100, 3)


def test_what_is_there_already_keeps_its_time(run, tmp_path):
    run([sized(NAME, jpeg())])
    path = photograph_path(tmp_path / "data/train", ID)
    before = path.stat().st_mtime_ns
    run([sized(NAME, jpeg())])
    assert path.stat().st_mtime_ns == before
    run([sized(NAME, jpeg(seed=1))])
    assert path.read_bytes() == jpeg(seed=1)
