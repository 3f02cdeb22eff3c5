"""Calls and replies between listeners, on real workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Deployment, deployed


@pytest.fixture(scope="module")
def desk(
    deployment_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The desk organism with one worker, for all tests of this module."""
    yield from deployed("desk", deployment_url(), tmp_path_factory.mktemp("desk"))


def test_an_agent_calls_a_tool_and_gets_its_reply(desk: Deployment) -> None:
    """The agent runs exactly twice, both times on its own thread; the tool saw another one."""
    value = desk.ask("clerk", {"number": 41})
    assert value["payload"] == {"text": "42"}
    clerk, tool = desk.records(event="clerk"), desk.records(event="add")
    assert [r["got"] for r in clerk] == ["Ask", "Sum"]
    assert len({r["thread"] for r in clerk}) == 1
    assert [r["thread"] for r in tool] != [clerk[0]["thread"]]
