"""Buffers on real workers: items fan out to one listener, and every index comes back."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest

from tests.desk import plain_app, waiting
from tests.harness import WAIT_S
from tests.works import Works, as_xml, fields_of, jobs, text_of, texts, xml
from threadloom.primitives import BufferStart
from threadloom.routing import XML, ConversationError, UnknownResultsError

pytest_plugins = ["tests.works_fixtures"]

NOT_DELIVERED = "The message could not be delivered."
NOT_PROCESSED = "The message could not be processed."
NOT_ANSWERED = "The message was not answered."
NO_ANSWER = "There was no answer in time."
MISSING = "no answer in time, or not needed any more"
#: kept exact to the last blank
DRAWING = "\n  <b> &amp; ]]\n\n\tname\t=  \N{SNOWMAN} 'x' \"y\"  \n   "


def sheets(count: int) -> list[XML]:
    return [xml("Sheet", number=number) for number in range(count)]


# --- what comes back ----------------------------------------------------------------------


@pytest.mark.both_brokers
def test_results_are_in_index_order_whatever_comes_first(works: Works) -> None:
    """Four items are let through one at a time, the last one first."""
    items = jobs(*[("gate", name) for name in "abcd"])
    result = works.begin("system.buffer", BufferStart("worker", items, buffer_id="mine"))
    for name in "dbca":
        works.open_gate(name)
        works.seen("passed", got=name)
    answer = fields_of(result.get(timeout=WAIT_S))
    assert answer["type"] == "BufferComplete"
    assert (answer["buffer_id"], answer["total"], answer["successful"]) == ("mine", 4, 4)
    assert answer["results"] == (
        "<results>"
        + "".join(
            f'<item index="{n}" success="true"><Done><what>{name}</what></Done></item>'
            for n, name in enumerate("abcd")
        )
        + "</results>"
    )


def test_a_text_with_cdata_stays_exact(works: Works) -> None:
    """Into the worker and back, to the last blank: CDATA is escaped text by then, no more.

    The second item arrives as a foreign service writes it, the whole buffer as one text.
    """
    item = f"<Text><value><![CDATA[{DRAWING}]]></value></Text>"
    answer = works.buffer("copier", [XML(item)])
    escaped = DRAWING.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert answer["results"] == (
        '<results><item index="0" success="true"><Text><value>'
        f"{escaped}</value></Text></item></results>"
    )
    start = f"<BufferStart><target>copier</target><items><item>{item}</item></items></BufferStart>"
    with plain_app(works.deployment) as app:
        result = app.send_task("system.buffer", [start])
        works.conversations.append(result.id)
        foreign = fields_of(result.get(timeout=WAIT_S))
    assert [r["got"] for r in works.records("copy")] == [DRAWING, DRAWING]
    assert foreign["results"] == answer["results"]
    assert texts(works.items(foreign)) == [DRAWING]


@pytest.mark.both_brokers
def test_a_foreign_service_runs_a_buffer(works: Works) -> None:
    """A Celery app with none of our code sends JSON, the items in it as XML text."""
    items = [f"<Job><how>do</how><what>{n}</what></Job>" for n in range(3)]
    with plain_app(works.deployment) as app:
        result = app.send_task("system.buffer", [{"target": "worker", "items": items}])
        works.conversations.append(result.id)
        answer = fields_of(result.get(timeout=WAIT_S))
    assert texts(works.items(answer)) == ["0", "1", "2"]


def test_an_item_that_breaks_the_contract_fails_alone(works: Works) -> None:
    """The wrong class, or the right name in a namespace: neither reaches the handler."""
    foreign = '<p:Text xmlns:p="urn:p" p:a="1"><value xmlns="urn:v">x</value></p:Text>'
    answer = works.buffer("copier", [XML(foreign), xml("Text", value="y"), xml("Part", name="z")])
    wrong, good, other = works.items(answer)
    assert "{urn:p}Text is not accepted here" in wrong.error
    assert text_of(good.payload) == "y"
    assert "Part is not accepted here" in other.error
    assert [r["got"] for r in works.records("copy")] == ["y"]


@pytest.mark.both_brokers
def test_items_that_fail_are_marked_and_the_rest_is_complete(works: Works) -> None:
    """A crash, a hanging handler, silence, a huh, a nested call without an answer or too late."""
    items = jobs(
        ("do", "a"),
        ("crash", ""),
        ("hang", ""),
        ("none", ""),
        ("huh", "that"),
        ("machine", "silent"),
        ("machine", "gate:late"),
        ("machine", "b"),
    )
    answer = works.buffer("worker", items, item_timeout_seconds=1.5)
    assert (answer["total"], answer["successful"]) == (8, 2)
    found = works.items(answer)
    assert texts(found) == [
        "a",
        f"!{NOT_PROCESSED}",
        f"!{NO_ANSWER}",
        f"!{NOT_ANSWERED}",
        "!what is that?",
        f"!{NOT_ANSWERED}",
        f"!{NO_ANSWER}",
        "b",
    ]
    assert not any(item.missing for item in found)
    works.open_gate("late")
    story = works.story()
    assert "the secret of the crash" in story.notes
    assert not works.records("answered", got="late"), "a late reply is delivered to nobody"
    assert any(line.event == "late" for line in story.log)


def test_a_listener_that_runs_past_its_own_time_is_a_failed_item(works: Works) -> None:
    """Without a limit for items, the listener's `timeout_seconds` counts."""
    answer = works.buffer("sleepy", jobs(("hang", ""), ("do", "x")))
    assert texts(works.items(answer)) == [f"!{NO_ANSWER}", "x"]


def test_items_hear_from_whoever_started_the_buffer(works: Works) -> None:
    """Each on a thread of its own; the agent gets one answer, on its thread."""
    start = BufferStart("copier", [xml("Text", value=n) for n in range(5)])
    kind, what = works.led("foreman", "system.buffer", start)
    assert kind == "BufferComplete"
    assert text_of(what).endswith("01234")
    copies = works.records("copy")
    assert {r["from"] for r in copies} == {"foreman"}
    assert len({r["thread"] for r in copies}) == 5
    assert [r["got"] for r in works.records("lead")] == ["Order", "BufferComplete"]


# --- dispatch -----------------------------------------------------------------------------


@pytest.mark.both_brokers
def test_without_a_collector_the_answer_comes_at_once(works: Works) -> None:
    """It completes the conversation, and every item still runs to its end, failures and all."""
    items = jobs(("gate", "a"), ("crash", ""), ("gate", "b"), ("machine", "c"), ("gate", "d"))
    answer = works.buffer("worker", items, collect=False, max_parallel=2, policy="all")
    assert answer == {"type": "BufferDispatched", "buffer_id": answer["buffer_id"], "total": 5}
    [conversation] = works.conversations
    assert works.deployment.conversation(conversation).status == "completed"
    works.open_gate("a", "b", "d")
    story = works.story()
    # Two run at a time, and whichever looks first finds its gate open first.
    assert sorted(r["got"] for r in works.records("passed")) == ["a", "b", "d"]
    assert [r["got"] for r in works.records("answered")] == ["Ran"]
    assert "the secret of the crash" in story.notes


def test_an_agent_goes_on_while_its_items_run(works: Works) -> None:
    """It hears that they are on their way, once, and of their results nothing."""
    start = BufferStart("worker", jobs(("gate", "a"), ("gate", "b")), collect=False)
    kind, what = works.led("foreman", "system.buffer", start)
    assert (kind, "<total>2</total>" in what) == ("BufferDispatched", True)
    works.open_gate("a", "b")
    works.story()
    assert len(works.records("passed")) == 2
    assert [r["got"] for r in works.records("lead")] == ["Order", "BufferDispatched"]


def test_no_items_are_complete_at_once(works: Works) -> None:
    """With a collector, without one, and to somebody else; whatever the policy asks for."""
    answer = works.buffer("worker", [], policy="at_least:3")
    assert (answer["type"], answer["total"], answer["successful"]) == ("BufferComplete", 0, 0)
    assert answer["results"] == "<results></results>"
    assert works.items(answer) == []
    assert works.buffer("worker", [], collect=False)["type"] == "BufferDispatched"
    assert works.buffer("worker", [], return_to="archive")["what"] == "filed BufferComplete"


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"target": "nobody"}, NOT_DELIVERED),
        ({"return_to": "nobody"}, f"return_to: {NOT_DELIVERED}"),
        ({"policy": "most"}, "unknown policy 'most'"),
        ({"policy": "at_least:3"}, "policy 'at_least:3' cannot be met by 2 items"),
        ({"policy": "all+slowly"}, "unknown flag in policy 'all+slowly'"),
        ({"max_parallel": -1}, "max_parallel must be from 0"),
        ({"item_timeout_seconds": -0.5}, "item_timeout_seconds must be from 0"),
        ({"deadline_seconds": -1.0}, "deadline_seconds must be from 0"),
        ({"deadline_seconds": 1e300}, "deadline_seconds must be from 0"),
        ({"items": sheets(1_100)}, "1100 items are too many for max_deliveries 1100"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    works: Works, changes: dict[str, Any], error: str
) -> None:
    """The reason comes back as a BufferError, and nothing else happens."""
    given = {"target": "press", "items": sheets(2), "buffer_id": "mine", **changes}
    answer = works.buffer(given.pop("target"), given.pop("items"), **given)
    assert (answer["type"], answer["buffer_id"]) == ("BufferError", "mine")
    assert error in answer["error"]
    assert works.story().conversation.deliveries == 1


def test_an_agent_may_only_send_items_where_it_may_call(works: Works) -> None:
    """The text is that of an unknown target, and the target never runs."""
    start = BufferStart("copier", [xml("Text", value="x")])
    kind, what = works.led("apprentice", "system.buffer", start)
    assert kind == "BufferError"
    assert NOT_DELIVERED in what
    works.noted("apprentice may not call 'copier': it is not in the peers of 'apprentice'")
    assert works.led("apprentice", "system.buffer", BufferStart("worker", jobs(("do", "x"))))[
        0
    ] == ("BufferComplete")
    assert not works.records("copy")


def test_an_id_is_taken_as_long_as_its_buffer_runs(works: Works) -> None:
    """The second of that id is refused, the first one is unharmed; then the id is free."""
    start = as_xml(BufferStart("worker", jobs(("gate", "g")), buffer_id="shift"))
    result = works.begin("system.buffer", BufferStart("system.buffer", [start, start]))
    works.noted("a buffer of this id is still running")
    works.open_gate("g")
    found = sorted(texts(works.items(result.get(timeout=WAIT_S))))
    assert found == ["!a buffer of this id is still running", "shift11g"]
    start = as_xml(BufferStart("worker", jobs(("do", "x")), buffer_id="shift"))
    answer = works.buffer("system.buffer", [start] * 3, max_parallel=1)
    assert texts(works.items(answer)) == ["shift11x"] * 3


def test_the_answer_goes_to_return_to_instead(works: Works) -> None:
    """Whoever is named there gets it; its reply goes to whoever would have got the answer."""
    answer = works.buffer("worker", jobs(("do", "x")), return_to="archive")
    assert answer == {"type": "Done", "what": "filed BufferComplete"}
    start = BufferStart("worker", jobs(("do", "x")), return_to="archive")
    kind, what = works.led("foreman", "system.buffer", start)
    assert (kind, text_of(what)) == ("Done", "filed BufferComplete")
    assert [r["got"] for r in works.records("lead")] == ["Order", "Done"]
    with pytest.raises(ConversationError, match="BufferComplete is not accepted here"):
        works.buffer("worker", jobs(("do", "x")), return_to="copier")


# --- many, few at once, and only for so long ----------------------------------------------


@pytest.mark.both_brokers
def test_a_thousand_items(works: Works) -> None:
    """Each runs once and each reply is at its index; the results come by reference."""
    items = [xml("Text", value=n) for n in range(1_000)]
    result = works.begin("system.buffer", BufferStart("copier", items))
    answer = fields_of(result.get(timeout=200))
    assert (answer["total"], answer["successful"]) == (1_000, 1_000)
    assert texts(works.items(answer)) == [str(n) for n in range(1_000)]
    assert sorted(int(r["got"]) for r in works.records("copy")) == list(range(1_000))


@pytest.mark.both_brokers
def test_never_more_at_once_than_max_parallel(works: Works) -> None:
    """Of sixty items on twelve processes at most eight run at once, and all have run."""
    answer = works.buffer("press", sheets(60), max_parallel=8)
    assert answer["successful"] == 60
    runs = works.records("press")
    assert sorted(r["number"] for r in runs) == list(range(60))
    at_once = [sum(r["began"] <= run["began"] < r["ended"] for r in runs) for run in runs]
    assert 2 <= max(at_once) <= 8


def test_as_many_at_once_as_max_parallel_allows(works: Works) -> None:
    """Eight of ten wait at their gates together; the ninth starts when one is through."""
    items = jobs(*[gate(f"g{n}") for n in range(10)])
    result = works.begin("system.buffer", BufferStart("worker", items, max_parallel=8))
    for n in range(8):
        works.seen("work", got=f"g{n}")
    assert len(works.records("work")) == 8
    works.open_gate("g3")
    works.seen("work", got="g8")
    assert len(works.records("work")) == 9
    works.open_gate(*(f"g{n}" for n in range(10) if n != 3))
    assert fields_of(result.get(timeout=WAIT_S))["successful"] == 10


def test_after_the_deadline_what_has_not_answered_is_missing(works: Works) -> None:
    """What is late is not delivered, and what had not started never runs."""
    items = jobs(("do", "x"), ("gate", "late"), ("machine", "gate:later"), ("do", "never"))
    start = BufferStart("worker", items, max_parallel=2, deadline_seconds=1.2)
    result = works.begin("system.buffer", start)
    works.seen("work", got="late")
    works.seen("machine", got="gate:later")
    answer = fields_of(result.get(timeout=WAIT_S))
    assert (answer["type"], answer["total"], answer["successful"]) == ("BufferComplete", 4, 1)
    found = works.items(answer)
    assert texts(found) == ["x", *[f"!{MISSING}"] * 3]
    assert [item.missing for item in found] == [False, True, True, True]
    works.open_gate("late", "later")
    story = works.story()
    assert [r["got"] for r in works.records("passed")] == ["late"]
    assert not works.records("answered"), "the machine's late reply is delivered to nobody"
    assert not works.records("work", got="never")
    assert len([line for line in story.log if line.event == "late"]) == 2


@pytest.mark.both_brokers
def test_items_that_lie_in_a_queue_after_the_deadline_never_run(works: Works) -> None:
    """Published, but begun too late: a worker that comes across them drops them."""
    items = [xml("Part", name=n) for n in range(3)]
    answer = works.buffer("lobby", items, deadline_seconds=0.3)
    assert texts(works.items(answer)) == [f"!{MISSING}"] * 3
    assert waiting(works.deployment, "lobby") == 3
    with works.lobby_open():
        works.story()
    assert not works.records("paint")


# --- policies -----------------------------------------------------------------------------

OK, BAD = ("do", "x"), ("crash", "")


def gate(name: str) -> tuple[str, str]:
    return ("gate", name)


@pytest.mark.parametrize(
    ("policy", "items", "expected"),
    [
        ("any", [BAD, OK, gate("a"), gate("b")], "!x??"),
        ("all", [BAD, gate("a"), gate("b")], "!??"),
        ("at_least:2", [OK, BAD, OK, gate("a")], "x!x?"),
        ("at_least:2", [BAD, BAD, gate("a")], "!!?"),
        ("at_least:50%", [OK, OK, gate("a"), gate("b")], "xx??"),
        ("at_least:51%", [BAD, BAD, gate("a"), gate("b")], "!!??"),
        ("fail_fast", [OK, BAD, gate("a")], "x!?"),
        ("at_least:3+fail_fast", [OK, BAD, gate("a"), gate("b")], "x!??"),
    ],
)
def test_a_buffer_ends_as_soon_as_its_policy_is_decided(
    works: Works, policy: str, items: list[tuple[str, str]], expected: str
) -> None:
    """It does not wait for what is behind a gate; what it did not need is missing.

    `x`: done, `!`: failed, `?`: missing. One at a time, so that the order is known and what
    stands behind the gates never starts.
    """
    answer = works.buffer("worker", jobs(*items), policy=policy, max_parallel=1)
    found = works.items(answer)
    assert "".join("x" if i.success else "?" if i.missing else "!" for i in found) == expected
    assert answer["successful"] == expected.count("x")
    works.story()
    assert not works.records("work", how="gate")


@pytest.mark.parametrize(
    ("policy", "items", "expected"),
    [
        ("best_effort", [BAD, OK, BAD], "!x!"),
        ("all", [OK, OK], "xx"),
        ("any", [BAD, BAD], "!!"),
        ("at_least:100%", [OK, OK, OK], "xxx"),
        ("all+fail_fast", [OK, OK], "xx"),
    ],
)
def test_a_policy_that_is_decided_by_the_last_item_waits_for_it(
    works: Works, policy: str, items: list[tuple[str, str]], expected: str
) -> None:
    """Then nothing is missing."""
    found = works.items(works.buffer("worker", jobs(*items), policy=policy, max_parallel=1))
    assert "".join("x" if i.success else "?" if i.missing else "!" for i in found) == expected


@pytest.mark.both_brokers
def test_what_runs_when_it_is_not_needed_any_more_is_not_delivered(works: Works) -> None:
    """Its handler ends, and neither its reply nor that of the peer it called counts."""
    items = jobs(gate("a"), ("machine", "gate:b"), gate("c"))
    result = works.begin("system.buffer", BufferStart("worker", items, policy="any"))
    works.seen("work", got="a")
    works.seen("machine", got="gate:b")
    works.open_gate("c")
    found = works.items(result.get(timeout=WAIT_S))
    assert [item.success for item in found] == [False, False, True]
    works.open_gate("a", "b")
    works.story()
    assert not works.records("answered")


# --- results by reference -----------------------------------------------------------------


def test_results_too_large_for_one_payload_come_by_reference(works: Works) -> None:
    """An agent reads them like any others; nobody reads another conversation's."""
    sizes = [3_000 + n for n in range(40)]
    items = jobs(*[("fill", str(size)) for size in sizes], ("crash", ""))
    balance = works.ask(
        "accountant",
        {"to": "system.buffer", "what": as_xml(BufferStart("worker", items)).text},
    )
    assert balance["inline"] is False
    assert balance["indexes"] == list(range(41))
    assert (balance["good"], balance["missing"]) == (40, 0)
    envelope = len("<Done><what></what></Done>")
    assert balance["bytes_read"] == sum(sizes) + 40 * envelope
    assert balance["errors"] == [NOT_PROCESSED]
    assert balance["foreign"] == "no results 'somewhere-else' in this conversation"


def test_an_agent_reads_small_results_the_same_way(works: Works) -> None:
    """Inline, with a missing one, a failed one and the digest of the exact replies."""
    items = jobs(("do", "a"), ("crash", ""), ("do", " b "), gate("never"))
    start = BufferStart("worker", items, policy="at_least:2", max_parallel=1)
    balance = works.ask("accountant", {"to": "system.buffer", "what": as_xml(start).text})
    assert balance["inline"] is True
    assert balance["indexes"] == [0, 1, 2, 3]
    assert (balance["good"], balance["missing"]) == (2, 1)
    replies = b"<Done><what>a</what></Done><Done><what> b </what></Done>"
    assert balance["digest"] == hashlib.sha256(replies).hexdigest()
    assert balance["errors"] == [NOT_PROCESSED, MISSING]


def test_an_injector_reads_large_results_by_its_conversation(works: Works) -> None:
    """`threadloom.read_results` needs the conversation's id: with another one there is nothing."""
    items = jobs(*[("fill", "30000")] * 4)
    answer = works.buffer("worker", items)
    assert re.fullmatch(r'<results ref="[0-9a-f-]{36}" total="4"></results>', answer["results"])
    assert [len(text) for text in texts(works.items(answer))] == [30_000] * 4
    works.buffer("worker", jobs(OK))
    with pytest.raises(UnknownResultsError):
        works.items(answer)
