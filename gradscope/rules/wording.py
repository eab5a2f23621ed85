"""Numbers as people write them in a sentence."""


def number(value: float) -> str:
    """`value` with two digits: 330 and 0.0031, not 3.3e+02; exponents only from a million on and below 1e-4."""
    return f"{float(f'{value:.2g}'):g}"


def both(one: float, other: float) -> tuple[str, str]:
    """Two numbers to compare: with three digits where they look the same with two."""
    texts = number(one), number(other)
    return texts if texts[0] != texts[1] else (f"{float(f'{one:.3g}'):g}", f"{float(f'{other:.3g}'):g}")


def count(n: int, noun: str) -> str:
    """``1 weight``, ``3 weights``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def steps(first: int, last: int) -> str:
    """``step 3``, ``steps 3 to 7``."""
    return f"step {first}" if first == last else f"steps {first} to {last}"
