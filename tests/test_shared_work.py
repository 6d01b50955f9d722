"""Steps 01, 04, 05 and 06 shared by the processes of torchrun, killed, and continued."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from landmark.journal import Journal
from landmark.parts import Parts, clear_parts
from landmark.ranks import Ranks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_every_item_is_some_ranks_and_the_loads_are_near():
    rng = np.random.default_rng(0)
    costs = (rng.pareto(1.2, 500) * 10).astype(int).tolist()
    shares = [Ranks(rank, 4).share(list(range(500)), costs) for rank in range(4)]
    assert sorted(sum(shares, [])) == list(range(500))
    loads = [sum(costs[i] for i in share) for share in shares]
    # The dearest item bounds what any plan can do.
    assert max(loads) <= max(max(costs), 1.01 * sum(costs) / 4)
    # The dearest first, so that none is begun last.
    assert costs[shares[0][0]] == max(costs)
    assert Ranks(1, 3).share("abcdefg") == ["b", "e"]


def test_parts_are_made_once_joined_in_order_and_never_taken_from_other_work(tmp_path):
    whole = np.arange(20, dtype=np.int32).reshape(10, 2)
    made = []

    def work(rows):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(rows.start)
        return whole[rows.start : rows.stop], {f"note {rows.start}": "x"}

    target = tmp_path / "whole.npy"
    with pytest.raises(KeyboardInterrupt):
        Parts(target, 10, 4, "a").make(Ranks(), work)
    assert made == [0, 4] and not target.exists()
    made.clear()
    notes = Parts(target, 10, 4, "a").make(Ranks(), work)
    assert made == [8]
    assert notes == {"note 0": "x", "note 4": "x", "note 8": "x"}
    assert np.array_equal(np.load(target), whole)
    clear_parts(target)
    assert [p.name for p in tmp_path.iterdir()] == ["whole.npy"]

    made[:] = []
    with pytest.raises(KeyboardInterrupt):
        Parts(target, 10, 4, "a").make(Ranks(), work)
    made[:] = []
    with pytest.raises(KeyboardInterrupt):
        Parts(target, 10, 4, "other settings").make(Ranks(), work)
    assert made == [0, 4]


def test_more_parts_than_files_may_be_open_are_joined(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        Parts(tmp_path / "a.npy", 200, 1, "k").make(Ranks(), lambda rows: (np.array([rows.start]), {}))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.load(tmp_path / "a.npy").tolist() == list(range(200))


def test_parts_without_a_row_join_with_the_others(tmp_path):
    arrays = {0: np.zeros((0, 0), np.float16), 2: np.ones((2, 3), np.float16)}
    Parts(tmp_path / "a.npy", 4, 2, "k").make(Ranks(), lambda rows: (arrays[rows.start], {}))
    assert np.array_equal(np.load(tmp_path / "a.npy"), arrays[2])


def test_a_torn_line_is_lost_and_no_other(tmp_path):
    journal = Journal(tmp_path / "lines", "key")
    journal.open()
    journal.write(0, iter([{"label": 1}, {"label": 2}]))
    journal.write(1, iter([{"label": 3}]))
    path = tmp_path / "lines/key/0.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    assert list(journal.read()) == [{"label": 1}, {"label": 3}]
    journal.write(0, iter([{"label": 4}]))
    assert list(journal.read()) == [{"label": 1}, {"label": 4}, {"label": 3}]
    other = Journal(tmp_path / "lines", "other")
    other.open()
    assert list(other.read()) == [] and list(journal.read()) == []


@pytest.fixture
def forty_labels(project, tiny_data):
    """The tiny train set ten times over, under new ids and labels: enough to be at work for some seconds."""
    data = project / "input/tiny_data"
    shutil.copytree(tiny_data, data)
    train = pd.read_csv(data / "train.csv", dtype={"id": str})
    rows = []
    for copy in range(10):
        for image, label in zip(train["id"], train["landmark_id"], strict=True):
            name = f"{copy}{image[1:]}"
            source = data / "train" / image[0] / image[1] / image[2] / f"{image}.jpg"
            target = data / "train" / name[0] / name[1] / name[2] / f"{name}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            if target != source:
                shutil.copy(source, target)
            rows.append((name, "", 10 * label + copy))
    pd.DataFrame(rows, columns=["id", "url", "landmark_id"]).drop_duplicates("id").to_csv(
        data / "train.csv", index=False
    )
    return project


def outputs(project):
    folder = project / "input/tiny"
    names = ["train_clean.csv", "clean_decisions.csv", "cleaning/train.npy", "cleaning/neighbours.npy"]
    assert sorted(p.name for p in (folder / "cleaning").iterdir()) == [
        "neighbours.npy", "train.npy", "train.skipped.csv", "train.txt",
    ]  # fmt: skip
    return {name: (folder / name).read_bytes() for name in names}


def test_two_processes_write_the_bytes_of_one_also_when_one_is_killed(forty_labels, run_step):
    project = forty_labels
    # Five parts of descriptors, so that both processes have some.
    small_parts = "cleaning.representation.shard_images=64"
    script = [str(project / "src/01_clean.py"), "--recipe", "tiny", "--set", small_parts]
    shown = run_step("01_clean", *script[1:])[0]
    assert "pairs verified of" in shown
    alone = outputs(project)

    shutil.rmtree(project / "input/tiny")
    together = subprocess.run([*TORCHRUN, *script], capture_output=True, text=True, check=False)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("01 clean: kept") == 1
    assert outputs(project) == alone
    assert "up to date" in run_step("01_clean", *script[1:])[0]

    shutil.rmtree(project / "input/tiny")
    running = subprocess.Popen([*TORCHRUN, *script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = project / "input/tiny/cleaning/verified"
    while not any(path.stat().st_size for path in journal.glob("*/*.jsonl")):
        assert running.poll() is None
        time.sleep(0.01)
    ranks = [int(p) for p in os.popen(f"pgrep -P {running.pid}").read().split()]
    os.kill(ranks[1], signal.SIGKILL)
    assert running.wait(timeout=120) != 0
    done = [line for path in journal.glob("*/*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
    assert 0 < len(done) < 40
    again = subprocess.run([*TORCHRUN, *script], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"going on, {len(done)} of 40 labels are verified already" in again.stdout
    assert outputs(project) == alone


# Believes the labels and trains nothing, so that steps 04 to 06 can begin at once.
UNTRAINED = [
    "cleaning.more_than=-1",
    "models=[{name: a, backbone: test_resnet, weights: none, loss: null}]",
    "extraction.shard_images=5",
    "ensemble.whiten=16",
    "retrieval.rerank=[alpha_qe, dqe]",
    "recognition.refine=5",
]


def test_descriptors_lists_and_predictions_of_two_processes_have_the_bytes_of_one(project, tiny_data):
    shutil.copytree(tiny_data, project / "input/tiny_data")
    arguments = ["--recipe", "tiny", "--set", *UNTRAINED]
    folder = project / "input/tiny"

    def run(*launcher):
        shown = ""
        for step in ("04_extract", "05_retrieve", "06_recognize"):
            command = [*launcher, str(project / f"src/{step}.py"), *arguments]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, ended.stderr
            shown += ended.stdout
        made = [folder / "descriptors", *folder.glob("*.csv")]
        files = [path for top in made for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}, shown

    together, shown = run(*TORCHRUN)
    assert "descriptors/a/train.npy" in together and "descriptors/whitening.npz" in together
    assert {"retrieval.csv", "retrieval_plain.csv", "recognition.csv", "recognition_neighbours.csv"} < set(
        together
    )
    assert shown.count("06 recognize: 12 images") == shown.count("05 retrieve: 12 queries") == 1
    shutil.rmtree(folder)
    alone, _ = run(sys.executable)
    assert alone == together


def test_an_error_of_the_user_is_told_in_one_line_and_ends_both(project):
    script = [str(project / "src/01_clean.py"), "--recipe", "tiny"]
    ended = subprocess.run([*TORCHRUN, *script], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert ended.stderr.count("error: ") == 1 and "00_sample.py" in ended.stderr
    assert "Traceback" not in ended.stderr.split("torch/distributed")[0]
