"""Errors that name a config key or file, what was found and what was expected."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class ConfigError(ValueError):
    """The configuration cannot be used. The text names the key, what was found and the valid choices."""


class DataError(ValueError):
    """An input file cannot be used. The text names the file, the entry in it and what was expected."""


class NonFiniteLoss(FloatingPointError):
    """A loss became NaN or infinite. The text names the iteration and the loss."""


# What a user can mend: it is told in one line. Everything else is a fault of kd2 and keeps its traceback.
USER_ERRORS = (ConfigError, DataError, NonFiniteLoss, OSError)


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """Put ``key`` in front of the text of a ConfigError or NonFiniteLoss that the block raises."""
    try:
        yield
    except (ConfigError, NonFiniteLoss) as error:
        raise type(error)(f"{key}: {error}") from None


def nearest(found: object, choices: Iterable[object], most: int = 5) -> str:
    """``did you mean a, b?`` when some choice looks like ``found``, otherwise ``choices: ...``, 30 at most."""
    names = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(found), names, n=most, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"choices: {', '.join(names[:30]) or 'none'}" + (", ..." if len(names) > 30 else "")
