"""What spark-submit and the Spark operator run (/opt/orchard/main.py).

Its arguments are the command line's, or ``--data_source IMAGES --output_uri RESULTS`` and flags of `orchard run`, as
steps of EMR are given.
"""

import sys
from argparse import ArgumentParser

from orchard.cli import main

steps = ArgumentParser("orchard", add_help=False, allow_abbrev=False)
steps.add_argument("--data_source")
steps.add_argument("--output_uri")
given, words = steps.parse_known_args()
if (given.data_source is None) != (given.output_uri is None):
    steps.error("--data_source and --output_uri need each other")
if given.data_source is not None:
    words = ["run", given.data_source, "--output", given.output_uri, *words]
sys.argv = ["orchard", *words]  # the name in messages
main()
