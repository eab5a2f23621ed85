"""Models that make data: autoencoders, flows, adversaries."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, case, generator, randn
from corpus.tasks import digit_images, digits, healthy, perceptron, squared
from torch import Tensor, nn


class Coder(nn.Module):
    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def themselves(step: int) -> tuple[Tensor, Tensor]:
    """Digits, to be given back."""
    x, _ = digits(step)
    return x, x


@case("h_autoencoder_bottleneck_of_four")
def _() -> Case:
    """Sixty-four pixels through four numbers: the loss cannot become small."""
    return healthy(
        build=lambda: Coder(
            perceptron(64, 64, 32, 4, activation=nn.SiLU), perceptron(4, 32, 64, 64, activation=nn.SiLU)
        ),
        batch=themselves, loss=squared, optimizer=adam(3e-3), steps=150,
    )  # fmt: skip


@case("h_denoising_convolutions")
def _() -> Case:
    """Down by strides, up by transposed convolutions."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, _ = digit_images(step, 48)
        return x + 0.5 * randn(*x.shape, step=step, salt=120), x

    return healthy(
        build=lambda: Coder(
            nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ELU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ELU()),
            nn.Sequential(nn.ConvTranspose2d(24, 16, 2, 2), nn.ELU(), nn.ConvTranspose2d(16, 1, 2, 2)),
        ),
        batch=batch, loss=squared, optimizer=adam(4e-3), steps=120,
    )  # fmt: skip


@case("h_linear_autoencoder_principal_axes")
def _() -> Case:
    """No activation at all: it learns what a principal component analysis gives."""
    return healthy(
        build=lambda: Coder(nn.Linear(64, 10, bias=False), nn.Linear(10, 64)),
        batch=themselves,
        loss=squared,
        optimizer=adam(5e-3),
        steps=150,
    )


class Variational(nn.Module):
    def __init__(self, latent: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.SiLU())
        self.mean, self.log_variance = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder = perceptron(latent, 64, 64, activation=nn.SiLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        code = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        kl = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return self.decoder(code), kl


@case("h_variational_autoencoder")
def _() -> Case:
    """The divergence from the prior is near zero at first, and grows as the code is used."""

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        again, kl = model(x)
        return F.mse_loss(again, x, reduction="sum") / len(x) / 2 + kl

    return healthy(build=Variational, batch=lambda s: digits(s)[0], loss=loss, optimizer=adam(3e-3), steps=200)


@case("h_variational_autoencoder_kl_warm_up")
def _() -> Case:
    """The weight of the divergence rises from zero; in the first step it weighs nothing."""

    def loss(model: nn.Module, data: tuple[Tensor, int]) -> Tensor:
        x, step = data
        again, kl = model(x)
        return F.mse_loss(again, x) + min(step / 100, 1.0) * kl / 640

    return healthy(
        build=lambda: Variational(12), batch=lambda s: (digits(s)[0], s), loss=loss, optimizer=adam(3e-3), steps=120
    )


class Quantized(nn.Module):
    """The nearest of sixteen vectors; gradients go straight through."""

    def __init__(self, groups: int = 6, width: int = 8, book: int = 16) -> None:
        super().__init__()
        self.encoder = perceptron(64, 64, groups * width, activation=nn.SiLU)
        self.codebook = nn.Embedding(book, width)
        self.decoder, self.shape = perceptron(groups * width, 64, 64, activation=nn.SiLU), (groups, width)
        nn.init.normal_(self.codebook.weight, std=0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).unflatten(1, self.shape)
        nearest = torch.cdist(z.detach().flatten(0, 1), self.codebook.weight.detach()).argmin(1)
        q = self.codebook(nearest).view_as(z)
        commitment = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        return self.decoder((z + (q - z).detach()).flatten(1)), commitment


@case("h_vector_quantized_straight_through")
def _() -> Case:
    """A choice by argmin in the middle, and the encoder learns all the same."""

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        again, commitment = model(x)
        return F.mse_loss(again, x) + commitment

    return healthy(build=Quantized, batch=lambda s: digits(s)[0], loss=loss, optimizer=adam(3e-3), steps=150)


def two_moons(step: int, count: int = 128) -> Tensor:
    """Points of two half circles."""
    angle = torch.pi * torch.rand(count, generator=generator(step, 121))
    upper = torch.arange(count) % 2 == 0
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return 2 * (torch.stack([x - 0.5, y - 0.25], 1) + 0.05 * randn(count, 2, step=step, salt=122))


class Coupling(nn.Module):
    def __init__(self, flip: bool, width: int = 32) -> None:
        super().__init__()
        self.net, self.flip = perceptron(1, width, width, 2, activation=nn.Tanh), flip
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.flip(1).chunk(2, 1) if self.flip else x.chunk(2, 1)
        scale, shift = self.net(kept).chunk(2, 1)
        scale = torch.tanh(scale)
        moved = moved * scale.exp() + shift
        return torch.cat([moved, kept] if self.flip else [kept, moved], 1), scale[:, 0]


class Flow(nn.Module):
    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(i % 2 == 1) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Negative log-likelihood, beyond that of the data under a normal of unit variance."""
        volume = torch.zeros(len(x))
        for coupling in self.couplings:
            x, more = coupling(x)
            volume = volume + more
        return ((x**2).sum(1) / 2 - volume).mean()


@case("h_normalising_flow_from_identity")
def _() -> Case:
    """Six couplings whose last layers are zero: the flow begins as the identity."""
    return healthy(build=Flow, batch=two_moons, loss=lambda m, x: m(x), optimizer=adam(3e-3), steps=150)


class Diffuser(nn.Module):
    """Guesses the noise that was added."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 32), nn.SiLU())
        self.inward, self.middle, self.outward = nn.Linear(2, 64), nn.Linear(64 + 32, 64), nn.Linear(64, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t * torch.pi * 2.0 ** torch.arange(4)
        time = self.time(torch.cat([waves.sin(), waves.cos()], 1))
        return self.outward(F.silu(self.middle(torch.cat([F.silu(self.inward(x)), time], 1))))


@case("h_denoising_diffusion_of_moons")
def _() -> Case:
    """Much of the loss can never go away: little noise cannot be told from the data."""

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        x, t = two_moons(step), torch.rand(128, 1, generator=generator(step, 123))
        noise = randn(128, 2, step=step, salt=124)
        return (1 - t).sqrt() * x + t.sqrt() * noise, t, noise

    return healthy(
        build=Diffuser, batch=batch, loss=lambda m, b: F.mse_loss(m(b[0], b[1]), b[2]), optimizer=adam(3e-3), steps=200
    )


class Adversaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = perceptron(4, 48, 48, 2, activation=nn.LeakyReLU)
        self.critic = perceptron(2, 48, 48, 1, activation=nn.LeakyReLU)


@case("h_adversaries_in_balance")
def _() -> Case:
    """Generator and critic learn in one step, each from its own loss; neither loss falls for long.

    The critic sees the forgery detached; the generator's loss takes the critic's weights as constants.
    """

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        true, noise = data
        forged = model.generator(noise)
        told = F.softplus(-model.critic(true)).mean() + F.softplus(model.critic(forged.detach())).mean()
        constants = {name: p.detach() for name, p in model.critic.named_parameters()}
        fooled = F.softplus(-torch.func.functional_call(model.critic, constants, (forged,))).mean()
        return told + fooled

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return 1.5 + 0.5 * randn(128, 2, step=step, salt=125), randn(128, 4, step=step, salt=126)

    return healthy(build=Adversaries, batch=batch, loss=loss, optimizer=adam(1e-3, betas=(0.5, 0.99)), steps=250)


@case("h_adversaries_in_turns")
def _() -> Case:
    """Critic and generator take turns, step by step; the one that waits has no gradient."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor, int]) -> Tensor:
        true, noise, step = data
        critics_turn = step % 2 == 0
        model.critic.requires_grad_(critics_turn)
        with torch.set_grad_enabled(not critics_turn):
            forged = model.generator(noise)
        if critics_turn:
            return F.softplus(-model.critic(true)).mean() + F.softplus(model.critic(forged)).mean()
        return F.softplus(-model.critic(forged)).mean()

    def batch(step: int) -> tuple[Tensor, Tensor, int]:
        return 0.5 * randn(128, 2, step=step, salt=127) - 1.0, randn(128, 4, step=step, salt=128), step

    return healthy(build=Adversaries, batch=batch, loss=loss, optimizer=adam(2e-3, betas=(0.0, 0.9)), steps=300)
