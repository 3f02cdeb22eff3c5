"""Listeners that never come to an end, and some that look at how their message came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery import current_task

from tests.recording import record
from threadloom import HandlerMetadata, HandlerResponse, payload


@payload
@dataclass
class Ball:
    """Something to throw."""

    left: int = 0


@payload
@dataclass
class Down:
    """The ball is down."""


def _came(meta: HandlerMetadata, message: Any) -> None:
    info = current_task.request.delivery_info
    record(
        meta,
        "came",
        got=type(message).__name__,
        priority=info.get("priority"),
        queue=info.get("routing_key"),
    )


def call_oneself(message: Any, meta: HandlerMetadata) -> HandlerResponse:
    """Call itself for ever, whatever comes back."""
    return HandlerResponse(Ball(), to="ouroboros")


def serve(message: Any, meta: HandlerMetadata) -> HandlerResponse:
    """Call the other for ever, whatever comes back."""
    return HandlerResponse(Ball(), to="returner")


def give_back(message: Any, meta: HandlerMetadata) -> HandlerResponse:
    return HandlerResponse.respond(Down())


def insist(message: Any, meta: HandlerMetadata) -> HandlerResponse:
    """Call one who is not there, for ever, whatever comes back."""
    return HandlerResponse(Ball(), to="nobody")


def throw(message: Ball | Down, meta: HandlerMetadata) -> HandlerResponse:
    """Throw on to the other of two players until nothing is left, then let it come back."""
    _came(meta, message)
    if isinstance(message, Ball) and message.left:
        other = "ping" if meta.own_name == "pong" else "pong"
        return HandlerResponse(Ball(message.left - 1), to=other)
    return HandlerResponse.respond(Down())
