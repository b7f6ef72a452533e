"""The type checker behind ``--jaxtyping-packages``: shapes are enforced in tests, and an int may stand for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
