"""From a data set to its task: a data class names it in the attribute ``task``.

``task`` is ``images`` (the default), another name of ``TASKS``, a class derived from
``fedkd.tasks.task.Task``, or the import path of one.
"""

from typing import Any

from fedkd.data.prepare import Source
from fedkd.errors import SettingError, unknown_name
from fedkd.settings.import_paths import import_path, is_import_path
from fedkd.tasks.images import ImageTask
from fedkd.tasks.row_tasks import SeriesTask, TableTask
from fedkd.tasks.task import Task
from fedkd.tasks.text.labeled_text_task import LabeledTextTask
from fedkd.tasks.text.text_task import TextTask

TASKS: dict[str, type[Task]] = {
    "images": ImageTask,
    "texts": TextTask,
    "labeled_texts": LabeledTextTask,
    "tables": TableTask,
    "series": SeriesTask,
}


def find_task(source: Source) -> type[Task]:
    """Return the class of a data set's task. Raises SettingError where there is no such task."""
    if hasattr(source, "holds"):
        raise SettingError(
            f"data: {type(source).__name__}.holds is now {type(source).__name__}.task"
            f" ({', '.join(TASKS)}, or a task of one's own)"
        )
    named: Any = getattr(source, "task", "images")
    if isinstance(named, str):
        if is_import_path(named):
            named = import_path(named, what="data.task")
        elif named in TASKS:
            return TASKS[named]
        else:
            raise unknown_name("task", named, TASKS)
    if Task not in getattr(named, "__mro__", ()):
        raise SettingError(
            f"data: {type(source).__name__}.task must be a class derived from"
            f" fedkd.tasks.task.Task, got {named!r}"
        )
    if missing := sorted(named.__abstractmethods__):
        raise SettingError(
            f"data: {type(source).__name__}.task: {named.__name__} has no"
            f" {' and no '.join(missing)} (docs/extending.md)"
        )
    found: type[Task] = named
    return found
