"""The baseline: findings that are known and accepted for now, and the gradient profile that layers are held to.

    {
     "schema": "gradscope/baseline/1",
     "findings": [
      {"target": "encoder", "rule": "GS301", "module": "act1"}
     ],
     "profiles": {
      "encoder": {
       "act1": -0.153,
       "fc2": 0.021
      }
     }
    }

A finding is its target, its rule and its module; a profile has, by target and module, log₁₀ of the gain. One line for
each, in order, so that the file can be read, reviewed and merged like source.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradscope.draft import write_whole
from gradscope.errors import UsageError
from gradscope.verdict import Identity, Judged

BASELINE_SCHEMA = "gradscope/baseline/1"
_DIGITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What is known of the targets.

    Attributes:
        findings: That do not count.
        profiles: By target and module, log₁₀ of the gain.
    """

    findings: frozenset[Identity] = frozenset()
    profiles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def targets(self) -> frozenset[str]:
        """All of which it knows something."""
        return frozenset(identity.target for identity in self.findings) | self.profiles.keys()

    def of(self, target: str) -> frozenset[Identity]:
        """The findings of one target."""
        return frozenset(identity for identity in self.findings if identity.target == target)

    def without(self, targets: Iterable[str]) -> "Baseline":
        """What it knows of other targets than these."""
        gone = frozenset(targets)
        return Baseline(
            findings=frozenset(identity for identity in self.findings if identity.target not in gone),
            profiles={target: profile for target, profile in self.profiles.items() if target not in gone},
        )

    def of_tests(self) -> "Baseline":
        """What it knows of the models in tests of pytest's, whose targets are called as the tests are."""
        return self.without(target for target in self.targets if "::" not in target)

    def joined(self, other: "Baseline") -> "Baseline":
        """What both know, of a target's profile what this one says."""
        return Baseline(findings=self.findings | other.findings, profiles={**other.profiles, **self.profiles})

    def to_json(self) -> str:
        """The document as above."""
        findings = [
            json.dumps({"target": one.target, "rule": one.code, "module": one.module}, ensure_ascii=False)
            for one in sorted(self.findings)
        ]
        listed = "".join(f"\n  {line}," for line in findings).removesuffix(",")
        profiles = {
            target: {module: round(gain, _DIGITS) + 0.0 for module, gain in sorted(profile.items())}
            for target, profile in sorted(self.profiles.items())
        }
        nested = json.dumps(profiles, indent=1, ensure_ascii=False).replace("\n", "\n ")
        return (
            f'{{\n "schema": "{BASELINE_SCHEMA}",\n "findings": [{listed}{chr(10) + " " if listed else ""}],\n'
            f' "profiles": {nested}\n}}\n'
        )


def baseline_of(judged: Iterable[Judged]) -> Baseline:
    """All that was found now, what was known before included, and the profiles."""
    targets = [one for one in judged if not one.error]
    return Baseline(
        findings=frozenset(
            identity
            for one in targets
            for finding in (*one.diagnosis.findings, *one.known)
            for identity in one.identities(finding)
        ),
        profiles={one.target: one.gains for one in targets if one.gains},
    )


def write_baseline(baseline: Baseline, path: Path) -> None:
    """Writes all of it or nothing.

    Raises:
        UsageError: `path` cannot be written.
    """
    try:
        write_whole(baseline.to_json(), path)
    except OSError as error:
        raise UsageError(f"the baseline {str(path)!r} cannot be written: {error.strerror or error}.") from error


def baseline_before(path: Path) -> Baseline:
    """What the file holds that is going to be written anew; nothing if it is not there.

    Raises:
        UsageError: It is another kind of file, which is not written over.
    """
    if not path.exists():
        return Baseline()
    if not path.is_file():
        raise UsageError(f"the baseline {str(path)!r} is no file, and a device cannot be replaced; name a file.")
    return read_baseline(path, way_out="delete it, or name another file")


def read_baseline(path: Path, *, way_out: str = "write it anew with `--write-baseline`") -> Baseline:
    """What `write_baseline` wrote.

    Raises:
        UsageError: There is no such file, or it is no baseline; then the sentence shows the `way_out`.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except FileNotFoundError:
        raise UsageError(
            f"the baseline {str(path)!r} does not exist; `gradscope check --write-baseline {path}` makes it."
        ) from None
    except OSError as error:
        raise UsageError(f"the baseline {str(path)!r} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines()):
            raise UsageError(
                f"the baseline {str(path)!r} holds the marks of a merge conflict; keep the lines of both sides, with a"
                f" comma behind each but the last, or {way_out}."
            ) from error
        raise UsageError(f"the baseline {str(path)!r} is no JSON ({error}); {way_out}.") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != BASELINE_SCHEMA:
        said = f"says {schema!r}" if schema is not None else "has none"
        raise UsageError(f"{str(path)!r} is no baseline: its schema must be {BASELINE_SCHEMA!r}, it {said}; {way_out}.")
    try:
        return _read(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"the baseline {str(path)!r} is damaged ({type(error).__name__}: {error}); {way_out}."
        ) from error


def _read(document: dict[str, object]) -> Baseline:
    findings, profiles = document["findings"], document["profiles"]
    if not isinstance(findings, list) or not isinstance(profiles, dict):
        raise TypeError("`findings` must be a list and `profiles` an object")
    known = [Identity(one["target"], one["rule"], one["module"]) for one in findings]
    strange = next((word for one in known for word in one if not isinstance(word, str)), None)
    if strange is not None:
        raise TypeError(f"{strange!r} must be a string")
    read = {str(target): {str(m): float(gain) for m, gain in profile.items()} for target, profile in profiles.items()}
    if any(not math.isfinite(gain) for profile in read.values() for gain in profile.values()):
        raise ValueError("a gain must be finite")
    return Baseline(findings=frozenset(known), profiles=read)
