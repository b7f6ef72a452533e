"""Plain values as YAML, by libyaml where PyYAML was built with it: ten times as fast.

Reading stays with ``yaml.safe_load``: libyaml ends the process at text that is nested too deeply.
"""

from typing import Any

import yaml

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def to_yaml(value: object, *, width: int = 100) -> str:
    r"""Return a value as YAML, mappings in their own sequence, in lines of about ``width``.

    >>> to_yaml({"b": 1, "a": [None, 0.5]})
    'b: 1\na:\n- null\n- 0.5\n'
    """
    text: str = yaml.dump(value, Dumper=_DUMPER, sort_keys=False, width=width)
    return text
