"""Run ``fedkd privacy-report`` from a checkout, for documents and programs that name this path."""

import sys

from fedkd.cli.privacy_report import main

if __name__ == "__main__":
    sys.exit(main())
