"""Sequence to sequence, alignments, tagging, convolutions over time."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, case, generator, randint, randn
from corpus.tasks import babble, healthy, next_word, squared
from torch import Tensor, nn


class Translator(nn.Module):
    """GRU encoder and decoder with additive attention, teacher forced."""

    def __init__(self, words: int = 10, width: int = 32) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(words, width), nn.Embedding(words + 1, width)
        self.encoder = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.decoder = nn.GRUCell(3 * width, width)
        self.query, self.key, self.energy = nn.Linear(width, width), nn.Linear(2 * width, width), nn.Linear(width, 1)
        self.out = nn.Linear(width, words)

    def forward(self, given: Tensor, wanted: Tensor) -> Tensor:
        memory, _ = self.encoder(self.source(given))
        keys, state, logits = self.key(memory), memory.new_zeros(len(given), self.decoder.hidden_size), []
        for before in self.target(F.pad(wanted[:, :-1], (1, 0), value=10)).unbind(1):
            looks = self.energy(torch.tanh(self.query(state)[:, None] + keys)).softmax(1)
            state = self.decoder(torch.cat([before, (looks * memory).sum(1)], 1), state)
            logits.append(self.out(state))
        return torch.stack(logits, 1)


@case("h_sequence_to_sequence_reversal")
def _() -> Case:
    """Five numbers are to be said backwards."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        given = randint(10, (64, 5), step=step, salt=90)
        return given, given.flip(1)

    return healthy(
        build=Translator,
        batch=batch,
        loss=lambda m, b: F.cross_entropy(m(*b).flatten(0, 1), b[1].flatten()),
        optimizer=adam(5e-3),
        steps=150,
    )


class Transcriber(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(6, 32, 3, padding=1)
        self.lstm, self.head = nn.LSTM(32, 24, batch_first=True, bidirectional=True), nn.Linear(48, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(F.gelu(self.front(x.mT)).mT)[0]).log_softmax(-1)


@case("h_ctc_of_four_letters")
def _() -> Case:
    """The loss works with −∞ inside; at first the blank wins everywhere."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        letters = 1 + randint(5, (32, 4), step=step, salt=91)
        x = 0.3 * randn(32, 16, 6, step=step, salt=92)
        x.scatter_add_(2, letters.repeat_interleave(4, 1)[:, :, None], torch.ones(32, 16, 1))
        x[:, ::4] = 0.3 * randn(32, 4, 6, step=step, salt=93)
        return x, letters

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        lengths = torch.full((32,), 16), torch.full((32,), 4)
        return F.ctc_loss(model(data[0]).transpose(0, 1), data[1], *lengths)

    return healthy(build=Transcriber, batch=batch, loss=loss, optimizer=adam(5e-3), steps=150)


class Tagger(nn.Module):
    """A linear chain: scores of tags and of transitions, normalised by the forward algorithm."""

    def __init__(self, words: int = 20, tags: int = 4) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(words, 16), nn.LSTM(16, 12, batch_first=True, bidirectional=True)
        self.emit, self.transition = nn.Linear(24, tags), nn.Parameter(torch.zeros(tags, tags))

    def forward(self, ids: Tensor, tags: Tensor) -> Tensor:
        scores = self.emit(self.lstm(self.embed(ids))[0])
        true = scores.gather(2, tags[..., None]).sum((1, 2)) + self.transition[tags[:, :-1], tags[:, 1:]].sum(1)
        total = scores[:, 0]
        for now in scores[:, 1:].unbind(1):
            total = torch.logsumexp(total[:, :, None] + self.transition, 1) + now
        return (torch.logsumexp(total, 1) - true).mean()


@case("h_conditional_random_field")
def _() -> Case:
    """A tag depends on its word and on the tag before; the transitions begin at zero."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        ids = randint(20, (32, 12), step=step, salt=94)
        tags = ids % 4
        tags[:, 1:] = torch.where(ids[:, :-1] < 5, tags[:, :-1], tags[:, 1:])
        return ids, tags

    return healthy(build=Tagger, batch=batch, loss=lambda m, b: m(*b), optimizer=adam(5e-3), steps=120)


class Causal(nn.Module):
    """A gated, dilated, causal convolution with a residual and a skip."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.filter_gate = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.skip, self.residual = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        signal, gate = self.filter_gate(F.pad(x, (self.dilation, 0))).chunk(2, 1)
        z = torch.tanh(signal) * torch.sigmoid(gate)
        return x + self.residual(z), self.skip(z)


class WaveNet(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.layers = nn.ModuleList(Causal(width, 2**i) for i in range(4))
        self.post1, self.post2 = nn.Conv1d(width, width, 1), nn.Conv1d(width, 20, 1)

    def forward(self, said: Tensor) -> Tensor:
        x, skips = self.embed(said).mT, []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self.post2(F.relu(self.post1(F.relu(sum(skips))))).mT


@case("h_wavenet_of_words")
def _() -> Case:
    """Gates of tanh and sigmoid; the last residual convolution leads nowhere, and is frozen."""

    def build() -> nn.Module:
        net = WaveNet()
        net.layers[-1].residual.requires_grad_(False)
        return net

    return healthy(build=build, batch=babble, loss=next_word, optimizer=adam(3e-3), steps=120)


class TemporalBlock(nn.Module):
    def __init__(self, fan_in: int, width: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv1 = nn.utils.parametrizations.weight_norm(nn.Conv1d(fan_in, width, 3, dilation=dilation))
        self.conv2 = nn.utils.parametrizations.weight_norm(nn.Conv1d(width, width, 3, dilation=dilation))
        self.match = nn.Conv1d(fan_in, width, 1) if fan_in != width else nn.Identity()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(F.relu(self.conv1(F.pad(x, (self.pad, 0)))))
        return F.relu(self.match(x) + self.dropout(F.relu(self.conv2(F.pad(y, (self.pad, 0))))))


@case("h_temporal_convolutions_adding_problem")
def _() -> Case:
    """The sum of two marked numbers of twenty; weights normalised."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        value = torch.rand(64, 20, generator=generator(step, 95))
        place = torch.rand(64, 20, generator=generator(step, 96)).topk(2, 1).indices
        marked = torch.zeros(64, 20).scatter_(1, place, 1.0)
        return torch.stack([value, marked], 1), (value * marked).sum(1, keepdim=True) - 1.0

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tcn = nn.Sequential(*(TemporalBlock(2 if i == 0 else 24, 24, 2**i) for i in range(3)))
            self.head = nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.tcn(x)[..., -1])

    return healthy(build=Model, batch=batch, loss=squared, optimizer=adam(4e-3), steps=120)


@case("h_conv1d_max_over_time")
def _() -> Case:
    """Only the moment of the maximum gets a gradient."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.conv = nn.Embedding(12, 24), nn.Conv1d(24, 48, 3)
            self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(48, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.fc(self.dropout(F.relu(self.conv(self.embed(ids).mT)).amax(2)))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        ids = randint(12, (64, 16), step=step, salt=97)
        return ids, ((ids[:, :-1] < 3) & (ids[:, 1:] > 8)).any(1).long()

    return healthy(
        build=Model, batch=batch, loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]), optimizer=adam(4e-3), steps=150
    )
