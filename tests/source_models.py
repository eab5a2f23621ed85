"""Models whose source says in `#: names` which modules are written in that line; `test_sources` compares."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):  #: only.class
    def __init__(self):
        super().__init__()
        self.conv: nn.Module = nn.Linear(4, 4)  #: conv
        self.a, self.b = nn.Linear(4, 4), nn.ReLU()  #: a b
        (self.c, self.d), self.e = make_two()  #: c d e

    def forward(self, x):
        return F.relu(self.b(self.a(self.conv(x))))


def make_two():
    return (nn.Tanh(), nn.Tanh()), nn.Tanh()


class ConvAct(nn.Sequential):  #: -
    def __init__(self):
        super().__init__(
            nn.Linear(4, 4),  #: 0
            nn.ReLU(),  #: 1
        )


class Plain(nn.Sequential):
    """A subclass without a word of its own: its children stand where it is made."""


class Net(nn.Module):
    def __init__(self, *, wide=True):
        super().__init__()
        self.body = nn.Sequential(  #: body
            nn.Linear(4, 4),  #: body.0
            nn.Sequential(  #: body.1
                nn.Linear(4, 4),  #: body.1.0
                nn.Tanh(),  #: body.1.1
            ),
            Block(),  #: body.2
        )
        self.named = nn.Sequential(  #: named
            OrderedDict(
                [
                    ("fc", nn.Linear(4, 4)),  #: named.fc
                    ("act", nn.ReLU()),  #: named.act
                ]
            )
        )
        self.blocks = nn.ModuleList(  #: blocks
            [Block() for _ in range(3)]  #: blocks.0 blocks.1 blocks.2
        )
        self.nested = nn.ModuleList(  #: nested
            nn.Sequential(  #: nested.0 nested.1
                nn.Linear(4, 4),  #: nested.0.0 nested.1.0
                nn.ReLU(),  #: nested.0.1 nested.1.1
            )
            for _ in range(2)
        )
        self.by_name = nn.ModuleDict(  #: by_name
            {
                "x": nn.Linear(4, 4),  #: by_name.x
                "y": ConvAct(),  #: by_name.y
            }
        )
        self.by_name["z"] = nn.Tanh()  #: by_name.z
        self.by_word = nn.ModuleDict(  #: by_word
            OrderedDict(
                x=nn.Linear(4, 4),  #: by_word.x
                y=nn.ReLU(),  #: by_word.y
            )
        )
        self.plain = Plain(  #: plain
            nn.Linear(4, 4),  #: plain.0
            nn.ReLU(),  #: plain.1
        )
        setattr(self, "weird name", nn.Linear(4, 4))  #: weird·name
        self.add_module("added", nn.Linear(4, 4))  #: added
        self.register_module(name="late", module=nn.Linear(4, 4))  #: late
        for i in range(2):
            self.add_module(f"layer{i}", nn.Linear(4, 4))  #: layer0 layer1
        for name, layer in {"p": nn.Linear(4, 4), "q": nn.ReLU()}.items():
            setattr(self, name, layer)  #: p q
        self._make_rest(wide)
        self.deep = self._make(2)  #: deep
        self.chosen = nn.ReLU() if wide else nn.GELU()  #: chosen
        if wide:
            self.either = nn.Linear(4, 4)  #: either
        else:
            self.either = nn.Tanh()

    def _make_rest(self, wide):
        self.grown = nn.ModuleList()  #: grown
        for _ in range(2):
            self.grown.append(nn.Linear(4, 4))  #: grown.0 grown.2
            self.grown.append(nn.ReLU())  #: grown.1 grown.3
        layers = [nn.Linear(4, 4)]  #: star.0
        for _ in range(2):
            layers += [
                nn.Linear(4, 4),  #: star.1 star.3
                nn.ReLU(),  #: star.2 star.4
            ]
        layers.append(nn.Tanh())  #: star.5
        self.star = nn.Sequential(*layers)  #: star
        conv = nn.Linear(4, 4)
        self.one = nn.Sequential(conv)  #: one one.0
        self.listed = nn.ModuleList(layers)  #: listed

    def _make(self, count):
        layers = []
        for _ in range(count):
            layers.append(Block())  #: deep.0 deep.1
        return nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


class Derived(Net):  #: .
    def __init__(self):
        super().__init__()
        self.named = nn.Linear(4, 4)  #: named!
        self.head = nn.Linear(4, 4)  #: head


def sequential():  #: factory
    net = nn.Sequential(
        nn.Linear(4, 4),  #: factory.0
        nn.ReLU(),  #: factory.1
    )
    torch.manual_seed(0)
    return net
