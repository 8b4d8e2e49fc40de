"""What goes wrong on the way to a root, told as `StorageError`: each library raises errors of its own family."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from fogx.errors import FogxError, StorageError
from fogx.storage.files.options import StorageOptions
from fogx.storage.files.paths import is_url

_CREDENTIALS = (
    "Give them in storage_options (key= and secret=, profile=, or anon=True for what is public), or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY."
)
_HINTS = {
    "NoCredentialsError": f"No credentials were found. {_CREDENTIALS}",
    "PartialCredentialsError": f"The credentials are not whole. {_CREDENTIALS}",
    "PermissionError": f"The credentials in use may not do this, or are wrong. {_CREDENTIALS}",
    "EndpointConnectionError": "Check the network, and endpoint_url in storage_options or AWS_ENDPOINT_URL.",
    "FileNotFoundError": "The bucket is not there; create it first, or check the spelling.",
}
"""What to do, by the name of an error or of one of its bases."""


def plain_text(error: BaseException, most: int = 300) -> str:
    """Return the message of another library's error as one line without colours; its type where it has no message."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return (text if len(text) <= most else text[:most] + "…") or type(error).__name__


@contextmanager
def asking(root: str, options: StorageOptions, what: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what another library raises inside the block into a `StorageError` that names the root and the operation.

    Args:
        root: The root.
        options: Its options, whose secrets stay out of the message.
        what: The operation, as in "writing steps/….parquet".
        but: Errors of which the caller knows what they mean, and gets them as they are.
    """
    try:
        yield
    except FogxError:
        raise
    except Exception as error:  # OSError, or botocore's, aiohttp's, google's own
        if isinstance(error, but):
            raise
        hints = [_HINTS[base.__name__] for base in type(error).__mro__ if base.__name__ in _HINTS and is_url(root)]
        hint = hints[0] if hints else "Nothing was changed by it; try again when the store answers."
        raise StorageError(f"{root}: {what} failed: {options.hide(plain_text(error)).rstrip('.')}. {hint}") from error


class RemoteFile:
    """A file of fsspec whose errors are told by `asking`; what pyarrow needs of a file."""

    def __init__(self, file: Any, guard: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._guard = guard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        with self._guard():
            return bytes(self._file.read(size))

    def write(self, data: Any) -> int:
        """Write bytes; they are there after `close`."""
        with self._guard():
            return int(self._file.write(data))

    def close(self) -> None:
        """Send what is left, once."""
        with self._guard():
            self._file.close()
