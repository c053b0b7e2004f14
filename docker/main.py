"""What spark-submit and the Spark operator run (local:///opt/orchard/main.py); its arguments are the command line's."""

import sys

from orchard.cli import main

sys.argv[0] = "orchard"  # the name in messages
main()
