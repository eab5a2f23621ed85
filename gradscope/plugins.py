"""Probes, rules, scenarios and reports, ours and others', through the entry-point groups ``gradscope.<kind>``.

An entry point names a tuple of objects. The built-ins are offered by gradscope's own package in the same way.
"""

from functools import cache
from importlib.metadata import entry_points

from gradscope.errors import PluginError

KINDS = ("probes", "rules", "scenarios", "reports")


@cache
def load(kind: str) -> tuple[object, ...]:
    """All objects offered for `kind` ("rules", …), the built-ins first.

    Raises:
        PluginError: An entry point cannot be loaded, is no tuple, or offers a name or code that is taken.
    """
    found: list[object] = []
    owner_of: dict[str, str] = {}
    points = sorted(entry_points(group=f"gradscope.{kind}"), key=lambda point: (point.name != "builtin", point.name))
    for point in points:
        owner = point.dist.name if point.dist else point.value
        try:
            offered = point.load()
        except Exception as error:
            raise PluginError(f"{kind} of {owner} (`{point.value}`) cannot be loaded: {error!r}") from error
        if not isinstance(offered, tuple):
            raise PluginError(
                f"`{point.value}` of {owner} must be a tuple of {kind}, it is a {type(offered).__name__}."
            )
        for item in offered:
            for key in filter(None, (getattr(item, "name", None), getattr(item, "code", None))):
                if key in owner_of:
                    one = kind.removesuffix("s")
                    raise PluginError(
                        f"{one} {key!r} is offered by both {owner_of[key]} and {owner}; uninstall one or rename it."
                    )
                owner_of[key] = owner
            found.append(item)
    return tuple(found)
