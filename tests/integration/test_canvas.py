"""What Celery sees of sequences and buffers: chains and chords, each task once, nothing left.

`lobby` is a listener with a queue that nobody consumes until a test says so: there its real
messages can be read as Celery wrote them.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any, NamedTuple

from tests.harness import WAIT_S, eventually
from tests.wire import events_of
from tests.works import Works, as_xml, fields_of, jobs, text_of, texts, xml
from threadloom.primitives import BufferStart, SequenceStart
from threadloom.routing.records import Delivery

pytest_plugins = ["tests.works_fixtures"]


class Message(NamedTuple):
    """A message of Celery's protocol 2, as it lies in its queue."""

    headers: dict[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]
    canvas: dict[str, Any]


def messages_in(works: Works, queue: str, count: int) -> list[Message]:
    """The messages of a queue, oldest first, once there are so many; they stay there."""
    raw = eventually(
        lambda: (found := works.redis.lrange(queue, 0, -1)) and len(found) == count and found,
        what=f"{count} messages in {queue}",
    )
    decoded = [json.loads(text) for text in reversed(raw)]
    return [
        Message(message["headers"], *json.loads(base64.b64decode(message["body"])))
        for message in decoded
    ]


def deliveries(works: Works, conversation_id: str) -> dict[str, Delivery]:
    """Every delivery of a conversation that was ever created, by id."""
    log = works.deployment.backend.log(conversation_id, limit=10_000)
    found = [entry.detail["delivery"] for entry in log if entry.event == "message"]
    return {delivery.id: delivery for delivery in found}


def test_a_step_carries_the_rest_of_its_sequence_as_a_chain(works: Works) -> None:
    """Names and ids of the steps to come, the sequence's own end last; the ids are those that run.

    In Celery's order the next one stands last.
    """
    start = SequenceStart(["lobby", "line.polish", "line.paint"], xml("Part", name="nut"))
    result = works.begin("system.sequence", start)
    [message] = messages_in(works, "lobby", 1)
    chain = message.canvas["chain"]
    assert [step["task"] for step in chain] == ["system.sequence", "line.paint", "line.polish"]
    assert message.headers["task"] == "lobby"
    assert message.headers["root_id"] == message.headers["parent_id"] == result.id
    assert message.canvas["chord"] is None
    assert not message.args
    assert message.kwargs == {"conversation": result.id}
    assert "nut" not in str(message), "the content stays in the registry"
    with works.lobby_open():
        answer = fields_of(result.get(timeout=WAIT_S))
    assert text_of(answer["final_result"]) == "nut+paint+polish+paint"
    known = deliveries(works, result.id)
    promised = [known[step["options"]["task_id"]].to for step in chain]
    assert promised == ["system.sequence", "line.paint", "line.polish"]


def test_a_later_step_carries_what_is_left(works: Works) -> None:
    """The second step's message has the first one as its parent, and a shorter chain."""
    start = SequenceStart(["line.paint", "lobby", "line.paint"], xml("Part", name="nut"))
    result = works.begin("system.sequence", start)
    [message] = messages_in(works, "lobby", 1)
    assert [step["task"] for step in message.canvas["chain"]] == ["system.sequence", "line.paint"]
    parent = deliveries(works, result.id)[message.headers["parent_id"]]
    assert parent.to == "line.paint"
    assert message.headers["root_id"] == result.id
    with works.lobby_open():
        result.get(timeout=WAIT_S)


def test_items_are_the_header_of_a_chord(works: Works) -> None:
    """One group, each item at its index in it, and the buffer's end as the chord's body."""
    items = [xml("Part", name=n) for n in range(3)]
    result = works.begin("system.buffer", BufferStart("lobby", items))
    messages = messages_in(works, "lobby", 3)
    [group] = {message.headers["group"] for message in messages}
    assert [message.headers["group_index"] for message in messages] == [0, 1, 2]
    [body] = {message.canvas["chord"]["options"]["task_id"] for message in messages}
    assert {message.canvas["chord"]["task"] for message in messages} == {"system.buffer"}
    assert deliveries(works, result.id)[body].to == "system.buffer"
    join = works.deployment.backend.join(result.id, group)
    assert join is not None
    assert (join.join.body_id, join.join.total) == (body, 3)
    for message in messages:
        assert message.headers["root_id"] == message.headers["parent_id"] == result.id
        assert not message.canvas["chain"]
        assert message.headers["ignore_result"] is True
    with works.lobby_open():
        assert fields_of(result.get(timeout=WAIT_S))["successful"] == 3


def test_items_that_were_held_back_are_of_the_same_group(works: Works) -> None:
    """With `max_parallel`, an item is published when another one has answered."""
    items = [xml("Part", name=n) for n in range(3)]
    result = works.begin("system.buffer", BufferStart("lobby", items, max_parallel=1))
    groups = []
    for index in range(3):
        [message] = messages_in(works, "lobby", 1)
        assert message.headers["group_index"] == index
        groups.append((message.headers["group"], message.canvas["chord"]["options"]["task_id"]))
        moved = works.redis.lmove("lobby", "works")
        assert moved
    assert len(set(groups)) == 1
    assert fields_of(result.get(timeout=WAIT_S))["successful"] == 3


def test_items_nobody_collects_are_a_group_without_a_chord(works: Works) -> None:
    """There is no body that Celery could show or count for."""
    items = [xml("Part", name=n) for n in range(2)]
    assert works.buffer("lobby", items, collect=False)["type"] == "BufferDispatched"
    messages = messages_in(works, "lobby", 2)
    assert len({message.headers["group"] for message in messages}) == 1
    assert [message.canvas["chord"] for message in messages] == [None, None]
    with works.lobby_open():
        works.story()
    assert len(works.records("paint")) == 2


def test_every_task_runs_once_and_has_its_cause_as_parent(works: Works) -> None:
    """Sequence in buffer in sequence with calls: what Flower hears is what the registry decided.

    Only the injected task is received twice: parked at first, then resumed with the value.
    """
    app = works.deployment.app
    with events_of(app) as events:
        inner = BufferStart("worker", jobs(("sequence", "a"), ("machine", "b"), ("do", "c")))
        start = SequenceStart(["system.buffer", "archive"], as_xml(inner))
        result = works.begin("system.sequence", start)
        answer = fields_of(result.get(timeout=WAIT_S))
        assert text_of(answer["final_result"]) == "filed BufferComplete"
        known = deliveries(works, result.id)

        def done() -> bool:
            ended = {e["uuid"] for e in events if e["type"] == "task-succeeded"}
            return known.keys() <= ended

        eventually(done, what="every task's success")
    ours = [e for e in events if e.get("uuid") in known]
    received = [e for e in ours if e["type"] == "task-received"]
    expected = Counter(dict.fromkeys(known, 1)) + Counter([result.id])
    assert Counter(e["uuid"] for e in received) == expected
    assert Counter(e["uuid"] for e in ours if e["type"] == "task-succeeded") == Counter(list(known))
    for event in received:
        assert event["root_id"] == result.id
        assert event["parent_id"] == known[event["uuid"]].parent_id, event["name"]
        assert event["name"] == known[event["uuid"]].to
    # Events come in batches: those of an earlier conversation may arrive only now.
    of_this = {e["uuid"] for e in events if e.get("root_id") == result.id}
    assert of_this <= known.keys(), "no task but the deliveries"


def test_nothing_stays_in_redis_but_what_expires(works: Works) -> None:
    """No chord counters, no group results; what Celery stores is the injector's result alone.

    The registry's lists and the broker's bindings have no end; everything else has.
    """
    items = jobs(("do", "a"), ("crash", ""), ("machine", "b"), ("sequence", "c"))
    before = set(works.redis.scan_iter())
    answer = works.buffer("worker", items, max_parallel=2)
    assert len(works.items(answer)) == 4
    works.sequence(["line.paint", "line.scrap", "line.paint"])
    works.nothing_left()
    new = set(works.redis.scan_iter()) - before
    lasting = {key for key in new if works.redis.ttl(key) == -1}
    assert all(key.startswith("tl:works:{") for key in lasting)
    lists = {"due", "sent", "dead", "created", "retention"}
    assert {key.rpartition(":")[2] for key in lasting} <= lists
    of_celery = {key for key in new if not key.startswith("tl:works:")}
    assert of_celery == {f"celery-task-meta-{c}" for c in works.conversations}


def test_a_buffer_of_one_is_still_a_chord(works: Works) -> None:
    """Celery would turn a chord with a single task in its header into a chain."""
    result = works.begin("system.buffer", BufferStart("lobby", [xml("Part", name="x")]))
    [message] = messages_in(works, "lobby", 1)
    assert message.headers["group_index"] == 0
    assert message.canvas["chord"]["task"] == "system.buffer"
    with works.lobby_open():
        assert texts(works.items(result.get(timeout=WAIT_S))) == ["x+paint"]
