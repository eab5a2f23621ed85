"""How right gradscope is about the corpus: `cd tests && python -m corpus.scorer [--half tuned|held-out] [NAME…]`.

A sick case is
    recalled    if a finding of severity warning or above names the pathology of one of its root labels,
    of the right kind   if one that is a root does,
    localised   if such a root names a module that the label allows.
A healthy case, or a twin, is a false alarm if anything of severity warning or above is found, but for what the case
tolerates. A finding is stray if no label of its sick case allows it.
"""

import argparse
import statistics
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import joblib
import torch
from corpus.case import CASES, Case, Observer, get, is_held_out, train
from corpus.cases import MODULES
from torch import Tensor, nn

import gradscope
from gradscope.findings import Diagnosis, Finding, Severity


class Watched(Observer):
    """Attaches gradscope as its users do."""

    diagnosis: Diagnosis

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, case: Case) -> None:
        self._scope = gradscope.attach(model, optimizer=optimizer)

    def on_loss(self, step: int, loss: Tensor) -> None:
        self._scope.record_loss(loss)

    def finish(self) -> None:
        self._scope.detach()
        self.diagnosis = self._scope.diagnose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What was found in one case.

    Attributes:
        name: The case.
        found: All findings of severity warning or above, roots first.
        recalled: See above; each is None where it does not apply.
        kind: Whether a root is of the right kind.
        place: Whether such a root is at the right module.
        alarms: Healthy cases: what should not have been found. Sick ones: what no label allows.
    """

    name: str
    found: tuple[Finding, ...]
    recalled: bool | None = None
    kind: bool | None = None
    place: bool | None = None
    alarms: tuple[Finding, ...] = ()

    @property
    def roots(self) -> tuple[Finding, ...]:
        """Findings that nothing explains."""
        return tuple(f for f in self.found if f.role.value == "root")

    @property
    def right(self) -> bool:
        """Nothing is wrong with it."""
        return bool(self.place) if self.place is not None else not self.alarms

    def __str__(self) -> str:
        marks = "".join("·" if hit else "✗" for hit in (self.recalled, self.kind, self.place) if hit is not None)
        words = [f"{f.code} {f.severity.value} {f.module or '(model)'}" for f in self.roots]
        strays = [f"{f.code} {f.module or '(model)'}" for f in self.alarms]
        stray = f"  stray: {', '.join(strays)}" if strays and marks else ""
        return f"{'ok ' if self.right else 'BAD'} {marks:3} {self.name:44} {'; '.join(words) or '–'}{stray}"


def score(name: str) -> Score:
    """Trains a case with gradscope attached, and judges its diagnosis."""
    torch.set_num_threads(1)
    case, watched = get(name), Watched()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cases: schedulers, masks, anomalies
        train(case, watched)
    found = tuple(f for f in watched.diagnosis.findings if f.severity.reaches(Severity.WARNING))
    if name[:2] != "s_":
        return Score(name=name, found=found, alarms=tuple(f for f in found if f.pathology not in case.tolerate))
    causes = [label for label in case.expect if label.role == "root"]
    right = [(f, label) for f in found for label in causes if label.pathology == f.pathology]
    rooted = [(f, label) for f, label in right if f.role.value == "root"]
    strays = [f for f in found if not any(e.pathology == f.pathology and e.fits(f.module) for e in case.expect)]
    return Score(
        name=name,
        found=found,
        recalled=bool(right),
        kind=bool(rooted),
        place=any(label.fits(f.module) for f, label in rooted),
        alarms=tuple(strays),
    )


def scores(names: Iterable[str], *, jobs: int = 1) -> list[Score]:
    """Of each case."""
    return list(joblib.Parallel(n_jobs=jobs)(joblib.delayed(_score_in_worker)(name) for name in names))


def _score_in_worker(name: str) -> Score:
    assert MODULES  # a worker has to import the cases as well
    return score(name)


def all_names() -> list[str]:
    """Every case, each twin behind its sick case."""
    return [n for name in sorted(CASES) for n in ([name, "t_" + name[2:]] if name[:2] == "s_" else [name])]


def table(found: Sequence[Score]) -> dict[str, float]:
    """The figures of a set of cases: shares, and the median number of roots of a sick case; NaN where there is none."""
    sick = [s for s in found if s.name[:2] == "s_"]
    healthy, twins = ([s for s in found if s.name[:2] == kind] for kind in ("h_", "t_"))
    return {
        "sick": len(sick),
        "recall": _share([bool(s.recalled) for s in sick]),
        "root kind": _share([bool(s.kind) for s in sick]),
        "module": _share([bool(s.place) for s in sick]),
        "roots a case": statistics.median(len(s.roots) for s in sick) if sick else float("nan"),
        "healthy": len(healthy),
        "false alarms": _share([bool(s.alarms) for s in healthy]),
        "twins": len(twins),
        "false alarms on twins": _share([bool(s.alarms) for s in twins]),
    }


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else float("nan")


def main() -> None:
    """Scores the cases that are named, or all of one half, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases, or beginnings of their names")
    parser.add_argument("--half", choices=("tuned", "held-out"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quiet", action="store_true", help="only what is wrong, and the table")
    given = parser.parse_args()
    names = [n for n in all_names() if not given.names or n.startswith(tuple(given.names))]
    names = [n for n in names if given.half is None or is_held_out(n) == (given.half == "held-out")]
    found = scores(names, jobs=given.jobs)
    for one in found:
        if not (given.quiet and one.right):
            print(one)
    for half in ("tuned", "held-out"):
        part = [s for s in found if is_held_out(s.name) == (half == "held-out")]
        if part:
            print(f"\n{half}: " + ", ".join(f"{key} {value:.3g}" for key, value in table(part).items()))


if __name__ == "__main__":
    main()
