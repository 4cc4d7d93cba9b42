"""The `kolmogram` command: parse, call, print. No arithmetic here."""

import click

from . import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="kolmogram")
def main() -> None:
    """How complex is this network, and when did it start to understand?"""
