"""Runs a process of the node that is no part of the shim, with what the shim does to itself at its start.

    python -m shim.confined MODULE ARGUMENT…

No dumps, and no other program from here on (`seccomp`); then the module runs as `python -m MODULE` would.
"""

from __future__ import annotations

import runpy
import sys

from shim import privileges, seccomp


def main() -> None:
    """Does not return normally unless the module does."""
    privileges.forbid_dumps()
    seccomp.forbid_execution()
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
