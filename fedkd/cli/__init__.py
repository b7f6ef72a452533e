"""The command line: ``fedkd.simulate``, ``fedkd.audit``, and the apps of ``flwr run``."""
