"""Transformers with their masks, in their usual sizes and orders."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, adamw, case, randint
from corpus.tasks import babble, cross_entropy, digit_images, healthy, next_word
from torch import Tensor, nn


class Encoder(nn.Module):
    """Reads numbers; some of them are padding."""

    def __init__(self, depth: int, *, norm_first: bool, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, width, padding_idx=0)
        self.position = nn.Parameter(0.1 * torch.randn(14, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        for p in self.encoder.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        padded = ids == 0
        x = self.encoder(self.embed(ids) + self.position, src_key_padding_mask=padded)
        return self.head(x.masked_fill(padded[..., None], 0.0).sum(1) / (~padded).sum(1, keepdim=True))


def pairs(step: int, *, shortest: int = 14) -> tuple[Tensor, Tensor]:
    """Whether fives outnumber sevens, in sequences of at least `shortest` of 14 numbers."""
    length = shortest + randint(15 - shortest, (48,), step=step, salt=100)
    ids = 1 + randint(11, (48, 14), step=step, salt=101)
    ids[ids > 9] = 5
    ids[(ids == 3) | (ids == 4)] = 7
    ids[torch.arange(14) >= length[:, None]] = 0
    return ids, ((ids == 5).sum(1) > (ids == 7).sum(1)).long()


def warmed(
    make: Callable[[nn.Module], torch.optim.Optimizer], factor: Callable[[int], float]
) -> tuple[Callable[[nn.Module], torch.optim.Optimizer], Callable[[nn.Module, int], None]]:
    """An optimizer whose rate follows `factor` of the step, and what advances it."""
    schedules: list[torch.optim.lr_scheduler.LambdaLR] = []

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        made = make(model)
        schedules[:] = [torch.optim.lr_scheduler.LambdaLR(made, factor)]
        return made

    return optimizer, lambda model, step: schedules[0].step()


@case("h_pre_norm_encoder")
def _() -> Case:
    """Three layers, normalised before each branch."""
    return healthy(
        build=lambda: Encoder(3, norm_first=True), batch=pairs, loss=cross_entropy, optimizer=adam(1e-3), steps=100
    )


@case("h_post_norm_encoder_with_warm_up")
def _() -> Case:
    """The order of the original paper, and its warm-up, from a rate of zero."""
    optimizer, after_step = warmed(adam(1.5e-3), lambda s: min(s / 30, 1.0))
    return healthy(
        build=lambda: Encoder(3, norm_first=False),
        batch=pairs,
        loss=cross_entropy,
        optimizer=optimizer,
        after_step=after_step,
        steps=120,
    )


@case("h_encoder_with_padding")
def _() -> Case:
    """Attention to the padding is masked by −∞."""
    return healthy(
        build=lambda: Encoder(2, norm_first=True),
        batch=lambda s: pairs(s, shortest=3),
        loss=cross_entropy,
        optimizer=adam(1.5e-3),
        steps=120,
    )


class Block(nn.Module):
    """Causal self-attention and a feed-forward net, as in GPT."""

    def __init__(self, width: int, heads: int, *, scaled: float = 1.0) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        with torch.no_grad():
            self.c_proj.weight.mul_(scaled)
            self.mlp[2].weight.mul_(scaled)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Masked(Block):
    """The same, with softmax and mask spelled out."""

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
        return self.c_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class LanguageModel(nn.Module):
    def __init__(self, blocks: list[nn.Module], width: int, words: int = 20, *, tied: bool = False) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, width), nn.Embedding(16, width)
        self.h, self.ln_f = nn.ModuleList(blocks), nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, words, bias=False)
        nn.init.normal_(self.wte.weight, std=0.1)
        nn.init.normal_(self.wpe.weight, std=0.1)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, said: Tensor) -> Tensor:
        x = self.wte(said) + self.wpe.weight[: said.shape[1]]
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


@case("h_gpt_of_two_blocks_tied")
def _() -> Case:
    """Causal attention by the fused function; embedding and output are one matrix."""
    return healthy(
        build=lambda: LanguageModel([Block(32, 4) for _ in range(2)], 32, tied=True),
        batch=babble,
        loss=next_word,
        optimizer=adamw(2e-3),
        steps=100,
        clip=5.0,
    )


@case("h_gpt_masked_by_minus_infinity")
def _() -> Case:
    """The first word attends to itself alone: a row of the softmax that is one-hot, as it must be."""
    return healthy(
        build=lambda: LanguageModel([Masked(32, 2) for _ in range(2)], 32),
        batch=babble,
        loss=next_word,
        optimizer=adam(2e-3),
        steps=80,
    )


@case("h_gpt_six_blocks_scaled_residuals_cosine")
def _() -> Case:
    """Six blocks whose branches end in weights divided by √12; warm-up, then a cosine."""
    optimizer, after_step = warmed(
        adamw(2e-3, weight_decay=0.1),
        lambda s: (s + 1) / 20 if s < 20 else 0.55 + 0.45 * float(torch.cos(torch.tensor(3.14 * (s - 20) / 80))),
    )
    return healthy(
        build=lambda: LanguageModel([Block(24, 2, scaled=12**-0.5) for _ in range(6)], 24),
        batch=babble,
        loss=next_word,
        optimizer=optimizer,
        after_step=after_step,
        steps=100,
    )


class VisionTransformer(nn.Module):
    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, 2, stride=2)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


@case("h_vision_transformer_on_digits")
def _() -> Case:
    """Sixteen patches and a token of the class."""
    return healthy(build=VisionTransformer, batch=digit_images, loss=cross_entropy, optimizer=adamw(1.5e-3), steps=120)


class Perceiver(nn.Module):
    """Learned queries look at the picture by cross-attention."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch, self.place = nn.Linear(4, width), nn.Parameter(0.3 * torch.randn(16, width))
        self.queries = nn.Parameter(0.3 * torch.randn(6, width))
        self.cross = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm, self.ffn = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.head = nn.Linear(6 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(F.unfold(x, 2, stride=2).mT) + self.place
        seen, _ = self.cross(self.queries.expand(len(x), -1, -1), patches, patches, need_weights=False)
        return self.head((seen + self.ffn(self.norm(seen))).flatten(1))


@case("h_cross_attention_of_learned_queries")
def _() -> Case:
    """Six queries for sixteen patches; attention begins almost uniform."""
    return healthy(build=Perceiver, batch=digit_images, loss=cross_entropy, optimizer=adam(3e-3), steps=120)


class Copier(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(12, width), nn.Parameter(0.3 * torch.randn(8, width))
        self.transformer = nn.Transformer(width, 4, 1, 1, 64, 0.0, batch_first=True)
        self.out = nn.Linear(width, 11)

    def forward(self, given: Tensor, wanted: Tensor) -> Tensor:
        mask = torch.ones(wanted.shape[1], wanted.shape[1]).triu(1).bool()
        source = self.embed(given) + self.place[: given.shape[1]]
        target = self.embed(F.pad(wanted[:, :-1], (1, 0), value=11)) + self.place[: wanted.shape[1]]
        return self.out(self.transformer(source, target, tgt_mask=mask))


@case("h_encoder_decoder_sorts")
def _() -> Case:
    """Six numbers are to be sorted; a causal mask for the decoder."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        given = randint(11, (48, 6), step=step, salt=102)
        return given, given.sort(1).values

    return healthy(
        build=Copier,
        batch=batch,
        loss=lambda m, b: F.cross_entropy(m(*b).flatten(0, 1), b[1].flatten()),
        optimizer=adam(2e-3),
        steps=120,
    )


@case("h_attention_becomes_sharp_by_learning")
def _() -> Case:
    """A look-up: the right key is found ever more surely, and the attention that ends near one-hot has earned it."""

    class LookUp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(16, 32)
            self.query, self.key = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)

        def forward(self, asked: Tensor, names: Tensor, values: Tensor) -> Tensor:
            scores = torch.einsum("bd,bnd->bn", self.query(self.embed(asked)), self.key(self.embed(names)))
            return ((scores / 32**0.5).softmax(1) * values).sum(1)

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        names = randint(1_000_000, (64, 16), step=step, salt=104).argsort(1)[:, :6]
        values = randint(9, (64, 6), step=step, salt=103) / 4.0 - 1.0
        return names[:, step % 6], names, values, values[:, step % 6]

    return healthy(
        build=LookUp, batch=batch, loss=lambda m, b: F.mse_loss(m(*b[:3]), b[3]), optimizer=adam(5e-3), steps=150
    )
