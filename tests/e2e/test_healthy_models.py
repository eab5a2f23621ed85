"""What `assert_healthy` says, with its defaults, of small models as people write them, and of the same with a fault."""

from collections.abc import Callable

import pytest
import torch
from small_models import (
    GPT,
    VAE,
    ActorCritic,
    Autocast,
    Autoencoder,
    BagOfWords,
    ConvNet,
    Encoder,
    Factors,
    Generator,
    Highway,
    Recurrent,
    Siamese,
    UNet,
    Vision,
    WithHead,
    adapted,
    advantage,
    blobs,
    elbo,
    flat_images,
    fooling,
    grey_images,
    he,
    house_prices,
    images,
    masks,
    mlp,
    next_word,
    resnet,
    text,
    tokens,
    twins,
)
from torch import nn

import gradscope
from gradscope.findings import Severity

HEALTHY = {
    "mlp": {"model": mlp, "batch": blobs(), "loss": nn.CrossEntropyLoss},
    "deep mlp, he": {"model": lambda: he(mlp(depth=10)), "batch": blobs(), "loss": nn.CrossEntropyLoss},
    "mlp, tanh": {"model": lambda: mlp(act=nn.Tanh), "batch": blobs(), "loss": nn.CrossEntropyLoss},
    "mlp, sgd": {"model": mlp, "batch": blobs(), "loss": nn.CrossEntropyLoss, "optimizer": torch.optim.SGD, "lr": 0.1},
    "one layer": {"model": lambda: nn.Linear(10, 3), "batch": blobs(), "loss": nn.CrossEntropyLoss},
    "dropout": {
        "model": lambda: nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3)),
        "batch": blobs(),
        "loss": nn.CrossEntropyLoss,
    },
    "sigmoid at the end": {
        "model": lambda: nn.Sequential(mlp(outputs=1), nn.Sigmoid()),
        "batch": lambda: (lambda x, y: (x, y.eq(0).float()[:, None]))(*blobs()()),
        "loss": nn.BCELoss,
    },
    "cnn": {"model": ConvNet, "batch": images(), "loss": nn.CrossEntropyLoss},
    "lstm": {"model": Recurrent, "batch": tokens(), "loss": nn.CrossEntropyLoss},
    "gru": {"model": lambda: Recurrent(nn.GRU, pool=True), "batch": tokens(), "loss": nn.CrossEntropyLoss},
    "pre-norm": {"model": lambda: Encoder(True), "batch": tokens(), "loss": nn.CrossEntropyLoss},
    "post-norm": {"model": lambda: Encoder(False), "batch": tokens(), "loss": nn.CrossEntropyLoss},
    "gpt": {"model": GPT, "batch": text(), "loss": next_word, "optimizer": torch.optim.AdamW},
    "autoencoder": {"model": Autoencoder, "batch": flat_images, "loss": nn.MSELoss},
    "vae": {"model": VAE, "batch": grey_images, "loss": elbo},
    "siamese": {"model": Siamese, "batch": twins, "loss": nn.MSELoss},
    "generator": {
        "model": Generator,
        "batch": lambda: (torch.randn(16, 16), torch.ones(16)),
        "loss": fooling(),
        "lr": 2e-4,
    },
    "u-net": {"model": UNet, "batch": masks, "loss": nn.BCEWithLogitsLoss},
    "resnet": {"model": resnet, "batch": images(), "loss": nn.CrossEntropyLoss},
    "resnet, zero gamma": {"model": lambda: resnet(zero_init=True), "batch": images(), "loss": nn.CrossEntropyLoss},
    "bag of words": {"model": BagOfWords, "batch": tokens(words=1000), "loss": nn.CrossEntropyLoss},
    "unscaled targets": {"model": lambda: mlp(outputs=1), "batch": house_prices, "loss": nn.MSELoss},
    "bf16": {"model": lambda: Autocast(mlp(), torch.bfloat16), "batch": blobs(), "loss": nn.CrossEntropyLoss},
    "fp16": {"model": lambda: Autocast(mlp(), torch.float16), "batch": blobs(), "loss": nn.CrossEntropyLoss},
    "frozen backbone": {"model": WithHead, "batch": blobs(), "loss": nn.CrossEntropyLoss},
    "lora": {"model": adapted, "batch": blobs(), "loss": nn.CrossEntropyLoss},
    "vision": {"model": Vision, "batch": images(), "loss": nn.CrossEntropyLoss},
    "highway": {
        "model": lambda: nn.Sequential(nn.Linear(10, 32), *(Highway() for _ in range(5)), nn.Linear(32, 3)),
        "batch": blobs(),
        "loss": nn.CrossEntropyLoss,
    },
    "factors": {
        "model": Factors,
        "batch": lambda: ((torch.randint(200, (64,)), torch.randint(100, (64,))), 5 * torch.rand(64)),
        "loss": nn.MSELoss,
    },
    "actor and critic": {"model": ActorCritic, "batch": blobs(), "loss": advantage},
}


def changed(make: Callable[[], nn.Module], change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """A function that builds what `make` builds, and then does something to it."""

    def build() -> nn.Module:
        model = make()
        change(model)
        return model

    return build


def dead(layer: str) -> Callable[[nn.Module], object]:
    return lambda model: nn.init.constant_(model.get_submodule(layer).bias, -10)


def detached(layer: str) -> Callable[[nn.Module], object]:
    return lambda model: model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: output.detach()
    )


def zero_by_zero(layer: str) -> Callable[[nn.Module], object]:
    return lambda model: model.get_submodule(layer).register_forward_hook(lambda module, inputs, y: (y - y) / (y - y))


# What is broken in which of them, and what is to be said of it where.
FAULTS = {
    name: ({**HEALTHY[of], "model": changed(HEALTHY[of]["model"], change)}, code, module)
    for name, (of, change, code, module) in {
        "mlp, dead": ("mlp", dead("2"), "GS301", "3"),
        "mlp, exploding": ("deep mlp, he", lambda model: he(model, 4), "GS305", "0"),
        "mlp, vanishing": ("deep mlp, he", lambda model: he(model, 0.05), "GS304", "0"),
        "cnn, dead": ("cnn", dead("norm2"), "GS301", "norm2"),
        "cnn, nan": ("cnn", zero_by_zero("norm2"), "GS401", "norm2"),
        "u-net, detached": ("u-net", detached("down.0"), "GS103", "down.0"),
        "u-net, dead": ("u-net", dead("down.1.1"), "GS301", "down.1.2"),
        "vae, detached": ("vae", detached("mu"), "GS103", "mu"),
        "gpt, nan": ("gpt", zero_by_zero("blocks.1.fc"), "GS401", "blocks.1.fc"),
        "pre-norm, dead": ("pre-norm", dead("encoder.layers.1.linear1"), "GS301", "encoder.layers.1.linear1"),
        "post-norm, detached": ("post-norm", detached("embedding"), "GS103", "embedding"),
        "actor and critic, detached": ("actor and critic", detached("value"), "GS103", "value"),
        "siamese, detached": ("siamese", detached("tower.4"), "GS103", "tower.4"),
    }.items()
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_passes(name):
    gradscope.assert_healthy(**HEALTHY[name], fail_on="warning")


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_model_fails_for_what_is_wrong(name):
    case, code, module = FAULTS[name]
    with pytest.raises(gradscope.UnhealthyModel) as caught:
        gradscope.assert_healthy(**case)
    errors = [finding for finding in caught.value.diagnosis.roots if finding.severity is Severity.ERROR]
    assert [(finding.code, finding.module) for finding in errors] == [(code, module)]
