"""Recurrent nets that learn: fused, by hand, packed, carried from batch to batch."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, case, generator, randint, randn
from corpus.tasks import babble, cross_entropy, digit_rows, healthy, next_word, squared
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


class Reader(nn.Module):
    """Reads a sequence by `core` and answers from the last state."""

    def __init__(self, core: nn.RNNBase, out: int = 10) -> None:
        super().__init__()
        self.core = core
        self.head = nn.Linear(core.hidden_size * (2 if core.bidirectional else 1), out)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.core(x)[0]
        return self.head(seen.mean(1) if self.core.bidirectional else seen[:, -1])


def recall(step: int, length: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """Which of four marks stood at the beginning of a noisy sequence."""
    mark = randint(4, (count,), step=step, salt=80)
    x = 0.3 * randn(count, length, 4, step=step, salt=81)
    x[:, 0] += 2.0 * F.one_hot(mark, 4)
    return x, mark


@case("h_rnn_tanh_digit_rows")
def _() -> Case:
    """A plain RNN over eight steps."""
    return healthy(
        build=lambda: Reader(nn.RNN(8, 48, batch_first=True)),
        batch=digit_rows,
        loss=cross_entropy,
        optimizer=adam(2e-3),
        steps=120,
    )


@case("h_rnn_orthogonal_long_recall")
def _() -> Case:
    """Thirty steps with an orthogonal recurrence: the gradient reaches the beginning."""

    def build() -> nn.Module:
        model = Reader(nn.RNN(4, 32, batch_first=True), 4)
        nn.init.orthogonal_(model.core.weight_hh_l0)
        nn.init.xavier_uniform_(model.core.weight_ih_l0)
        return model

    return healthy(
        build=build, batch=lambda s: recall(s, 30), loss=cross_entropy, optimizer=adam(1e-3), steps=150, clip=5.0
    )


@case("h_rnn_of_rectifiers_from_identity")
def _() -> Case:
    """The IRNN: rectifiers whose recurrence begins as the identity."""

    def build() -> nn.Module:
        model = Reader(nn.RNN(8, 48, batch_first=True, nonlinearity="relu"))
        nn.init.eye_(model.core.weight_hh_l0)
        nn.init.zeros_(model.core.bias_hh_l0)
        nn.init.zeros_(model.core.bias_ih_l0)
        nn.init.normal_(model.core.weight_ih_l0, std=0.1)
        return model

    return healthy(build=build, batch=digit_rows, loss=cross_entropy, optimizer=adam(1e-3), steps=150, clip=5.0)


@case("h_gru_two_layers_with_dropout")
def _() -> Case:
    """Stacked, a fifth dropped between the layers."""
    return healthy(
        build=lambda: Reader(nn.GRU(8, 32, 2, batch_first=True, dropout=0.2)),
        batch=digit_rows,
        loss=cross_entropy,
        optimizer=adam(4e-3),
        steps=120,
    )


@case("h_gru_bidirectional_mean")
def _() -> Case:
    """Both directions, averaged over time."""
    return healthy(
        build=lambda: Reader(nn.GRU(8, 24, batch_first=True, bidirectional=True)),
        batch=digit_rows,
        loss=cross_entropy,
        optimizer=adam(4e-3),
        steps=120,
    )


@case("h_lstm_forget_bias_of_one")
def _() -> Case:
    """Remembers a mark over twenty steps."""

    def build() -> nn.Module:
        model = Reader(nn.LSTM(4, 32, batch_first=True), 4)
        nn.init.zeros_(model.core.bias_hh_l0)
        nn.init.zeros_(model.core.bias_ih_l0)
        with torch.no_grad():
            model.core.bias_ih_l0[32:64] = 1.0
        return model

    return healthy(build=build, batch=lambda s: recall(s, 20), loss=cross_entropy, optimizer=adam(5e-3), steps=220)


@case("h_lstm_two_layers_bidirectional")
def _() -> Case:
    """Four LSTMs in one module."""
    return healthy(
        build=lambda: Reader(nn.LSTM(8, 20, 2, batch_first=True, bidirectional=True)),
        batch=digit_rows,
        loss=cross_entropy,
        optimizer=adam(5e-3),
        steps=120,
    )


@case("h_lstm_language_model_two_layers")
def _() -> Case:
    """Words of a small language, with dropout between the layers."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.drop = nn.Embedding(20, 24), nn.Dropout(0.1)
            self.lstm, self.decoder = nn.LSTM(24, 32, 2, batch_first=True, dropout=0.1), nn.Linear(32, 20)

        def forward(self, said: Tensor) -> Tensor:
            return self.decoder(self.lstm(self.drop(self.embed(said)))[0])

    return healthy(build=Model, batch=babble, loss=next_word, optimizer=adam(5e-3), steps=120)


class PackedReader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16, padding_idx=0)
        self.gru, self.head = nn.GRU(16, 32, batch_first=True, bidirectional=True), nn.Linear(64, 2)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(ids), length, batch_first=True, enforce_sorted=False)
        states, _ = self.gru(packed)
        assert isinstance(states, PackedSequence)
        padded, _ = pad_packed_sequence(states, batch_first=True, padding_value=-1e4)
        return self.head(padded.amax(1))


def sevens(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences of 2 to 14 numbers, padded by 0: are there two sevens or eights?"""
    length = 2 + randint(13, (64,), step=step, salt=82)
    ids = 1 + randint(11, (64, 14), step=step, salt=83)
    ids[torch.arange(14) >= length[:, None]] = 0
    return ids, length, ((ids == 7) | (ids == 8)).sum(1).ge(2).long()


@case("h_gru_packed_lengths")
def _() -> Case:
    """Packed sequences, pooled by their maximum; the padding is −10⁴ and never the largest."""
    return healthy(
        build=PackedReader,
        batch=sevens,
        loss=lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]),
        optimizer=adam(5e-3),
        steps=120,
    )


class CellLoop(nn.Module):
    """A loop over a cell, written by hand."""

    def __init__(self, cell: nn.RNNCellBase, out: int) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(cell.hidden_size, out)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for now in x.unbind(1):
            state = self.cell(now, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@case("h_rnn_cell_loop_by_hand")
def _() -> Case:
    """Eight calls of one RNNCell, from the left to the right."""
    return healthy(
        build=lambda: CellLoop(nn.RNNCell(8, 40), 10),
        batch=lambda s: (digit_rows(s)[0].mT, digit_rows(s)[1]),
        loss=cross_entropy,
        optimizer=adam(2e-3),
        steps=120,
    )


@case("h_lstm_cell_loop_by_hand")
def _() -> Case:
    """The running sum of sixteen numbers, by an LSTMCell."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(64, 16, 1, generator=generator(step, 84)) - 0.4
        return x, x.sum(1)

    return healthy(
        build=lambda: CellLoop(nn.LSTMCell(1, 24), 1), batch=batch, loss=squared, optimizer=adam(5e-3), steps=120
    )


@case("h_gru_cell_forecast")
def _() -> Case:
    """The next value of a damped wave, from the twelve before."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        start = 6 * torch.rand(48, 1, generator=generator(step, 85))
        wave = torch.sin(start + 0.5 * torch.arange(13)) + 0.05 * randn(48, 13, step=step, salt=86)
        return wave[:, :12, None], wave[:, 12:]

    return healthy(
        build=lambda: CellLoop(nn.GRUCell(1, 24), 1), batch=batch, loss=squared, optimizer=adam(5e-3), steps=120
    )


class Carried(nn.Module):
    """Keeps its state, detached, for the next piece of the same text."""

    def __init__(self, core: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.core, self.decoder = nn.Embedding(12, 24), core(24, 32, batch_first=True), nn.Linear(32, 12)
        self.state: Tensor | tuple[Tensor, ...] | None = None

    def forward(self, said: Tensor) -> Tensor:
        seen, state = self.core(self.embed(said), self.state)
        self.state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        return self.decoder(seen)


def excerpt(step: int) -> Tensor:
    """Ten words of a text that goes on in the next step: a song of 24 words, sung from 16 places."""
    song = torch.randint(12, (24,), generator=generator(0, 87))
    return song[(torch.arange(16)[:, None] * 5 + 9 * step + torch.arange(10)) % 24]


@case("h_truncated_backpropagation_gru")
def _() -> Case:
    """The state is carried on and the graph is cut every nine steps, on purpose."""
    return healthy(
        build=lambda: Carried(nn.GRU), batch=excerpt, loss=next_word, optimizer=adam(5e-3), steps=120, clip=5.0
    )


@case("h_truncated_backpropagation_lstm")
def _() -> Case:
    """The same with two states."""
    return healthy(build=lambda: Carried(nn.LSTM), batch=excerpt, loss=next_word, optimizer=adam(5e-3), steps=120)
