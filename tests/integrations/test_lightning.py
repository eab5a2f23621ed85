"""Lightning's own trainer, in all the ways in which it steps."""

import logging
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope

with warnings.catch_warnings():  # what it says of other packages while it is imported
    warnings.simplefilter("ignore")
    import pytorch_lightning
    from lightning import pytorch as lightning
    from lightning.pytorch.plugins.precision import MixedPrecision

    from gradscope.integrations.lightning import GradscopeCallback

pytestmark = [
    # Lightning 2.6 asks torch 2.13 for what that calls deprecated
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    # a tiny loader needs no workers, a tiny run no progress bar, and no logger is wanted
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty"),
]


class Net(lightning.LightningModule):
    def __init__(self, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 1)
        self.kind = optimizer

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self.head(self.encoder(x)), y)

    def validation_step(self, batch, batch_idx):
        with torch.enable_grad():  # an evaluation that computes gradients is not training either
            x = batch[0].clone().requires_grad_()
            torch.autograd.grad(self.head(self.encoder(torch.cat([x, x]))).sum(), x)

    def configure_optimizers(self):
        return self.kind(self.parameters(), lr=0.05)


class Adversaries(Net):
    """Two optimizers, moved by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        first.step()
        second.step()
        first.zero_grad()
        second.zero_grad()
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.encoder.parameters(), lr=0.1), torch.optim.Adam(self.head.parameters(), lr=0.01)


def data(batches: int = 4) -> DataLoader:
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(4 * batches, 4), torch.randn(4 * batches, 1)), batch_size=4)


def trainer(*callbacks: object, package: object = lightning, **options: object):
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, **options}
    return package.Trainer(  # type: ignore[attr-defined]
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fitted(net: lightning.LightningModule, *callbacks: object, batches: int = 4, **options: object):
    trainer(*callbacks, **options).fit(net, data(batches), data(1))
    return net


def hooks_of(module: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in module.modules()
    ) + sum(len(p._post_accumulate_grad_hooks or ()) for p in module.parameters())


WAYS = {
    "plain": (Net, {}),
    "accumulation": (Net, {"accumulate_grad_batches": 2}),
    "clipping": (Net, {"gradient_clip_val": 0.1}),
    "closures": (lambda: Net(torch.optim.LBFGS), {}),
    "manual, two optimizers": (Adversaries, {}),
    "bf16": (Net, {"precision": "bf16-mixed"}),
    "fp16 with a scaler": (
        Net,
        {"plugins": lambda: MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_training_is_bit_identical_and_every_step_is_recorded(way: str) -> None:
    build, options = WAYS[way]
    weights = []
    for watched in (False, True):
        torch.manual_seed(0)
        watch = GradscopeCallback()
        given = {name: value() if callable(value) else value for name, value in options.items()}
        net = fitted(build(), *[watch] * watched, **given)
        weights.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert hooks_of(net) == 0
    trace = watch.scope.trace
    assert not trace.events
    assert trace.steps.tolist() == list(range(8 if way != "accumulation" else 4))
    assert not np.isnan(trace.per_step["loss"]).any()
    for quantity in ("output_grad", "weight_grad", "applied_grad", "weight_update"):
        assert not np.isnan(trace.series("head", quantity, "l2_norm")).any(), quantity
    assert trace.series("encoder.0", "output", "numel").max() <= 2 * 32 * (25 if way == "closures" else 1)
    assert watch.diagnosis is not None


def by_hand(net: nn.Module, batches: list[list[torch.Tensor]]) -> tuple[float, torch.Tensor]:
    """The loss of one step over `batches`, and the gradient of the head's weight."""
    losses = [nn.functional.mse_loss(net.head(net.encoder(x)), y) for x, y in batches]
    loss = torch.stack(losses).mean()
    (gradient,) = torch.autograd.grad(loss, net.head.weight)
    return loss.item(), gradient


@pytest.mark.parametrize("way", ["plain", "accumulation", "fp16 with a scaler"])
def test_raw_and_applied_gradients_are_those_of_autograd(way: str) -> None:
    _, options = WAYS[way]
    torch.manual_seed(0)
    net = Net()
    batches = list(data())
    count = 2 if way == "accumulation" else 1
    loss, gradient = by_hand(net, batches[:count])
    watch = GradscopeCallback()
    given = {name: value() if callable(value) else value for name, value in options.items()}
    fitted(net, watch, gradient_clip_val=0.01, **given)
    trace, close = watch.scope.trace, {"rtol": 2e-2 if "fp16" in way else 1e-5}
    np.testing.assert_allclose(trace.per_step["loss"][0], loss, **close)
    np.testing.assert_allclose(
        trace.series("head.weight", "weight_grad", "l2_norm")[0], gradient.norm().item(), **close
    )
    np.testing.assert_allclose(trace.series("", "total_norm", "l2_norm", name="applied"), 0.01, rtol=1e-3)
    raw = trace.series("", "total_norm", "l2_norm", name="raw")
    assert (raw > 0.02).all()
    np.testing.assert_allclose(
        trace.series("head.weight", "applied_grad", "l2_norm")[0], gradient.norm().item() * 0.01 / raw[0], **close
    )


@pytest.mark.parametrize("package", [lightning, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
def test_evaluation_is_not_recorded(package) -> None:
    if package is pytorch_lightning:  # its own modules, with the callback of the other package
        kind = type("Other", (pytorch_lightning.LightningModule,), {k: v for k, v in vars(Net).items() if k[0] != "_"})

        def init(self) -> None:
            pytorch_lightning.LightningModule.__init__(self)
            self.encoder, self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 1)
            self.kind = torch.optim.SGD

        kind.__init__ = init  # type: ignore[misc]
    else:
        kind = Net
    watch = GradscopeCallback()
    fitted(kind(), watch, package=package, val_check_interval=2)
    trace = watch.scope.trace
    assert set(trace.series("encoder.0", "output", "numel")) == {32.0}, "a batch of four, eight units"
    assert len(trace.times.step) == 0


def test_loss_names_and_options_are_as_of_attach(tmp_path: Path) -> None:
    watch = GradscopeCallback(every=3, trace=tmp_path / "run.h5", meta={"seed": 5})
    fitted(Net(), watch)
    trace = gradscope.read_trace(tmp_path / "run.h5")
    assert trace.steps.tolist() == [0, 3, 6]
    assert trace.meta["seed"] == 5
    assert {site.module for site in trace.sites} == {"", "encoder.0", "encoder.1", "head"}


def test_what_is_called_outside_of_any_forward_is_said_not_to_be_seen() -> None:
    class Inline(Net):
        def training_step(self, batch, batch_idx):
            return nn.functional.mse_loss(self.head(torch.tanh(self.encoder(batch[0]))), batch[1])

    class Inside(Net):
        def forward(self, x):
            return self.head(torch.tanh(self.encoder(x)))

        def training_step(self, batch, batch_idx):
            return nn.functional.mse_loss(self(batch[0]), batch[1])

    for build, seen in ((Inline, False), (Inside, True)):
        watch = GradscopeCallback()
        fitted(build(), watch)
        trace = watch.scope.trace
        assert ("tanh#0" in {site.module for site in trace.sites}) is seen
        blind = {spot["module"]: spot["why"] for spot in trace.meta["blind_spots"]}
        assert ("training_step" in blind) is not seen
        assert seen or blind["training_step"].startswith("calls tanh outside of any module's forward")


def test_two_fits_are_two_recordings() -> None:
    watch = GradscopeCallback()
    assert watch.diagnosis is None
    assert watch.scope is None
    net, run = Net(), trainer(watch)
    run.fit(net, data(), data(1))
    first = watch.scope
    run.fit_loop.max_epochs = 3
    run.fit(net, data(), data(1))
    assert watch.scope is not first
    assert first.trace.steps.tolist() == list(range(8))
    assert watch.scope.trace.steps.tolist() == list(range(8, 12)), "numbered as the trainer does"
    assert hooks_of(net) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_training_that_is_stopped_is_detached_and_kept(error: type[BaseException]) -> None:
    class Stopped(Net):
        def on_train_batch_start(self, batch, batch_idx):
            if batch_idx == 3:
                raise error("stop")

    watch, net = GradscopeCallback(), Stopped()
    with pytest.raises((error, SystemExit)):
        fitted(net, watch)
    assert hooks_of(net) == 0
    assert watch.scope.trace.steps.tolist() == [0, 1, 2]
    assert [event.kind for event in watch.scope.trace.events] == ["interrupted"]
    fitted(Net(), watch)
    assert len(watch.scope.trace.steps) == 8


def test_checkpoints_hold_nothing_of_it_and_training_resumes_from_them(tmp_path: Path) -> None:
    watch = GradscopeCallback()
    run = trainer(watch, max_epochs=1)
    run.fit(Net(), data(), data(1))
    run.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert "gradscope" not in str(saved).lower()
    Net.load_from_checkpoint(tmp_path / "one.ckpt", weights_only=True)
    again = GradscopeCallback()
    trainer(again).fit(Net(), data(), data(1), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert again.scope.trace.steps.tolist() == [4, 5, 6, 7]
    assert pickle.loads(pickle.dumps(watch)).scope is None


def test_aggregates_go_to_the_trainers_logger_and_findings_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = lightning.loggers.CSVLogger(tmp_path)
    net = Net()
    nn.init.constant_(net.encoder[0].bias, -10.0)
    followed: list[gradscope.Scope] = []
    watch = GradscopeCallback(log=True, follow=followed.append)
    with caplog.at_level(logging.WARNING, "gradscope"):
        fitted(net, watch, logger=logger, batches=10, log_every_n_steps=1)
    rows = np.genfromtxt(Path(logger.log_dir) / "metrics.csv", delimiter=",", names=True, deletechars="")
    at_step = {int(row["step"]): row for row in rows if not np.isnan(row["gradscope/gradient_norm_raw"])}
    norms = watch.scope.trace.series("", "total_norm", "l2_norm", name="raw")
    np.testing.assert_allclose([at_step[step]["gradscope/gradient_norm_raw"] for step in range(20)], norms, rtol=1e-5)
    assert "GS301 dead-units at encoder.1" in caplog.text
    assert followed == [watch.scope]


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:3]
import warnings
warnings.simplefilter("ignore")
import torch
from test_lightning import Net, data, trainer, GradscopeCallback, hooks_of
weights = []
for watched in (False, True):
    torch.manual_seed(0)
    watch, net = GradscopeCallback(trace=sys.argv[3]), Net()
    run = trainer(*[watch] * watched, strategy="ddp", devices=2, max_epochs=1)
    run.fit(net, data())
    weights.append([p.detach().clone() for p in net.parameters()])
assert all(torch.equal(a, b) for a, b in zip(*weights))
assert hooks_of(net) == 0
trace = watch.scope.trace
print("rank", run.global_rank, "steps", len(trace.steps), "of", trace.meta["modules"]["head"], flush=True)
"""


@pytest.mark.slow
def test_two_processes_train_as_they_would_without_it(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    command = [sys.executable, str(script), str(here), str(here.parents[1]), str(tmp_path / "run.h5")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("rank")]
    assert sorted(said) == ["rank 0 steps 2 of Linear", "rank 1 steps 2 of Linear"], done.stdout
    ranks = [gradscope.read_trace(tmp_path / f"run.rank{rank}.h5") for rank in (0, 1)]
    outputs, gradients = ([t.series("head", q, "mean") for t in ranks] for q in ("output", "weight_grad"))
    assert not np.allclose(*outputs), "each has its own batches"
    np.testing.assert_allclose(*gradients, rtol=1e-6, err_msg="averaged over both")
