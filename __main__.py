"""`python -m kolmogram` is the `kolmogram` command."""

from .cli import main

main()
