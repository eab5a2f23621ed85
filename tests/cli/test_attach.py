"""The command's own words; what it does with a script is in tests/e2e/test_attach_script.py."""

import pytest

MISUSED = {
    "no script": ([], "Missing argument 'SCRIPT'"),
    "never": (["--every", "0", "train.py"], "`every=0` must be a whole number of at least 1; 1 records every step."),
    "no folder": (["--out", "no/run.h5", "train.py"], "`--out no/run.h5`: there is no folder 'no'."),
    "out is a folder": (
        ["--out", ".", "train.py"],
        "`--out .` is a folder; name a file in it, such as `--out run.h5`.",
    ),
    "no severity": (["--fail-on", "eror", "train.py"], "Invalid value for '--fail-on': 'eror'"),
    "an option of the script": (["--lr", "0.1", "train.py"], "No such option"),
}


@pytest.mark.parametrize(("words", "said"), MISUSED.values(), ids=MISUSED)
def test_misuse_is_told_before_anything_runs(cli, words, said):
    outcome = cli("attach", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_help_says_whose_the_arguments_are(cli):
    outcome = cli("attach", "--help")
    assert outcome.code == 0
    assert "gradscope attach [OPTIONS] SCRIPT [ARGS]..." in outcome.out
    assert "What follows SCRIPT is the script's." in outcome.out
