import logging
import warnings

import torch
from checksum import seed, show
from torch import nn

warnings.simplefilter("ignore")
import lightning  # noqa: E402

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Regressor(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.head = nn.Linear(8, 1)

    def training_step(self, batch, index):
        (x,) = batch
        loss = nn.functional.mse_loss(self.head(self.body(x)), x[:, :1])
        print(repr(loss.item()))
        return loss

    def validation_step(self, batch, index):
        (x,) = batch
        print("evaluation", repr(self.head(self.body(x)).sum().item()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


seed()
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(24, 6)), batch_size=8, shuffle=True)
model = Regressor()
trainer = lightning.Trainer(
    max_epochs=2,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    gradient_clip_val=0.5,
)
trainer.fit(model, data, data)
show(model)
