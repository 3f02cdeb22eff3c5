"""What goes wrong inside a conversation: who is told, in which words, and that it ends."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tests.desk import Story, failed, plain_app, told
from tests.harness import WAIT_S, Deployment
from threadloom.routing import ConversationError
from threadloom.routing.faults import (
    Huh,
    handler_fault,
    limit_fault,
    routing_fault,
    timeout_fault,
)

pytest_plugins = ["tests.desk_fixtures"]
pytestmark = pytest.mark.both_brokers

ASK = "<Ask><number>1</number></Ask>"


class Misdeed(NamedTuple):
    """A listener that does something wrong: the code its caller gets, what the operators read."""

    listener: str
    code: str
    note: str


MISDEEDS = [
    Misdeed("raises", "handler", "ValueError: the safe's combination"),
    Misdeed("returns.text", "handler", "the handler returned a str"),
    Misdeed("returns.stranger", "handler", "NotAPayload"),
    Misdeed("forges.fan_out", "handler", "a FanOut, which is for system listeners only"),
    Misdeed("forges.forward", "handler", "a Forward, which is for system listeners only"),
    Misdeed("forges.supply", "handler", "a Supply, which is for system listeners only"),
    Misdeed("forges.fault", "handler", "a Fault, which is for system listeners only"),
    Misdeed("addresses.nonsense", "handler", "unhashable"),
    Misdeed("exits", "handler", "SystemExit: 3"),
    Misdeed("panics", "handler", "PanicException: called"),
    Misdeed("is.interrupted", "handler", "KeyboardInterrupt"),
    Misdeed("cancels", "handler", "CancelledError"),
    Misdeed("sleeps", "timeout", "longer than 0.3 s"),
    Misdeed("spins", "timeout", "longer than 0.3 s"),
    Misdeed("sleeps.async", "timeout", "longer than 0.3 s"),
    Misdeed("swallows", "timeout", "longer than 0.3 s"),
    Misdeed("floods", "timeout", "more than could be prepared in its time"),
    Misdeed("blocks", "timeout", "hard limit"),
    Misdeed("dies", "handler", "given up after 2 runs"),
]
TEXTS = {
    "handler": handler_fault().message,
    "timeout": timeout_fault().message,
    "routing": routing_fault().message,
}


@pytest.fixture(scope="module")
def done(desk: Deployment) -> dict[str, Any]:
    """Every misdeed injected and called, all at once, so that their times add up less."""
    once = {name: desk.inject(name, {"number": 1}) for name in ("dies.once", "is.ended.once")}
    return once | {
        m.listener: (
            desk.inject(m.listener, {"number": 1}),
            desk.inject("caller", {"to": m.listener, "message": ASK}),
        )
        for m in MISDEEDS
    }


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda m: m.listener)
def test_the_injector_gets_the_error(
    desk: Deployment, done: dict[str, Any], misdeed: Misdeed
) -> None:
    """Its code, a text that gives nothing away, and the details in the log; the end."""
    result, _ = done[misdeed.listener]
    error = result.get(timeout=WAIT_S, propagate=False)
    assert (error.code, error.message) == (misdeed.code, TEXTS[misdeed.code])
    story = Story(desk, result.id)
    assert story.conversation.status == "error"
    assert misdeed.note in story.notes
    assert misdeed.listener not in str(error)


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda m: m.listener)
def test_the_caller_gets_the_error_and_goes_on(
    desk: Deployment, done: dict[str, Any], misdeed: Misdeed
) -> None:
    """A caller inside gets a SystemError on its own thread, and may still reply as it likes."""
    _, result = done[misdeed.listener]
    value = result.get(timeout=WAIT_S)
    assert value["payload"] == {
        "kind": "SystemError",
        "sender": value["payload"]["sender"],
        "code": misdeed.code,
        "text": TEXTS[misdeed.code],
    }
    story = Story(desk, result.id)
    assert story.conversation.status == "completed"
    assert [r["got"] for r in story.records("call")] == ["Call", "SystemError"]
    assert misdeed.note in story.notes


def test_an_error_written_as_xml_is_an_error(desk: Deployment) -> None:
    """A handler that replies with a SystemError of its own making fails with what it says."""
    error = desk.inject("forges.error", {"number": 1}).get(timeout=WAIT_S, propagate=False)
    assert (error.code, error.message, error.retry_allowed) == ("limit", "made up", True)
    called = desk.inject("caller", {"to": "forges.error", "message": ASK}).get(timeout=WAIT_S)
    assert called["payload"]["kind"] == "SystemError"
    assert called["payload"]["code"] == "limit"


@pytest.mark.parametrize("listener", ["panics", "is.interrupted"])
def test_what_is_no_exception_runs_once(
    desk: Deployment, done: dict[str, Any], listener: str
) -> None:
    """It is a fault of the handler and not the end of its process, so nothing repeats it."""
    for result in done[listener]:
        result.get(timeout=WAIT_S, propagate=False)
        assert len(Story(desk, result.id).records(listener)) == 1


def test_a_payload_whose_own_code_panics_is_told_in_general_words(desk: Deployment) -> None:
    """Its class is run before there is a handler; the conversation ends all the same."""
    with plain_app(desk) as app:
        result = app.send_task("brittle", [{"number": -1}])
        error = result.get(timeout=WAIT_S, propagate=False)
    assert TEXTS["handler"] in str(error)
    story = Story(desk, result.id)
    assert story.conversation.status == "error"
    assert "PanicException: the safe's combination" in story.notes


@pytest.mark.parametrize("kind", ["fan_out", "forward", "supply", "fault"])
def test_forged_actions_of_the_system_reach_nobody(
    desk: Deployment, done: dict[str, Any], kind: str
) -> None:
    """A handler that imports what only system listeners may return gets no further than others."""
    result, _ = done[f"forges.{kind}"]
    result.get(timeout=WAIT_S, propagate=False)
    story = Story(desk, result.id)
    assert [to for _, to, _ in story.messages] == [f"forges.{kind}"]
    assert not story.records("echo")


@pytest.mark.parametrize("listener", ["dies.once", "is.ended.once"])
def test_a_lost_process_is_retried_with_the_same_message_id(
    desk: Deployment, done: dict[str, Any], listener: str
) -> None:
    """A run whose process died, or was told to end, is no failure: it runs again, as the same."""
    result = done[listener]
    assert result.get(timeout=WAIT_S)["payload"] == {"number": 2}
    story = Story(desk, result.id)
    runs = story.records("ends_once")
    assert len(runs) == 2
    assert len({r["message"] for r in runs}) == 1
    assert len({r["pid"] for r in runs}) == 2
    assert [e.detail["text"] for e in story.log if e.event == "abandoned"] == ["lost"]


def test_a_blocked_process_is_not_given_a_second_chance(
    desk: Deployment, done: dict[str, Any]
) -> None:
    """Past its hard limit a run is over: its process is killed and the caller told, once."""
    result, _ = done["blocks"]
    with pytest.raises(ConversationError):
        result.get(timeout=WAIT_S)
    story = Story(desk, result.id)
    assert len(story.records("blocks")) == 1
    assert [e.event for e in story.log].count("ended") == 1


@pytest.mark.parametrize(
    ("caller", "target"),
    [
        ("caller", "nobody"),
        ("caller", "system.nobody"),
        ("caller", "<&>"),
        ("caller.of.clerk", "calculator.add"),
        ("caller.of.clerk", "nobody"),
        ("hermit", "clerk"),
        ("hermit", "calculator.add"),
        ("hermit", "system.buffer"),
    ],
)
def test_unknown_and_forbidden_are_one_text(desk: Deployment, caller: str, target: str) -> None:
    """A caller cannot tell a listener that it may not call from one that is not there."""
    message = "<Add><a>1</a></Add>" if target == "calculator.add" else ASK
    value, story = told(desk, caller, {"to": target, "message": message})
    assert value["payload"] == {
        "kind": "SystemError",
        "sender": "system",
        "code": "routing",
        "text": "The message could not be delivered.",
    }
    assert [m[1] for m in story.messages] == [caller, caller], "nobody else got a message"
    assert not story.records("clerk")
    assert not story.records("add")
    absent = target in ("nobody", "system.nobody", "<&>")
    assert story.notes == (
        f"there is no listener {target!r}"
        if absent
        else f"{caller} may not call {target!r}: it is not in the peers of {caller!r}"
    )


def test_operators_see_why_a_call_was_refused(desk: Deployment) -> None:
    """`threadloom thread` names the peer that is missing and the list that it is missing from."""
    _, story = told(desk, "hermit", {"to": "clerk", "message": ASK})
    shown = desk.command("thread", story.conversation.id)
    assert "hermit may not call 'clerk': it is not in the peers of 'hermit'" in " ".join(
        shown.split()
    )


def test_a_peer_that_is_named_may_be_called(desk: Deployment) -> None:
    """The same caller reaches the one peer it has."""
    value, _ = told(desk, "caller.of.clerk", {"to": "clerk", "message": ASK})
    assert value["payload"]["kind"] == "Answer"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("<Add><a>one</a></Add>", "one"),
        ("<Add><b>1</b></Add>", "'b'"),
        ("<Add><a>1</a><c>2</c></Add>", "'c'"),
        ("<Subtract><a>1</a></Subtract>", "Subtract"),
        ('<Add xmlns="urn:elsewhere"><a>1</a></Add>', "Add"),
        ("<Ask><number>1</number></Ask>", "Ask"),
        ("<huh><error>no</error></huh>", "huh"),
    ],
)
def test_a_call_that_breaks_its_contract_comes_back_as_huh(
    desk: Deployment, message: str, reason: str
) -> None:
    """The caller is told what is wrong with what it wrote; the handler never sees it."""
    value, story = told(desk, "caller", {"to": "calculator.add", "message": message})
    assert value["payload"]["kind"] == "Huh"
    assert reason in value["payload"]["text"]
    assert not story.records("add")
    assert [r["got"] for r in story.records("call")] == ["Call", "Huh"]


def test_a_buffer_item_of_an_undeclared_class_is_a_failed_item(desk: Deployment) -> None:
    """An item is a call, not a reply: the target never sees what it does not declare."""
    items = ["<Add><a>1</a></Add>", "<Ask><number>1</number></Ask>", "<huh/>"]
    value, story = told(desk, "system.buffer", {"target": "calculator.add", "items": items})
    results = value["payload"]["results"]
    assert (value["payload"]["total"], value["payload"]["successful"]) == (3, 1)
    assert results.count('success="false"') == 2
    assert results.count("is not accepted here") == 2
    assert len(story.records("add")) == 1


def test_fifty_deep_is_answered_and_fifty_one_is_refused(desk: Deployment) -> None:
    """The fifty-first in a chain is not called: its caller gets the limit, and it comes up."""
    names = ["a", "b"] * 26
    value, story = told(desk, "c", {"route": names[:49]})
    assert value["payload"] == {"text": "the end"}
    assert max(t.depth for t in story.threads.values()) == 50
    error, story = failed(desk, "c", {"route": names[:50]})
    assert (error.code, error.message) == ("limit", limit_fault().message)
    assert max(t.depth for t in story.threads.values()) == 50
    assert "50 deep" in story.notes
    assert len([r for r in story.records("relay") if r["got"] == "SystemError"]) == 50


@pytest.mark.parametrize("listener", ["ouroboros", "server", "insister"])
def test_an_endless_conversation_is_ended(strict: Deployment, listener: str) -> None:
    """One calls itself, one a peer, one nobody, for ever: at 70 deliveries it is over."""
    error, story = failed(strict, listener, {"left": 1})
    assert (error.code, error.message) == ("limit", limit_fault().message)
    assert story.conversation.deliveries in (70, 71), "an error's way up always has room"
    assert story.conversation.status == "error"
    assert "the conversation has had 7" in story.notes


def test_an_error_says_nothing_of_the_inside() -> None:
    """The texts of §4: none names a listener, and two reasons for one code read the same."""
    for fault in (handler_fault(), timeout_fault(), routing_fault(), limit_fault()):
        assert fault.message.endswith(".")
    assert routing_fault() == routing_fault()
    assert Huh.of("no", "x").original_attempt == b"x"
