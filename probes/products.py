"""Matrix products in autograd's graph: whether one adds up rows of what was followed into it.

A product adds up the rows of its right factor, A @ x, and the features of its left, x @ W. A transposition turns that
round; with a batch of matrices it may be one of other dimensions, such as heads, and the right factor counts all the
same. What a learned weight is the other factor of is a layer, on whichever side it stands.
"""

from torch import nn
from torch.autograd.graph import Node

from gradscope.links import ROWS

_FACTORS = {
    "MmBackward0": 0,
    "BmmBackward0": 0,
    "AddmmBackward0": 1,
    "BaddbmmBackward0": 1,
}  # where the left one stands
_TURNS = ("TBackward", "TransposeBackward", "PermuteBackward")
_SAME = ("View", "UnsafeView", "Reshape", "Expand", "Clone", "ToCopy")  # nodes of the same rows and features
_MOST_STEPS = 8


def name_of(node: Node, place: int) -> str:
    """Name of `node` to one that follows it to its input `place`; with `ROWS` where that input's rows are added up."""
    name = node.name()
    left = _FACTORS.get(name)
    if left is None or not 0 <= place - left < 2:
        return name
    followed, other = (node.next_functions[at][0] for at in (place, 2 * left + 1 - place))
    if _is_weight(other):
        return name
    is_right, turned = place > left, _is_turned(followed)
    return name + ROWS if (is_right and (not turned or "bmm" in name.lower())) or (turned and not is_right) else name


def _is_weight(node: Node | None) -> bool:
    """Whether it is a parameter, or one value made of one parameter alone."""
    for _ in range(_MOST_STEPS):
        if node is None or node.name() in _FACTORS:
            return False
        if isinstance(getattr(node, "variable", None), nn.Parameter):
            return True
        behind = [following for following, _ in node.next_functions if following is not None]
        node = behind[0] if len(behind) == 1 else None
    return False


def _is_turned(node: Node | None) -> bool:
    """Whether it was transposed right before, an odd number of times."""
    turned = False
    for _ in range(_MOST_STEPS):
        if node is None or not node.name().startswith((*_TURNS, *_SAME)):
            break
        turned ^= node.name().startswith(_TURNS)
        node = node.next_functions[0][0]
    return turned
