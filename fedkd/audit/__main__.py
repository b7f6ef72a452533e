"""Run the command ``python -m fedkd.audit RUN_DIR``."""

import sys

from fedkd.cli.audit import main

if __name__ == "__main__":
    sys.exit(main())
