"""The command line, a module for each of its parts."""

import sys
from typing import NoReturn

from orchard.cli import cluster, export, predict, run, serve
from orchard.cli.group import cli
from orchard.commandline import run_command
from orchard.watching import commands as watching

__all__ = ["cli", "main", "run"]

for _command in (*predict.COMMANDS, *export.COMMANDS, *serve.COMMANDS, *watching.COMMANDS, *cluster.COMMANDS):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    # The server takes its signals itself: for it SIGTERM is a normal end.
    run_command(cli, in_main_thread=sys.argv[1:2] == ["serve"])
