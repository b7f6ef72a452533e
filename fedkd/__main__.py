"""Run the command ``fedkd``: ``python -m fedkd COMMAND ...``."""

if __name__ == "__main__":
    from fedkd.runtime.working_folder import put_last

    put_last()  # before anything else is imported

from fedkd.cli.commands import start

if __name__ == "__main__":
    start()
