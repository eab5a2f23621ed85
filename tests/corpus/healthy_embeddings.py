"""Tables of which most rows are touched seldom or never."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, adamw, case, generator, randint, randn, sgd
from corpus.tasks import babble, cross_entropy, healthy, next_word, perceptron
from torch import Tensor, nn


def rare_words(step: int, count: int, high: int) -> Tensor:
    """Numbers below `high`, the small ones far more often (Zipf)."""
    spread = torch.rand(count, generator=generator(step, 60))
    return (high**spread).long() - 1


class Bag(nn.Module):
    """Mood of a bag of words."""

    def __init__(self, words: int, *, sparse: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 16, padding_idx=0, sparse=sparse)
        self.judge = perceptron(16, 16, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.judge(self.words(ids).sum(1) / (ids > 0).sum(1, keepdim=True).clamp(min=1) ** 0.5)


def moods(step: int, words: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """Texts of one to twelve words, padded by 0; every word speaks for one of two moods."""
    ids = rare_words(step, count * 12, words - 1).view(count, 12) + 1
    length = randint(12, (count,), step=step, salt=61) + 1
    ids[torch.arange(12) >= length[:, None]] = 0
    speaks = randn(words, salt=62)
    speaks[0] = 0.0
    return ids, (speaks[ids].sum(1) > 0).long()


@case("h_large_vocabulary_mostly_untouched")
def _() -> Case:
    """Two thousand words of which a batch holds a tenth; the row of the padding stays zero."""
    return healthy(
        build=lambda: Bag(2000), batch=lambda s: moods(s, 2000), loss=cross_entropy, optimizer=adam(5e-3), steps=150
    )


@case("h_sparse_gradients_of_a_table")
def _() -> Case:
    """The gradient of the table is a sparse tensor."""
    return healthy(
        build=lambda: Bag(200, sparse=True),
        batch=lambda s: moods(s, 200, 128),
        loss=cross_entropy,
        optimizer=sgd(0.05, momentum=0.9),
        steps=250,
    )


@case("h_short_texts_mostly_padding")
def _() -> Case:
    """Texts of one to twelve words among a hundred; half of what is looked up is padding."""
    return healthy(
        build=lambda: Bag(100), batch=lambda s: moods(s, 100), loss=cross_entropy, optimizer=adam(5e-3), steps=120
    )


@case("h_embedding_bag_of_tags")
def _() -> Case:
    """Tags are summed by an EmbeddingBag, whose offsets give up the batch dimension."""

    class Tagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tags = nn.EmbeddingBag(300, 24, mode="sum")
            self.mlp = perceptron(24, 32, 2, activation=nn.SiLU)

        def forward(self, ids: Tensor) -> Tensor:
            return self.mlp(self.tags(ids.flatten(), torch.arange(0, ids.numel(), ids.shape[1])) / 2)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        ids = rare_words(step, 64 * 5, 300).view(64, 5)
        return ids, (randn(300, salt=63)[ids].sum(1) > 0).long()

    return healthy(build=Tagged, batch=batch, loss=cross_entropy, optimizer=adam(5e-3), steps=120)


class Factors(nn.Module):
    """Users times films plus what each is worth."""

    def __init__(self, users: int = 200, films: int = 120, rank: int = 6) -> None:
        super().__init__()
        self.user, self.film = nn.Embedding(users, rank), nn.Embedding(films, rank)
        self.user_bias, self.film_bias = nn.Embedding(users, 1), nn.Embedding(films, 1)
        for table, std in ((self.user, 0.3), (self.film, 0.3), (self.user_bias, 0.01), (self.film_bias, 0.01)):
            nn.init.normal_(table.weight, std=std)

    def forward(self, who: Tensor, what: Tensor) -> Tensor:
        liked = (self.user(who) * self.film(what)).sum(1)
        return liked + (self.user_bias(who) + self.film_bias(what))[:, 0]


@case("h_matrix_factorisation")
def _() -> Case:
    """Ratings: each step touches the rows of those who rate."""

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        who, what = rare_words(step, 256, 200), randint(120, (256,), step=step, salt=64)
        rated = (randn(200, 2, salt=65)[who] * randn(120, 2, salt=66)[what]).sum(1) + randn(120, salt=67)[what]
        return who, what, rated

    return healthy(
        build=Factors,
        batch=batch,
        loss=lambda m, b: F.mse_loss(m(b[0], b[1]), b[2]),
        optimizer=adam(1e-2, weight_decay=1e-5),
        steps=250,
    )


class SkipGram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.center, self.context = nn.Embedding(60, 16), nn.Embedding(60, 16)
        for table in (self.center, self.context):
            nn.init.normal_(table.weight, std=0.2)

    def forward(self, word: Tensor, others: Tensor) -> Tensor:
        return torch.einsum("bd,bkd->bk", self.center(word), self.context(others))


@case("h_skip_gram_with_negative_samples")
def _() -> Case:
    """One true neighbour against five others."""

    def loss(model: nn.Module, said: Tensor) -> Tensor:
        word, after = said[:, :-1].flatten(), said[:, 1:].flatten()
        wrong = torch.randint(60, (len(word), 5))
        score = model(word, torch.cat([after[:, None], wrong], 1))
        return -(F.logsigmoid(score[:, 0]) + F.logsigmoid(-score[:, 1:]).sum(1)).mean()

    return healthy(build=SkipGram, batch=lambda s: babble(s, words=60), loss=loss, optimizer=adam(1e-2), steps=150)


class Tied(nn.Module):
    """The same matrix reads words and writes them."""

    def __init__(self, words: int = 20, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.lstm, self.norm = nn.LSTM(width, width, batch_first=True), nn.LayerNorm(width)
        self.decoder = nn.Linear(width, words)
        self.decoder.weight = self.embed.weight

    def forward(self, said: Tensor) -> Tensor:
        return self.decoder(self.norm(self.lstm(self.embed(said))[0]))


@case("h_tied_embedding_and_output")
def _() -> Case:
    """One parameter in two places."""
    return healthy(build=Tied, batch=babble, loss=next_word, optimizer=adam(3e-3), steps=150)


class MixtureOfSoftmaxes(nn.Module):
    def __init__(self, words: int = 40, width: int = 24, parts: int = 3) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(words, width), nn.Linear(width, parts)
        self.project, self.parts = nn.Linear(width, parts * width), parts
        self.decoder = nn.Linear(width, words)

    def forward(self, said: Tensor) -> Tensor:
        x = self.embed(said)
        states = torch.tanh(self.project(x)).unflatten(-1, (self.parts, -1))
        return torch.logsumexp(F.log_softmax(self.mix(x), -1)[..., None] + self.decoder(states).log_softmax(-1), -2)


@case("h_mixture_of_softmaxes")
def _() -> Case:
    """Against the bottleneck of a single softmax over forty words."""
    return healthy(
        build=MixtureOfSoftmaxes, batch=lambda s: babble(s, words=40), loss=next_word, optimizer=adamw(5e-3), steps=150
    )


class Hierarchical(nn.Module):
    """First the shelf, then the book on it: 8 × 8 words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.trunk = nn.Embedding(64, 32), nn.Linear(32, 32)
        self.shelf = nn.Linear(32, 8)
        self.books = nn.ModuleList(nn.Linear(32, 8) for _ in range(8))

    def forward(self, word: Tensor, after: Tensor) -> Tensor:
        x = F.silu(self.trunk(self.embed(word)))
        shelf = after // 8
        books = torch.stack([book(x) for book in self.books], 1)[torch.arange(len(x)), shelf]
        return F.cross_entropy(self.shelf(x), shelf) + F.cross_entropy(books, after % 8)


@case("h_hierarchical_softmax")
def _() -> Case:
    """A head of the second level learns from an eighth of the samples."""
    return healthy(
        build=Hierarchical,
        batch=lambda s: babble(s, words=64),
        loss=lambda m, b: m(b[:, :-1].flatten(), b[:, 1:].flatten()),
        optimizer=adam(4e-3),
        steps=150,
    )


class Columns(nn.Module):
    """A table of data with categories and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.town, self.month = nn.Embedding(400, 8), nn.Embedding(12, 4)
        self.norm, self.mlp = nn.BatchNorm1d(5), perceptron(17, 64, 32, 1)

    def forward(self, town: Tensor, month: Tensor, numbers: Tensor) -> Tensor:
        return self.mlp(torch.cat([self.town(town), self.month(month), self.norm(numbers)], 1))


@case("h_tabular_with_many_categories")
def _() -> Case:
    """Four hundred towns, of which a batch of 64 sees few."""

    def batch(step: int) -> tuple[Tensor, ...]:
        town, month = rare_words(step, 64, 400), randint(12, (64,), step=step, salt=68)
        numbers = randn(64, 5, step=step, salt=69)
        worth = randn(400, salt=70)[town] + torch.cos(month / 2) + numbers[:, 0] * numbers[:, 1]
        return town, month, numbers, worth[:, None]

    return healthy(
        build=Columns,
        batch=batch,
        loss=lambda m, b: F.mse_loss(m(*b[:3]), b[3]),
        optimizer=adamw(4e-3, weight_decay=1e-3),
        steps=200,
    )
