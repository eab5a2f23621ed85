"""How settings and options name rules: by the beginning of their codes, by name, or all of them."""

ALL = "ALL"  # as a selector: every rule, whatever its code


def reach(selector: str, code: str, name: str) -> int | None:
    """How closely `selector` names the rule with that code and name; None if it does not. The larger, the closer.

    A selector is the beginning of codes ("GS3"), a rule's name, or "ALL"; the length of the beginning counts, and a
    name says as much as the whole code.
    """
    if selector == ALL:
        return 0
    if selector == name:
        return len(code)
    return len(selector) if selector and code.startswith(selector) else None
