"""`StatefulDataLoader` of torchdata over fogx' sampler."""

import pytest

pytest.importorskip("torchdata", reason="bash tests/peers/run installs it")

from torchdata.stateful_dataloader import StatefulDataLoader

from fogx.training.order import Shuffled
from fogx.training.sampler import Sampler
from tests.training.standins import Numbers

# What torchdata itself calls is deprecated in PyTorch.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


def made(workers):
    return StatefulDataLoader(Numbers(23), batch_size=4, sampler=Sampler(Shuffled(23), 7), num_workers=workers)


def items(loader):
    return [pair for batch in loader for pair in zip(batch["epoch"].tolist(), batch["item"].tolist(), strict=True)]


@pytest.mark.parametrize("workers", [0, 1])
def test_it_resumes_where_it_delivered_to(workers):
    loader = made(workers)
    whole = [items(loader) for _ in range(3)]
    for epoch in range(3):
        assert sorted(whole[epoch]) == [(epoch, item) for item in range(23)]
    flat = [pair for epoch in whole for pair in epoch]
    for taken in (0, 1, 3, 5, 7, 9):
        loader, seen = made(workers), []
        while len(seen) < taken:
            for batch in loader:
                seen.append(items([batch]))
                if len(seen) == taken:
                    break
        state = loader.state_dict()
        again = made(workers)
        again.load_state_dict(state)
        before = [pair for batch in seen for pair in batch]
        assert before + items(again) == flat[: len(before) + 23 - len(before) % 23], taken
