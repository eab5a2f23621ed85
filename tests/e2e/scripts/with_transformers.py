import sys
import warnings

import torch
from checksum import seed, show

warnings.simplefilter("ignore")
from transformers import (  # noqa: E402
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging  # noqa: E402


class Print(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **more):
        print(state.global_step, logs.get("loss"), logs.get("grad_norm"))


seed()
model = GPT2LMHeadModel(
    GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=16, vocab_size=20, bos_token_id=0, eos_token_id=0)
)
tokens = torch.randint(20, (16, 8))
data = [{"input_ids": row, "labels": row} for row in tokens]
arguments = TrainingArguments(
    output_dir=sys.argv[1],
    max_steps=4,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    logging_steps=1,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    use_cpu=True,
)
logging.set_verbosity_error()
trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Print()])
trainer.remove_callback(PrinterCallback)  # it prints how long it took
trainer.train()
show(model)
