"""Errors that are the user's to mend, told in one line."""


class UserError(Exception):
    """Bad input: the message names the file, row or setting, what is wrong, and the way out."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [f"error: {self}"]
