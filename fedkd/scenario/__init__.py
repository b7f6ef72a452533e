"""Scenarios: settings by section, components by name, and which of them do not go together."""
