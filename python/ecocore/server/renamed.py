"""Errors in the client's own words: an endpoint that translates its fields translates their names back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ecocore.errors import InvalidRequest


@contextmanager
def renamed(fields: Mapping[str, str], place: Callable[[str], str] = str) -> Iterator[None]:
    """Raises an InvalidRequest that names one of `fields` anew under the name that the client used.

    `place` may put right what the message says of the place below the field.
    """
    try:
        yield
    except InvalidRequest as error:
        if error.param is None or error.param not in fields:
            raise
        raise type(error)(fields[error.param], place(error.message), error.code) from None
