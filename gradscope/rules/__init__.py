"""The rules, one file each. `RULES` is what gradscope offers through its own entry point."""

from gradscope.rules.accumulating_gradient import AccumulatingGradient
from gradscope.rules.attention_collapse import AttentionCollapse
from gradscope.rules.base import Rule
from gradscope.rules.clipping_dominates import ClippingDominates
from gradscope.rules.constant_output import ConstantOutput
from gradscope.rules.dead_units import DeadUnits
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.exploding_through_time import ExplodingThroughTime
from gradscope.rules.forward_variance_collapse import ForwardVarianceCollapse
from gradscope.rules.forward_variance_explosion import ForwardVarianceExplosion
from gradscope.rules.loss_divergence import LossDivergence
from gradscope.rules.loss_stall import LossStall
from gradscope.rules.low_precision_overflow import LowPrecisionOverflow
from gradscope.rules.low_precision_underflow import LowPrecisionUnderflow
from gradscope.rules.no_gradient import NoGradient
from gradscope.rules.non_finite import NonFinite
from gradscope.rules.rank_collapse import RankCollapse
from gradscope.rules.saturation import Saturation
from gradscope.rules.symmetric_init import SymmetricInit
from gradscope.rules.update_too_large import UpdateTooLarge
from gradscope.rules.update_too_small import UpdateTooSmall
from gradscope.rules.vanishing_gradient import VanishingGradient
from gradscope.rules.vanishing_through_time import VanishingThroughTime
from gradscope.rules.zero_loss_gradient import ZeroLossGradient

RULES: tuple[type[Rule], ...] = (
    VanishingGradient,
    ExplodingGradient,
    NoGradient,
    ZeroLossGradient,
    VanishingThroughTime,
    ExplodingThroughTime,
    DeadUnits,
    Saturation,
    ConstantOutput,
    ForwardVarianceCollapse,
    ForwardVarianceExplosion,
    AttentionCollapse,
    RankCollapse,
    NonFinite,
    LowPrecisionUnderflow,
    LowPrecisionOverflow,
    UpdateTooSmall,
    UpdateTooLarge,
    ClippingDominates,
    SymmetricInit,
    AccumulatingGradient,
    LossDivergence,
    LossStall,
)

__all__ = ["RULES", "Rule"]
