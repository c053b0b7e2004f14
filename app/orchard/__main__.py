"""The command ``orchard``, and ``python -m orchard``."""

import sys
from typing import NoReturn

from orchard import interruption


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    interruption.listen()  # what it needs takes a second to import
    if sys.argv[1:2] == ["watch"]:  # also where what the other commands need is not installed
        from orchard.commandline import run_command
        from orchard.watching.commands import watch

        run_command(watch, sys.argv[2:])
    from orchard import cli

    cli.main()


if __name__ == "__main__":
    main()
