"""Calls and replies between listeners, on real workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.desk import Story, told
from tests.harness import WAIT_S, Deployment

pytest_plugins = ["tests.desk_fixtures"]
pytestmark = pytest.mark.both_brokers


def test_an_agent_calls_a_tool_and_gets_its_reply(desk: Deployment) -> None:
    """The agent runs exactly twice, both times on its own thread, and the tool runs on another
    thread. The agent never declared the reply's class, and still gets the reply as an object of
    it.
    """
    value, story = told(desk, "clerk", {"number": 41})
    assert (value["type"], value["payload"]) == ("Answer", {"text": "42"})
    clerk, tool = story.records("clerk"), story.records("add")
    assert [r["got"] for r in clerk] == ["Ask", "Sum"]
    [thread] = {r["thread"] for r in clerk}
    assert [r["thread"] != thread for r in tool] == [True]
    assert [r["from"] for r in clerk] == ["external", "calculator.add"]
    assert [r["from"] for r in tool] == ["clerk"]
    assert story.chain(thread) == ("external", "clerk")
    assert story.chain(tool[0]["thread"]) == ("external", "clerk", "calculator.add")


@pytest.mark.parametrize(
    ("whom", "told_as"),
    [
        ("calculator.add", "desk_handlers.Sum {'value': 5}"),
        ("shelf", "desk_namesakes.Shelf.Sum {'titles': ['Momo']}"),
        ("self", "desk_namesakes.Sum {'value': 1, 'note': 'made up by the default'}"),
    ],
)
def test_a_reply_is_of_the_class_that_was_sent(desk: Deployment, whom: str, told_as: str) -> None:
    """Also where the caller itself takes another class of that name, and inside other classes."""
    value, _ = told(desk, "namesake", {"whom": whom})
    assert value["payload"] == {"text": told_as}


def test_agents_know_their_name_and_their_peers_and_tools_do_not(desk: Deployment) -> None:
    """Only an agent is told its own name and how to call its peers."""
    _, story = told(desk, "clerk", {"number": 1})
    clerk, tool = story.records("clerk")[0], story.records("add")[0]
    assert clerk["own_name"] == "clerk"
    assert "calculator.add: Adds two integers." in clerk["usage"]
    assert "<Add>" in clerk["usage"]
    assert "consultant" not in clerk["usage"]
    assert (tool["own_name"], tool["usage"]) == (None, "")


def test_the_message_id_is_the_id_of_the_delivery(desk: Deployment) -> None:
    """Every delivery has its own id, the first one has the conversation's, and the log has them
    all.
    """
    result = desk.inject("clerk", {"number": 1})
    result.get(timeout=WAIT_S)
    story = Story(desk, result.id)
    runs = story.records("clerk")[:1] + story.records("add") + story.records("clerk")[1:]
    logged = [e.detail["delivery"].id for e in story.log if e.event == "message"]
    assert [r["message"] for r in runs] == logged
    assert logged[0] == result.id


def test_dots_in_names_are_ordinary_characters(desk: Deployment) -> None:
    """In `a` → `a.b` → `b.c` → `c` → `a.b` …, every reply goes back by exactly one name."""
    route = ["a.b", "b.c", "c", "a.b", "a", "b"]
    value, story = told(desk, "a", {"route": route})
    assert value["payload"] == {"text": "the end"}
    assert story.chain(story.records("relay")[-1]["thread"]) == ("external", "a")
    assert ("external", "a", *route) in {t.chain for t in story.threads.values()}
    back = [m for m in story.messages if m[2] == "Answer"]
    assert back == [
        (name, caller, "Answer")
        for name, caller in zip(route[::-1], ["a", *route][-2::-1], strict=True)
    ]


def test_a_chain_is_not_told_apart_by_its_joined_name(desk: Deployment) -> None:
    """`a` → `b.c` and `a.b` → `c` would both be "a.b.c" when joined; each has its own threads."""
    _, one = told(desk, "a", {"route": ["b.c"]})
    _, two = told(desk, "a.b", {"route": ["c"]})
    assert not one.threads.keys() & two.threads.keys()
    assert {t.chain for t in one.threads.values()} == {
        ("external",), ("external", "a"), ("external", "a", "b.c"),
    }  # fmt: skip


def test_three_levels_down_and_up_again(desk: Deployment) -> None:
    """The consultant calls the calculator and then the clerk, who also calls the calculator."""
    value, story = told(desk, "consultant", {"number": 1})
    assert value["payload"] == {"text": "12"}
    assert [r["got"] for r in story.records("consult")] == ["Ask", "Sum", "Answer"]
    assert [r["got"] for r in story.records("clerk")] == ["Ask", "Sum"]
    assert [story.chain(r["thread"]) for r in story.records("add")] == [
        ("external", "consultant", "calculator.add"),
        ("external", "consultant", "clerk", "calculator.add"),
    ]


def test_a_self_call_keeps_the_thread(desk: Deployment) -> None:
    """Five self-calls precede the reply; all are on one thread, and only they are marked as
    self-calls.
    """
    value, story = told(desk, "counter.v1.5", {"left": 5})
    runs = story.records("count")
    assert value["payload"] == {"text": "counted"}
    assert [r["left"] for r in runs] == [5, 4, 3, 2, 1, 0]
    assert [r["self_call"] for r in runs] == [False, True, True, True, True, True]
    assert len({r["thread"] for r in runs}) == 1
    assert len({r["message"] for r in runs}) == 6


def test_a_self_caller_deep_in_a_chain_replies_to_its_caller(desk: Deployment) -> None:
    """Self-calls do not lengthen the chain, and the caller gets exactly one reply."""
    call = {"to": "counter.v1.5", "message": "<Count><left>5</left></Count>"}
    value, story = told(desk, "caller", call)
    assert (value["payload"]["kind"], value["payload"]["sender"]) == ("Answer", "counter.v1.5")
    assert [r["got"] for r in story.records("call")] == ["Call", "Answer"]
    assert max(len(t.chain) for t in story.threads.values()) == 3


def test_a_list_of_calls_comes_back_one_by_one(desk: Deployment) -> None:
    """Five calls at once give five replies, each handled in a run of its own on the agent's one
    thread. Every run sees the thread's messages up to its own, without gaps, so exactly one run
    sees all of them. The earlier runs returned None, which ended nothing.
    """
    value, story = told(desk, "gatherer", {"numbers": [1, 2, 3, 4, 5]})
    assert value["payload"] == {"text": "2 3 4 5 6"}
    runs = story.records("gather")
    assert sorted(r["got"] for r in runs) == ["Batch"] + ["Sum"] * 5
    assert len({r["thread"] for r in runs}) == 1
    for run in runs:
        slots, names, senders, ids = zip(*run["context"], strict=True)
        assert list(slots) == list(range(len(slots)))
        assert set(names) <= {"Batch", "Sum"}
        assert senders[0] == "external"
        assert set(senders[1:]) <= {"calculator.add"}
        assert ids[-1] == run["message"]
    assert sorted(len(r["context"]) for r in runs) == [1, 2, 3, 4, 5, 6]
    assert story.conversation.deliveries == 11


def test_calling_the_same_peer_again_reuses_its_thread(desk: Deployment) -> None:
    """The calculator is called twice from one thread, both times on the same child thread."""
    value, story = told(desk, "doubter", {"number": 1})
    assert value["payload"] == {"text": "3"}
    assert [r["got"] for r in story.records("ask_twice")] == ["Ask", "Sum", "Sum"]
    assert len(story.records("add")) == 2
    assert len({r["thread"] for r in story.records("add")}) == 1


def test_none_ends_the_branch_and_the_conversation_without_a_value(desk: Deployment) -> None:
    """The injector reads None, and the conversation is completed."""
    value, story = told(desk, "mute", {"number": 1})
    assert value is None
    assert story.conversation.status == "completed"
    call = {"to": "mute", "message": "<Ask><number>1</number></Ask>"}
    value, story = told(desk, "caller", call)
    assert value is None
    assert [r["got"] for r in story.records("call")] == ["Call"]


def test_an_async_handler_works_like_any_other(desk: Deployment) -> None:
    """The handler awaits something and then replies; several at once each get their own answer."""
    results = [desk.inject("calculator.async", {"a": n, "b": 1}) for n in range(4)]
    assert [r.get(timeout=WAIT_S)["payload"]["value"] for r in results] == [1, 2, 3, 4]


def test_conversations_over_the_same_path_do_not_meet(desk: Deployment) -> None:
    """Of eight conversations at once over one path, each has its own threads, context and reply."""
    with ThreadPoolExecutor(8) as pool:
        told_all = list(pool.map(lambda n: told(desk, "doubter", {"number": n}), range(8)))
    assert [value["payload"]["text"] for value, _ in told_all] == [str(n + 2) for n in range(8)]
    threads = [thread for _, story in told_all for thread in story.threads]
    assert len(threads) == len(set(threads)) == 8 * 3
    for _, story in told_all:
        assert len(story.messages) == 5
        assert [r["got"] for r in story.records("ask_twice")] == ["Ask", "Sum", "Sum"]
