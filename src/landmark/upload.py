"""Submissions to Kaggle: checked on disk, sent, waited for, and written down in submissions/RUN/uploads.json.

The entry is written as soon as Kaggle has the file: run again after that, an upload goes on waiting for the score
and sends nothing twice.
"""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZipFile

from landmark.competition import Competition
from landmark.errors import UserError
from landmark.judging import check_submission
from landmark.kaggle_client import credentials_place, errors_explained, open_client
from landmark.recipe import Recipe
from landmark.store import atomic_path, write_json

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk.competitions.types.competition_api_service import ApiSubmission

# Larger files (bytes) are sent zipped, which Kaggle unpacks. Chosen here, for Kaggle tells no limit of its own: a
# hundred images for each of the 117,577 test ids of 2019 are 200 MB.
ZIP_ABOVE = 100_000_000
# Seconds between two looks at a submission: doubled from the first to the last.
_FIRST_PAUSE, _LAST_PAUSE = 2.0, 30.0


def chosen_competitions(recipe: Recipe, tasks: Sequence[str]) -> dict[str, str]:
    """Task to competition: of these tasks, or of all that the recipe has a competition for. Raises UserError."""
    known = recipe.kaggle.competitions
    chosen = list(dict.fromkeys(tasks or known))
    lacking = [task for task in chosen if task not in known] if chosen else ["retrieval"]
    if lacking:
        raise UserError(
            f"recipe {recipe.name} has no competition for {lacking[0]}; add --set"
            f" kaggle.competitions.{lacking[0]}=NAME, the last part of its address (landmark-{lacking[0]}-2019)"
        )
    return {task: known[task] for task in chosen}


def upload(
    recipe: Recipe,
    competition: Competition,
    competitions: dict[str, str],
    message: str | None = None,
    dry_run: bool = False,
    wait: float = 600,
) -> None:
    """Send each task's submission to its competition, wait for the scores (`wait` seconds at most) and print them.

    Every file is checked before the first is sent. A file that was sent before is not sent again, unless Kaggle
    could not score it. dry_run: say what would be sent, without the network.
    Raises SubmissionError for a file that breaks the rules, UserError for all else that leaves it without a score.
    """
    files = {task: recipe.submissions / f"{task}.csv" for task in competitions}
    for task, path in files.items():
        check_submission(competition, task, path)
    log = recipe.submissions / "uploads.json"
    entries = json.loads(log.read_text(encoding="utf-8")) if log.exists() else []
    chosen = {}
    for task, slug in competitions.items():
        earlier = _sent_before(entries, slug, files[task])
        if earlier:
            chosen[task] = earlier
            print(f"upload: {slug} has this {files[task].name} since {earlier['time']}; it is not sent again")
        elif dry_run:
            text = message or describe(recipe, task)
            zipped = ", zipped" if files[task].stat().st_size > ZIP_ABOVE else ""
            print(f"upload: {files[task]} ({_size(files[task])}{zipped}) would go to {slug} as {text!r}")
    if dry_run:
        print(f"upload: nothing was sent (--dry-run); credentials: {credentials_place()}")
        return
    unsent = {task: slug for task, slug in competitions.items() if task not in chosen}
    pending = any(entry["status"] == "PENDING" for entry in chosen.values())
    api = open_client() if unsent or pending else None
    for task, slug in unsent.items():
        _require_allowance(api, task, slug)
    for task, slug in unsent.items():
        chosen[task] = _send(api, task, slug, files[task], message or describe(recipe, task))
        entries.append(chosen[task])
        write_json(log, entries)
    for entry in chosen.values():
        if entry["status"] == "PENDING":
            print(f"upload: waiting for the score of {entry['competition']}, {wait:g} s at most")
            _await_score(api, entry, wait)
            write_json(log, entries)
    failures = []
    print(f"{'':56}{'Public':>9}{'Private':>9}")
    for entry in chosen.values():
        if entry["status"] == "ERROR":
            reason = entry["error"] or "no reason given"
            failures.append(f"{entry['competition']}: Kaggle could not score {entry['file']}: {reason}")
        else:
            print(f"{'kaggle ' + entry['task']:56}{entry['public'] or '-':>9}{entry['private'] or '-':>9}")
    if failures:
        raise UserError("; ".join(failures))


def describe(recipe: Recipe, task: str) -> str:
    """What a submission is called on Kaggle: recipe, run and, where there is one, the local score."""
    words = [f"recipe {recipe.name}", f"run {recipe.run}"]
    scores = json.loads((recipe.submissions / "scores.json").read_text(encoding="utf-8"))
    for metric, values in scores.get(task, {}).items():
        if not metric.endswith("_plain") and values["all"] is not None:
            words.append(f"local {metric} {values['all']:.4f}")
    return ", ".join(words)


def _sent_before(entries: list[dict], slug: str, path: Path) -> dict | None:
    """The latest entry of the same file and competition, unless Kaggle could not score it."""
    key = slug, _digest(path)
    same = [e for e in entries if (e["competition"], e["blake2b"]) == key and e["status"] != "ERROR"]
    return same[-1] if same else None


def _require_allowance(api: "KaggleApi", task: str, slug: str) -> None:
    """Raise UserError when today's submissions are used up, before the file is sent for nothing."""
    try:
        with errors_explained(slug, f"kaggle.competitions.{task}"):
            limits = api.competition_get_submission_limits(slug)
    except UserError:
        # Whatever is wrong is told when the file is sent; this question alone keeps nobody from sending.
        return
    # To somebody who has not joined yet Kaggle answers with zeros alone.
    if limits.num_allowed_now == 0 and (limits.num_today or limits.limited_by_total):
        until = "for good" if limits.limited_by_total else "for today; try again after midnight UTC"
        raise UserError(
            f"{slug}: no submission is left {until}. Kaggle counts {limits.num_today} today and {limits.num_total}"
            " in all"
        )


def _send(api: "KaggleApi", task: str, slug: str, path: Path, message: str) -> dict:
    """Send the file; returns its entry of uploads.json."""
    digest, sent = _digest(path), _as_sent(path)
    print(f"upload: {sent.name} ({_size(sent)}) to {slug}: {message}")
    with errors_explained(slug, f"kaggle.competitions.{task}") as said:
        response = api.competition_submit(str(sent), message, slug, quiet=not sys.stderr.isatty())
    if response.message == api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
        # The client tells it in print, and may warn of its own age there.
        lines = [line for line in said.getvalue().splitlines() if line and not line.startswith("Warning")]
        reason = lines[-1][:200] if lines else "the file server did not take it"
        raise UserError(
            f"{slug}: the upload of {sent} broke off ({reason}), nothing was submitted; run the same command again"
        )
    return {
        "task": task,
        "competition": slug,
        "file": sent.name,
        "blake2b": digest,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "message": message,
        "ref": response.ref,
        "status": "PENDING",
        "error": "",
        "public": "",
        "private": "",
    }


def _await_score(api: "KaggleApi", entry: dict, wait: float) -> None:
    """Wait until the entry's submission is scored and note the result. Raises UserError after `wait` seconds."""
    slug, end, pause = entry["competition"], time.monotonic() + wait, _FIRST_PAUSE
    while True:
        with errors_explained(slug, f"kaggle.competitions.{entry['task']}"):
            listed = api.competition_submissions(slug)
        # Among the newest: one that Kaggle does not list yet is pending too.
        found = next((s for s in listed or [] if _is_of(s, entry)), None)
        if found and found.status.name != "PENDING":
            entry |= {"status": found.status.name, "public": found.public_score, "private": found.private_score}
            entry["error"] = found.error_description
            return
        left = end - time.monotonic()
        if left <= 0:
            raise UserError(
                f"{slug}: {entry['file']} is not scored after {wait:g} s; run the same command again to go on"
                f" waiting, or look with: kaggle competitions submissions {slug}"
            )
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LAST_PAUSE)


def _is_of(submission: "ApiSubmission", entry: dict) -> bool:
    """Whether a listed submission is the entry's: by Kaggle's number, else by file and message."""
    if entry["ref"]:
        return submission.ref == entry["ref"]
    return (submission.file_name, submission.description) == (entry["file"], entry["message"])


def _as_sent(path: Path) -> Path:
    """The file itself, or where it is too large its zip beside it."""
    if path.stat().st_size <= ZIP_ABOVE:
        return path
    zipped = path.with_name(f"{path.name}.zip")
    with atomic_path(zipped) as part, ZipFile(part, "w", ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    return zipped


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"
