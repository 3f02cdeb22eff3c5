"""What bounds one conversation, by real workers: how much it holds, and how long it may last."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from celery.result import AsyncResult

from tests.desk import failed, told
from tests.harness import ORGANISMS, WAIT_S, Deployment, adjusted
from tests.stories import Story
from threadloom.primitives import BUFFER, BufferStart
from threadloom.routing import XML, ConversationError

MAX_BYTES, MAX_AGE_S = 100_000, 3


@pytest.fixture(scope="module")
def bounded(
    deployment_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The desk, where little may be stored for a short time."""
    place = tmp_path_factory.mktemp("bounds")
    source = ORGANISMS / "desk" / "organism.yaml"
    organism = adjusted(source, place, max_conversation_bytes=MAX_BYTES, max_age=MAX_AGE_S)
    deployment = Deployment(organism, redis_url=deployment_url(), directory=place)
    try:
        deployment.start_worker(concurrency=1)
        yield deployment
    finally:
        deployment.close()


def test_a_conversation_that_would_hold_too_much_ends_with_an_error(bounded: Deployment) -> None:
    """Its injector is told which limit it was, operators find it noted, and the others go on."""
    items = [XML(f"<Text><text>{'x' * 2_000}</text></Text>")] * 100
    error, story = failed(bounded, BUFFER, BufferStart("echo", items))
    assert error.code == "limit"
    assert "max_conversation_bytes" in error.message
    assert f"max_conversation_bytes {MAX_BYTES}" in story.notes
    few = BufferStart("echo", items[:5])
    value, _ = told(bounded, BUFFER, few)
    assert value["payload"]["successful"] == 5


def test_a_conversation_that_waits_for_too_long_ends_with_an_error(bounded: Deployment) -> None:
    """Nobody answers what it waits for: a worker ends it, and its injector is told."""
    story = Story(bounded.backend, id="waits-for-ever")
    frame = story.start()
    story.commit(frame, waits=(story.wait(frame),))
    with pytest.raises(ConversationError, match=r"limit: .*max_age"):
        AsyncResult(story.id, app=bounded.app).get(timeout=WAIT_S)
    assert bounded.ended(story.id).status == "killed"
