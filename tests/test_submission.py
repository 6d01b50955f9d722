"""Submission and solution files: what is written is read back, what breaks the rules is named."""

import json

import numpy as np
import pytest

from landmark import submission
from landmark.errors import UserError
from landmark.submission import SubmissionError

TEST = ["t1", "t2", "t3"]
INDEX = [f"i{n}" for n in range(200)]
READ = {"retrieval": submission.read_retrieval, "recognition": submission.read_recognition}


@pytest.fixture
def file(tmp_path):
    """A function that writes text or bytes to a CSV and gives its path."""

    def write(content):
        path = tmp_path / "some.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def solution(file, task, rows):
    return submission.read_solution(file(f"id,{submission.COLUMN[task]},Usage\n{rows}"), task)


def refused(function, *arguments):
    """The message of the SubmissionError that the call ends with: one line."""
    with pytest.raises(SubmissionError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 300
    return message


def test_a_submission_error_is_the_users_to_mend():
    assert issubclass(SubmissionError, UserError) and issubclass(SubmissionError, ValueError)


# Solutions


def test_retrieval_solution(file):
    read = solution(
        file, "retrieval", "t1,a b,Public\nt2,c,Private\nt3,None,Ignored\nt4,,Public\nt5,None,Private\n"
    )
    assert read.truth == {"t1": {"a", "b"}, "t2": {"c"}, "t4": set(), "t5": set()}
    assert read.usage == {"t1": "Public", "t2": "Private", "t4": "Public", "t5": "Private"}
    assert read.ignored == {"t3"}
    assert read.ids == {"t1", "t2", "t3", "t4", "t5"}


def test_recognition_solution(file):
    read = solution(file, "recognition", "t1,12 7,Public\nt2,,Private\nt3,None,Private\nt4,,Ignored\n")
    assert read.truth == {"t1": {12, 7}, "t2": set(), "t3": set()}
    assert read.ignored == {"t4"}


def test_a_solution_cell_may_be_very_long(file):
    images = [f"{n:016x}" for n in range(20_000)]
    assert solution(file, "retrieval", f"t1,{' '.join(images)},Public\n").truth["t1"] == set(images)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("id,landmarks,Usage\nt1,1,Public\nt2,1,public\n", ["row 3", "t2", "'public'", "Ignored"]),
        ("id,landmarks,Usage\nt1,1,\n", ["row 2", "t1", "''"]),
        ("id,landmarks,Usage\nt1,1,Public\nt1,2,Private\n", ["row 3", "t1", "row 2"]),
        ("id,landmarks,Usage\nt1,1,Ignored\nt1,2,Public\n", ["row 3", "t1", "row 2"]),
        ("id,landmarks,Usage\nt1,seven,Public\n", ["row 2", "t1", "seven"]),
        ("id,landmarks,Usage\nt1,1\n", ["row 2", "t1", "2 columns"]),
        ("id,landmarks\nt1,1\n", ["row 1", "id,landmarks,Usage"]),
        ("id,images,Usage\nt1,1,Public\n", ["row 1", "id,landmarks,Usage"]),
        ("", ["no rows"]),
    ],
)
def test_a_broken_solution_is_named(file, content, named):
    path = file(content)
    message = refused(submission.read_solution, path, "recognition")
    assert all(part in message for part in [str(path), *named]), message


# Predictions


def test_retrieval_is_read_back_as_written(tmp_path):
    ranked = [["i3", "i1"], [], ["i2"]]
    submission.write_retrieval(tmp_path / "r.csv", TEST, ranked)
    assert (tmp_path / "r.csv").read_bytes() == b"id,images\nt1,i3 i1\nt2,\nt3,i2\n"
    assert submission.read_retrieval(tmp_path / "r.csv") == {"t1": ["i3", "i1"], "t3": ["i2"]}


def test_recognition_is_read_back_as_written(tmp_path):
    submission.write_recognition(tmp_path / "r.csv", ["t2", "t1", "t3"], [7, None, 0], [-0.5, 0.0, 1e-7])
    assert (tmp_path / "r.csv").read_bytes() == b"id,landmarks\nt2,7 -0.5\nt1,\nt3,0 1e-07\n"
    assert submission.read_recognition(tmp_path / "r.csv") == {"t2": (7, -0.5), "t3": (0, 1e-7)}


def test_ids_with_commas_and_quotes_survive(tmp_path):
    submission.write_retrieval(tmp_path / "r.csv", ['a,"b"', "ü"], [["i1"], ["ü"]])
    assert submission.read_retrieval(tmp_path / "r.csv") == {'a,"b"': ["i1"], "ü": ["ü"]}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_written_scores_keep_their_value_and_order(tmp_path, dtype):
    rng = np.random.default_rng(8)
    # Neighbours that differ in the last bit, ties and numbers of every size.
    scores = np.exp(rng.normal(0, 20, 500)).astype(dtype)
    scores = np.concatenate([scores, np.nextafter(scores, dtype(0)), -scores, scores])
    ids = [str(n) for n in range(len(scores))]
    submission.write_recognition(tmp_path / "r.csv", ids, np.zeros(len(scores), int), scores)
    read = submission.read_recognition(tmp_path / "r.csv")
    back = np.array([read[i][1] for i in ids])
    np.testing.assert_array_equal(back.astype(dtype), scores)
    np.testing.assert_array_equal(
        np.unique(back, return_inverse=True)[1], np.unique(scores, return_inverse=True)[1]
    )


def test_float32_scores_have_no_idle_digits(tmp_path):
    submission.write_recognition(tmp_path / "r.csv", ["t1"], np.array([3]), np.array([0.1], np.float32))
    assert (tmp_path / "r.csv").read_text() == "id,landmarks\nt1,3 0.1\n"


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([1, 2], [0.5, np.nan]), ([1, 2], [0.5, np.inf]), ([1, 2.0], [0.5, 0.5]), ([1], [0.5]), ([1, 2], [0.5])],
)
def test_a_write_that_fails_leaves_the_old_file(tmp_path, labels, scores):
    path = tmp_path / "r.csv"
    path.write_text("old")
    with pytest.raises(ValueError):
        submission.write_recognition(path, ["t1", "t2"], labels, scores)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("cell", ["12 0.1 ", "12 0.1", '"12 0.1"'])
def test_a_recognition_cell_may_end_in_a_space(file, cell):
    assert submission.read_recognition(file(f"id,landmarks\nt1,{cell}\n")) == {"t1": (12, 0.1)}


def test_windows_line_ends_and_blank_lines_are_read(file):
    path = file("id,landmarks\r\nt1,12 0.1\r\n\r\nt2,\r\n")
    assert submission.read_recognition(path, ["t1", "t2"]) == {"t1": (12, 0.1)}


@pytest.mark.parametrize(
    "cell",
    ["12", "12 0.1 3", "12 nan", "12 inf", "12 x", "x 0.1", "1.0 0.1", "12  0.1", " 12 0.1", "12\t0.1"],
)
def test_a_malformed_recognition_cell_is_named(file, cell):
    path = file(f"id,landmarks\nt1,\nt2,{cell}\n")
    message = refused(submission.read_recognition, path)
    assert str(path) in message and "row 3" in message and "'t2'" in message


@pytest.mark.parametrize("task", ["retrieval", "recognition"])
def test_a_repeated_id_is_named_even_with_an_empty_cell(file, task):
    path = file(f"id,{submission.COLUMN[task]}\nt1,\n\nt1,\n")
    message = refused(READ[task], path)
    assert str(path) in message and "row 4" in message and "'t1'" in message and "row 2" in message


@pytest.mark.parametrize("task", ["retrieval", "recognition"])
def test_an_unknown_test_id_is_named(file, task):
    path = file(f"id,{submission.COLUMN[task]}\nt1,\nstranger,\n")
    message = refused(READ[task], path, TEST)
    assert str(path) in message and "row 3" in message and "stranger" in message


@pytest.mark.parametrize("task", ["retrieval", "recognition"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("id,{}\nt1,\nt2,\xff\n".encode("latin-1"), ["row 3", "UTF-8"]),
        ("\ufeffid,{}\nt1,\n".encode(), ["row 1", "header"]),
        (b"id,{},Usage\nt1,,Public\n", ["row 1", "header"]),
        (b"t1,\nt2,\n", ["row 1", "header"]),
        (b"id,{}\nt1,,\n", ["row 2", "t1", "3 columns"]),
        (b"id,{}\nt1\n", ["row 2", "t1", "1 columns"]),
        (b'id,{}\nt1,\nt2,"i1\nt3,\n', ["row 3", "CSV"]),
        (b"id,{}\n", ["no rows"]),
        (b"", ["no rows"]),
    ],
)
def test_a_file_that_is_not_a_submission_is_named(file, task, content, named):
    path = file(content.replace(b"{}", submission.COLUMN[task].encode()))
    message = refused(READ[task], path)
    assert all(part in message for part in [str(path), *named]), message


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert "none.csv" in refused(submission.read_retrieval, tmp_path / "none.csv")


def test_rows_are_lines_of_the_file_also_after_a_quoted_line_break(file):
    assert "row 4" in refused(submission.read_recognition, file('id,landmarks\n"t\n1",\nt2,x\n'))


def test_a_message_stays_short_and_on_one_line(file):
    refused(submission.read_recognition, file(f'id,landmarks\n"t\n1",{"abc " * 5000}\n'))


# Validation


def test_a_retrieval_submission_is_valid_in_any_order(file):
    full = " ".join(INDEX[:100])
    submission.validate_retrieval(file(f"id,images\nt3,{full}\nt1,i1 \nt2,\n"), TEST, INDEX)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("t1,\nt2,\n", ["1 of 3 test ids", "t3"]),
        ("t1,\nt2,\nt3,\nt4,\n", ["row 5", "t4"]),
        ("t1,\nt2,\nt3,\nt2,\n", ["row 5", "t2"]),
        (f"t1,\nt2,{' '.join(INDEX[:101])}\nt3,\n", ["row 3", "t2", "101", "100"]),
        ("t1,\nt2,i1 nowhere\nt3,\n", ["row 3", "t2", "nowhere"]),
        ("t1,\nt2,i1 i2 i1\nt3,\n", ["row 3", "t2", "i1", "once"]),
        ("t1,\nt2,i1  i2\nt3,\n", ["row 3", "t2", "space"]),
    ],
)
def test_an_invalid_retrieval_submission_is_named(file, rows, named):
    path = file("id,images\n" + rows)
    message = refused(submission.validate_retrieval, path, TEST, INDEX)
    assert all(part in message for part in [str(path), *named]), message


def test_a_recognition_submission_is_valid_in_any_order(file):
    path = file("id,landmarks\nt3,5 0.5\nt1,\nt2,6 -1e-3 \n")
    submission.validate_recognition(path, TEST, np.array([5, 6, 6]))


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("t1,\nt2,\n", ["1 of 3 test ids", "t3"]),
        ("t1,\nt2,\nt3,\nt4,\n", ["row 5", "t4"]),
        ("t1,\nt2,\nt3,\nt2,\n", ["row 5", "t2"]),
        ("t1,\nt2,7 0.5\nt3,\n", ["row 3", "t2", "7"]),
        ("t1,\nt2,5 nan\nt3,\n", ["row 3", "t2", "nan"]),
        ("t1,\nt2,5\nt3,\n", ["row 3", "t2"]),
    ],
)
def test_an_invalid_recognition_submission_is_named(file, rows, named):
    path = file("id,landmarks\n" + rows)
    message = refused(submission.validate_recognition, path, TEST, [5, 6])
    assert all(part in message for part in [str(path), *named]), message


# Scores


def test_retrieval_scores_by_subset(file):
    answers = solution(file, "retrieval", "t1,a,Public\nt2,b,Private\nt3,c d,Private\nt4,None,Ignored\n")
    scores = submission.score_retrieval(answers, {"t1": ["a"], "t3": ["x", "c"], "t4": ["a"]})
    assert scores == pytest.approx({"all": 1.25 / 3, "Public": 1.0, "Private": 0.125})


def test_recognition_scores_by_subset(file):
    answers = solution(file, "recognition", "t1,1,Public\nt2,,Public\nt3,3,Private\nt4,4,Ignored\n")
    predictions = {"t1": (1, 0.5), "t2": (1, 0.9), "t3": (3, 0.1), "t4": (9, 2.0)}
    scores = submission.score_recognition(answers, predictions)
    assert scores == pytest.approx({"all": (1 / 2 + 2 / 3) / 2, "Public": 0.5, "Private": 1.0})


@pytest.mark.parametrize("rows", ["t1,1,Public\n", "t1,1,Public\nt2,,Private\n", "t1,1,Public\nt2,2,Ignored\n"])
def test_a_subset_with_nothing_to_score_is_null_in_json(file, rows):
    for task, score, found in [
        ("retrieval", submission.score_retrieval, ["1"]),
        ("recognition", submission.score_recognition, (1, 0.5)),
    ]:
        scores = score(solution(file, task, rows), {"t1": found})
        assert json.dumps(scores, allow_nan=False) == '{"all": 1.0, "Public": 1.0, "Private": null}'


def test_retrieval_figures_by_subset(file):
    answers = solution(file, "retrieval", "t1,a,Public\nt2,b,Private\nt3,c d,Private\nt4,None,Private\n")
    figures = submission.retrieval_figures(answers, {"t1": ["a"], "t3": ["x", "c"], "t4": ["a"]})
    assert figures["map100"] == submission.score_retrieval(answers, {"t1": ["a"], "t3": ["x", "c"]})
    assert figures["mp1"] == pytest.approx({"all": 1 / 3, "Public": 1, "Private": 0})
    assert figures["mp5"] == pytest.approx({"all": 0.4 / 3, "Public": 0.2, "Private": 0.1})
    assert figures["first_mean"] == pytest.approx({"all": 104 / 3, "Public": 1, "Private": 103 / 2})
    assert figures["first_median"] == {"all": 2, "Public": 1, "Private": 51.5}


def test_recognition_figures_by_subset(file):
    answers = solution(file, "recognition", "t1,1,Public\nt2,,Public\nt3,3,Private\nt4,4,Private\n")
    figures = submission.recognition_figures(answers, {"t1": (1, 0.5), "t2": (1, 0.9), "t3": (3, 0.1)})
    assert figures["top1"] == pytest.approx({"all": 2 / 3, "Public": 1, "Private": 0.5})
    assert figures["gap"] == pytest.approx({"all": (1 / 2 + 2 / 3) / 3, "Public": 0.5, "Private": 0.5})


def test_scoring_refuses_a_prediction_for_an_unknown_test_id(file):
    answers = solution(file, "recognition", "t1,1,Public\n")
    assert "stranger" in refused(submission.score_recognition, answers, {"stranger": (1, 0.5)})
    assert "stranger" in refused(submission.score_retrieval, answers, {"t1": ["a"], "stranger": ["a"]})
