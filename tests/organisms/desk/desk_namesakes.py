"""Classes that share a name with others, and one listener whose class holds a list."""

from __future__ import annotations

from dataclasses import dataclass

from desk_handlers import Add, Text
from desk_handlers import Sum as DeskSum

from threadloom import HandlerMetadata, HandlerResponse, payload


@payload
@dataclass
class Begin:
    """Whom to ask."""

    whom: str


@payload
@dataclass
class Sum:
    """The asker's own, which it takes; its peers reply with others of this name."""

    value: int
    note: str = "made up by the default"


class Shelf:
    """A class that holds others."""

    @payload
    @dataclass
    class Look:
        """What to look for."""

        title: str

    @payload
    @dataclass
    class Sum:
        """Another one of this name, with other fields."""

        titles: list[str]


@payload
@dataclass
class Tally:
    """Several sums, as a chord's body gets them."""

    sums: list[DeskSum]


def ask(message: Begin | Sum, meta: HandlerMetadata) -> HandlerResponse:
    """Ask, and tell the class of the reply."""
    if not isinstance(message, Begin):
        cls = type(message)
        module = cls.__module__.rpartition(".")[2]
        return HandlerResponse.respond(Text(f"{module}.{cls.__qualname__} {vars(message)}"))
    if message.whom == "shelf":
        return HandlerResponse(Shelf.Look("Momo"), to="shelf")
    if message.whom == "self":
        return HandlerResponse(Sum(1), to="namesake")
    return HandlerResponse(Add(2, 3), to=message.whom)


def look(message: Shelf.Look, meta: HandlerMetadata) -> HandlerResponse:
    return HandlerResponse.respond(Shelf.Sum([message.title]))


def tally(message: Tally, meta: HandlerMetadata) -> HandlerResponse:
    return HandlerResponse.respond(DeskSum(sum(each.value for each in message.sums)))
