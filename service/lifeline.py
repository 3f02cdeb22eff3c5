"""Child processes that end with the process that started them (their owner).

On Linux the kernel sends the child SIGTERM when its owner is gone, even after `kill -9`
(PR_SET_PDEATHSIG). On other systems a killed owner leaves its children running.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# This code runs in a new single-threaded interpreter, which then executes the program. Calling
# prctl between fork and exec (`preexec_fn`) could deadlock in a process that has threads.
_LAUNCHER = """
import os, signal, sys
owner = int(sys.argv[1])
if sys.platform == "linux":
    import ctypes
    PR_SET_PDEATHSIG = 1
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
if os.getppid() != owner:
    sys.exit("the process that wanted this one is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def tied_to_owner(command: Sequence[str]) -> list[str]:
    """Return a command line that runs `command` and ends it by SIGTERM when this process ends.

    Start it from the main thread: the kernel sends the signal when the thread that started the
    child ends. `command[0]` is an absolute path.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
