"""Start a command that ends with its parent: `python bound.py PARENT COMMAND ...`.

Linux alone can promise that; elsewhere the command is started as it is. A process of its own does
it, because nothing safe can be done between a fork and the command where threads are about.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Take the place of this process by the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before it could be told
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
