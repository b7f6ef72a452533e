"""Audits: attacks on the messages of a run, and the epsilon that they prove it exceeds.

Pure functions (``scores``, ``membership_inference``, ``label_inference``, ``roc``, ``bounds``,
``one_run``, ``verdicts``) serve the audit of a stored run (``audit_run``, ``report``,
``python -m fedkd.audit``). A weak attack proves nothing: an audit can refute a claim and cannot
confirm one. Not for: accounting for a mechanism's cost, which is ``fedkd.privacy``.
"""
