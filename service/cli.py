"""The command `threadloom`; what its subcommands do stands in `threadloom.service.commands`.

0  done
1  the conversation failed, or the worker ended by itself
2  what was asked for cannot be: an organism with problems, an unknown listener or id
3  no answer in time
4  nothing runs there, or its Redis does not answer
"""

from __future__ import annotations

import os
import sys

from threadloom.service.commands import run


def main() -> None:
    """Run the command line and end the process with its exit status.

    What can be imported from the working directory can be here, too, as in `celery -A threadloom
    worker`: otherwise `check` would miss modules that the worker finds.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    sys.exit(run())
