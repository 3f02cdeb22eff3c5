"""Options and exit statuses that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from threadloom.service.deployment import ORGANISM_VARIABLE

#: exit statuses; see `service.cli`
FAILED, INVALID, NOT_IN_TIME, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 4, 130

OrganismArgument = Annotated[
    Path,
    typer.Argument(
        metavar="ORGANISM",
        envvar=ORGANISM_VARIABLE,
        help="The organism file.",
    ),
]
OrganismOption = Annotated[
    Path,
    typer.Option(
        "--organism",
        "-o",
        metavar="FILE",
        envvar=ORGANISM_VARIABLE,
        help="The organism file that was started.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
