"""What every view says of a recording beside its findings: what was trained, what was not seen, what happened."""

from collections import Counter
from collections.abc import Iterator

from gradscope.findings import Json
from gradscope.records import ORDINARY_EVENTS
from gradscope.trace import Trace

MOST_EVENTS = 3  # of one kind


def particulars(trace: Trace) -> Iterator[str]:
    """Model, parameters, optimizer, steps: what a reader must know to judge the rest."""
    meta = trace.meta
    if meta.get("scenario"):
        yield f"{meta['scenario']}: {meta.get('variant')}, seed {meta.get('seed')}"
    if meta.get("model"):
        yield str(meta["model"])
    if sizes := parameters(trace):
        yield sizes
    for optimizer in optimizers(trace):
        lr = optimizer.get("lr")
        yield f"{optimizer.get('type', 'optimizer')}" + (f" lr {lr:g}" if isinstance(lr, int | float) else "")
    yield recorded(trace)
    yield f"{len(trace.sites)} sites"
    if trace.ranks is not None:
        yield f"{len(trace.ranks.ranks)} ranks"


def parameters(trace: Trace) -> str:
    """``12,345 parameters, 45 trainable``; "" where it is not known."""
    count, trainable = trace.meta.get("parameters"), trace.meta.get("trainable")
    if not isinstance(count, int):
        return ""
    frozen = f", {trainable:,} trainable" if isinstance(trainable, int) and trainable != count else ""
    return f"{count:,} parameters{frozen}"


def recorded(trace: Trace) -> str:
    """``10 steps recorded (0 to 9)``."""
    steps = len(trace.steps)
    span = f" ({trace.steps[0]} to {trace.steps[-1]})" if steps > 1 else ""
    return f"{steps} step{'s' if steps != 1 else ''} recorded{span}"


def optimizers(trace: Trace) -> list[dict[str, Json]]:
    """The settings of each optimizer; one of which only the name is known has nothing but a type."""
    found = trace.meta.get("optimizers")
    return [
        dict(one) if isinstance(one, dict) else {"type": str(one)} for one in (found if isinstance(found, list) else [])
    ]


def blind_spots(trace: Trace) -> list[tuple[str, str]]:
    """What the recording could not see, and why."""
    spots = trace.meta.get("blind_spots")
    return [
        (str(spot.get("module") or "(model)"), str(spot.get("why")))
        for spot in (spots if isinstance(spots, list) else [])
        if isinstance(spot, dict)
    ]


def events(trace: Trace) -> Iterator[tuple[str, bool]]:
    """What happened to the recording, the first few of each kind; and whether a healthy training has that too."""
    for kind, count in Counter(event.kind for event in trace.events).items():
        ordinary = kind in ORDINARY_EVENTS
        for event in [event for event in trace.events if event.kind == kind][:MOST_EVENTS]:
            place = "" if event.module in event.message else f"{event.module} "
            what = "" if ordinary else f"{event.kind} "
            yield f"step {event.step}: {what}{place}{event.message}", ordinary
        if count > MOST_EVENTS:
            yield f"{kind} {count - MOST_EVENTS} more times", ordinary
