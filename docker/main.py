"""What spark-submit and the Spark operator run (local:///opt/orchard/main.py); its arguments are the command line's."""

from orchard.cli import main

main()
