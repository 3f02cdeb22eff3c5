"""`threadloom kill ID`: end a conversation before it ends by itself."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Annotated

import typer

from threadloom import tasks
from threadloom.service.commands.lookup import conversation_id
from threadloom.service.commands.options import AsJson, OrganismOption
from threadloom.service.deployment import DEFAULT_FILE, running_app
from threadloom.service.display import one_word, print_json


def kill(
    conversation: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The conversation, as `threads` lists it, or the beginning of its id.",
        ),
    ],
    organism: OrganismOption = DEFAULT_FILE,
    as_json: AsJson = False,
) -> None:
    """End a conversation now: none of its deliveries starts any more.

    Its sender gets an error. A handler that is running is not interrupted; its response is
    dropped and logged. A conversation that has ended is not changed.
    """
    with closing(running_app(organism, os.environ)) as app:
        conversation = conversation_id(tasks.runtime_of(app).backend, conversation)
        killed = tasks.kill(app, conversation)
    if as_json:
        print_json({"conversation": conversation, "killed": killed})
    else:
        print(f"{one_word(conversation)} {'killed' if killed else 'had ended before'}")
