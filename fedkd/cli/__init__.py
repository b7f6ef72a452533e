"""The command line: ``fedkd`` with its subcommands, and the apps of ``flwr run``."""
