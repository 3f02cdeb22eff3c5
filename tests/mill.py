"""How tests of retries and dead letters have grain ground, and see what became of it."""

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
    """One test's view of the mill; its grain has a name that no other test's has."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.app = deployment.app
        self.grain = f"rye-{uuid.uuid4().hex[:8]}"

    # --- giving orders ------------------------------------------------------------------

    def grind(self, **how: Any) -> dict[str, Any]:
        """This test's grain, as a listener takes it."""
        return {"grain": self.grain, **how}

    def grist(self, **how: Any) -> XML:
        """The same, as an element."""
        return xml("Grind", **self.grind(**how))

    def begin(self, to: str, **how: Any) -> AsyncResult[Any]:
        """Have this test's grain ground, without waiting."""
        return self.deployment.inject(to, self.grind(**how))  # type: ignore[no-any-return]

    def start(self, to: str, message: Any) -> AsyncResult[Any]:
        """Inject any payload object, without waiting."""
        element = XML(payload_type(type(message)).to_element(message))
        return self.deployment.inject(to, element)  # type: ignore[no-any-return]

    def order(self, to: str, what: XML) -> AsyncResult[Any]:
        """Let the miller have something done, without waiting."""
        return self.deployment.inject("miller", {"to": to, "what": what.text})  # type: ignore[no-any-return]

    def repair(self) -> None:
        """From now on this test's grain breaks no millstone."""
        records = self.deployment.records_file
        records.with_name(f"{records.name}.{self.grain}").touch()

    # --- what became of it --------------------------------------------------------------

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        """What handlers recorded of this test's grain, in order."""
        return self.deployment.records(event="run", grain=self.grain, **wanted)

    def story(self, conversation_id: str) -> Story:
        """The conversation, once nothing of it is in flight."""
        return Story(self.deployment, conversation_id)

    def log(self, conversation_id: str) -> Sequence[LogEntry]:
        """The log of a conversation as it is now."""
        return self.deployment.backend.log(conversation_id)

    def every_letter(self) -> list[DeadLetter]:
        """All dead letters, newest first."""
        return tasks.dead_letters(self.app, limit=1_000)

    def letters(self) -> list[DeadLetter]:
        """The dead letters about this test's grain, newest first."""
        grain = self.grain.encode()
        return [each for each in self.every_letter() if grain in each.delivery.envelope]

    def letter(self) -> DeadLetter:
        """The one dead letter about this test's grain, once it is there."""
        [found] = eventually(self.letters, what="a dead letter")
        return found

    def again(self, result: AsyncResult[Any]) -> AsyncResult[Any]:
        """The result as whoever asks anew reads it, once everything has ended and been told."""
        self.deployment.ended(result.id)
        eventually(lambda: not self.deployment.backend.stats()["due"], what="nothing is due")
        return self.app.AsyncResult(result.id)

    def drop(self, letter: DeadLetter) -> bool:
        return tasks.drop_dead_letter(self.app, letter.conversation_id, letter.delivery.id)

    def replay(self, letter: DeadLetter) -> bool:
        return tasks.replay_dead_letter(self.app, letter.conversation_id, letter.delivery.id)


def value_of(result: AsyncResult[Any]) -> Any:
    """The fields of what a conversation answers."""
    return result.get(timeout=WAIT_S)["payload"]


def error_of(result: AsyncResult[Any]) -> ConversationError:
    """What a conversation fails with."""
    with pytest.raises(ConversationError) as caught:
        result.get(timeout=WAIT_S)
    return caught.value
