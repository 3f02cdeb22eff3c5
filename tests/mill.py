"""Helpers for tests of retries and dead letters: they have grain ground and read the outcome."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from celery.result import AsyncResult

from tests.desk import Story
from tests.harness import WAIT_S, Deployment, eventually
from tests.works import xml
from threadloom import tasks
from threadloom.routing import XML, ConversationError, payload_type
from threadloom.routing.records import DeadLetter, LogEntry


class Mill:
    """One test's view of the mill; no other test uses the name of its grain."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.app = deployment.app
        self.grain = f"rye-{uuid.uuid4().hex[:8]}"

    # --- giving orders ------------------------------------------------------------------

    def grind(self, **how: Any) -> dict[str, Any]:
        """Return this test's grain as the payload that a listener takes."""
        return {"grain": self.grain, **how}

    def grist(self, **how: Any) -> XML:
        """Return the same payload as an element."""
        return xml("Grind", **self.grind(**how))

    def begin(self, to: str, **how: Any) -> AsyncResult[Any]:
        """Start to grind this test's grain without waiting for the end."""
        return self.deployment.inject(to, self.grind(**how))  # type: ignore[no-any-return]

    def start(self, to: str, message: Any) -> AsyncResult[Any]:
        """Inject any payload object, without waiting."""
        element = XML(payload_type(type(message)).to_element(message))
        return self.deployment.inject(to, element)  # type: ignore[no-any-return]

    def order(self, to: str, what: XML) -> AsyncResult[Any]:
        """Give the miller an order without waiting for its end."""
        return self.deployment.inject("miller", {"to": to, "what": what.text})  # type: ignore[no-any-return]

    def repair(self) -> None:
        """Let this test's grain break no millstone from now on."""
        records = self.deployment.records_file
        records.with_name(f"{records.name}.{self.grain}").touch()

    # --- what became of it --------------------------------------------------------------

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return what handlers recorded of this test's grain, in order."""
        return self.deployment.records(event="run", grain=self.grain, **wanted)

    def story(self, conversation_id: str) -> Story:
        """Return the conversation once none of its deliveries is in flight."""
        return Story(self.deployment, conversation_id)

    def log(self, conversation_id: str) -> Sequence[LogEntry]:
        """Return the current log of a conversation."""
        return self.deployment.backend.log(conversation_id)

    def every_letter(self) -> list[DeadLetter]:
        """Return all dead letters, newest first."""
        return tasks.dead_letters(self.app, limit=1_000)

    def letters(self) -> list[DeadLetter]:
        """Return the dead letters about this test's grain, newest first."""
        grain = self.grain.encode()
        return [each for each in self.every_letter() if grain in each.delivery.envelope]

    def letter(self) -> DeadLetter:
        """Return the one dead letter about this test's grain, once it exists."""
        [found] = eventually(self.letters, what="a dead letter")
        return found

    def again(self, result: AsyncResult[Any]) -> AsyncResult[Any]:
        """Return the result as a new reader gets it, once everything has ended and been
        released.
        """
        self.deployment.ended(result.id)
        eventually(lambda: not self.deployment.backend.stats()["due"], what="nothing is due")
        return self.app.AsyncResult(result.id)

    def drop(self, letter: DeadLetter) -> bool:
        return tasks.drop_dead_letter(self.app, letter.conversation_id, letter.delivery.id)

    def replay(self, letter: DeadLetter) -> bool:
        return tasks.replay_dead_letter(self.app, letter.conversation_id, letter.delivery.id)


def value_of(result: AsyncResult[Any]) -> Any:
    """Return the fields of a conversation's answer."""
    return result.get(timeout=WAIT_S)["payload"]


def error_of(result: AsyncResult[Any]) -> ConversationError:
    """Return the error with which a conversation fails."""
    with pytest.raises(ConversationError) as caught:
        result.get(timeout=WAIT_S)
    return caught.value
