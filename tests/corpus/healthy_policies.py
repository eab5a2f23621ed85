"""Learning by reward: targets that are copies, advantages that are constants."""

import copy

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, case, generator, randint, randn
from corpus.tasks import healthy, perceptron
from torch import Tensor, nn


def walks(step: int, count: int = 128) -> tuple[Tensor, ...]:
    """Steps on a ring of eight places: state, action, reward, next state; place 0 pays."""
    place, action = randint(8, (count,), step=step, salt=180), randint(2, (count,), step=step, salt=181)
    after = (place + 2 * action - 1) % 8
    seen = [F.one_hot(p, 8).float() + 0.05 * randn(count, 8, step=step, salt=182) for p in (place, after)]
    return seen[0], action, (after == 0).float(), seen[1]


class DeepQ(nn.Module):
    def __init__(self, *, dueling: bool = False) -> None:
        super().__init__()
        self.online = Dueling() if dueling else perceptron(8, 48, 48, 2, activation=nn.SiLU)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.online(x)


class Dueling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.value, self.advantage = nn.Linear(8, 48), nn.Linear(48, 1), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.features(x))
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(1, keepdim=True)


def temporal_difference(model: DeepQ, data: tuple[Tensor, ...]) -> Tensor:
    """Double Q-learning with a discount of 0.7."""
    seen, action, reward, after = data
    with torch.no_grad():
        best = model.online(after).argmax(1, keepdim=True)
        wanted = reward + 0.7 * model.target(after).gather(1, best)[:, 0]
    return F.smooth_l1_loss(model(seen).gather(1, action[:, None])[:, 0], wanted)


@case("h_q_learning_hard_target")
def _() -> Case:
    """The target is copied every forty steps, and each time the loss rises a little."""

    def sync(model: DeepQ, step: int) -> None:
        if step % 40 == 39:
            model.target.load_state_dict(model.online.state_dict())

    return healthy(build=DeepQ, batch=walks, loss=temporal_difference, optimizer=adam(2e-3), steps=250, after_step=sync)


@case("h_q_learning_dueling_soft_target")
def _() -> Case:
    """The target follows slowly."""

    @torch.no_grad()
    def follow(model: DeepQ, step: int) -> None:
        for slow, fast in zip(model.target.parameters(), model.online.parameters(), strict=True):
            slow.lerp_(fast, 0.03)

    return healthy(
        build=lambda: DeepQ(dueling=True),
        batch=walks,
        loss=temporal_difference,
        optimizer=adam(2e-3),
        steps=250,
        after_step=follow,
    )


def contexts(step: int, count: int = 128) -> tuple[Tensor, Tensor]:
    """What is seen, and what each of four actions would pay."""
    x = randn(count, 6, step=step, salt=183)
    return x, torch.tanh(x @ randn(6, 4, salt=184)) + 0.1 * randn(count, 4, step=step, salt=185)


@case("h_reinforce_with_baseline")
def _() -> Case:
    """The loss of a policy gradient says little; what it earns rises."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        policy = torch.distributions.Categorical(logits=model(data[0]))
        action = policy.sample()
        paid = data[1].gather(1, action[:, None])[:, 0]
        return -((paid - paid.mean()) * policy.log_prob(action)).mean()

    return healthy(
        build=lambda: perceptron(6, 48, 4, activation=nn.Tanh),
        batch=contexts,
        loss=loss,
        optimizer=adam(5e-3),
        steps=250,
    )


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(6, 64), nn.Tanh())
        self.policy, self.value = nn.Linear(64, 4), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.policy(self.shared(x))

    def loss(self, x: Tensor, pays: Tensor) -> Tensor:
        h = self.shared(x)
        policy, value = torch.distributions.Categorical(logits=self.policy(h)), self.value(h)[:, 0]
        action = policy.sample()
        paid = pays.gather(1, action[:, None])[:, 0]
        advantage = (paid - value).detach()
        gained = (advantage * policy.log_prob(action)).mean() + 0.01 * policy.entropy().mean()
        return F.mse_loss(value, paid) / 2 - gained


@case("h_actor_critic_constant_advantage")
def _() -> Case:
    """The advantage is a constant for the actor; an entropy bonus; what it earns rises."""
    return healthy(build=ActorCritic, batch=contexts, loss=lambda m, b: m.loss(*b), optimizer=adam(5e-3), steps=250)


class Proximal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = perceptron(6, 48, 4, activation=nn.Tanh)
        self.old = copy.deepcopy(self.actor).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.actor(x)


@case("h_proximal_policy_clipped_ratio")
def _() -> Case:
    """Samples beyond the clipped ratio give nothing; in the first of four epochs all ratios are one."""

    def loss(model: Proximal, data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, pays, luck = data
        with torch.no_grad():
            old = model.old(x).log_softmax(1)
            action = (old + luck).argmax(1, keepdim=True)
        paid = pays.gather(1, action)[:, 0]
        gain = (paid - paid.mean()) / (paid.std() + 1e-6)
        ratio = (model(x).log_softmax(1) - old).gather(1, action)[:, 0].exp()
        return -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        luck = -torch.log(-torch.log(torch.rand(128, 4, generator=generator(step // 4, 186)).clamp(1e-6, 1 - 1e-6)))
        return *contexts(step // 4), luck

    def sync(model: Proximal, step: int) -> None:
        if step % 4 == 3:
            model.old.load_state_dict(model.actor.state_dict())

    return healthy(build=Proximal, batch=batch, loss=loss, optimizer=adam(3e-3), steps=240, after_step=sync)


@case("h_behaviour_cloning_bounded_actions")
def _() -> Case:
    """A tanh at the output bounds the actions, and the expert's lie well within."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = randn(96, 6, step=step, salt=187)
        return x, 0.8 * torch.tanh(x @ randn(6, 2, salt=188) / 2)

    return healthy(
        build=lambda: nn.Sequential(perceptron(6, 48, 48, 2, activation=nn.SiLU), nn.Tanh()),
        batch=batch,
        loss=lambda m, b: F.mse_loss(m(b[0]), b[1]),
        optimizer=adam(2e-3),
        steps=150,
    )
