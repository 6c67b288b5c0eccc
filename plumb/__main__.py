"""Entry point of `python -m plumb`, which is the command `plumb`."""

from plumb.cli.app import main

main()
