"""Small models as people write them, and data for them: what a gate meets with in a test suite.

Data are drawn from the generator of the process, which the check seeds.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ---------------------------------------------------------------- data


def blobs(features: int = 10, classes: int = 3, rows: int = 64) -> Callable[[], tuple[Tensor, Tensor]]:
    """Points around a centre for each class."""

    def batch() -> tuple[Tensor, Tensor]:
        centres = 2 * torch.randn(classes, features, generator=torch.Generator().manual_seed(0))
        y = torch.randint(classes, (rows,))
        return centres[y] + torch.randn(rows, features), y

    return batch


def images(channels: int = 1, size: int = 12, classes: int = 4, rows: int = 16) -> Callable[[], tuple[Tensor, Tensor]]:
    """Noise with a bright patch, whose corner is the class."""

    def batch() -> tuple[Tensor, Tensor]:
        x, y = 0.3 * torch.randn(rows, channels, size, size), torch.randint(classes, (rows,))
        half = size // 2
        for image, label in zip(x, y.tolist(), strict=True):
            image[:, half * (label // 2) :, half * (label % 2) :][:, :half, :half] += 1
        return x, y

    return batch


def tokens(length: int = 16, words: int = 30, classes: int = 2, rows: int = 16) -> Callable[[], tuple[Tensor, Tensor]]:
    """Sequences of words; the class is which half of the words is the more frequent."""

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randint(words, (rows, length))
        return x, (x.lt(words // 2).float().mean(1) > 0.5).long().clamp(max=classes - 1)

    return batch


def text(length: int = 16, words: int = 30, rows: int = 8) -> Callable[[], tuple[Tensor, Tensor]]:
    """Words that count on from a random one; the target is the next."""

    def batch() -> tuple[Tensor, Tensor]:
        x = (torch.randint(words, (rows, 1)) + torch.arange(length + 1)) % words
        return x[:, :-1], x[:, 1:]

    return batch


def next_word(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


# ---------------------------------------------------------------- models


def mlp(depth: int = 4, outputs: int = 3, act: type[nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(10, 32), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(32, 32), act()]
    return nn.Sequential(*layers, nn.Linear(32, outputs))


def he(model: nn.Module, scale: float = 1.0) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.data.mul_(scale)
    return model


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv3, self.norm3 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.relu(self.norm3(self.conv3(x)))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, pool: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.rnn = kind(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.embedding(x))
        return self.head(y.mean(1) if self.pool else y[:, -1])


class Encoder(nn.Module):
    def __init__(self, norm_first: bool, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 32)
        self.position = nn.Parameter(0.02 * torch.randn(16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(x) + self.position).mean(1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads
        for linear in (self.qkv, self.proj, self.fc, self.out):  # as nanoGPT does
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        for linear in (self.proj, self.out):
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * layers))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.ln1(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.out(F.gelu(self.fc(self.ln2(x))))


class GPT(nn.Module):
    def __init__(self, layers: int = 3, width: int = 32) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(30, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList([Block(width, 4, layers) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 30, bias=False)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x) + self.positions(torch.arange(x.shape[1]))
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y))


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 144))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.mu, self.logvar = nn.Linear(144, 64), nn.Linear(64, 8), nn.Linear(64, 8)
        self.fc3, self.fc4 = nn.Linear(8, 64), nn.Linear(64, 144)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def elbo(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
    x, mu, logvar = outputs
    return F.binary_cross_entropy(x, targets, reduction="sum") - 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum()


def flat_images() -> tuple[Tensor, Tensor]:
    x, _ = images()()
    x = x.flatten(1)
    return x, x


def grey_images() -> tuple[Tensor, Tensor]:
    x, _ = images()()
    x = x.flatten(1).clamp(0, 1)
    return x, x


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = mlp(outputs=8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(self.tower(a), self.tower(b))


def twins() -> tuple[tuple[Tensor, Tensor], Tensor]:
    x, y = blobs()()
    return (x, x.roll(1, 0)), (y == y.roll(1, 0)).float() * 2 - 1


class Generator(nn.Module):
    """DCGAN's, against a discriminator that is not trained here."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
            nn.ConvTranspose2d(16, 1, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z[:, :, None, None])


def fooling() -> Callable[[Tensor, Tensor], Tensor]:
    torch.manual_seed(1)
    judge = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(32 * 16, 1),
    ).requires_grad_(False)  # fmt: skip
    return lambda outputs, targets: F.binary_cross_entropy_with_logits(judge(outputs).squeeze(1), targets)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([self.block(1, 8), self.block(8, 16), self.block(16, 16)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.merge = nn.ModuleList([self.block(32, 16), self.block(16, 8)])
        self.head = nn.Conv2d(8, 1, 1)

    @staticmethod
    def block(channels: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, down in enumerate(self.down):
            x = down(x if not i else F.max_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        return self.head(x)


def masks() -> tuple[Tensor, Tensor]:
    x, _ = images()()
    return x, (x > 0.5).float()


class Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet(zero_init: bool = False) -> nn.Module:
    blocks = [Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 16, 1), Residual(16, 32, 2)]
    if zero_init:
        for block in blocks:
            nn.init.zeros_(block.bn2.weight)
    stem = (nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


class BagOfWords(nn.Module):
    def __init__(self, words: int = 1000) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(words, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.embedding(x).mean(1))


def house_prices() -> tuple[Tensor, Tensor]:
    """Targets of some hundred thousand, as they stand in a table."""
    x = torch.randn(64, 10)
    return x, 200_000 + 50_000 * x[:, :1] + 10_000 * torch.randn(64, 1)


class Autocast(nn.Module):
    def __init__(self, body: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.body, self.dtype = body, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=self.dtype):
            return self.body(x).float()


class WithHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = mlp(outputs=16, depth=5).requires_grad_(False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = (
            nn.Linear(base.in_features, rank, bias=False),
            nn.Linear(rank, base.out_features, bias=False),
        )
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def adapted() -> nn.Module:
    model = mlp(depth=5)
    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.Linear):
            setattr(model, name, LoRA(layer))
    return model


class Vision(nn.Module):
    """A transformer of patches with a token for the class and a head that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, 32, 4, 4), nn.Parameter(torch.zeros(1, 1, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.encoder(torch.cat([self.token.expand(len(x), -1, -1), x], 1))[:, 0])


class Highway(nn.Module):
    """Its gates are almost closed at first, on purpose (Srivastava et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.gate = nn.Linear(32, 32), nn.Linear(32, 32)
        nn.init.constant_(self.gate.bias, -3)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return t * F.relu(self.hidden(x)) + (1 - t) * x


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(200, 8), nn.Embedding(100, 8)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.users(users) * self.items(items)).sum(1)


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(mlp(outputs=32, act=nn.Tanh), nn.Tanh())
        self.policy, self.value = nn.Linear(32, 3), nn.Linear(32, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.policy(h), self.value(h)


def advantage(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    logits, value = outputs
    returns = torch.randn(len(logits))
    log_p = logits.log_softmax(1).gather(1, targets[:, None])
    return F.mse_loss(value[:, 0], returns) - (log_p[:, 0] * (returns - value[:, 0].detach())).mean()
