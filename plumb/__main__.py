"""`python -m plumb` is the command `plumb`."""

from plumb.cli import main

main()
