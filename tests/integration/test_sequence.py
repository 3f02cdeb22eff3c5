"""Sequences on real workers: each step gets the reply of the one before it."""

from __future__ import annotations

import pytest

from tests.desk import plain_app
from tests.harness import WAIT_S
from tests.works import Works, as_xml, fields_of, text_of, texts, xml
from threadloom.primitives import BufferStart, SequenceStart
from threadloom.routing import InvalidEnvelopeError

pytest_plugins = ["tests.works_fixtures"]
pytestmark = pytest.mark.both_brokers

NOT_DELIVERED = "The message could not be delivered."
BOLT = xml("Part", name="bolt")


def test_three_steps_in_a_row_one_of_which_calls_a_peer(works: Works) -> None:
    """Each step's reply is the next step's input, also for the step that first calls the
    machine.
    """
    answer = works.sequence(["line.paint", "line.polish", "line.paint"], "bolt")
    assert answer["type"] == "SequenceComplete"
    assert answer["step_count"] == 3
    assert answer["final_result"] == "<Part><name>bolt+paint+polish+paint</name></Part>"
    assert [r["got"] for r in works.records("paint")] == ["bolt", "bolt+paint+polish"]
    polish = works.records("polish")
    assert [r["got"] for r in polish] == ["Part(name='bolt+paint')", "Ran(program='bolt+paint')"]
    assert len({r["thread"] for r in polish}) == 1


def test_steps_do_not_know_that_they_are_in_a_sequence(works: Works) -> None:
    """Each step's message comes from the sequence's initiator, on a thread of its own."""
    start = SequenceStart(["line.paint", "line.inspect"], BOLT)
    kind, what = works.led("foreman", "system.sequence", start)
    assert kind == "SequenceComplete"
    assert "<final_result><Certificate><part>bolt+paint</part></Certificate></final_result>" in what
    steps = works.records("paint") + works.records("inspect")
    assert [r["from"] for r in steps] == ["foreman", "foreman"]
    assert len({r["thread"] for r in [*steps, *works.records("lead")]}) == 3


def test_a_reply_reaches_the_next_step_unchanged(works: Works) -> None:
    """Blanks, line breaks and markup characters pass through five steps unchanged."""
    text = "  <b>&amp;</b> ]]>\n\n\tä \N{SNOWMAN}  "
    start = SequenceStart(["copier"] * 5, xml("Text", value=text))
    answer = works.ask("system.sequence", start)
    assert [r["got"] for r in works.records("copy")] == [text] * 5
    assert text_of(answer["final_result"]) == text


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("line.scrap", "The message could not be processed."),
        ("line.idle", "The message was not answered."),
        ("line.puzzled", "a part without a drawing"),
    ],
)
def test_a_step_that_fails_ends_the_sequence(works: Works, step: str, text: str) -> None:
    """Step 2 of 3 crashes, ends without a reply or answers a huh.

    The error has its name, index and text, and step 3 never runs.
    """
    answer = works.sequence(["line.paint", step, "line.inspect"], sequence_id="mine")
    assert answer == {
        "type": "SequenceError",
        "sequence_id": "mine",
        "failed_step": step,
        "step_index": 1,
        "error": text,
    }
    works.story()
    assert not works.records("inspect")


def test_a_name_that_occurs_twice_reports_its_own_index(works: Works) -> None:
    """`line.paint` succeeds at index 0 and fails at index 2, where it gets a certificate."""
    answer = works.sequence(["line.paint", "line.inspect", "line.paint", "line.paint"])
    assert (answer["failed_step"], answer["step_index"]) == ("line.paint", 2)
    assert "Certificate is not accepted here" in answer["error"]
    assert len(works.records("paint")) == 1


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], ("", -1, "a sequence needs at least one step")),
        (["line.paint", "nobody"], ("nobody", 1, NOT_DELIVERED)),
        (["packer"], ("packer", 0, "takes Certificate, gets Part")),
        (["line.inspect", "line.paint", "packer"], ("packer", 2, "takes Certificate, gets Part")),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    works: Works, steps: list[str], expected: tuple[str, int, str]
) -> None:
    """There are no steps, a step is unknown, or a step does not take the declared reply of the
    one before.
    """
    answer = works.sequence(steps, sequence_id="mine")
    assert (answer["type"], answer["sequence_id"]) == ("SequenceError", "mine")
    assert (answer["failed_step"], answer["step_index"], answer["error"]) == expected
    assert works.story().conversation.deliveries == 1


def test_an_agent_may_only_use_steps_that_it_may_call(works: Works) -> None:
    """Steps and `return_to` count as the agent's calls; the error is that of an unknown step."""
    start = SequenceStart(["line.paint", "line.polish"], BOLT)
    kind, what = works.led("apprentice", "system.sequence", start)
    assert kind == "SequenceError"
    assert "<failed_step>line.polish</failed_step><step_index>1</step_index>" in what
    assert NOT_DELIVERED in what
    works.noted(
        "step 1: apprentice may not call 'line.polish': it is not in the peers of 'apprentice'"
    )
    start = SequenceStart(["line.paint"], BOLT, return_to="archive")
    kind, what = works.led("apprentice", "system.sequence", start)
    assert kind == "SequenceError"
    assert f"return_to: {NOT_DELIVERED}" in what
    works.noted("return_to: apprentice may not call 'archive'")
    assert not works.records("paint")


def test_a_system_listener_lends_nobody_its_rights(works: Works) -> None:
    """A forbidden step inside a sequence in a buffer in a sequence stays forbidden."""
    forbidden = as_xml(SequenceStart(["line.polish"], BOLT))
    buffer = as_xml(BufferStart("system.sequence", [forbidden]))
    start = SequenceStart(["system.buffer"], buffer)
    kind, what = works.led("apprentice", "system.sequence", start)
    assert kind == "SequenceComplete"
    assert f'<item index="0" success="false"><error>{NOT_DELIVERED}</error></item>' in what
    assert not works.records("polish")


def test_an_id_is_taken_as_long_as_its_sequence_runs(works: Works) -> None:
    """Of two sequences with one id the second is refused, and the first one runs to its end."""
    start = as_xml(SequenceStart(["worker"], xml("Job", how="gate", what="g"), sequence_id="shift"))
    result = works.begin("system.buffer", BufferStart("system.sequence", [start, start]))
    works.noted("a sequence of this id is still running")
    works.open_gate("g")
    items = works.items(result.get(timeout=WAIT_S))
    assert sorted(texts(items)) == ["!a sequence of this id is still running", "shiftg1"]
    assert len(works.records("work")) == 1


def test_an_id_is_free_again_once_its_sequence_is_over(works: Works) -> None:
    """A later sequence may have the same id, whether the earlier one failed or not."""
    good = as_xml(SequenceStart(["line.paint"], BOLT, sequence_id="shift"))
    bad = as_xml(SequenceStart(["line.scrap"], BOLT, sequence_id="shift"))
    answer = works.buffer("system.sequence", [good, bad, good], max_parallel=1)
    assert texts(works.items(answer)) == [
        "shiftbolt+paint1",
        "!The message could not be processed.",
        "shiftbolt+paint1",
    ]


def test_the_answer_goes_to_return_to_instead(works: Works) -> None:
    """The listener in `return_to` gets success and failure alike, and its reply goes to the
    caller.
    """
    filed = {"type": "Done", "what": "filed SequenceComplete"}
    assert works.sequence(["line.paint"], return_to="archive") == filed
    filed = {"type": "Done", "what": "filed SequenceError"}
    assert works.sequence(["line.scrap"], return_to="archive") == filed
    start = SequenceStart(["line.paint"], BOLT, return_to="archive")
    kind, what = works.led("foreman", "system.sequence", start)
    assert (kind, text_of(what)) == ("Done", "filed SequenceComplete")
    assert [r["got"] for r in works.records("lead")] == ["Order", "Done"]
    assert works.records("archive")[-1]["from"] == "foreman"


def test_a_foreign_service_runs_a_sequence(works: Works) -> None:
    """A Celery app with none of our code sends JSON, the first payload in it as XML text."""
    steps = {"steps": ["line.paint", "line.polish"], "payload": "<Part><name>cog</name></Part>"}
    with plain_app(works.deployment) as app:
        result = app.send_task("system.sequence", [steps])
        works.conversations.append(result.id)
        answer = fields_of(result.get(timeout=WAIT_S))
    assert answer["type"] == "SequenceComplete"
    assert text_of(answer["final_result"]) == "cog+paint+polish"


def test_nobody_else_tells_a_sequence_that_it_is_over(works: Works) -> None:
    """The registry's own message to a sequence is refused when an outsider or an agent sends it."""
    forged = "<JoinSettled><join>x</join></JoinSettled>"
    with pytest.raises(InvalidEnvelopeError, match="'JoinSettled' is not accepted here"):
        works.ask("system.sequence", forged)
    value = works.ask("foreman", {"to": "system.sequence", "what": forged})
    assert value["kind"] in ("Huh", "SystemError")


def test_a_last_reply_too_large_to_be_passed_on_is_an_error(works: Works) -> None:
    """The reply fits into a payload, but not together with the other fields of a
    SequenceComplete.
    """
    envelope = len("<Done><what></what></Done>")
    job = xml("Job", how="fill", what=100_000 - envelope)
    answer = works.ask("system.sequence", SequenceStart(["worker"], job))
    assert answer["type"] == "SequenceError"
    assert (answer["failed_step"], answer["step_index"]) == ("worker", 0)
    assert "too large" in answer["error"]
