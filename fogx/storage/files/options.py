"""One fsspec-style `storage_options`, translated for each library that opens a remote root. Values are never logged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_OBJECT_STORE_NAMES = {
    "key": "aws_access_key_id",
    "secret": "aws_secret_access_key",
    "token": "aws_session_token",
    "endpoint_url": "aws_endpoint_url",
    "region_name": "aws_region",
    "profile": "aws_profile",
}


class StorageOptions:
    """Options of a remote root; keeps secrets out of reprs and pickled only to this machine's own workers.

    Args:
        options: As s3fs takes them: `key`, `secret`, `token`, `anon`, `profile`, `endpoint_url`, `client_kwargs`, …
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})

    def __repr__(self) -> str:
        return f"StorageOptions({', '.join(f'{k}=…' for k in sorted(self._options))})"

    def for_fsspec(self) -> dict[str, Any]:
        """Return the keyword arguments of an fsspec file system."""
        return dict(self._options)

    def for_object_store(self) -> dict[str, str]:
        """Return the string options that delta-rs and polars (both on `object_store`) take."""
        given = dict(self._options)
        for name, value in dict(given.pop("client_kwargs", None) or {}).items():
            given.setdefault(name, value)
        if given.pop("anon", False):
            given["aws_skip_signature"] = "true"
        result = {_OBJECT_STORE_NAMES.get(k, k): str(v) for k, v in given.items() if v is not None}
        endpoint = result.get("aws_endpoint_url") or os.environ.get("AWS_ENDPOINT_URL", "")
        if endpoint.startswith("http://"):
            # object_store refuses plain HTTP unless told; naming an http endpoint is the telling.
            result.setdefault("aws_allow_http", "true")
        if endpoint:
            result.setdefault("aws_endpoint_url", endpoint)
            result.setdefault("aws_region", os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
        return result
