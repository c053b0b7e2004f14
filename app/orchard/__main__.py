"""``python -m orchard``."""

from orchard.cli import main

main()
