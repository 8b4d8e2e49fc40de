"""Two handles of one root under any sequence of calls, crashes among them, against a model that fits on a page."""

import os
import shutil
import tempfile
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fogx as fox
from fogx.errors import ConflictError, EpisodeNotFoundError, UnknownNameError
from fogx.storage.files import durable
from fogx.storage.files.store import Store
from fogx.storage.log import delta, root
from fogx.storage.log.delta import DeltaLog
from tests.ageing import make_older

HANDLES = st.sampled_from("ab")
SOME = st.lists(st.integers(0, 11), min_size=1, max_size=4)
TAG = st.integers(0, 3) | st.sampled_from([0.5, "text"])

SEAMS = [
    (Store, "create"), (Store, "sync"), (Store, "write_small"), (Store, "unlink"),
    (DeltaLog, "sync"), (DeltaLog, "update"), (DeltaLog, "merge_small"), (DeltaLog, "checkpoint"),
    (durable, "write_whole"), (delta, "write_whole"), (root, "fsync_files"),
]  # fmt: skip


class Crash(BaseException):
    """Stands for a killed process: nothing that would tidy up may catch it."""


def crash_at(point):
    """Return patches with which the point-th pass through a seam, before or after it, is the last thing that happens."""
    left = [point]

    def step():
        left[0] -= 1
        if left[0] == 0:
            raise Crash

    def guarded(real):
        def call(*args, **kwargs):
            step()
            result = real(*args, **kwargs)
            step()
            return result

        return call

    patches = [mock.patch.object(owner, name, guarded(getattr(owner, name))) for owner, name in SEAMS]
    # A killed process removes nothing.
    return [*patches, mock.patch.object(Store, "remove", return_value=None)]


class Model(RuleBasedStateMachine):
    """`newest` and what each handle sees: episode → tag. `states`: what each version held."""

    @initialize()
    def begin(self):
        self.folder = tempfile.mkdtemp()
        self.path = os.path.join(self.folder, "root")
        self.saved = (delta.UPKEEP_EVERY, delta._FILES_PER_TIER)
        delta.UPKEEP_EVERY, delta._FILES_PER_TIER = 5, 3
        fox.Dataset(self.path)._roots.write.writable()
        self.newest, self.states, self.pins, self.oldest, self.made = {}, {0: {}}, {}, 0, 0
        self.handles = {name: fox.Dataset(self.path) for name in "ab"}
        self.views = {"a": {}, "b": {}}
        self.frames = []
        for name, tag in zip("abab", (None, 1, 2, None), strict=True):
            self.record(name, tag)
        for name in "ab":
            self.refresh(name)
            self.look(name)

    def teardown(self):
        delta.UPKEEP_EVERY, delta._FILES_PER_TIER = self.saved
        shutil.rmtree(self.folder)

    def _committed(self):
        """Note what the versions made since the last note hold."""
        before = self.states[max(self.states)]
        for entry in reversed(fox.Dataset(self.path).history().to_dict("records")):
            if entry["version"] not in self.states:
                # Columns are added and widened in commits of their own, before the one that needs them.
                before = before if entry["operation"] in ("add columns", "widen columns") else dict(self.newest)
                self.states[entry["version"]] = before

    def _some(self, view, numbers):
        ids = sorted(view)
        return list(dict.fromkeys(ids[n % len(ids)] for n in numbers)) if ids else []

    def _record(self, name, tag):
        self.recording = self.handles[name].new_episode({} if tag is None else {"tag": tag})
        self.recording.add("state", np.float32(self.made))
        self.recording.close()
        return self.recording.episode_id

    @rule(name=HANDLES, tag=st.none() | TAG)
    def record(self, name, tag):
        episode_id = self._record(name, tag)
        self.made += 1
        self.newest[episode_id] = self.views[name][episode_id] = tag
        self._committed()

    @rule(name=HANDLES, numbers=SOME, tag=st.none() | TAG)
    def tag(self, name, numbers, tag):
        ids = self._some(self.views[name], numbers)
        if set(ids) <= set(self.newest):
            assert self.handles[name].tag(ids, tag=tag) == len(ids)
            self.newest |= dict.fromkeys(ids, tag)
            self.views[name] |= dict.fromkeys(ids, tag)
        else:
            try:
                self.handles[name].tag(ids, tag=tag)
                raise AssertionError("an episode that is gone was tagged")
            except EpisodeNotFoundError:
                pass
        self._committed()

    @rule(name=HANDLES)
    def look(self, name):
        self.frames = [*self.frames[-3:], (name, self.handles[name].get_episode_info(), dict(self.views[name]))]

    @precondition(lambda self: self.frames)
    @rule(which=st.integers(0, 3), numbers=SOME, tag=TAG)
    def edit_what_was_seen(self, which, numbers, tag):
        name, info, base = self.frames[which % len(self.frames)]
        ids = self._some(base, numbers)
        frame = info.copy()
        if "tag" not in frame:
            frame["tag"] = None
        frame["tag"] = frame["tag"].astype(object)
        frame.loc[frame["episode_id"].isin(ids), "tag"] = tag
        changed = [i for i in ids if not same(base[i], tag)]
        lost = [i for i in changed if i not in self.newest]
        clash = [i for i in changed if i in self.newest and not same(self.newest[i], base[i]) and not same(self.newest[i], tag)]
        if not set(changed) <= set(self.views[name]):
            wanted = EpisodeNotFoundError  # the handle itself no longer shows them
        else:
            wanted = EpisodeNotFoundError if lost else ConflictError if clash else None
        if wanted is None:
            assert self.handles[name].update_episode_info(frame[frame["episode_id"].isin(ids)]) == len(changed)
            self.newest |= dict.fromkeys(changed, tag)
            self.views[name] |= dict.fromkeys(changed, tag)
        else:
            try:
                self.handles[name].update_episode_info(frame[frame["episode_id"].isin(ids)])
                raise AssertionError(f"{wanted} was due")
            except wanted:
                pass
        self._committed()

    @rule(name=HANDLES, numbers=SOME)
    def delete(self, name, numbers):
        ids = self._some(self.views[name], numbers)
        assert self.handles[name].delete(ids) == len(set(ids) & set(self.newest))
        for i in ids:
            self.newest.pop(i, None)
            self.views[name].pop(i)
        self._committed()

    @rule(name=HANDLES)
    def merge(self, name):
        self.handles[name]._roots.write.log.merge_small()
        self._committed()

    @rule(name=HANDLES, numbers=SOME, rate_hz=st.integers(1, 9))
    def realign(self, name, numbers, rate_hz):
        ids = self._some(self.views[name], numbers)
        moved = self.handles[name].realign(ids, fox.Align(rate_hz=rate_hz))
        assert set(moved) <= set(ids) & set(self.newest)
        self._committed()

    @rule(name=HANDLES)
    def refresh(self, name):
        self.handles[name].refresh()
        self.views[name] = dict(self.newest)

    @rule(name=HANDLES)
    def reopen(self, name):
        self.handles[name] = fox.Dataset(self.path)
        self.views[name] = dict(self.newest)

    @rule(name=HANDLES, data=st.data())
    def pin(self, name, data):
        version = data.draw(st.sampled_from(self._kept()))
        self.handles[name].pin("one", version)
        self.pins = {"one": version}
        self._committed()

    @rule(name=HANDLES, data=st.data())
    def restore(self, name, data):
        version = data.draw(st.sampled_from(self._kept()))
        assert self.handles[name].restore(version) == len(self.states[version])
        self.newest = dict(self.states[version])
        self.views[name] = dict(self.newest)
        self._committed()

    @rule(name=HANDLES)
    def vacuum(self, name):
        make_older(self.path)
        self.oldest = max(self.states)
        self.handles[name].vacuum()
        self._committed()
        # What handles saw before may be gone now; they are told so, and refresh.
        for each in self.handles:
            self.refresh(each)
        self.look("a")

    @rule(
        name=HANDLES, point=st.integers(1, 60), tag=TAG, numbers=SOME,
        what=st.sampled_from(["record", "tag", "delete", "merge", "realign", "vacuum", "restore"]),
    )  # fmt: skip
    def crash(self, name, point, tag, numbers, what):
        self.refresh(name)
        ids = self._some(self.newest, numbers)
        handle, after = self.handles[name], [dict(self.newest)]
        calls = {
            "record": lambda: self._record(name, tag),
            "tag": lambda: handle.tag(ids, tag=tag),
            "delete": lambda: handle.delete(ids),
            "merge": lambda: handle._roots.write.log.merge_small(),
            "realign": lambda: handle.realign(ids, fox.Align(rate_hz=point)),
            "vacuum": lambda: handle.vacuum(),
            "restore": lambda: handle.restore(self._kept()[0]),
        }
        if what == "tag":
            after.append(self.newest | dict.fromkeys(ids, tag))
        elif what == "delete":
            after.append({i: v for i, v in self.newest.items() if i not in ids})
        elif what == "restore":
            after.append(dict(self.states[self._kept()[0]]))
        elif what == "vacuum":
            make_older(self.path)
            self.oldest = max(self.states)
        known = set(self.newest)
        patches = crash_at(point)
        try:
            for patch in patches:
                patch.start()
            calls[what]()
            finished = True
        except Crash:
            finished = False
        finally:
            for patch in reversed(patches):
                patch.stop()
        found = content(fox.Dataset(self.path))
        if what == "record":
            if not self.recording.closed:
                self.recording.discard()
            fresh = {i for i in found if i not in known}
            assert len(fresh) <= 1
            after.append(self.newest | dict.fromkeys(fresh, tag))
            self.made += 1
        assert alike(found, after[-1]) or (not finished and any(alike(found, state) for state in after)), "all of it or nothing"
        self.newest = next(state for state in reversed(after) if alike(found, state))
        self._committed()
        self.reopen("a")
        self.reopen("b")
        self.look("b")

    @invariant()
    def handles_and_versions_are_as_expected(self):
        if not hasattr(self, "path"):
            return
        for name, handle in self.handles.items():
            assert alike(content(handle), self.views[name]), name
        fresh = fox.Dataset(self.path)
        assert alike(content(fresh), self.newest)
        assert len(fresh.get_step_data().collect()) == len(self.newest), "every episode has its step"

    @rule(data=st.data())
    def an_old_version(self, data):
        version = data.draw(st.sampled_from(sorted(self.states)))
        if version in self._kept():
            then = fox.Dataset(self.path, version=version)
            assert alike(content(then), self.states[version])
            assert len(then.get_step_data().collect()) == len(self.states[version])
        else:
            try:
                fox.Dataset(self.path, version=version)
                raise AssertionError("a version that was not kept was opened")
            except UnknownNameError:
                pass

    def _kept(self):
        oldest = delta_oldest(self.path)
        assert oldest <= self.oldest
        return [v for v in sorted(self.states) if v >= oldest or v in self.pins.values()]


def delta_oldest(path):
    from fogx.storage.log.versions import oldest_kept

    return oldest_kept(fox.Dataset(path)._roots.write.log.delta)


def content(dataset):
    ids = dataset._roots.write.rows["episode_id"].to_pylist()
    assert ids == sorted(set(ids)), "an episode has one row"
    info = dataset.get_episode_info()
    tags = info["tag"].astype(object).where(info["tag"].notna(), None) if "tag" in info else [None] * len(info)
    return dict(zip(info["episode_id"], tags, strict=True))


def same(a, b):
    return (a is None) == (b is None) and (a is None or a == b) and isinstance(a, str) == isinstance(b, str)


def alike(a, b):
    return set(a) == set(b) and all(same(a[i], b[i]) for i in a)


# A call takes some 20 ms, so there are fewer examples than elsewhere, of many calls each.
Model.TestCase.settings = settings(
    max_examples=settings.default.max_examples // 5,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)
TestTwoHandles = Model.TestCase
TestTwoHandles.pytestmark = [pytest.mark.filterwarnings("ignore:metadata of another type:UserWarning")]
