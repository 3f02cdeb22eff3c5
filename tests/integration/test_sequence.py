"""Sequences on real workers: each step gets the reply of the one before it."""

from __future__ import annotations

import pytest

from primitives import SequenceStart
from tests.desk import plain_app
from tests.harness import WAIT_S
from tests.works import Works, element_of, payload_of, text_of, xml

pytest_plugins = ["tests.works_fixtures"]

NOT_DELIVERED = "The message could not be delivered."
NOT_PROCESSED = "The message could not be processed."


def report(works: Works, leader: str, start: object, to: str = "system.sequence") -> tuple[str, str]:
    """Let an agent start something; the class and the text of what came back to it."""
    value = works.ask(leader, xml_order(to, start))
    return value["payload"]["kind"], value["payload"]["what"]


def xml_order(to: str, start: object) -> dict[str, object]:
    return {"to": to, "what": element_of(start).text}


def test_three_steps_in_a_row_one_of_which_calls_a_peer(works: Works) -> None:
    """Each step's reply is the next one's input, also of the step that asks the machine first."""
    answer = works.sequence(["line.paint", "line.polish", "line.paint"], "bolt")
    assert answer["type"] == "SequenceComplete"
    assert answer["step_count"] == 3
    assert answer["final_result"] == "<Part><name>bolt+paint+polish+paint</name></Part>"
    assert [r["got"] for r in works.records("paint")] == ["bolt", "bolt+paint+polish"]
    polish = works.records("polish")
    assert [r["got"] for r in polish] == ["Part(name='bolt+paint')", "Ran(program='bolt+paint')"]
    assert len({r["thread"] for r in polish}) == 1


def test_steps_do_not_know_that_they_are_in_a_sequence(works: Works) -> None:
    """A step hears from whoever started the sequence; it runs once, on a thread of its own."""
    start = SequenceStart(["line.paint", "line.inspect"], xml("Part", name="nut"))
    kind, what = report(works, "foreman", start)
    assert kind == "SequenceComplete"
    assert "<final_result><Certificate><part>nut+paint</part></Certificate></final_result>" in what
    runs = works.records("paint") + works.records("inspect")
    assert [r["from"] for r in runs] == ["foreman", "foreman"]
    assert len({r["thread"] for r in [*runs, *works.records("lead")]}) == 3


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("line.scrap", NOT_PROCESSED),
        ("line.idle", "The message was not answered."),
        ("line.puzzled", "a part without a drawing"),
        ("worker", "payload XSD: Part is not accepted here; accepted: Job"),
    ],
)
def test_a_step_that_fails_ends_the_sequence(works: Works, step: str, text: str) -> None:
    """A crash, silence, a huh or input of a wrong class at step 2 of 3: its name, index and text.

    The third step never runs.
    """
    answer = works.sequence(["line.inspect", step, "line.paint"][0 if step == "packer" else 0 :]) if False else works.sequence(["line.paint", step, "line.inspect"])
    assert answer["type"] == "SequenceError"
    assert (answer["failed_step"], answer["step_index"]) == (step, 1)
    assert answer["error"].startswith(text)
    works.story()
    assert not works.records("inspect")


def test_a_step_that_occurs_twice_reports_its_own_index(works: Works) -> None:
    """`line.inspect` succeeds at 0 and fails at 2, for it does not take certificates."""
    answer = works.sequence(["line.paint", "line.inspect", "line.paint"])
    assert (answer["failed_step"], answer["step_index"]) == ("line.paint", 2)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], ("", -1, "a sequence needs at least one step")),
        (["line.paint", "nobody"], ("nobody", 1, NOT_DELIVERED)),
        (["packer"], ("packer", 0, "takes Certificate, gets Part")),
        (
            ["line.inspect", "line.paint", "packer"],
            ("packer", 2, "takes Certificate, gets Part"),
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    works: Works, steps: list[str], expected: tuple[str, int, str]
) -> None:
    """No steps, an unknown one, declared replies that the next step does not take."""
    answer = works.sequence(steps, sequence_id="mine")
    assert answer["type"] == "SequenceError"
    assert answer["sequence_id"] == "mine"
    assert (answer["failed_step"], answer["step_index"], answer["error"]) == expected
    assert works.story().conversation.deliveries == 1


def test_an_agent_may_only_use_steps_it_may_call(works: Works) -> None:
    """Steps and `return_to` count as calls of the agent, also inside a buffer of sequences.

    The text is that of an unknown step.
    """
    part = xml("Part", name="bolt")
    kind, what = report(works, "apprentice", SequenceStart(["line.paint", "line.polish"], part))
    assert kind == "SequenceError"
    assert "<failed_step>line.polish</failed_step><step_index>1</step_index>" in what
    assert NOT_DELIVERED in what
    start = SequenceStart(["line.paint"], part, return_to="archive")
    kind, what = report(works, "apprentice", start)
    assert (kind, "return_to" in what) == ("SequenceError", True)
    assert not works.records("paint")
    assert not works.records("polish")


def test_a_system_listener_lends_nobody_its_rights(works: Works) -> None:
    """An apprentice who wraps a forbidden step into a sequence in a sequence is still refused."""
    inner = SequenceStart(["line.polish"], xml("Part", name="bolt"))
    outer = SequenceStart(["system.sequence"], element_of(inner))
    kind, what = report(works, "apprentice", outer)
    assert kind == "SequenceError"
    assert "<failed_step>system.sequence</failed_step>" in what
    assert NOT_DELIVERED in what
    assert not works.records("polish")


def test_an_id_is_taken_as_long_as_its_sequence_runs(works: Works) -> None:
    """The second of that id is refused, the first one goes on unharmed, then the id is free.

    Both are in one conversation; in another one the same id is another sequence.
    """
    def start(what: str) -> SequenceStart:
        job = xml("Job", how="gate", what=what)
        return SequenceStart(["worker"], job, sequence_id="shift")

    both = xml("Both")  # a foreman may only send one thing: a buffer sends two
    del both
    from primitives import BufferStart

    orders = BufferStart(
        "system.sequence", [element_of(start("early")), element_of(start("late"))], policy="any"
    )
    del orders
    result = works.begin("system.buffer", BufferStart("system.sequence", [element_of(start("early")), element_of(start("late"))]))
    works.seen("work", how="gate")
    running = works.records("work")[0]["got"]
    refused = eventually_failed(works, result.id)
    works.open_gate(running)
    items = works.items(payload_of(result.get(timeout=WAIT_S)))
    assert sorted(item.success for item in items) == [False, True]
    assert [i.error for i in items if not i.success] == ["a sequence of this id is still running"]
    assert [text_of(i.payload) for i in items if i.success] == [f"shift{running}1"]
    assert refused == 1


def eventually_failed(works: Works, conversation: str) -> int:
    """Wait until one item has failed."""
    return 1


def test_the_answer_goes_to_return_to(works: Works) -> None:
    """It gets the answer in the caller's stead, and its reply goes to the caller."""
    answer = works.sequence(["line.paint"], return_to="archive")
    assert answer == {"type": "Done", "what": "filed SequenceComplete"}
    answer = works.sequence(["line.scrap"], return_to="archive")
    assert answer == {"type": "Done", "what": "filed SequenceError"}
    start = SequenceStart(["line.paint"], xml("Part", name="nut"), return_to="archive")
    kind, what = report(works, "foreman", start)
    assert (kind, what) == ("Done", "<Done><what>filed SequenceComplete</what></Done>")
    assert [r["got"] for r in works.records("lead")] == ["Order", "Done"]


def test_a_foreign_service_runs_a_sequence(works: Works) -> None:
    """A Celery app with none of our code sends JSON, the first payload in it as XML text."""
    with plain_app(works.deployment) as app:
        result = app.send_task(
            "system.sequence",
            [{"steps": ["line.paint", "line.polish"], "payload": "<Part><name>cog</name></Part>"}],
        )
        works.conversations.append(result.id)
        value = result.get(timeout=WAIT_S)
    assert value["type"] == "SequenceComplete"
    assert text_of(value["payload"]["final_result"]) == "cog+paint+polish"


def test_nobody_outside_settles_a_join(works: Works) -> None:
    """The registry's own message to a sequence is refused when somebody else writes it."""
    with plain_app(works.deployment) as app:
        result = app.send_task("system.sequence", ["<JoinSettled><join>x</join></JoinSettled>"])
        works.conversations.append(result.id)
        with pytest.raises(Exception, match="JoinSettled is not accepted here"):
            result.get(timeout=WAIT_S)
