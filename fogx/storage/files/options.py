"""One fsspec-style `storage_options`, translated for each library that opens a remote root. Values are never shown."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from fogx.errors import StorageError, UnknownNameError, did_you_mean, listing
from fogx.storage.files.paths import canonical_root, is_url

S3_NAMES = ("key", "secret", "token", "anon", "profile", "endpoint_url", "region_name", "client_kwargs", "config_kwargs")
"""Options of an S3 root. Those of s3fs that the libraries below the table and the steps cannot keep too are not among them."""

CLIENT_NAMES = {
    "aws_access_key_id": "key",
    "aws_secret_access_key": "secret",
    "aws_session_token": "token",
    "endpoint_url": "endpoint_url",
    "region_name": "region_name",
}
"""What `client_kwargs` may hold, and the option that means the same."""

_RETRIES = 5
"""How often botocore tries again, waiting up to 1, 2, 4, … seconds: at most half a minute a request."""
_QUICK_RETRIES = 8
"""How often delta-rs and polars do, which begin with waits of a tenth of a second: at most half a minute, too."""
_RETRY_SECONDS = 60

_SECRET = ("key", "secret", "token")


class StorageOptions:
    """Options of remote roots; keeps secrets out of reprs, and is pickled only to this machine's own workers.

    Args:
        options: As s3fs and gcsfs take them, for every remote root. Or such dicts by root URL: the longest URL that a root lies
            under counts, and a root under none gets no options.

    Raises:
        StorageError: Options that make writing unsafe, or that contradict each other.
        UnknownNameError: Names of S3 options that are not known.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})
        self._protocol = ""
        urls = [name for name in self._options if is_url(name)]
        if urls and (len(urls) < len(self._options) or not all(isinstance(v, Mapping) for v in self._options.values())):
            raise StorageError(
                "storage_options are options (key=, endpoint_url=, …) for every remote root, or dicts of them by root URL, such as "
                "{'s3://bucket': {'profile': 'lab'}}; these mix the two."
            )
        self._by_root = {canonical_root(url): self._options[url] for url in urls}

    def __repr__(self) -> str:
        return f"StorageOptions({', '.join(f'{k}=…' for k in sorted(self._options))})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def of(self, root: str) -> StorageOptions:
        """Return the options of one root, checked; none for a local one."""
        found = self._options
        if self._by_root:
            fitting = [url for url in self._by_root if root == url or root.startswith(url + "/")]
            found = self._by_root[max(fitting, key=len)] if fitting else {}
        result = StorageOptions(found if is_url(root) else {})
        result._protocol = root.split("://", 1)[0].replace("s3a", "s3") if is_url(root) else ""
        if result._protocol == "s3":
            result._check_s3(root)
        return result

    @property
    def given(self) -> dict[str, Any]:
        """What the user gave."""
        return dict(self._options)

    def for_fsspec(self) -> dict[str, Any]:
        """Return the keyword arguments of an fsspec file system."""
        if self._protocol != "s3":
            return dict(self._options)
        own = {"client_kwargs", "config_kwargs", "region_name"}
        client = {"region_name": self._options.get("region_name"), **(self._options.get("client_kwargs") or {})}
        config = dict(self._options.get("config_kwargs") or {})
        config["retries"] = {"mode": "standard", **(config.get("retries") or {"max_attempts": _RETRIES})}
        if self._options.get("profile"):
            self._session  # noqa: B018 - says which profiles there are, where this is none
        return {
            **{name: value for name, value in self._options.items() if name not in own},
            "client_kwargs": {name: value for name, value in client.items() if value is not None},
            "config_kwargs": config,
            "use_listings_cache": False,  # another process' files must show
        }

    def for_object_store(self) -> dict[str, str]:
        """Return the options of delta-rs."""
        retries = {"max_retries": str(self._quick_retries), "retry_timeout": f"{_RETRY_SECONDS}s"}
        return {**self._shared(), **retries} if self._protocol else {}

    def for_polars(self) -> dict[str, Any]:
        """Return the options of a polars scan."""
        retries = {"max_retries": self._quick_retries, "retry_timeout_ms": 1_000 * _RETRY_SECONDS}
        return {**self._shared(), **retries} if self._protocol else {}

    def hide(self, text: str) -> str:
        """Return a text of another library without any of the secrets."""
        for secret in filter(None, (self._given(name) for name in _SECRET)):
            text = text.replace(str(secret), "…")
        return text

    def _check_s3(self, root: str) -> None:
        names = [*self._options, *(self._options.get("client_kwargs") or {})]
        if unsafe := [name for name in names if "unsafe_rename" in name.lower()]:
            raise StorageError(
                f"{root}: storage_options hold {unsafe[0]!r}, with which writers overwrite each other's commits. Leave it out; fogx "
                "needs an endpoint that knows conditional PUT (If-None-Match), and no other setting."
            )
        allowed = {"storage_options": (self._options, S3_NAMES), "client_kwargs": (names[len(self._options) :], CLIENT_NAMES)}
        for place, (given, known) in allowed.items():
            if unknown := [name for name in given if name not in known]:
                raise UnknownNameError(
                    f"{root}: {len(unknown)} options in {place} are not known: {listing(unknown)}.{did_you_mean(unknown[0], known)} "
                    f"Use: {listing(known)}."
                )
        if bool(self._given("key")) != bool(self._given("secret")):
            raise StorageError(f"{root}: storage_options give one of key and secret; give both, or neither.")

    def _given(self, name: str) -> Any:
        """Return an option, wherever among the two places it stands."""
        client = self._options.get("client_kwargs") or {}
        return self._options.get(name) or next((client.get(k) for k, v in CLIENT_NAMES.items() if v == name), None)

    @property
    def _quick_retries(self) -> int:
        retries = (self._options.get("config_kwargs") or {}).get("retries") or {}
        if "total_max_attempts" in retries:
            return int(retries["total_max_attempts"]) - 1
        return int(retries.get("max_attempts", _QUICK_RETRIES))

    def _shared(self) -> dict[str, str]:
        """Return what delta-rs and polars, both on `object_store`, call alike."""
        if self._protocol != "s3":
            return {name: str(value) for name, value in self._options.items() if value is not None}
        endpoint = self._given("endpoint_url") or self._configured_endpoint()
        region = self._given("region_name") or os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        result = {
            "aws_endpoint_url": endpoint,
            # With an endpoint of one's own the region is a mere name, which has to be there.
            "aws_region": region or ("us-east-1" if endpoint else None),
            # object_store refuses plain HTTP unless told; naming an http endpoint is the telling.
            "aws_allow_http": "true" if endpoint and endpoint.startswith("http://") else None,
            # A commit is a PUT that must not replace; the environment could say otherwise.
            "aws_conditional_put": "etag",
            **self._credentials(),
        }
        return {name: str(value) for name, value in result.items() if value is not None}

    def _credentials(self) -> dict[str, str | None]:
        if self._options.get("anon"):
            return {"aws_skip_signature": "true"}
        key, secret, token = (self._given(name) for name in _SECRET)
        if key is None:
            import botocore.exceptions

            try:
                found = self._session.get_credentials()
                frozen = found.get_frozen_credentials() if found else None
            except botocore.exceptions.BotoCoreError as error:
                raise StorageError(f"the credentials for S3 could not be had: {error}") from error
            if frozen is None:
                return {}  # a role of the machine, which each library asks for, and asks again when it runs out
            key, secret, token = frozen.access_key, frozen.secret_key, frozen.token
        if token is None and os.environ.get("AWS_SESSION_TOKEN"):
            if key != os.environ.get("AWS_ACCESS_KEY_ID"):
                raise StorageError(
                    "the environment holds an AWS_SESSION_TOKEN of other credentials than those in use, which would be sent with "
                    "them and refused. Unset AWS_SESSION_TOKEN, or give the token that belongs to the key as token=."
                )
            token = os.environ["AWS_SESSION_TOKEN"]
        return {"aws_access_key_id": key, "aws_secret_access_key": secret, "aws_session_token": token}

    def _configured_endpoint(self) -> str | None:
        from botocore.configprovider import ConfiguredEndpointProvider

        session = self._session
        found = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3").provide()
        return str(found) if found else None

    @functools.cached_property
    def _session(self) -> Any:
        """Botocore's view of the profile, the environment and the config files, which object_store knows only in part."""
        import botocore.exceptions
        import botocore.session

        session = botocore.session.Session(profile=self._options.get("profile"))
        try:
            session.get_scoped_config()
        except botocore.exceptions.ProfileNotFound:
            raise UnknownNameError(
                f"there is no profile {session.profile!r} in the AWS configuration; it has: {listing(session.available_profiles)}."
                f"{did_you_mean(str(session.profile), session.available_profiles)}"
            ) from None
        providers = session.get_component("credential_provider")
        providers.remove("container-role")
        providers.remove("iam-role")
        return session
