"""Lightning's Trainer over fogx' loader: it leaves it as it is, and its checkpoints resume it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="bash tests/peers/run installs it")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fogx.training.loader import Loader
from fogx.training.order import Shuffled
from tests.training.standins import Numbers

pytestmark = pytest.mark.filterwarnings("ignore")


ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {root!r})
from lightning.pytorch import Trainer
from tests.peers.test_lightning import Seer, Loader, Numbers, Shuffled

model = Seer()
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_progress_bar=False,
                  enable_model_summary=False, enable_checkpointing=False, default_root_dir={folder!r})
trainer.fit(model, Loader(Numbers(23), Shuffled(23), 3, seed=3))
with open({folder!r} + f"/rank{{trainer.global_rank}}", "w") as file:
    json.dump(model.seen, file)
"""


class Seer(LightningModule):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch):
        self.seen += zip(batch["epoch"].tolist(), batch["item"].tolist(), strict=True)
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, *, workers, resume=None, **given):
    model = Seer()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **given
    )
    trainer.fit(model, Loader(Numbers(23), Shuffled(23), 4, workers, seed=3), ckpt_path=resume, weights_only=False)
    return model.seen


@pytest.mark.parametrize("workers", [0, 1])
def test_checkpoints_resume_the_loader(tmp_path, workers):
    whole = fit(tmp_path, workers=workers, max_epochs=3, enable_checkpointing=False)
    assert sorted(whole) == [(epoch, item) for epoch in range(3) for item in range(23)]
    for steps in (1, 5, 6, 7, 12, 14):
        folder = tmp_path / str(steps)
        saved = ModelCheckpoint(folder, filename="at", every_n_train_steps=1, save_weights_only=False)
        before = fit(folder, workers=workers, max_steps=steps, callbacks=[saved])
        after = fit(folder, workers=workers, resume=folder / "at.ckpt", max_epochs=3, enable_checkpointing=False)
        assert before + after == whole, steps


def test_two_processes_share_an_epoch(tmp_path):
    """Lightning would put another sampler into a loader of PyTorch's own."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(root=str(ROOT), folder=str(tmp_path)))
    subprocess.run([sys.executable, script], check=True, timeout=180)
    found = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
    assert sorted(pair for seen in found for pair in seen) == [[0, item] for item in range(23)]
    assert {len(seen) for seen in found} == {11, 12}
