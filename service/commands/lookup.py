"""What an id on the command line means: a conversation's id, its beginning, or a message's id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from threadloom.config import PermanentError
from threadloom.routing import UnknownConversationError
from threadloom.routing.backends import SharedBackend
from threadloom.routing.records import Conversation
from threadloom.service.display import console, one_word

#: the shortest beginning of an id that is looked for
_SHORTEST = 4
#: the newest conversations, in which a message is looked for
_SEARCHED = 1_000
#: entries read in one round trip
_PAGE = 1_000
#: ids that an error names
_NAMED = 5


class AmbiguousIdError(PermanentError):
    """Several ids begin like this; the message names some of them."""

    def __init__(self, beginning: str, ids: tuple[str, ...]) -> None:
        super().__init__(beginning, ids)
        self.beginning, self.ids = beginning, ids

    def __str__(self) -> str:
        return f"several ids begin with {self.beginning}: {', '.join(self.ids)}"


def only_match(beginning: str, ids: Iterable[str]) -> str | None:
    """Return the id that is `beginning` or, if none is, the only one that begins with it."""
    if len(beginning) < _SHORTEST:
        return next((each for each in ids if each == beginning), None)
    alike: list[str] = []
    for each in ids:
        if each == beginning:
            return each
        if each.startswith(beginning):
            alike.append(each)
    if len(alike) > 1:
        raise AmbiguousIdError(beginning, tuple(map(one_word, alike[:_NAMED])))
    return alike[0] if alike else None


def conversation_id(registry: SharedBackend, text: str) -> str:
    """Return the id of the conversation that `text` names: its id or the beginning of it.

    Raises UnknownConversationError, AmbiguousIdError.
    """
    if registry.conversation(text) is not None:
        return text
    if len(text) < _SHORTEST:
        raise UnknownConversationError(text)
    with console(stderr=True).status("looking …"):
        found = only_match(text, (each.id for each in _conversations(registry)))
    if found is None:
        raise UnknownConversationError(text)
    return found


def conversation_about(registry: SharedBackend, text: str) -> str:
    """Return the id of the conversation that `text` names, or that has the message it names.

    A message is looked for among the newest conversations. Raises UnknownConversationError,
    AmbiguousIdError.
    """
    try:
        return conversation_id(registry, text)
    except UnknownConversationError:
        with console(stderr=True).status("looking for a message …"):
            for each in islice(_conversations(registry), _SEARCHED):
                if text in _messages(registry, each.id):
                    return each.id
        raise


def _conversations(registry: SharedBackend) -> Iterator[Conversation]:
    before: tuple[int, str] | None = None
    while page := registry.conversations(limit=_PAGE, before=before):
        yield from page
        before = (page[-1].created_ms, page[-1].id)


def _messages(registry: SharedBackend, conversation: str) -> Iterator[str]:
    start = 0
    while page := registry.log(conversation, start=start, limit=_PAGE):
        yield from (each.detail["delivery"].id for each in page if "delivery" in each.detail)
        start += len(page)
