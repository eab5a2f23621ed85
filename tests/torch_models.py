"""Trainings of models written with torch alone: each function makes one, tiny, from the generator's state."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from watching import Training


def data(step: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of step `step`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(step), dtype=dtype)


def tokens(step: int, *shape: int) -> Tensor:
    """Token ids below 20."""
    return torch.randint(20, shape, generator=torch.Generator().manual_seed(step))


def trained(
    model: nn.Module, loss_of: Callable[[int], Tensor], optimizer: torch.optim.Optimizer | None = None
) -> Training:
    """A model and the loss of each step, with AdamW."""
    moved = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        moved.zero_grad()
        loss = loss_of(number)
        loss.backward()
        moved.step()
        return loss

    return Training(model, [moved], step)


def squares(model: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> Training:
    """Trained to give little for random inputs."""
    return trained(model, lambda step: model(data(step, *shape, dtype=dtype)).abs().square().mean())


def small() -> nn.Sequential:
    """What most of these train."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 2))


def loss_of(model: nn.Module, step: int) -> Tensor:
    """Of random numbers of this step."""
    return model(data(step, 3, 4)).square().mean()


def beside(act: Callable[[nn.Sequential, int], object]) -> Training:
    """A training that does something else before each step."""
    model = small()

    def both(step: int) -> Tensor:
        act(model, step)
        return loss_of(model, step)

    return trained(model, both)


def transformer() -> Training:
    model = nn.Transformer(16, 2, 2, 2, 24, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    return trained(model, lambda i: model(data(i, 2, 6, 16), data(i + 9, 2, 5, 16), tgt_mask=mask).square().mean())


def encoder_with_the_fast_path() -> Training:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)

    def loss_of(step: int) -> Tensor:
        model.eval()  # between the steps it runs as one fused operation; its modules are never called
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of nested tensors
            evaluated = model(data(step + 9, 2, 6, 16), src_key_padding_mask=torch.tensor([[False] * 6, [True] * 6]))
        model.train()
        return model(data(step, 2, 6, 16)).square().mean() + 0 * evaluated.sum()

    return trained(model, loss_of)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 4), (4, 8), (8, 8))])
        self.up = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, 2) for a, b in ((8, 8), (16, 4))])
        self.pool, self.act, self.head = nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down[:2]:
            x = self.act(down(x))
            skips.append(x)
            x = self.pool(x)
        x = self.act(self.down[2](x))
        for up in self.up:
            x = torch.cat([self.act(up(x)), skips.pop()], dim=1)
        return self.head(x)


class DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(4 + 4 * i) for i in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(4 + 4 * i, 4, 3, padding=1) for i in range(3)])
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        known = [x]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            known.append(conv(self.act(norm(torch.cat(known, 1)))).mul_(0.5))
        return torch.cat(known, 1).relu_()


def dense_net() -> Training:
    return squares(
        nn.Sequential(nn.Conv2d(1, 4, 3), DenseBlock(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 3)), 2, 1, 6, 6
    )


class Triplet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))

    def forward(self, anchor: Tensor, same: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.tower(anchor), self.tower(same), self.tower(other)


def triplet() -> Training:
    model = Triplet()
    return trained(model, lambda i: F.triplet_margin_loss(*model(data(i, 6, 5), data(i + 5, 6, 5), data(i + 9, 6, 5))))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = self.right = nn.Sequential(nn.Linear(5, 8), nn.Tanh())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.left(x) - self.right(y)).square().sum(-1)


def siamese() -> Training:
    model = Siamese()
    return trained(model, lambda i: model(data(i, 4, 5), data(i + 9, 4, 5)).mean())


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 12), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(12, 3), nn.Linear(12, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 12), nn.ReLU(inplace=True), nn.Linear(12, 8), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        return self.decoder(mean + torch.randn_like(mean) * (0.5 * log_variance).exp()), mean, log_variance


def vae() -> Training:
    model = VAE()

    def loss_of(step: int) -> Tensor:
        x = data(step, 4, 8).sigmoid()
        made, mean, log_variance = model(x)
        return F.binary_cross_entropy(made, x) - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()

    return trained(model, loss_of)


def gan() -> Training:
    model = nn.ModuleDict(
        {
            "generator": nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2, inplace=True), nn.Linear(8, 4)),
            "critic": nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(8, 1)),
        }
    )
    generator, critic = model["generator"], model["critic"]
    makes, judges = (torch.optim.Adam(part.parameters(), lr=1e-2) for part in (generator, critic))

    def step(number: int) -> Tensor:
        made, ones = generator(data(number, 5, 3)), torch.ones(5, 1)
        judges.zero_grad()
        loss = F.binary_cross_entropy_with_logits(critic(data(number + 9, 5, 4)), ones)
        loss = loss + F.binary_cross_entropy_with_logits(critic(made.detach()), 0 * ones)
        loss.backward()
        judges.step()
        makes.zero_grad()
        fooled = F.binary_cross_entropy_with_logits(critic(made), ones)
        fooled.backward()
        makes.step()
        return loss.detach() + fooled.detach()

    return Training(model, [judges, makes], step, recorded=2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 20)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(ids))[0])


def tied_embedding() -> Training:
    model = Tied()
    return trained(model, lambda i: F.cross_entropy(model(tokens(i, 2, 6)).flatten(0, 1), tokens(i + 9, 12)))


class Loose(nn.Module):
    """Parameters in lists and dictionaries, without modules around them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ParameterList([nn.Parameter(0.3 * torch.randn(6, 6)) for _ in range(3)])
        self.more = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(6)), "scale": nn.Parameter(torch.ones(()))})

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.layers:
            x = torch.tanh(x @ weight + self.more["bias"])
        return x * self.more["scale"]


def parametrized() -> Training:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 6)),
        nn.Tanh(),
        parametrizations.spectral_norm(nn.Linear(6, 6)),
        nn.Tanh(),
        parametrizations.orthogonal(nn.Linear(6, 6)),
    )
    return squares(model, 4, 6)


def normed_by_hooks() -> Training:
    from torch.nn.utils import spectral_norm

    return squares(nn.Sequential(spectral_norm(nn.Linear(6, 6)), nn.Tanh(), spectral_norm(nn.Conv1d(4, 2, 3))), 4, 6)


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def adapters() -> Training:
    model = nn.Sequential(LoRA(nn.Linear(6, 8)), nn.ReLU(), LoRA(nn.Linear(8, 3)))
    trainable = [p for p in model.parameters() if p.requires_grad]
    loss = lambda i: model(data(i, 4, 6)).square().mean()  # noqa: E731
    return trained(model, loss, torch.optim.AdamW(trainable))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True, kdim=6, vdim=6)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        y, weights = self.attend(query=x, key=memory, value=memory, average_attn_weights=False)
        return y.square().mean() + weights.square().mean()


def attention() -> Training:
    model = Attention()
    return trained(model, lambda i: model(data(i, 2, 5, 8), memory=data(i + 9, 2, 4, 6)))


def sparse_bag() -> Training:
    model = nn.Sequential(nn.EmbeddingBag(20, 6, sparse=True, mode="sum"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return trained(model, lambda i: model(tokens(i, 3, 4)).square().mean(), optimizer)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(5, 5, dtype=torch.complex64)
        self.phase = nn.Parameter(torch.randn(5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.ifft(torch.fft.fft(self.mix(x.to(torch.complex64))) * self.phase)


def sixteen_bits() -> Training:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)).to(torch.bfloat16)
    return squares(model, 4, 6, dtype=torch.bfloat16)


def channels_last() -> Training:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(inplace=True), nn.Conv2d(8, 2, 3))
    model = model.to(memory_format=torch.channels_last)
    return trained(model, lambda i: model(data(i, 2, 3, 8, 8).to(memory_format=torch.channels_last)).square().mean())


def empty_batch() -> Training:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return trained(model, lambda i: model(data(i, 4 * (i % 2), 6)).square().sum())


class Routed(nn.Module):
    """Experts that run only sometimes."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({name: nn.Linear(6, 6) for name in ("even", "odd", "never")})
        self.head = nn.Linear(6, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.experts["odd" if self.calls % 2 else "even"](x).relu())


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.value, self.policy = nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(8, 4)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.trunk(x).tanh()
        return self.value(h.detach()).mean(), {"policy": self.policy(h) / self.temperature, "free": x}


def heads() -> Training:
    model = Heads()

    def loss_of(step: int) -> Tensor:
        value, more = model(data(step, 4, 6))
        return value.square() + F.cross_entropy(more["policy"], torch.tensor([0, 1, 2, 3]))

    return trained(model, loss_of)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Tanh()) for _ in range(2)])
        self.rest = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return checkpoint_sequential(self.rest, 2, x, use_reentrant=self.reentrant)


def convolutional_net() -> Training:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same", padding_mode="reflect"),
        nn.InstanceNorm2d(4, affine=True),
        nn.PReLU(),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.GroupNorm(2, 4),
        nn.Hardswish(inplace=True),
        nn.PixelShuffle(2),
        nn.AdaptiveMaxPool2d(3),
        nn.Flatten(),
        nn.Linear(9, 2),
    )
    return squares(model, 2, 1, 6, 6)


MODELS: dict[str, Callable[[], Training]] = {
    "nn.Transformer": transformer,
    "the encoder's fast path between the steps": encoder_with_the_fast_path,
    "U-Net": lambda: squares(UNet(), 2, 1, 8, 8),
    "DenseNet": dense_net,
    "triplets through one tower": triplet,
    "Siamese towers that are one module": siamese,
    "VAE": vae,
    "GAN with two optimizers": gan,
    "tied embedding": tied_embedding,
    "ParameterList and ParameterDict": lambda: squares(Loose(), 4, 6),
    "parametrizations": parametrized,
    "norms by forward pre-hooks": normed_by_hooks,
    "LoRA on a frozen base": adapters,
    "nn.MultiheadAttention": attention,
    "sparse gradients": sparse_bag,
    "complex parameters": lambda: squares(Complex(), 3, 5),
    "float64": lambda: squares(nn.Sequential(nn.Linear(6, 4), nn.Softplus()).double(), 4, 6, dtype=torch.float64),
    "bfloat16": sixteen_bits,
    "channels_last": channels_last,
    "empty batches": empty_batch,
    "modules that run sometimes": lambda: squares(Routed(), 3, 6),
    "several heads and a detach": heads,
    "checkpoints, reentrant": lambda: squares(Checkpointed(reentrant=True), 3, 6),
    "checkpoints, not reentrant": lambda: squares(Checkpointed(reentrant=False), 3, 6),
    "rarer layers": convolutional_net,
}
