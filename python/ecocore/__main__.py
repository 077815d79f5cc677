"""`python -m ecocore` is `ecocore`."""

from ecocore.cli import main

main()
