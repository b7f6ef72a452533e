"""Protect private data, count what it costs, and say what may be claimed.

Every release carries an event.

``mechanisms`` are the settings with their pure functions, ``dp_sgd`` is private training,
``events``, ``ledger`` and ``composition`` count, ``claims`` says it in words.
``fedkd.privacy.enforcement`` puts a mechanism to work in a run.
"""

from fedkd.privacy.mechanisms import MECHANISMS, Mechanism
from fedkd.privacy.unprotected import Unprotected

PRIVACY: dict[str, type[Mechanism]] = {"none": Unprotected, **MECHANISMS}
