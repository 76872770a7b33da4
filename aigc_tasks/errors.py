"""What can be wrong with a user's input or machine, said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can mend. The message names the file, the field and the mend, in one line."""


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Puts ``where`` before what is raised by those who know the field, but not in which file and entry it stands."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}{error}") from None
