"""The command line: ``python -m fedkd.simulate``, ``python -m fedkd.audit``, and the apps of ``flwr
run``.
"""
