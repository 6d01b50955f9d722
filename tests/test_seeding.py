"""A run that begins with links to the results of another."""

import os

import pytest

from landmark.seeding import seed_run
from landmark.store import Job, atomic_path


@pytest.fixture
def runs(tmp_path):
    """A finished job of a main run, half-way files beside it, and the folder of a variant."""
    main, variant = tmp_path / "main", tmp_path / "main-without-x"
    for name in ("models/m.pt", "descriptors/m/test.npy", "retrieval.csv"):
        (main / name).parent.mkdir(parents=True, exist_ok=True)
        (main / name).write_text(f"{name} of main")
    halfway = ["tensorboard/m/events", "models/m.checkpoints/k/step.pt", "descriptors/m/test.parts/k/0.npy"]
    halfway += ["cleaning/verified/k/0.jsonl", ".lock", "models/.part-m.pt", "done/07_submit.json", "recipe.json"]
    for name in halfway:
        (main / name).parent.mkdir(parents=True, exist_ok=True)
        (main / name).write_text("not for others")
    job = job_in(main, "x=1")
    job.start()
    job.finish()
    return main, variant


def job_in(folder, settings):
    reads = {folder / "models/m.pt": "made"}
    return Job(
        folder / "done/05_retrieve.json", reads=reads, settings={"s": settings}, writes=[folder / "retrieval.csv"]
    )


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def test_a_seeded_run_has_links_to_the_results_alone_and_its_jobs_are_done(runs):
    main, variant = runs
    seed_run(main, variant)
    seeded = files_of(variant)
    results = {"models/m.pt", "descriptors/m/test.npy", "retrieval.csv", "done/05_retrieve.json"}
    assert seeded.keys() == results | {"seeded.json"}
    assert all(os.path.samefile(main / name, variant / name) for name in results)
    assert job_in(variant, "x=1").is_done() and not job_in(variant, "x=2").is_done()
    times = {name: path.stat().st_ctime_ns for name, path in seeded.items()}
    seed_run(main, variant)
    assert times == {name: path.stat().st_ctime_ns for name, path in files_of(variant).items()}


def test_what_a_variant_writes_stays_its_own_and_leaves_the_main_run_as_it_was(runs):
    main, variant = runs
    seed_run(main, variant)
    before = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files_of(main).items()}
    job = job_in(variant, "x=2")
    job.start()
    with atomic_path(variant / "retrieval.csv") as part:
        part.write_text("of the variant")
    job.finish()
    seed_run(main, variant)
    assert before == {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files_of(main).items()}
    assert (variant / "retrieval.csv").read_text() == "of the variant" and job.is_done()


def test_a_changed_main_run_is_picked_up_and_a_missing_file_is_linked_again(runs):
    main, variant = runs
    seed_run(main, variant)
    with atomic_path(main / "models/m.pt") as part:
        part.write_text("another model")
    (variant / "descriptors/m/test.npy").unlink()
    # As a kill between the two steps of a link leaves it.
    os.link(main / "retrieval.csv", variant / "models/.link-m.pt")
    seed_run(main, variant)
    assert (variant / "models/m.pt").read_text() == "another model"
    assert os.path.samefile(main / "descriptors/m/test.npy", variant / "descriptors/m/test.npy")
    assert (main / "retrieval.csv").read_text() == "retrieval.csv of main"
    assert not job_in(variant, "x=1").is_done()


def test_where_there_can_be_no_links_the_results_are_copied_and_just_as_done(runs, monkeypatch):
    def refuse(*_):
        raise OSError("another file system")

    main, variant = runs
    monkeypatch.setattr(os, "link", refuse)
    seed_run(main, variant)
    assert not os.path.samefile(main / "models/m.pt", variant / "models/m.pt")
    assert job_in(variant, "x=1").is_done()
    copied = (variant / "models/m.pt").stat().st_ctime_ns
    seed_run(main, variant)
    assert (variant / "models/m.pt").stat().st_ctime_ns == copied
