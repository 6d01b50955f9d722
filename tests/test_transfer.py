"""Files over HTTP: whatever the server does, the bytes are the file's, and what was had is not fetched again."""

import json

import pytest
from bucket import put, serve

from landmark import transfer
from landmark.errors import UserError
from landmark.transfer import Missing, bytes_had, fetch, look_up, open_session, source_path

DATA = bytes(range(256)) * 4096  # 1 MiB
CUT = 5 << 16  # after whole chunks, so that nothing is lost
PATH = "train/images_000.tar"


@pytest.fixture
def server(tmp_path):
    put(tmp_path / "bucket" / PATH, DATA)
    with serve(tmp_path / "bucket") as server:
        yield server


@pytest.fixture
def part(tmp_path):
    return tmp_path / "state" / "000.part"


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Seconds that would be waited between tries."""
    seconds = []
    monkeypatch.setattr(transfer.time, "sleep", seconds.append)
    return seconds


def run(server, part):
    """Fetch into `part`; returns what was counted."""
    session = open_session(2)
    counted = []
    fetch(session, look_up(session, f"{server.url}/{PATH}"), part, counted.append)
    assert part.read_bytes() == (server.folder / PATH).read_bytes()
    return counted


def test_a_file_arrives_whole_and_is_not_fetched_again(server, part):
    assert sum(run(server, part)) == len(DATA)
    assert run(server, part) == []
    assert server.asked(PATH) == [None]


def test_a_cut_connection_goes_on_where_it_broke_off(server, part, waits):
    server.cut[PATH] = [CUT, CUT]
    assert sum(run(server, part)) == len(DATA)
    assert server.asked(PATH) == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert waits == []


def test_a_part_of_an_earlier_process_is_gone_on_with(server, part):
    run(server, part)
    part.write_bytes(DATA[:1000])
    assert sum(run(server, part)) == len(DATA) - 1000
    assert server.asked(PATH)[1:] == ["bytes=1000-"]


def test_a_server_that_knows_no_ranges_sends_all_anew(server, part):
    server.whole.add(PATH)
    server.cut[PATH] = [CUT]
    assert sum(run(server, part)) == len(DATA)
    assert server.asked(PATH) == [None, f"bytes={CUT}-"]


def test_a_range_that_was_not_asked_for_is_not_taken(server, part):
    server.shifted.add(PATH)
    server.cut[PATH] = [CUT]
    run(server, part)
    assert server.asked(PATH) == [None, f"bytes={CUT}-", None]


def test_a_refused_range_begins_anew(server, part):
    server.cut[PATH] = [CUT]
    server.status[PATH] = []
    session = open_session(2)
    remote = look_up(session, f"{server.url}/{PATH}")
    put(part, DATA[:500])
    source_path(part).write_text(json.dumps(transfer.asdict(remote)))
    server.status[PATH] = [416]
    run(server, part)
    assert server.asked(PATH)[:2] == ["bytes=500-", None]


@pytest.mark.parametrize("left", [DATA + b"more", DATA[:1000]])
def test_a_part_that_is_too_long_or_of_unknown_origin_is_thrown_away(server, part, left):
    if len(left) > len(DATA):
        run(server, part)
        server.requests.clear()
    put(part, left)
    run(server, part)
    assert server.asked(PATH) == [None]


def test_a_file_that_changes_half_way_is_fetched_anew(server, part):
    server.cut[PATH] = [CUT]
    session = open_session(2)
    before = look_up(session, f"{server.url}/{PATH}")
    counted = []

    def count(size):
        counted.append(size)
        put(server.folder / PATH, b"new" + DATA)

    after = fetch(session, before, part, count)
    assert part.read_bytes() == b"new" + DATA
    assert after.size == before.size + 3
    assert bytes_had(after, part) == after.size
    assert sum(counted) == after.size


def test_a_file_that_changed_goes_on_where_it_broke_off_again(server, part, waits):
    server.cut[PATH] = [CUT, 2 * CUT]
    session = open_session(1)
    counted = []

    def count(size):
        counted.append(size)
        put(server.folder / PATH, b"new" + DATA)

    after = fetch(session, look_up(session, f"{server.url}/{PATH}"), part, count)
    assert part.read_bytes() == b"new" + DATA
    assert server.asked(PATH) == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert sum(counted) == after.size
    assert waits == []


def test_a_server_that_is_at_its_limit_is_asked_again(server, part):
    server.status[PATH] = [503, 503]
    run(server, part)
    assert server.asked(PATH) == [None, None, None]


def test_tries_that_bring_nothing_come_to_an_end(server, part, waits):
    server.cut[PATH] = [CUT] + [0] * 100
    with pytest.raises(UserError, match=rf"{server.url}/{PATH}: .*after 10 tries without progress"):
        run(server, part)
    assert len(server.asked(PATH)) == 1 + 10
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert part.read_bytes() == DATA[:CUT]


def test_more_than_was_announced_does_not_fill_the_disk(server, part):
    server.endless.add(PATH)
    server.cut[PATH] = [CUT] * 10
    received = []
    session = open_session(1)
    with pytest.raises(UserError, match="after 10 tries without progress"):
        fetch(session, look_up(session, f"{server.url}/{PATH}"), part, received.append)
    assert max(part.stat().st_size, sum(received)) < 12 * len(DATA)


def test_the_last_try_may_bring_a_file_that_has_become_smaller(server, part):
    server.cut[PATH] = [CUT] + [0] * 9
    session = open_session(1)
    before = look_up(session, f"{server.url}/{PATH}")
    fetch(session, before, part, lambda _: put(server.folder / PATH, DATA[:1000]))
    assert part.read_bytes() == DATA[:1000]


def test_an_empty_file_is_a_file(server, part):
    put(server.folder / PATH, b"")
    run(server, part)


def test_what_is_not_there_is_told_by_its_address(server, part):
    with pytest.raises(Missing, match=f"{server.url}/train/nothing: 404"):
        look_up(open_session(1), f"{server.url}/train/nothing")


def test_a_server_that_is_not_there_is_told(part):
    with pytest.raises(UserError, match="http://127.0.0.1:9/x: .*refused"):
        look_up(open_session(1), "http://127.0.0.1:9/x")
