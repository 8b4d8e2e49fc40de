"""Makes the steps of stored episodes anew, by another policy, from the samples that were kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
from tqdm.auto import tqdm

from fogx.align.policy import Align
from fogx.errors import FogxError
from fogx.jobs.compact import POINTER
from fogx.protocols import EpisodeData, Samples
from fogx.reading.anew import check_align
from fogx.reading.episodes import Located, locate, read_sound
from fogx.reading.roots import Chosen, Root
from fogx.settings import config
from fogx.storage.tables.anew import make_anew
from fogx.storage.tables.digest import digest, is_checksum
from fogx.storage.tables.pack import EpisodePacker
from fogx.storage.tables.segments import read_segments, segments_of, steps_of

GROUP_STEPS = 500_000
"""Episodes are written and committed together up to about this many steps and samples."""

_ROW = (*POINTER, "num_steps", "start_ns", "duration_ns", "control_hz", "segments_file")
"""What changes in an episode's row."""

_GUARDS = (*POINTER, "control_hz", "segments_file")
"""What of it must be as it was when the samples were read: others may compact, tag or annotate meanwhile."""


def realign(root: Root, chosen: Chosen, policy: Align) -> list[str]:
    """Make steps anew and return the ids of the episodes whose steps changed; see `Dataset.realign`."""
    check_align(chosen, policy, stored=True)
    located = sorted({member.episode_id: member for member in locate(chosen)}.values(), key=lambda member: member.episode_id)
    moved: set[str] = set()
    try:
        with tqdm(total=len(located), desc="realign", unit="episode", disable=not config().progress) as bar:
            for group in _groups(located):
                moved.update(_realigned(root, group, policy))
                bar.update(len(group))
    except FogxError as error:
        if moved:
            error.add_note(f"{len(moved)} episodes were aligned anew before; the same call goes on with the rest.")
        raise
    return [episode_id for episode_id in chosen.column("episode_id").to_pylist() if episode_id in moved]


def _groups(members: Sequence[Located]) -> Iterator[list[Located]]:
    group: list[Located] = []
    size = 0
    for member in members:
        group.append(member)
        size += sum(place.num_rows for place in (*member.index.steps, *member.index.streams))
        if size >= GROUP_STEPS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _realigned(root: Root, group: Sequence[Located], policy: Align) -> list[str]:
    """Write new steps of some episodes, let their rows point there, and return whose do."""
    packer = EpisodePacker(root.store, root.name)
    old = {}
    try:
        segments = segments_of(read_segments(root.store, pa.concat_tables([member.row for member in group])))
        for member in group:
            data = _anew(member, policy)
            if data is not None:
                assert data.timestamps_ns is not None
                labelled = steps_of(segments.get(member.episode_id, ()), data.timestamps_ns)
                packer.add(member.episode_id, replace(data, segments=labelled), member.index)
                old[member.episode_id] = {name: member.row[name][0].as_py() for name in _GUARDS}
        if not old:
            packer.abort()
            return []
        packed = packer.close()
    except BaseException:
        packer.abort()
        raise
    new = {row["episode_id"]: {name: row[name] for name in _ROW} for row in packed.rows}
    return root.writable().repoint(old, new, "realign")


def _anew(member: Located, policy: Align) -> EpisodeData | None:
    """Return an episode with other steps; `None` where they are the same."""
    data = read_sound(member, frames=False)
    samples = data.samples
    if samples is None:
        assert data.timestamps_ns is not None, "episodes without times are refused before"
        samples = Samples(data.columns, data.timestamps_ns, None, {})
    made = make_anew(samples, member.index, data.schema, policy, keep=data.samples is not None)
    steps = made.steps.times_ns
    anew = replace(
        data, columns=made.columns, num_steps=len(steps), timestamps_ns=steps, samples=made.samples, control_hz=policy.rate_hz
    )
    as_said = policy.rate_hz in (None, data.control_hz)
    return None if as_said and is_checksum(member.index.checksum, digest(anew), member.index.frames) else anew
