"""What a page cannot vouch for."""

from dataclasses import replace

from builders import trace_of
from examples import HEALTHY, SICK, network

from gradscope.records import Event
from gradscope.reports.page_unseen import unseen_section


def test_names_with_one_reason_stand_together():
    spots = [{"module": f"m{i}", "why": "never ran"} for i in range(3)] + [{"module": "", "why": "is compiled"}]
    context = unseen_section(trace_of(output_rms=[1.0], meta={"blind_spots": spots}), SICK).context
    assert context["unseen"] == {"never ran": ["m0", "m1", "m2"], "is compiled": ["(model)"]}
    assert context["unjudged"]["the trace holds no weight_update"] == ["update-too-small", "update-too-large"]


def test_what_happened_is_told_and_nothing_of_a_quiet_run():
    broken = replace(network(0.9), events=(Event(step=3, kind="probe-failed", module="fc", message="boom"),))
    assert unseen_section(broken, HEALTHY).context["events"] == [("step 3: probe-failed fc boom", False)]
    quiet = unseen_section(network(0.9), HEALTHY).context
    assert not quiet["unseen"]
    assert not quiet["unjudged"]
    assert not quiet["events"]
