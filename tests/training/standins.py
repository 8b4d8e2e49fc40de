"""Datasets that stand in for selections: their items say which item was asked for, by which draw and where."""

from __future__ import annotations

import os
import threading
import time

import torch


class Numbers:
    """Item i is the number i, its epoch, and the process that read it."""

    def __init__(self, count, *, fails_at=None, seconds=0.0):
        self.count, self.fails_at, self.seconds = count, fails_at, seconds

    def __len__(self):
        return self.count

    def __getitem__(self, item):
        return self.__getitems__([item])[0]

    def __getitems__(self, items):
        time.sleep(self.seconds)
        if self.fails_at is not None and self.fails_at in items:
            raise ValueError(f"item {self.fails_at} cannot be read")
        return [
            {
                "item": torch.tensor(int(item)),
                "epoch": torch.tensor(getattr(item, "epoch", -1)),
                "pid": torch.tensor(os.getpid()),
                "words": f"item {int(item)}",
            }
            for item in items
        ]


class InTwo(Numbers):
    """The same in two steps, which a loader without workers may let threads begin; `begun` are the batches in order of their begin."""

    reads_ahead = True

    def __init__(self, count, **given):
        super().__init__(count, **given)
        self.begun = []

    def __getitems__(self, items):
        return self.finish(items, self.read(items))

    def read(self, items):
        self.begun.append([int(item) for item in items])
        return super().__getitems__(items)

    def finish(self, items, read):
        return [{**item, "thread": threading.current_thread().name} for item in read]
