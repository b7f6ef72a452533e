"""Run the command ``python -m fedkd.audit RUN_DIR``."""

import sys

from fedkd.runtime.working_folder import put_last

put_last()  # before anything else is imported

from fedkd.cli.audit import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
