"""Makes a finished episode durable: packs it into data files and publishes them in one commit."""

from __future__ import annotations

from collections.abc import Callable

from fogx.errors import StorageError
from fogx.protocols import EpisodeData
from fogx.storage.files.store import Store
from fogx.storage.log.commit import EpisodeLog
from fogx.storage.tables.pack import EpisodePacker, Sealed


def seal(
    store: Store,
    writable: Callable[[], EpisodeLog],
    dataset: str,
    episode_id: str,
    data: EpisodeData,
    sealed: Sealed | None = None,
) -> str:
    """Save one episode; when this returns it survives a kill and a power loss.

    Args:
        store: The write root.
        writable: Gives the log to commit to, creating the dataset at its first write.
        dataset: Name that the row gets where the episode names none.
        episode_id: Its id.
        data: The episode.
        sealed: Frames of it that are written already.

    Raises:
        StorageError: It could not be saved; nothing of it is visible, and it can be tried again.
    """
    try:
        log = writable()
        packer = EpisodePacker(store, data.dataset or dataset)
        try:
            packer.add(episode_id, data, sealed=sealed)
            packed = packer.close()
        except BaseException:
            packer.abort()
            raise
        log.append(packed.rows, operation="record", began=packed.began)
    except StorageError as error:
        error.add_note(f"Episode {episode_id} was not saved, as far as is known. It is still in memory: call its close() again.")
        raise
    return episode_id
