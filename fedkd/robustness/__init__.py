"""Attacks on uploads, and aggregation rules that tolerate attackers."""
