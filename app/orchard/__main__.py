"""The command ``orchard``, and ``python -m orchard``."""

from typing import NoReturn

from orchard import interruption


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    interruption.listen()  # what it needs takes a second to import
    from orchard import cli

    cli.main()


if __name__ == "__main__":
    main()
