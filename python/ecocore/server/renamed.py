"""Errors in the client's own words: an endpoint that translates its fields translates their names back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ecocore.errors import InvalidRequest


def _as_it_is(_field: str, place: str) -> str:
    return place


@contextmanager
def renamed(
    fields: Mapping[str, str],
    place: Callable[[str, str], str] = _as_it_is,
    words: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Raises an InvalidRequest that names one of `fields` anew under the name that the client used.

    `place` makes from a field and a place below it the place that the client knows; `words` are exchanged in the message.
    """
    try:
        yield
    except InvalidRequest as error:
        if error.param is None or error.param not in fields:
            raise
        message = error.message
        for theirs, ours in (words or {}).items():
            message = message.replace(theirs, ours)
        raise type(error)(fields[error.param], message, error.code, place=place(error.param, error.place)) from None
