"""What a rule says of itself: its docstring, in paragraphs."""

import re


def explanation(one: object) -> str:
    """The rule's own text."""
    explain = getattr(one, "explanation", None)
    return str(explain()) if callable(explain) else ""


def sections(docstring: str) -> list[tuple[str, str]]:
    """The paragraphs of a docstring, each on one line, with the label that it starts with, if any.

    A line that is indented continues the one before; so does a line that starts no new paragraph.
    """
    found: list[tuple[str, str]] = []
    fresh = True
    for line in docstring.splitlines():
        labelled = re.match(r"([A-Z][^:.]{2,30}): +(?=\S)", line)
        if not line.strip():
            fresh = True
        elif labelled:
            found.append((labelled[1], line[labelled.end() :].strip()))
            fresh = False
        elif fresh:
            found.append(("", line.strip()))
            fresh = False
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found
