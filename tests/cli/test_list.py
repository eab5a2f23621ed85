import pytest

from gradscope.cli.list import about


class Dead:
    """Units that never fire.

    More.
    """

    code = "GS999"
    name = "dead-things"


class Question:
    name = "a-vs-b"
    question = "Which?"


def test_a_list_of_rules_has_code_name_and_first_sentence(cli, installed):
    installed(rules=(Dead,))
    outcome = cli("list", "rules")
    assert outcome.code == 0
    assert outcome.out.split("\n")[0].split() == ["GS999", "dead-things", "Units", "that", "never", "fire."]


def test_without_a_kind_all_but_the_probes_are_listed(cli, installed):
    installed(rules=(Dead,), scenarios=(Question(),), probes=("no",))
    out = cli("list").out
    assert [line for line in out.splitlines() if line in ("scenarios", "rules", "reports", "probes")] == [
        "scenarios",
        "rules",
        "reports",
    ]
    assert "a-vs-b" in out
    assert "Which?" in out


@pytest.mark.parametrize("kind", ["scenarios", "rules", "reports"])
def test_every_built_in_has_a_line(cli, kind):
    from gradscope import plugins

    out = cli("list", kind).out
    assert all(item.name in out for item in plugins.load(kind))


def test_an_unknown_kind_names_the_known(cli):
    outcome = cli("list", "rulez")
    assert outcome.code == 2
    assert "'rulez'" in outcome.err
    assert "'rules'" in outcome.err


def test_what_has_no_words_has_an_empty_line():
    assert about(type("Bare", (), {})) == ""
