"""Watched models that are copied, traced, exported, and run in odd places."""

import copy
import io
import os
import pickle
import signal
import threading
import warnings

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode
from torch_models import beside, data, loss_of, small, squares, trained
from watching import Table, Training

RUNS = Table()


# ---------------------------------------------------------------- copies


def _train_a_while(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        loss_of(model, step + 50).backward()
        optimizer.step()
        optimizer.zero_grad()


@RUNS.add
def copies_are_trained() -> Training:
    return beside(lambda model, step: _train_a_while(copy.deepcopy(model)))


@RUNS.add
def saved_models_are_trained() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        _train_a_while(torch.load(file, weights_only=False))
        _train_a_while(pickle.loads(pickle.dumps(model)))

    return beside(act)


@RUNS.add
def an_average_of_the_weights_is_kept() -> Training:
    model = small()
    average = torch.optim.swa_utils.AveragedModel(model)

    def both(step: int) -> Tensor:
        average.update_parameters(model)
        with torch.no_grad():
            average(data(step, 3, 4))
        return loss_of(model, step)

    return trained(model, both)


@RUNS.add
def states_are_loaded() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    start = copy.deepcopy(model.state_dict())

    def both(step: int) -> Tensor:
        if step == 2:
            model.load_state_dict(start, assign=False)
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return loss_of(model, step)

    return trained(model, both, optimizer)


# ---------------------------------------------------------------- other ways to run a model


@RUNS.add
def the_model_is_traced() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            torch.jit.trace(copy.deepcopy(model).eval(), data(0, 3, 4))
            torch.jit.trace(model, data(0, 3, 4), check_trace=False)

    return beside(act)


@RUNS.add
def the_model_is_exported() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        if step == 1:
            torch.export.export(model.eval(), (data(0, 3, 4),)).module()(data(0, 3, 4))
            model.train()

    return beside(act)


@RUNS.add
def transforms_of_functions() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(given: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model, given, (x,)).square().mean()

        model.eval()
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, data(step, 3, 4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its rules are still written in TorchScript
            torch.func.jvp(lambda x: model(x), (data(step, 3, 4),), (data(step, 3, 4),))
        torch.func.jacrev(lambda x: model(x).sum())(data(step, 3, 4))
        model.train()

    return beside(act)


@RUNS.add
def other_parameters_are_called_with() -> Training:
    """`functional_call` with gradients, as in meta-learning: those of the other parameters count."""
    model = small()

    def both(step: int) -> Tensor:
        shifted = {name: p * 0.9 for name, p in model.named_parameters()}
        return torch.func.functional_call(model, shifted, (data(step, 3, 4),)).square().mean()

    return trained(model, both)


@RUNS.add
def fake_tensors_go_through_it() -> Training:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def act(model: nn.Sequential, step: int) -> None:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model(mode.from_tensor(data(step, 3, 4))).sum()

    return beside(act)


@RUNS.add
def operations_are_counted() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> str:
        with FlopCounterMode(display=False) as counter:
            optimizer.zero_grad()
            loss = loss_of(model, number)
            loss.backward()
            optimizer.step()
        return f"{counter.get_total_flops()} {loss.item().hex()}"

    return Training(model, [optimizer], step)


@RUNS.add
def other_devices_and_types_are_the_default() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        batch = data(number, 3, 4)
        with torch.device("meta"):
            torch.set_default_dtype(torch.float64)
            try:
                optimizer.zero_grad()
                loss = model(batch).square().mean()
                loss.backward()
                optimizer.step()
            finally:
                torch.set_default_dtype(torch.float32)
        return loss

    return Training(model, [optimizer], step)


@RUNS.add
def saved_tensors_are_moved() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return loss_of(model, step)

    return trained(model, both)


@RUNS.add
def deterministic_algorithms() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        torch.use_deterministic_algorithms(True)
        try:
            optimizer.zero_grad()
            loss = loss_of(model, number)
            loss.backward()
            optimizer.step()
        finally:
            torch.use_deterministic_algorithms(False)
        return loss

    return Training(model, [optimizer], step)


class _Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).relu()


@RUNS.add
def some_results_are_kept_by_a_checkpoint() -> Training:
    """What is computed beside the model must not be among them."""
    model = nn.Sequential(_Attending(), _Attending())
    aten = torch.ops.aten
    kept = [aten.addmm.default, aten.mm.default, aten.bmm.default, aten.clone.default, aten.relu.default]

    def keep() -> object:
        return create_selective_checkpoint_contexts(kept)

    def both(step: int) -> Tensor:
        x = data(step, 2, 5, 8)
        for part in model:
            x = checkpoint(part, x, use_reentrant=False, context_fn=keep)
        return x.square().mean()

    return trained(model, both)


# ---------------------------------------------------------------- threads, processes, signals


@RUNS.add
def another_thread_evaluates_it() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        def evaluate() -> None:
            with torch.no_grad():
                model[:2](data(step, 3, 4))

        thread = threading.Thread(target=evaluate)
        thread.start()
        thread.join()

    return beside(act)


@RUNS.add
def a_child_process_trains_it() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forking with threads
            child = os.fork()
        if child == 0:
            try:
                _train_a_while(model)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    return beside(act)


class _Batches(torch.utils.data.Dataset[Tensor]):
    """Its samples come from the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            self.model(data(index, 4))
        return data(index, 4)


@RUNS.add
def workers_that_load_data_hold_the_model() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (batch,) = torch.utils.data.DataLoader(_Batches(model), batch_size=4, num_workers=step % 2)
        return model(batch).square().mean()

    return trained(model, both)


@RUNS.add
def signals_interrupt_it() -> Training:
    model = small()
    model.insert(1, _Alarm())
    return squares(model, 3, 4)


class _Alarm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        before = signal.signal(signal.SIGUSR1, lambda *_: torch.rand(()))
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
        return x
