import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.links import INPUT, OUTPUT, ROWS, End, Link, Links, Side
from gradscope.rules.rank_collapse import RankCollapse

STEPS = 33
RECORDS = [0, 1, 2, 4, 8, 16, 32]
FALLING = np.geomspace(0.9, 1e-9, len(RECORDS))
STALLS, FALLS = 2.0, np.linspace(2.0, 0.2, STEPS)


def trace(
    spread, *, types="Linear", through=(), features=16, twice=False, loss=STALLS, equal=np.nan, attends=(), inside=()
):
    """direction_spread of modules in a row, one value or one for each record; `through` lies between all of them."""
    count = len(spread)
    values = np.full((STEPS, count), np.nan)
    values[RECORDS] = np.stack([np.broadcast_to(s, len(RECORDS)) for s in spread], axis=1)
    names = [str(i) for i in range(count)]
    links = Links()
    for call in range(2 if twice else 1):
        for one, other in zip([INPUT, *names], [*names, OUTPUT], strict=True):
            source, target = End(one, Side.RETURNED), End(other, Side.GIVEN)
            links.add(Link(source, target, tuple(through) if one != INPUT else ()), call, call)
            if inside and other != OUTPUT:
                links.add(Link(target, End(other, Side.RETURNED), tuple(inside)), call, call)
    widths = np.broadcast_to(features, count)
    shapes = {f"{name}.weight": [int(n), int(n)] for name, n in zip(names, widths, strict=True)}
    entropy = [0.9 if i in attends else np.nan for i in range(count)]
    return trace_of(
        types=types,
        output_direction_spread=values,
        output_attention_entropy=np.array(entropy),
        weight_rms=np.full((STEPS, count), 0.3),
        weight_std=np.full((STEPS, count), 0.3),
        weight_symmetric_fraction=np.full((STEPS, count), equal),
        loss=loss,
        meta={"flow": links.to_list(), "shapes": shapes},
    )


TOKENS = [0.9, 0.2, 1e-3, 1e-8, 1e-14]
GRAPH = [0.9, 0.1, 5e-3, 5e-4, 1e-4, 1e-4]
LONE = [5e-4, 5e-4, 0.02, 5e-4, 0.02, 5e-4, 5e-4]
ALONE = [5e-4, 5e-4, 0.02, 0.02, 0.02, 0.02, 5e-4]
ATTENTION = {"attends": (1, 2, 3, 4)}
MEANS = {"through": (f"MmBackward0{ROWS}",)}
PRODUCTS = {"through": ("MmBackward0",)}
BROKEN = {
    "attention without skips": (trace(TOKENS, **ATTENTION), "3", Severity.ERROR),
    "and the loss falls all the same": (trace(TOKENS, loss=FALLS, **ATTENTION), "3", Severity.ERROR),
    "a graph smoothed too often": (trace(GRAPH, **MEANS), "3", Severity.WARNING),
    "smoothed by modules that only mix": (trace(GRAPH, inside=MEANS["through"]), "3", Severity.WARNING),
    "but for a lone node in some batches": (trace([0.9, 0.1, 5e-3, LONE, LONE], **MEANS), "3", Severity.WARNING),
    "a bias buries the rest": (trace([0.9, 0.5, 1e-8, 1e-8, 1e-8]), "2", Severity.ERROR),
    "equal rows of a table": (
        trace([0.0, 0.0, 0.3], types=["Embedding", "Linear", "GRU"], equal=1.0),
        "0",
        Severity.ERROR,
    ),
    "pairs that are pulled together": (trace([0.9, 0.7, FALLING], twice=True, loss=FALLS), "2", Severity.ERROR),
}
CLEAN = {
    "a lone node, and the loss falls": trace([0.9, 0.1, 5e-3, LONE, LONE], loss=FALLS, **MEANS),
    "lone nodes in most batches": trace([0.9, 0.1, 5e-3, ALONE, ALONE], **MEANS),
    "modules that do not mix": trace(GRAPH, inside=PRODUCTS["through"]),
    "rows that differ": trace([0.9, 0.8, 0.5, 0.4, 0.3], **ATTENTION),
    "mixed, but the loss falls": trace(GRAPH, loss=FALLS, **MEANS),
    "weights that no module holds": trace(GRAPH, **PRODUCTS),
    "a branch whose stream differs": trace([0.9, 1e-8, 0.9, 1e-8, 0.9], **ATTENTION),
    "it was so at first": trace([0.9, 0.2, *([FALLING[::-1]] * 3)], **ATTENTION),
    "a deep ReLU net": trace(9 * np.pi**2 / 2 / np.arange(10, 40) ** 2),
    "a sigmoid net that fades": trace(0.04 ** np.arange(8)),
    "inputs that are alike": trace([1e-3, 1e-4, 1e-7, 1e-9], **ATTENTION),
    "few features": trace([0.9, 0.2, 1e-9, 1e-9], features=2, **ATTENTION),
    "a last layer with a large bias": trace([0.9, 0.5, 0.5, 1e-8]),
    "one type for all tokens": trace([0.0, 0.5, 0.3], types=["Embedding", "Linear", "Linear"], equal=0.0),
    "a net that runs once": trace([0.9, 0.7, FALLING]),
    "pairs that stay apart": trace([0.9, 0.7, 0.5], twice=True),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rows_that_become_the_same_are_found(name):
    given, module, severity = BROKEN[name]
    (finding,) = RankCollapse().check(given)
    assert (finding.module, finding.severity) == (module, severity)
    assert f"All rows that {module} returns point in one direction since step" in finding.message


@pytest.mark.parametrize("name", CLEAN)
def test_rows_that_differ_or_will_are_clean(name):
    try:
        found = list(RankCollapse().check(CLEAN[name]))
    except NotJudged:
        found = []
    assert found == []


@pytest.mark.parametrize(
    ("name", "cause", "remedy"),
    [
        ("attention without skips", "after 3 such means in a row, with no path around", "(a skip connection)"),
        ("a graph smoothed too often", "a mean of its neighbours; after 3 such means", "Use 1 layer or fewer"),
        ("a bias buries the rest", "its bias or shift", "Start the bias of 2 at zero"),
        ("equal rows of a table", "The rows of 0.weight were the same", "at random"),
        ("pairs that are pulled together", "runs on several inputs in each step", "negatives"),
    ],
)
def test_cause_and_remedy_are_those_of_the_case(name, cause, remedy):
    (finding,) = RankCollapse().check(BROKEN[name][0])
    assert cause in finding.cause
    assert remedy in finding.remedy


def test_it_is_told_since_when():
    (finding,) = RankCollapse().check(trace([0.9, 0.7, FALLING], twice=True))
    assert (finding.first_step, finding.last_step) == (2, 32)


def test_one_record_is_too_little():
    values = np.full((STEPS, 3), np.nan)
    values[0] = 0.0
    with pytest.raises(NotJudged, match="in 2 records that measure them"):
        list(RankCollapse().check(trace_of(output_direction_spread=values)))
