"""Run the command: ``python -m fedkd.simulate scenario=NAME key=value ...``."""

if __name__ == "__main__":
    from fedkd.runtime.working_folder import put_last

    put_last()  # before anything else is imported

from fedkd.cli.command import compose, main
from fedkd.runtime.left_behind import end

__all__ = ["compose", "main"]

if __name__ == "__main__":
    end(main())
