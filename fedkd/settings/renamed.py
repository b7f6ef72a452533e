"""Names that settings, choices and columns had before, each refused with the new one named."""

from collections.abc import Mapping

from fedkd.settings.measuring_points import MEASURING_POINTS, column

SETTINGS = {
    "order": "round_order",
    "state": "client_store",
    "together": "batch_clients",
    "canaries": "text_canaries",
    "distill.gate": "distill.confidence_gate",
    "distill.relation": "distill.relational_weight",
    "distill.student_view": "distill.student_augmentation",
    "public.choice": "public.sampling",
    "public.views": "public.augmented_views",
    "public.held_back": "public.reserved",
    "public.other_share": "public.foreign_share",
}
"""By the old name as it is written on the command line."""

CHOICES = {("heads", "stages"): "self_distillation"}
"""By the group and the old name."""

AT_POINTS = (
    "personal_accuracy",
    "global_accuracy",
    "validation_accuracy",
    "personal_nll",
    "global_nll",
    "global_ece",
    "personal_gain",
    "global_gain",
    "validation_gain",
    "personal_negative_transfer",
    "global_negative_transfer",
)
"""Columns of which there is one at each of a round's two points now."""
COLUMNS = {
    "local_accuracy": "personal_accuracy",
    "local_nll": "personal_nll",
    "local_gain": "personal_gain",
    "local_harmed": "personal_negative_transfer",
    "global_harmed": "global_negative_transfer",
}
"""Columns of records, tables and summaries by the old name."""


def setting_hint(name: str) -> str | None:
    """Return what to write in place of a setting's old name; None for a name that never was one.

    >>> setting_hint("distill.gate"), setting_hint("rounds")
    ('distill.gate is now distill.confidence_gate', None)
    """
    top, dot, rest = name.partition(".")
    for old, end in ((name, ""), (top, dot + rest)):
        if old in SETTINGS:
            return f"{name} is now {SETTINGS[old]}{end}"
    return None


def old_names(settings: Mapping[str, object]) -> str:
    """Return the old names in a stored scenario with the new ones, in words; empty without any.

    ``settings`` are by dotted name.

    >>> old_names({"order": "train_first", "heads.name": "stages", "rounds": 3})
    'order is now round_order, heads=stages is now heads=self_distillation'
    """
    names = [hint for name in settings if (hint := setting_hint(name)) is not None]
    choices = [
        f"{group}={old} is now {group}={new}"
        for (group, old), new in CHOICES.items()
        if settings.get(f"{group}.name") == old
    ]
    return ", ".join([*names, *choices])


def column_hint(name: str) -> str | None:
    """Return the new name of a column in words; None for a name that never was one.

    >>> column_hint("local_nll")
    'local_nll is now personal_nll_after_distillation and personal_nll_after_training'
    """
    new = COLUMNS.get(name, name)
    if new not in AT_POINTS:
        return None
    return f"{name} is now {' and '.join(column(new, point) for point in MEASURING_POINTS)}"
