"""Hugging Face's own trainer, in all the ways in which it steps."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope

with warnings.catch_warnings():  # what it says of other packages while it is imported
    warnings.simplefilter("ignore")
    import transformers
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from gradscope.integrations.transformers import GradscopeCallback

pytestmark = [
    # a loader that pins memory says so where there is no accelerator
    pytest.mark.filterwarnings("ignore:.*pin_memory.* argument is set as true"),
]


def model() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 32, "n_positions": 8}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=0))


def data(rows: int = 16) -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(32, (rows, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in tokens]


def trainer(path: Path, *callbacks: object, net: nn.Module | None = None, **options: object) -> Trainer:
    given = {"per_device_train_batch_size": 4, "max_steps": 4, "logging_steps": 1, "save_strategy": "no", **options}
    args = TrainingArguments(
        str(path),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        **given,
    )
    net = model() if net is None else net
    return Trainer(net, args, train_dataset=data(), eval_dataset=data(4), callbacks=list(callbacks))


def hooks_of(module: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules()
    ) + sum(len(p._post_accumulate_grad_hooks or ()) for p in module.parameters())


# its old name warns since transformers 5.20
CHECKPOINTING = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, n))
WAYS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "bf16": {"bf16": True},
    "checkpointing": {CHECKPOINTING: True},
    "evaluation between": {"eval_strategy": "steps", "eval_steps": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_training_is_bit_identical_and_every_step_is_recorded(way: str, tmp_path: Path) -> None:
    weights, hooks = [], []
    for watched in (False, True):
        watch = GradscopeCallback()
        run = trainer(tmp_path, *[watch] * watched, **WAYS[way])
        run.train()
        weights.append([p.detach().clone() for p in run.model.parameters()])
        hooks.append(hooks_of(run.model))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert hooks[0] == hooks[1], "none is left but the trainer's own"
    trace = watch.scope.trace
    assert not trace.events
    assert trace.steps.tolist() == [0, 1, 2, 3]
    logged = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    np.testing.assert_allclose(trace.per_step["loss"], np.array(logged, dtype=np.float64))
    assert set(trace.per_step["lr"]) == {1e-2}
    for quantity in ("output", "output_grad"):  # 4 rows of 8 tokens, 16 wide: each counted once
        assert set(trace.series("transformer.h.0.ln_1", quantity, "numel")) == {4 * 8 * 16.0}, quantity
    assert not np.isnan(trace.series("transformer.wte", "weight_update", "l2_norm")).any()


@pytest.mark.parametrize("way", ["plain", "accumulation"])
def test_gradients_are_those_of_autograd_also_before_the_trainer_clips(way: str, tmp_path: Path) -> None:
    net = model()
    tokens = torch.stack([row["input_ids"] for row in data(16)])
    watch = GradscopeCallback()
    run = trainer(tmp_path, watch, net=net, max_grad_norm=0.01, max_steps=1, **WAYS[way])
    order = torch.cat([batch["input_ids"] for batch in run.get_train_dataloader()])  # as the trainer's seed shuffles
    assert sorted(map(tuple, order.tolist())) == sorted(map(tuple, tokens.tolist()))
    logits = net(order[:4]).logits[:, :-1]
    loss = nn.functional.cross_entropy(logits.reshape(-1, 32), order[:4, 1:].reshape(-1), reduction="sum") / 32
    grads = dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters())), strict=True))
    total = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads.values()])).item()
    run.train()
    trace = watch.scope.trace
    for name, grad in grads.items():
        norm, owner = grad.norm().item(), name
        np.testing.assert_allclose(trace.series(owner, "weight_grad", "l2_norm")[0], norm, rtol=1e-4, atol=1e-9)
        applied = trace.series(owner, "applied_grad", "l2_norm")[0]
        np.testing.assert_allclose(applied, norm * 0.01 / total, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(trace.series("", "total_norm", "l2_norm", name="raw")[0], total, rtol=1e-4)
    np.testing.assert_allclose(trace.per_step["loss"][0], loss.item(), rtol=1e-3)


class ScaledTrainer(Trainer):
    """fp16's scaler without the accelerator that fp16 asks for."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)


def test_gradients_of_a_scaled_loss_are_unscaled(tmp_path: Path) -> None:
    traces = []
    for kind in (Trainer, ScaledTrainer):
        watch = GradscopeCallback()
        run = trainer(tmp_path, watch, max_grad_norm=0.0)  # Accelerate unscales for the clip in fp16 only
        kind(run.model, run.args, train_dataset=data(), callbacks=[watch]).train()
        traces.append(watch.scope.trace)
    plain, scaled = traces
    assert set(scaled.per_step["loss_scale"]) == {1024.0}
    for quantity in ("output_grad", "weight_grad", "applied_grad"):
        expected = plain.series("transformer.h.0.mlp.c_fc", quantity, "l2_norm")
        np.testing.assert_allclose(
            scaled.series("transformer.h.0.mlp.c_fc", quantity, "l2_norm"), expected, rtol=1e-3, err_msg=quantity
        )


def test_a_resumed_training_goes_on_counting(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    watch = GradscopeCallback(trace=tmp_path / "run.h5")
    trainer(tmp_path, watch).train(resume_from_checkpoint=True)
    trace = gradscope.read_trace(tmp_path / "run.h5")
    assert trace.steps.tolist() == [2, 3]
    assert not np.isnan(trace.per_step["loss"]).any()


def test_checkpoints_hold_nothing_of_it(tmp_path: Path) -> None:
    trainer(tmp_path, GradscopeCallback(), save_strategy="steps", save_steps=2).train()
    saved = tmp_path / "checkpoint-4"
    assert "gradscope" not in (saved / "trainer_state.json").read_text().lower()
    again = GPT2LMHeadModel.from_pretrained(saved)
    assert hooks_of(again) == 0


def test_after_a_training_that_raised_the_next_one_records(tmp_path: Path) -> None:
    class Fails(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **more):
            if state.global_step == 2:
                raise RuntimeError("stop")

    watch, net = GradscopeCallback(), model()
    with pytest.raises(RuntimeError, match="stop"):
        trainer(tmp_path, watch, Fails(), net=net).train()
    assert watch.scope.trace.steps.tolist() == [0, 1]
    assert hooks_of(net) > 0
    stopped = watch.scope
    trainer(tmp_path, watch, net=net).train()
    assert watch.scope is not stopped
    assert watch.scope.trace.steps.tolist() == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="stop"):
        trainer(tmp_path, watch, Fails(), net=net).train()
    watch.detach()
    assert hooks_of(net) == 0


def test_findings_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    followed: list[gradscope.Scope] = []
    watch = GradscopeCallback(follow=followed.append, meta={"seed": 0})
    assert watch.diagnosis is None
    net = model()
    for block in net.transformer.h:
        nn.init.constant_(block.mlp.c_fc.weight, float("nan"))
    with caplog.at_level(logging.WARNING, "gradscope"):
        trainer(tmp_path, watch, net=net).train()
    assert "GS401 non-finite at transformer.h.0.mlp.c_fc" in caplog.text
    assert watch.diagnosis.codes >= {"GS401"}
    assert followed == [watch.scope]
    assert watch.scope.trace.meta["seed"] == 0
