"""Commits are PUTs that must not replace: an endpoint that cannot do those would lose episodes without a word."""

from __future__ import annotations

import uuid

from fogx.errors import StorageError
from fogx.storage.files.store import Store


def require_conditional_put(store: Store) -> None:
    """Refuse an S3 endpoint that ignores `If-None-Match: *`. Leaves nothing behind.

    Local folders have exclusive renames, and Google's store preconditions of its own; other stores are left to the table library,
    which refuses those that it cannot commit to.

    Raises:
        StorageError: The endpoint replaces an object that should have been left alone; or it cannot be written to at all.
    """
    if not store.root.startswith(("s3://", "s3a://")):
        return
    name = f"probe-{uuid.uuid4().hex}"
    store.write_small(name, b"fogx looks whether a second write of this object is refused")
    try:
        if store.create_small(name, b"it was not"):
            raise StorageError(
                f"{store.root}: the endpoint ignores the condition If-None-Match, so that two writers would overwrite each other's "
                "episodes. Nothing was created. Use an S3 server that knows conditional writes (AWS, Cloudflare R2, MinIO, Ceph and "
                "others do, in a current version), or a local folder."
            )
    finally:
        store.unlink(name)
