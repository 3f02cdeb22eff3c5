"""Listeners that a worker does not know: removed, misspelt, or those of a newer version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.exceptions import NotRegistered

from tests.desk import plain_app
from tests.harness import ORGANISMS, WAIT_S, Deployment, eventually
from threadloom.routing import ConversationError

WORKS = ORGANISMS / "works" / "organism.yaml"
PART = {"name": "bolt"}
#: the listeners that only the newer version has; the other one has a queue of its own
LATEST, IN_ITS_QUEUE = "line.idle", "lobby"


class Versions:
    """Deployments of one organism on one registry: with all its listeners, and without one."""

    def __init__(self, url: str, directory: Path) -> None:
        older = yaml.safe_load(WORKS.read_text())
        older["listeners"] = [
            e for e in older["listeners"] if e["name"] not in (LATEST, IN_ITS_QUEUE)
        ]
        self.older = self._version(url, directory / "older", older)
        self.newer = self._version(url, directory / "newer", yaml.safe_load(WORKS.read_text()))

    @staticmethod
    def _version(url: str, directory: Path, content: dict[str, Any]) -> Deployment:
        directory.mkdir()
        for module in WORKS.parent.glob("*.py"):
            (directory / module.name).symlink_to(module)
        file = directory / "organism.yaml"
        file.write_text(yaml.safe_dump(content))
        return Deployment(file, redis_url=url, directory=directory)


@pytest.fixture
def versions(deployment_url: Callable[[], str], tmp_path: Path) -> Iterator[Versions]:
    versions = Versions(deployment_url(), tmp_path)
    yield versions
    versions.older.close()
    versions.newer.close()


def test_a_removed_listeners_deliveries_end_as_errors(versions: Versions) -> None:
    """Two of them were published before: an injection, and the first step of a sequence.

    The injector of the one and the caller of the other get an error, and both are dead letters,
    to be replayed should the listener come back. Each was published once more at most. Whoever
    sends to that name from now on hears of it at once, and another organism's delivery is no
    business of this one's.
    """
    steps = {"steps": [IN_ITS_QUEUE], "payload": "<Part><name>bolt</name></Part>"}
    called = versions.newer.inject("system.sequence", steps)
    before = versions.newer.start_worker(options=("-Q", "works"))
    eventually(lambda: IN_ITS_QUEUE in _receivers(versions.newer, called.id), what="its step")
    before.stop()
    injected = versions.newer.inject(LATEST, PART)
    stranger = versions.newer.app.send_task(
        LATEST, kwargs={"conversation": "c"}, queue="works",
        headers={"threadloom_organism": "another"},
    )  # fmt: skip
    worker = versions.older.start_worker()
    with pytest.raises(ConversationError) as caught:
        injected.get(timeout=WAIT_S)
    assert caught.value.code == "handler"
    assert called.get(timeout=WAIT_S)["type"] == "SequenceError"
    letters = versions.older.backend.dead_letters(limit=10)
    assert {each.reason for each in letters} == {
        f"this organism has no listener {name!r}" for name in (LATEST, IN_ITS_QUEUE)
    }
    with plain_app(versions.older) as other, pytest.raises(NotRegistered):
        other.send_task(LATEST, [PART]).get(timeout=WAIT_S)
    worker.stop()
    assert stranger.state == "PENDING"
    assert worker.log.read_text().count("its delivery ends as an error") == 2


def _receivers(deployment: Deployment, conversation_id: str) -> list[str]:
    log = deployment.backend.log(conversation_id)
    return [entry.detail["delivery"].to for entry in log if entry.event == "message"]


def test_a_newer_listeners_messages_wait_for_a_newer_worker(versions: Versions) -> None:
    """In a rolling deploy the older worker hands back what it does not know."""
    versions.older.start_worker()
    results = [versions.newer.inject(LATEST, PART) for _ in range(5)]
    versions.newer.start_worker()
    eventually(lambda: versions.newer.backend.processes() == 4, what="both have announced")
    with plain_app(versions.newer) as other:
        results += [other.send_task(LATEST, [PART]) for _ in range(5)]
        assert [each.get(timeout=WAIT_S) for each in results] == [None] * 10
    assert len(versions.newer.records(event="idle")) == 10
