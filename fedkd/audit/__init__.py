"""Attacks on what a run released, and what they prove: claimed privacy against measured privacy.

Pure functions first (``scores``, ``attacks``, ``roc``, ``bounds``, ``one_run``, ``mechanisms``),
then a stored run's audit (``views``, ``study``, ``python -m fedkd.audit``). Not for: counting what
a mechanism costs, which is ``fedkd.privacy``. A weak attack proves nothing: an audit can refute a
claim and cannot confirm one.
"""
