"""Kaggle's client: imported only where it is used, without its noise, and with its errors in the user's words."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from landmark.errors import UserError

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from requests import RequestException

_PACKAGE = "kaggle==2.2.4"
SETTINGS_PAGE = "https://www.kaggle.com/settings"

# Kaggle answers with the same status to different things, and says in words alone which it is. Its words always
# stand in the message too, so that where they changed the user still reads them.
_USED_UP = re.compile(r"allowance|submissions? limit|limit of \d+ submissions|submissions per day", re.IGNORECASE)
_CLOSED = re.compile(
    r"deadline|late submission|has ended|is closed|(not|no longer) accept\w* (any )?(new |late )?submissions"
    r"|submissions (are|have been) (closed|disabled)",
    re.IGNORECASE,
)


def open_client() -> "KaggleApi":
    """The client, signed in. Raises UserError without credentials, when Kaggle refuses them, or off-line."""
    place = credentials_place()
    with errors_explained():
        # Importing the package signs in at once, and prints its help where that fails.
        from kaggle.api.kaggle_api_extended import KaggleApi
        from kagglesdk.kaggle_client import KaggleClient
        from kagglesdk.kaggle_env import get_env

        class Api(KaggleApi):
            """Heeds all of KAGGLE_API_ENVIRONMENT; of itself it goes to the real Kaggle in spite of TEST."""

            def build_kaggle_client(self) -> KaggleClient:
                values = self.config_values
                return KaggleClient(
                    env=get_env(),
                    username=values.get(self.CONFIG_NAME_USER),
                    password=values.get(self.CONFIG_NAME_KEY),
                    api_token=values.get(self.CONFIG_NAME_TOKEN),
                    response_processor=self.get_response_processor(),
                )

        # The youngest of the calls that are made of it; a notebook's image may bring an older client.
        if not hasattr(KaggleApi, "competition_get_submission_limits"):
            raise UserError(f"the package kaggle is too old; pip install {_PACKAGE}")
        api = Api()
        try:
            api.authenticate()
        except SystemExit:
            raise _refused(place, "not an active token") from None
    return api


def credentials_place() -> str:
    """Where the credentials lie, found without the network. Raises UserError when there are none."""
    try:
        # This package of the two signs in nowhere when it is imported.
        from kagglesdk.kaggle_env import get_access_token_from_env
    except ImportError:
        raise UserError(f"the package kaggle is not there, or too old; pip install {_PACKAGE}") from None
    _, token_place = get_access_token_from_env()
    if token_place:
        return "~/.kaggle/access_token" if token_place == "access_token" else token_place
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        return "KAGGLE_KEY"
    home = Path.home() / ".kaggle"
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or home)
    if not folder.exists():
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    for path in (folder / "kaggle.json", home / "credentials.json"):
        if path.exists():
            return str(path)
    raise UserError(
        f"no Kaggle credentials; make an API token at {SETTINGS_PAGE} and put it into the variable"
        " KAGGLE_API_TOKEN or the file ~/.kaggle/access_token (an older key: ~/.kaggle/kaggle.json)"
    )


@contextmanager
def errors_explained(name: str = "", setting: str = "") -> Iterator[io.StringIO]:
    """Turn what the client raises into UserErrors of one line. What it prints is not shown, but yielded.

    name: of the competition, or owner/name of the data set, that is asked for; setting: where the recipe has it.
    """
    # requests comes with the client.
    from requests import HTTPError, RequestException

    from landmark.transfer import in_one_line

    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield said
    except HTTPError as error:
        raise explain_status(*_answer(error), name, setting) from error
    except RequestException as error:
        raise UserError(
            f"Kaggle cannot be reached ({in_one_line(error)}); check the network, then run the same command again"
        ) from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name or 'Kaggle'}: {_one_line(error)}; run the same command again") from error


def explain_status(status: int, text: str, name: str, setting: str) -> UserError:
    """The error for an HTTP status of 400 or more and the server's words."""
    is_dataset = "/" in name
    page = f"https://www.kaggle.com/{'datasets' if is_dataset else 'c'}/{name}"
    says = f"Kaggle says: {text}"
    if status == 401:
        return _refused(credentials_place(), text)
    if status == 404:
        example = "owner/name" if is_dataset else "landmark-retrieval-2019 in https://www.kaggle.com/c/…"
        what = "data set" if is_dataset else "competition"
        return UserError(
            f"{setting}: Kaggle has no {what} {name!r}; write the name as its address has it ({example}). {says}"
        )
    if status in (400, 403, 429) and _USED_UP.search(text):
        return UserError(f"{name}: no submission is left for today; try again after midnight UTC. {says}")
    if status in (400, 403) and _CLOSED.search(text):
        return UserError(f"{name}: the competition takes no submissions any more, late ones included. {says}")
    if status == 403 and is_dataset:
        return UserError(f"{name}: Kaggle does not give it to you; look at {page}, and at {setting}. {says}")
    if status == 403:
        return UserError(
            f"{name}: Kaggle does not let you in; join and accept the rules at {page}/rules, and see that"
            f" {setting} is its name. {says}"
        )
    if status == 429:
        return UserError(f"{name}: too many requests; wait some minutes, then run the same command again. {says}")
    if status >= 500:
        return UserError(f"{name or 'Kaggle'}: Kaggle is out of order; run the same command again later. {says}")
    return UserError(f"{name or 'Kaggle'}: Kaggle refuses, status {status}; see {page}. {says}")


def _refused(place: str, text: str) -> UserError:
    return UserError(
        f"Kaggle refuses the credentials of {place}; make a new token at {SETTINGS_PAGE} and put it there."
        f" Kaggle says: {text}"
    )


def _answer(error: "RequestException") -> tuple[int, str]:
    """Status and words of a refused request; those inside the answer's JSON say more than the HTTP status."""
    try:
        body = error.response.json()
        return int(body["code"]), _one_line(body["message"])
    except (ValueError, KeyError, TypeError):
        return error.response.status_code, _one_line(error)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
