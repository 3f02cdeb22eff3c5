"""The entry point of the command `threadloom`; its subcommands are in `service.commands`.

Exit statuses:

0  done
1  the conversation failed, or the worker ended by itself
2  the request is invalid: an organism with problems, an unknown listener or id
3  no answer in time
4  the organism is not running, or its Redis does not answer
5  done, but the output could not be written
130  interrupted by Ctrl-C
"""

from __future__ import annotations

import sys

from threadloom import tasks
from threadloom.service.commands import run
from threadloom.service.standard_streams import StandardStreams


def main() -> None:
    """Run the command line and end the process with its exit status."""
    streams = StandardStreams()
    tasks.import_from_working_directory()
    sys.exit(streams.finish(run()))
