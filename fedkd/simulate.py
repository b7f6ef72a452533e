"""Run the command: ``python -m fedkd.simulate scenario=NAME key=value ...``."""

import sys

if __name__ == "__main__":
    from fedkd.runtime.working_folder import put_last

    put_last()  # before anything else is imported

from fedkd.cli.command import compose, main

__all__ = ["compose", "main"]

if __name__ == "__main__":
    sys.exit(main())
