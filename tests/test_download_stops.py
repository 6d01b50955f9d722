"""run.sh download, stopped: whenever that is, the next run goes on and ends as an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from bucket import IDS

from landmark.competition import open_competition
from landmark.errors import UserError
from landmark.recipe import load_recipe


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def start(project, bucket_settings):
    """Start the command, and leave it running."""

    def start(**options):
        command = [
            sys.executable,
            str(project / "src/download.py"),
            "--recipe",
            "gld2019",
            "--set",
            *bucket_settings,
        ]
        return subprocess.Popen(command, **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options})

    return start


def wait_for_tar(bucket) -> None:
    """Wait until a shard is asked for."""
    until = time.monotonic() + 60
    while not bucket.transferred():
        assert time.monotonic() < until
        time.sleep(0.01)


def wait_for_requests(bucket, count, process) -> None:
    """Wait until so many requests were made, or the process has ended."""
    while len(bucket.requests) < count and process.poll() is None:
        time.sleep(0.01)


def state(folder) -> dict[str, bytes]:
    """All that a download leaves, without its own records and locks."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".download" not in p.parts
    }


def test_killed_at_any_moment_it_ends_with_the_same_bytes(bucket, data, start, run_download):
    bucket.delay = 0.1
    draw = random.Random(5)
    for _ in range(4):
        process = start()
        # Of the first run 13 requests are of sizes, 7 of tables, and the others of shards and their sums.
        wait_for_requests(bucket, len(bucket.requests) + draw.randint(14, 28), process)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.wait()
    bucket.delay = 0
    bucket.requests.clear()
    done = [p.relative_to(data / ".download").with_suffix("") for p in data.glob(".download/*/00?.json")]
    run_download()
    assert {f"{p.parent}/images_{p.name}.tar" for p in done}.isdisjoint(bucket.transferred())
    undisturbed = data.with_name("undisturbed")
    run_download(more=[f"data={undisturbed}"])
    assert state(data) == state(undisturbed)


def test_ctrl_c_ends_it_at_once_and_it_goes_on(bucket, data, start, run_download):
    bucket.delay = 10
    process = start(stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_tar(bucket)
    # As a terminal does, to the processes that extract as well.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert err == "stopped; run the same command again to go on\n"
    bucket.delay = 0
    run_download()
    assert pd.read_csv(data / "train.csv")["id"].tolist() == IDS["train"]


def test_two_downloads_do_not_share_a_folder(bucket, data, start, bucket_settings, run_download):
    bucket.delay = 10
    first = start()
    wait_for_tar(bucket)
    _, err = run_download(fails=True)
    assert err.startswith(f"error: another download is at work in {data}")
    first.kill()
    first.wait()
    with pytest.raises(UserError, match="is a download that has not ended"):
        open_competition(load_recipe("gld2019", bucket_settings))
