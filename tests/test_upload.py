"""Upload from step 07, by Kaggle's own client against a small Kaggle on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest

import landmark.upload
from landmark.competition import Competition
from landmark.errors import UserError
from landmark.kaggle_client import explain_status, open_client
from landmark.recipe import load_recipe
from landmark.upload import chosen_competitions, upload

SLUGS = {"retrieval": "landmark-retrieval-2019", "recognition": "landmark-recognition-2019"}
RECIPE = f"""
data: input/few
kaggle: {{competitions: {{retrieval: {SLUGS["retrieval"]}, recognition: {SLUGS["recognition"]}}}}}
models: [{{name: imagenet, loss: null}}]
"""
GOOD = {"retrieval": "id,images\nttt1,iii1 iii2\nttt2,\n", "recognition": "id,landmarks\nttt1,7 0.5\nttt2,\n"}
TABLES = {
    "train.csv": "id,url,landmark_id\naaa1,,7\naaa2,,8\n",
    "index.csv": "id\niii1\niii2\n",
    "test.csv": "id\nttt1\nttt2\n",
    "retrieval_solution.csv": "id,images,Usage\nttt1,iii1,Public\nttt2,iii2,Private\n",
}


@pytest.fixture
def at_hand(signed_in, tmp_path, monkeypatch):
    """A recipe with two submissions on disk, and a function that uploads them."""
    monkeypatch.setattr(landmark.upload, "_FIRST_PAUSE", 0.01)
    data = tmp_path / "data"
    data.mkdir()
    for name, text in TABLES.items():
        (data / name).write_text(text)
    recipe = load_recipe("sample", [f"kaggle.competitions={json.dumps(SLUGS)}"])
    # Joined to the project's folder an absolute path stays what it is.
    recipe = recipe.model_copy(update={"run": str(tmp_path / "out")})
    recipe.submissions.mkdir()
    for task, text in GOOD.items():
        (recipe.submissions / f"{task}.csv").write_text(text)
    (recipe.submissions / "scores.json").write_text("{}")

    def run(*tasks, **options):
        upload(recipe, Competition(data, data), chosen_competitions(recipe, tasks), **options)

    run.folder = recipe.submissions
    return run


def refused(run, *tasks, **options) -> str:
    """The one line that the upload ends with."""
    with pytest.raises(UserError) as caught:
        run(*tasks, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def step(project, kaggle, tmp_path):
    """Run step 07 as a user does, on a project in which steps 05 and 06 have run; returns the finished process."""
    (project / "src/recipes/few.yaml").write_text(RECIPE)
    work = project / "input/few"
    work.mkdir(parents=True)
    for name, text in (
        TABLES | {f"{task}{kind}.csv": GOOD[task] for task in GOOD for kind in ("", "_plain")}
    ).items():
        (work / name).write_text(text)
    home = tmp_path / "home"
    home.mkdir()

    def run(*arguments, wait=True, **environment):
        env = os.environ | kaggle.environment(home) | environment
        command = [sys.executable, str(project / "src/07_submit.py"), "--recipe", "few", *arguments]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        if not wait:
            return started
        output, errors = started.communicate(timeout=60)
        return subprocess.CompletedProcess(command, started.returncode, output, errors)

    run.out = project / "submissions/few"
    return run


def test_step_07_uploads_both_and_shows_kaggles_scores(step, kaggle):
    kaggle.pending = 1
    done = step("--upload")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("0.31415  0.27182") == 2 and "kaggle retrieval" in done.stdout
    sent = {name.split("-", 2)[2]: body.decode() for name, body in kaggle.uploads.items()}
    assert sent == {f"{task}.csv": (step.out / f"{task}.csv").read_text() for task in SLUGS}
    created = [request for name, request in kaggle.calls if name == "CreateSubmission"]
    assert [request["competitionName"] for request in created] == list(SLUGS.values())
    assert created[0]["submissionDescription"] == "recipe few, run few, local map100 0.5000"
    entries = json.loads((step.out / "uploads.json").read_text())
    assert [(e["status"], e["public"], e["private"], e["ref"]) for e in entries] == [
        ("COMPLETE", "0.31415", "0.27182", 1000),
        ("COMPLETE", "0.31415", "0.27182", 1001),
    ]

    calls = len(kaggle.calls)
    again = step("--upload", "recognition")
    assert again.returncode == 0 and "it is not sent again" in again.stdout and "0.31415" in again.stdout
    assert len(kaggle.calls) == calls


def test_a_dry_run_says_what_would_go_where_and_asks_kaggle_nothing(step, kaggle):
    done = step("--upload", "--dry-run", "--message", "a try")
    assert done.returncode == 0, done.stderr
    for task, slug in SLUGS.items():
        assert f"{task}.csv ({(step.out / f'{task}.csv').stat().st_size} bytes) would go to {slug}" in done.stdout
    assert "'a try'" in done.stdout and "credentials: KAGGLE_API_TOKEN" in done.stdout
    assert kaggle.calls == [] and not (step.out / "uploads.json").exists()


def test_without_credentials_one_line_says_where_they_go(step, kaggle):
    for arguments in (["--upload"], ["--upload", "--dry-run"]):
        done = step(*arguments, KAGGLE_API_TOKEN="")
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: no Kaggle credentials;") and "kaggle.com/settings" in done.stderr
        assert "Authentication required" not in done.stdout + done.stderr
    assert kaggle.calls == []


def test_what_cannot_be_uploaded_is_told_before_any_work(step, kaggle):
    done = step("--upload", "retrieval", "--set", "kaggle.competitions={}")
    assert done.returncode == 1 and "recipe few has no competition for retrieval; add --set" in done.stderr
    assert "belong to --upload" in step("--dry-run").stderr
    assert not step.out.exists() and kaggle.calls == []


def test_stopped_while_it_waits_it_goes_on_waiting_and_sends_nothing_twice(step, kaggle):
    kaggle.pending = 10**6
    started = step("--upload", "retrieval", wait=False)
    while "ListSubmissions" not in kaggle.names():
        time.sleep(0.05)
        assert started.poll() is None
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=30)
    assert started.returncode == 130 and errors == "stopped; run the same command again to go on\n"
    kaggle.pending = 0
    again = step("--upload", "retrieval")
    assert again.returncode == 0 and "0.31415" in again.stdout
    assert kaggle.names().count("CreateSubmission") == 1


def test_every_file_is_checked_before_the_first_is_sent(at_hand, kaggle):
    for text, problem in (
        ("id,landmarks\nttt1,7 0.5\n", "no row for 1 of 2 test ids"),
        ("id,landmarks\nttt1,9 0.5\nttt2,\n", "landmark 9 is not in the train set"),
        ("id,landmarks\nttt1,7 nan\nttt2,\n", "a finite number"),
        ("id,images\nttt1,\nttt2,\n", "the header is"),
    ):
        (at_hand.folder / "recognition.csv").write_text(text)
        assert problem in refused(at_hand)
    assert kaggle.calls == []


RULES = "You cannot submit until you accept the competition rules"
USED_UP = "Submission not allowed: Your team has used its daily Submission allowance (5) today, please try again."
CLOSED = "Submission not allowed: the deadline has passed and this competition takes no late submissions"
NOTEBOOKS = "Submission not allowed: This competition only accepts Submissions from Notebooks."


@pytest.mark.parametrize(
    ("call", "status", "text", "told"),
    [
        (
            "StartSubmissionUpload",
            401,
            "Unauthenticated",
            "refuses the credentials of KAGGLE_API_TOKEN; make a new",
        ),
        (
            "CreateSubmission",
            403,
            RULES,
            "accept the rules at https://www.kaggle.com/c/landmark-retrieval-2019/rules",
        ),
        (
            "StartSubmissionUpload",
            403,
            "Permission 'competitions.get' was denied",
            "kaggle.competitions.retrieval is",
        ),
        ("StartSubmissionUpload", 404, "Not found", "kaggle.competitions.retrieval: Kaggle has no competition"),
        ("CreateSubmission", 400, CLOSED, "takes no submissions any more"),
        ("CreateSubmission", 400, USED_UP, "no submission is left for today; try again after midnight UTC"),
        ("CreateSubmission", 429, USED_UP, "no submission is left for today"),
        ("StartSubmissionUpload", 429, "Too many requests", "wait some minutes"),
        ("CreateSubmission", 400, NOTEBOOKS, "Kaggle refuses, status 400"),
        ("CreateSubmission", 500, "Oops", "out of order"),
    ],
)
def test_what_kaggle_refuses_is_told_with_the_way_out_and_its_own_words(at_hand, kaggle, call, status, text, told):
    kaggle.faults[call] = [(status, {"code": status, "message": text})]
    message = refused(at_hand)
    assert told in message and message.endswith(f"Kaggle says: {text}")
    assert not (at_hand.folder / "uploads.json").exists() and kaggle.submissions == []


def test_an_answer_without_json_is_told_too(at_hand, kaggle):
    kaggle.faults["StartSubmissionUpload"] = [(502, "<html>\nBad gateway\n</html>")]
    assert "out of order; run the same command again later. Kaggle says: 502" in refused(at_hand)


def test_a_data_set_has_no_rules_to_accept():
    assert "kaggle.com/datasets/a/b, and at kaggle.dataset" in str(
        explain_status(403, "no", "a/b", "kaggle.dataset")
    )


def test_a_token_that_is_not_active(at_hand, kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_old")
    assert "refuses the credentials of KAGGLE_API_TOKEN" in refused(at_hand)


def test_an_older_key_signs_in_and_is_named_when_refused(at_hand, kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "")
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", "0123")
    kaggle.faults["GetSubmissionLimits"] = [(401, {"code": 401, "message": "Unauthenticated"})]
    kaggle.faults["StartSubmissionUpload"] = [(401, {"code": 401, "message": "Unauthenticated"})]
    assert "refuses the credentials of KAGGLE_KEY" in refused(at_hand, "retrieval")
    at_hand("retrieval")


def test_the_allowance_is_asked_before_anything_is_sent(at_hand, kaggle):
    kaggle.limits = {"numToday": 5, "numTotal": 9, "numAllowedNow": 0}
    assert "no submission is left for today; try again after midnight UTC. Kaggle counts 5" in refused(at_hand)
    assert set(kaggle.names()) == {"IntrospectToken", "GetSubmissionLimits"}
    # Somebody who has not joined has zeros, and a question that fails keeps nobody from sending.
    kaggle.limits = {}
    at_hand("retrieval")
    kaggle.faults["GetSubmissionLimits"] = [(500, "Oops")]
    at_hand("recognition")
    assert len(kaggle.submissions) == 2


def test_a_submission_that_kaggle_cannot_score_is_told_and_sent_again_by_the_next_call(at_hand, kaggle, capsys):
    kaggle.outcome = {"status": "ERROR", "errorDescription": "Evaluation Exception: bad row"}
    message = refused(at_hand, "retrieval")
    assert (
        message == "landmark-retrieval-2019: Kaggle could not score retrieval.csv: Evaluation Exception: bad row"
    )
    kaggle.outcome = {"status": "COMPLETE", "publicScore": "0.1", "privateScore": ""}
    at_hand("retrieval")
    assert f"{'0.1':>9}{'-':>9}" in capsys.readouterr().out
    entries = json.loads((at_hand.folder / "uploads.json").read_text())
    assert [entry["status"] for entry in entries] == ["ERROR", "COMPLETE"]


def test_when_the_time_to_wait_is_up_it_says_how_to_go_on(at_hand, kaggle):
    kaggle.pending = 10**6
    message = refused(at_hand, "retrieval", wait=0.05)
    assert "not scored after 0.05 s; run the same command again" in message
    assert message.endswith("kaggle competitions submissions landmark-retrieval-2019")
    kaggle.pending = 0
    at_hand("retrieval")
    assert len(kaggle.submissions) == 1


def test_a_submission_without_a_number_is_known_by_its_file_and_message(at_hand, kaggle):
    kaggle.tells_ref = False
    kaggle.outcome = {"status": "COMPLETE", "publicScore": "0.1", "privateScore": "0.1"}
    at_hand("recognition", message="another")
    kaggle.outcome = {"status": "COMPLETE", "publicScore": "0.9", "privateScore": "0.9"}
    at_hand("retrieval", message="mine")
    entries = json.loads((at_hand.folder / "uploads.json").read_text())
    assert [entry["public"] for entry in entries] == ["0.1", "0.9"]


def test_an_upload_that_is_cut_arrives_whole_or_is_told(at_hand, kaggle):
    kaggle.faults["blob"] = [(0, None)]
    at_hand("retrieval")
    assert kaggle.names().count("blob") == 2
    assert list(kaggle.uploads.values()) == [GOOD["retrieval"].encode()]
    for status in (503, 403):
        kaggle.faults["blob"] = [(status, "no")]
        assert "broke off" in refused(at_hand, "recognition") and len(kaggle.submissions) == 1


def test_in_a_test_environment_nothing_goes_to_the_real_kaggle(at_hand, kaggle, monkeypatch):
    """As its documentation has it, and though the client's own way leads there; the server would see CONNECT."""
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    open_client().competition_submissions("landmark-retrieval-2019")
    assert kaggle.names()[-1] == "ListSubmissions"


def test_no_kaggle_there(at_hand, kaggle, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert "Kaggle cannot be reached" in refused(at_hand)


def test_a_client_that_is_too_old_is_told(at_hand, monkeypatch):
    from kaggle.api.kaggle_api_extended import KaggleApi

    with monkeypatch.context() as older:
        older.delattr(KaggleApi, "competition_get_submission_limits")
        assert "the package kaggle is too old; pip install kaggle==" in refused(at_hand)
    monkeypatch.setitem(sys.modules, "kagglesdk.kaggle_env", None)
    assert "the package kaggle is not there" in refused(at_hand)


def test_a_large_file_is_sent_zipped(at_hand, kaggle, monkeypatch, capsys):
    monkeypatch.setattr(landmark.upload, "ZIP_ABOVE", 10)
    at_hand("retrieval", dry_run=True)
    assert "bytes, zipped) would go" in capsys.readouterr().out
    at_hand("retrieval")
    (name,) = kaggle.uploads
    assert name.endswith("retrieval.csv.zip")
    with zipfile.ZipFile(at_hand.folder / "retrieval.csv.zip") as archive:
        assert archive.read("retrieval.csv").decode() == GOOD["retrieval"]
