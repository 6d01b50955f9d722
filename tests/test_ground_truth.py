"""The ground truth of Revisited Oxford and Paris: read whole, or refused in a line, and never run."""

import math
import os
import pickle
import struct

import numpy as np
import pytest
from test_revisited import content, entry, write

from landmark.errors import UserError
from landmark.revisited import read_benchmark


def test_lists_arrays_and_numpys_scalars_are_read_alike(tmp_path):
    box = [1.5, 2.0, 30.25, 40.0]
    for protocol in (0, 2, 4):
        for gnd in (
            {"bbx": box, "easy": [1, 2], "hard": [], "junk": [0]},
            {"bbx": [np.float32(v) for v in box], "easy": [np.int64(1), np.int32(2)], "hard": (), "junk": [0]},
            entry([1, 2], [], [0], box),
            {**entry([1, 2], [], [0], box), "hard": np.array([]), "easy": np.array([1, 2], ">i4")},
        ):
            value = content([gnd])
            value["imlist"] = np.array(value["imlist"], object if protocol == 2 else str)
            write(tmp_path, value, protocol=protocol)
            benchmark = read_benchmark(tmp_path, "roxford5k")
            assert benchmark.images[1] == "image_000001" and benchmark.queries == ["query_0"]
            assert benchmark.boxes.tolist() == [box]
            (truth,) = benchmark.truth
            assert {grade: rows.tolist() for grade, rows in truth.items()} == {
                "easy": [1, 2],
                "hard": [],
                "junk": [0],
            }
            assert all(rows.dtype == np.int64 for rows in truth.values())


def by_python_2(value):
    """Opcodes as Python 2 writes them: text and an array's bytes are byte strings."""
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, list):
        return b"](" + b"".join(map(by_python_2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(by_python_2(k) + by_python_2(v) for k, v in value.items()) + b"u"
    minus_one = b"J" + struct.pack("<i", -1)
    dtype = b"cnumpy\ndtype\n" + by_python_2(value.dtype.str[1:]) + b"K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01<NNN" + 2 * minus_one + b"K\x00tb"
    data = b"U" + bytes([value.nbytes]) + value.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return array + b"(K\x01K" + bytes([len(value)]) + b"\x85" + dtype + b"\x89" + data + b"tb"


def test_a_file_that_python_2_wrote_is_read(tmp_path):
    gnd = entry([3, 7], [200], [], [0.5, 1.0, 250.0, 300.5])
    write(tmp_path, b"\x80\x02" + by_python_2(content([gnd], 201)) + b".")
    benchmark = read_benchmark(tmp_path, "roxford5k")
    assert benchmark.images[200] == "image_000200" and benchmark.boxes.tolist() == [[0.5, 1.0, 250.0, 300.5]]
    assert benchmark.truth[0]["easy"].tolist() == [3, 7] and benchmark.truth[0]["hard"].tolist() == [200]


class Calls:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(tmp_path, protocol):
    marker = tmp_path / "ran"
    for function, arguments, named in (
        (os.system, (f"touch {marker}",), "posix.system"),
        (eval, (f"open({str(marker)!r}, 'w')",), ".eval"),
        (getattr, ([], "append"), ".getattr"),
        (np.load, (str(marker),), "numpy"),
        (np.dtype, ("V8",), "numpy.dtype V8"),
    ):
        value = content([entry([1])]) | {"more": Calls(function, *arguments)}
        path = write(tmp_path, value, protocol=protocol)
        with pytest.raises(UserError) as caught:
            read_benchmark(tmp_path, "roxford5k")
        words = str(caught.value)
        assert words.startswith(f"{path}: it asks for '") and named in words and "\n" not in words
        assert not marker.exists()
    # A dotted name would reach a method of what is allowed.
    write(tmp_path, b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(UserError, match=r"asks for 'numpy\.ndarray\.tofile'"):
        read_benchmark(tmp_path, "roxford5k")


def test_a_missing_damaged_or_other_file_is_told_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"gnd_roxford5k.pkl is missing; --benchmarks is the folder that has"):
        read_benchmark(tmp_path, "roxford5k")
    with pytest.raises(UserError, match=r"--names \.\./etc: not a benchmark's name, such as roxford5k"):
        read_benchmark(tmp_path, "../etc")
    whole = pickle.dumps(content([entry([1, 2], [3])]), 2)
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        path = write(tmp_path, whole[:length])
        with pytest.raises(UserError, match="not a pickle, or damaged") as caught:
            read_benchmark(tmp_path, "roxford5k")
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    # An array that is told to be larger than its bytes.
    write(tmp_path, whole.replace(b"X\x02\x00\x00\x00i8", b"X\x02\x00\x00\x00i9"))
    with pytest.raises(UserError, match="asks for 'numpy.dtype i9'"):
        read_benchmark(tmp_path, "roxford5k")


GOOD = content([entry([1], [2], [3])])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "holds a list, not a dictionary"),
        ({"imlist": ["a"], "gnd": []}, "qimlist is missing"),
        (GOOD | {"imlist": "abc"}, "imlist is a str, not a list"),
        (GOOD | {"imlist": ["a", "../../etc/passwd"]}, "imlist, number 2, is not an image's name"),
        (GOOD | {"qimlist": [7]}, "qimlist, number 1, is not an image's name"),
        (GOOD | {"qimlist": [], "gnd": []}, "qimlist is empty"),
        (GOOD | {"gnd": GOOD["gnd"] * 2}, "gnd has 2 entries for 1 queries"),
        (GOOD | {"gnd": [[1, 2]]}, "gnd of query_0: a list, not a dictionary"),
        (content([{"bbx": [0, 0, 1, 1], "easy": [], "hard": []}]), "gnd of query_0: junk is missing"),
        (content([entry([8])]), "gnd of query_0: easy, number 1, is not a row of imlist, 0 to 7"),
        (content([entry([1], [-1])]), "gnd of query_0: hard, number 1, is not a row"),
        (content([entry() | {"junk": [1, 2.5]}]), "gnd of query_0: junk, number 2, is not a row"),
        (content([entry(box=[0, 0, 5])]), "gnd of query_0: bbx must be four numbers"),
        (content([entry(box=[0, 0, 5, math.nan])]), "gnd of query_0: bbx must be four numbers"),
        (content([entry() | {"bbx": [0, 0, 5, 10**400]}]), "gnd of query_0: bbx must be four numbers"),
    ],
)
def test_content_of_another_layout_is_told_in_a_line(tmp_path, value, words):
    path = write(tmp_path, value)
    with pytest.raises(UserError) as caught:
        read_benchmark(tmp_path, "roxford5k")
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)
