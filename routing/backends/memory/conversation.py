"""Everything of one conversation in memory. Nothing here locks or knows another conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from threadloom.routing.backends.memory.leases import Leases
from threadloom.routing.backends.memory.stored import branch_id
from threadloom.routing.records import Branch
from threadloom.routing.states import LogEvent


class ConversationState(Leases):
    """One conversation."""

    def leave_lists(self) -> None:
        """Take everything of this conversation out of the lists of all conversations."""
        for name, stored in self.deliveries.items():
            self.exhume(stored)
            self.not_due("d", name)
            self._sent.pop(self.member("d", name), None)
        for name, join in self.joins.items():
            self.not_due("j", name)
            for index in join.branches:
                self.not_due("b", branch_id(Branch(name, index)))
        self.not_due("r", "")

    def log_detail(self, event: LogEvent, detail: str) -> Mapping[str, Any]:
        """The detail of a line of the log, as `LogEntry` describes it."""
        if event in (LogEvent.MESSAGE, LogEvent.LATE):
            return {"delivery": self.deliveries[detail].delivery}
        if event is LogEvent.WAITING:
            return {"scope": [], **json.loads(detail)}
        if event in (LogEvent.NOTE, LogEvent.ABANDONED, LogEvent.RETRY):
            delivery, text = json.loads(detail)
            return {"id": delivery, "text": text}
        if event in (LogEvent.DEAD_LETTER, LogEvent.REPLAYED):
            return {"id": detail}
        return {"text": detail}
