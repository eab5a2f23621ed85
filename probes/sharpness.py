"""Where it is recorded how sharp attention is: at a site for the whole, and at one for each head."""

import torch
from torch import Tensor

from gradscope.attention import Sharpness
from gradscope.probes.base import Recorder
from gradscope.records import Quantity, Statistic

_MOST_HEADS = 128  # more are channels, and softmax over them is no attention
_NOTHING = torch.empty(0)  # a head has nothing but these two numbers


class SharpSite:
    """The outputs of a module or function that attends; `name` is the path of the output that tells of all heads."""

    __slots__ = ("heads", "module", "name")

    def __init__(self, module: str, name: str = "") -> None:
        self.module = module
        self.name = name
        self.heads: list[int] = []

    def emit(self, recorder: Recorder, found: Sharpness, time: int, *, each: bool = True) -> None:
        """Adds to the site what was `found`, and with `each` to a site of each head."""
        known = ~found.entropy.isnan()
        mean = torch.where(known, found.entropy, 0.0).sum() / known.sum()
        largest = found.max_logit.nan_to_num(nan=-torch.inf).max()
        _derive(recorder, recorder.site(self.module, Quantity.OUTPUT, self.name), mean, largest)
        if not each or len(found.entropy) > _MOST_HEADS:
            return
        entropies, logits = (x.unbind() for x in (found.entropy, found.max_logit))
        for head, (entropy, logit) in enumerate(zip(entropies, logits, strict=True)):
            if head == len(self.heads):
                self.heads.append(recorder.site(self.module, Quantity.OUTPUT, f"head{head}"))
            recorder.emit(self.heads[head], _NOTHING, time)
            _derive(recorder, self.heads[head], entropy, logit)


def _derive(recorder: Recorder, site: int, entropy: Tensor, max_logit: Tensor) -> None:
    recorder.derive(site, Statistic.ATTENTION_ENTROPY, entropy)
    recorder.derive(site, Statistic.MAX_LOGIT, max_logit)
