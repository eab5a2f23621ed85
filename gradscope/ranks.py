"""What belongs together: the traces of the ranks of one run, their order, and the steps and sites that they share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from gradscope.errors import UsageError
from gradscope.findings import Json
from gradscope.records import Event, Key, Quantity, Site
from gradscope.trace import Ints, Trace


def rank_of(trace: Trace) -> tuple[int, int] | None:
    """Which rank of how many has recorded `trace`; None if it is of a whole run."""
    about = trace.meta.get("distributed")
    if not isinstance(about, dict):
        return None
    rank, world_size = about.get("rank"), about.get("world_size")
    return (rank, world_size) if isinstance(rank, int) and isinstance(world_size, int) else None


def in_order(traces: Mapping[str, Trace]) -> list[Trace]:
    """The traces by rank.

    Raises:
        UsageError: One is not of a rank, or they do not belong together, or not all are there.
    """
    places = {name: rank_of(trace) for name, trace in traces.items()}
    for name in traces:
        if places[name] is None:
            raise UsageError(f"{name} is no file of a rank, such as run.rank0.h5.")
    found = {name: place for name, place in places.items() if place is not None}
    one, (_, world_size) = next(iter(found.items()))
    by_rank: dict[int, str] = {}
    for name, (rank, size) in found.items():
        if size != world_size:
            raise UsageError(f"{name} is of {size} ranks and {one} of {world_size}; they are not of one run.")
        if rank in by_rank:
            raise UsageError(f"{by_rank[rank]} and {name} are both of rank {rank}; give each rank's file once.")
        by_rank[rank] = name
    missing = [str(rank) for rank in range(world_size) if rank not in by_rank]
    if missing:
        which = f"rank{'s' * (len(missing) > 1)} {', '.join(missing)} of {world_size}"
        raise UsageError(f"the file of {which} is missing; a merge needs all, as `run.rank*.h5` names them.")
    ordered = [by_rank[rank] for rank in range(world_size)]
    for name in ordered[1:]:
        for key, what in (("model", "another model"), ("shapes", "other parameters"), ("every", "another schedule")):
            if traces[name].meta.get(key) != traces[ordered[0]].meta.get(key):
                raise UsageError(f"{name} has {what} than {ordered[0]}; they are not of one run.")
    return [traces[name] for name in ordered]


def common_steps(traces: Sequence[Trace]) -> tuple[Ints, tuple[Event, ...]]:
    """The steps that all ranks have recorded, and an event about the rest."""
    steps = traces[0].steps
    for trace in traces[1:]:
        steps = np.intersect1d(steps, trace.steps)
    if not len(steps):
        counts = ", ".join(f"rank {rank} has {len(trace.steps)}" for rank, trace in enumerate(traces))
        raise UsageError(f"there is no step that all ranks have recorded ({counts}), so nothing can be merged.")
    rest = np.setdiff1d(np.concatenate([trace.steps for trace in traces]), steps)
    if not len(rest):
        return steps, ()
    lacking = [str(rank) for rank, trace in enumerate(traces) if len(np.setdiff1d(rest, trace.steps))]
    span = f"step {rest[0]} is" if len(rest) == 1 else f"{len(rest)} steps, {rest[0]} to {rest[-1]}, are"
    message = f"{span} left out: rank{'s' * (len(lacking) > 1)} {', '.join(lacking)} did not record all of them"
    return steps, (Event(step=int(rest[0]), kind="not-observed", message=message),)


def key_of(site: Site) -> Key:
    """What makes a site the same on all ranks; depths may differ."""
    return site.module, site.quantity, site.name


def sites_of(ranks: Sequence[Sequence[Site]]) -> tuple[Site, ...]:
    """The sites of all ranks. A module that rank 0 did not run stands behind the one that ran before it elsewhere."""
    order: list[str] = []
    for sites in ranks:
        depths = {site.module: site.depth for site in sites if site.depth > 0}
        place = 0
        for module in sorted(depths, key=lambda module: depths[module]):
            if module not in order:
                order.insert(place, module)
            place = order.index(module) + 1
    depth = {module: place for place, module in enumerate(order, start=1)}
    found: dict[Key, Site] = {}
    for site in (site for sites in ranks for site in sites):
        place = 0 if site.quantity is Quantity.INPUT and not site.module else depth.get(site.module, -1)
        known = Site(
            module=site.module, module_type=site.module_type, quantity=site.quantity, name=site.name, depth=place
        )
        found.setdefault(key_of(site), known)
    return tuple(found.values())


def meta_of(traces: Sequence[Trace]) -> dict[str, Json]:
    """The metadata of the whole: rank 0's, but for what no rank could see."""
    first = traces[0].meta
    about = {k: v for k, v in cast("dict[str, Json]", first["distributed"]).items() if k != "rank"}
    meta: dict[str, Json] = {**first, "distributed": {**about, "ranks": list(range(len(traces)))}}
    spots = [trace.meta.get("blind_spots") for trace in traces]
    if any(spots):  # of all ranks: what one of them did not run another may have
        blind = [{_blind_module(spot): spot for spot in found} if isinstance(found, list) else {} for found in spots]
        meta["blind_spots"] = [spot for name, spot in blind[0].items() if all(name in other for other in blind)]
    broken: dict[str, Json] = {}
    for trace in traces:
        found = trace.meta.get("broken")
        for module, step in found.items() if isinstance(found, dict) else ():
            broken[module] = min(int(str(step)), int(str(broken.get(module, step))))
    if broken:  # on whichever rank it broke first
        meta["broken"] = broken
    return meta


def _blind_module(spot: Json) -> str:
    return str(spot.get("module")) if isinstance(spot, dict) else ""


def events_of(traces: Sequence[Trace]) -> Iterator[Event]:
    """What happened on the ranks: once where it happened on all, else with the rank."""
    counts: dict[Event, list[int]] = {}
    for rank, trace in enumerate(traces):
        for event in trace.events:
            counts.setdefault(event, []).append(rank)
    for event, ranks in sorted(counts.items(), key=lambda item: item[0].step):
        if len(set(ranks)) == len(traces):
            yield event
        else:
            where = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
            yield Event(step=event.step, kind=event.kind, module=event.module, message=f"{where}: {event.message}")
