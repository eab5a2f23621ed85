import torch
from checksum import seed, show
from torch import nn


def train():
    generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    critic = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(), nn.Linear(16, 1))
    of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3)
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
    for _ in range(5):
        noise, real = torch.randn(8, 4), torch.randn(8, 2)
        of_critic.zero_grad()
        loss = critic(generator(noise).detach()).mean() - critic(real).mean()
        loss.backward()
        of_critic.step()
        of_generator.zero_grad()
        other = -critic(generator(noise)).mean()
        other.backward()
        of_generator.step()
        print(repr(loss.item()), repr(other.item()))
    show(generator, critic)


seed()
train()
