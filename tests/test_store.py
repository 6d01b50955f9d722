"""Atomic files, and the record that tells when work is out of date."""

import os

import pytest

from landmark.errors import UserError
from landmark.store import Job, atomic_path


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with atomic_path(target) as part:
        part.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


@pytest.fixture
def make_job(tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("in")

    def make(**settings):
        return Job(
            tmp_path / "done" / "job.json", reads={source: "step 00 makes it"}, settings=settings, writes=[target]
        )

    job = make(a=1)
    job.start()
    target.write_text("out")
    job.finish()
    return make, source, target


def test_done_work_is_done_until_something_changes(make_job):
    make, source, target = make_job
    assert make(a=1).is_done()
    assert not make(a=2).is_done()
    os.utime(source)  # touched, same content
    assert make(a=1).is_done()
    source.write_text("IN")
    assert not make(a=1).is_done()


def test_an_output_is_not_trusted_because_it_exists(make_job):
    make, source, target = make_job
    target.write_text("cut")
    assert not make(a=1).is_done()
    target.unlink()
    assert not make(a=1).is_done()


def test_a_moved_folder_stays_done(make_job, tmp_path):
    make, source, target = make_job
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    reads, writes = {moved / source.name: ""}, [moved / target.name]
    assert Job(moved / "done" / "job.json", reads=reads, settings={"a": 1}, writes=writes).is_done()


def test_work_begun_is_not_taken_for_done(make_job):
    make, source, target = make_job
    make(a=1).start()
    assert not make(a=1).is_done()


def test_a_missing_input_says_who_makes_it(make_job):
    make, source, target = make_job
    source.unlink()
    with pytest.raises(UserError, match=r"in\.txt is missing; step 00 makes it"):
        make(a=1).is_done()


def test_the_key_follows_settings_and_inputs(make_job):
    make, source, target = make_job
    key = make(a=1).key()
    assert make(a=1).key() == key != make(a=2).key()
    source.write_text("IN")
    assert make(a=1).key() != key


def test_inputs_that_change_while_the_work_is_under_way_make_it_out_of_date(make_job):
    make, source, target = make_job
    job = make(a=1)
    job.start()
    source.write_text("changed meanwhile")
    target.write_text("made from the old")
    job.finish()
    assert not make(a=1).is_done()
