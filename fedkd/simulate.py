"""Run the command: ``python -m fedkd.simulate scenario=NAME key=value ...``."""

import sys

from fedkd.cli.command import compose, main

__all__ = ["compose", "main"]

if __name__ == "__main__":
    sys.exit(main())
