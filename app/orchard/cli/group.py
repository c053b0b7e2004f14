"""The command `orchard`, whose subcommands all others are."""

import click

from orchard.version import VERSION


class _Orchard(click.Group):
    """Commands in the order in which people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(self.commands)


@click.group(cls=_Orchard, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="orchard")
def cli() -> None:
    """Turn a large collection of images into features, a reduced table, measured classifiers and a model.

    \b
    Example:
      orchard sample photos
      orchard run photos --output out
    """
