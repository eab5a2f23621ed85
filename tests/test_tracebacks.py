import os
import traceback

import pytest

from gradscope.errors import UsageError
from gradscope.tracebacks import during, of_the_user, place_of, stage_of, told, without_ours


def ours(code: str, **names: object) -> None:
    """Runs code as if it stood in gradscope."""
    exec(compile(code, "somewhere.py", "exec"), {"__name__": "gradscope.somewhere", **names})


def fail(message: str = "no") -> None:
    raise ValueError(message)


def raised(code: str = "fail()", stage: str = "") -> BaseException:
    try:
        if stage:
            with during(stage):
                ours(code, fail=fail)
        else:
            ours(code, fail=fail)
    except Exception as error:
        return error
    raise AssertionError


def test_our_frames_are_taken_out_of_what_led_to_an_error_too():
    error = raised("try:\n    fail()\nexcept ValueError as error:\n    raise RuntimeError from error")
    assert 'File "somewhere.py"' in "".join(traceback.format_exception(error))
    assert without_ours(error) is error
    text = "".join(traceback.format_exception(error))
    assert 'File "somewhere.py"' not in text
    assert text.count("in fail") == 1
    group = ExceptionGroup("both", [raised(), raised()])
    assert 'File "somewhere.py"' not in "".join(traceback.format_exception(without_ours(group)))


def test_the_innermost_stage_is_told():
    with pytest.raises(ValueError, match="no") as caught, during("the call of step 3"):
        raise raised(stage="the loss of step 3")
    assert stage_of(caught.value) == "the loss of step 3"
    assert caught.value.__notes__ == ["gradscope: in the loss of step 3"]


def test_what_gradscope_says_gets_no_note():
    with pytest.raises(UsageError) as caught, during("the loss of step 3"):
        raise UsageError("no")
    assert stage_of(caught.value) == ""


def test_one_sentence_names_stage_line_and_error():
    line = fail.__code__.co_firstlineno + 1
    file = os.path.relpath(__file__)
    assert told(raised(stage="the loss of step 3")) == f"the loss of step 3 failed at {file}:{line}: ValueError: no"
    assert told(raised("fail('one\\ntwo')")) == f"{file}:{line}: ValueError: one"
    assert told(raised("fail('')")) == f"{file}:{line}: ValueError"


def test_a_line_of_the_user_counts_before_one_of_a_library():
    def parse() -> None:
        os.fspath(traceback.format_list([1]))  # fails in the standard library

    error = raised_by(parse)
    assert place_of(error) == f"{os.path.relpath(__file__)}:{parse.__code__.co_firstlineno + 1}"


def raised_by(call) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return caught.value


def test_what_has_no_line_of_the_user_has_no_place():
    assert place_of(ValueError()) == ""
    assert told(ValueError("no")) == "ValueError: no"


def test_a_syntax_error_is_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = raised_by(lambda: compile("x = 1\nx = = 2", str(tmp_path / "models.py"), "exec"))
    assert place_of(error) == "models.py:2"


def test_an_installed_package_may_be_the_users_and_counts_where_nothing_nearer_does():
    def installed(package: str, code: str, **names: object) -> dict[str, object]:
        scope = {"__name__": package, **names}
        exec(compile(code, f"{os.sep}env{os.sep}site-packages{os.sep}{package}{os.sep}net.py", "exec"), scope)
        return scope

    of_torch = installed("torch", "def call():\n    1 / 0")
    of_acme = installed("acme", "def call():\n\n    of_torch()", of_torch=of_torch["call"])
    error = raised_by(of_acme["call"])
    while of_the_user(error.__traceback__.tb_frame.f_code.co_filename):
        error.__traceback__ = error.__traceback__.tb_next  # without this test's own frames
    assert place_of(error) == "/env/site-packages/acme/net.py:3"


def test_errors_that_led_to_each_other_in_a_circle_are_told_too():
    one, other = raised(), raised()
    one.__context__, other.__context__ = other, one
    without_ours(one)
    assert 'File "somewhere.py"' not in "".join(traceback.format_exception(one))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (__file__, True),
        (os.__file__, False),
        (pytest.__file__, False),
        (traceback.__file__, False),
        ("<string>", False),
    ],
)
def test_libraries_are_not_the_user_s(file, expected):
    assert of_the_user(file) is expected


def test_gradscope_is_not_the_user_s():
    import gradscope.tracebacks

    assert not of_the_user(gradscope.tracebacks.__file__)
