"""Where clients run: Flower Grids of ours, which call the same ClientApp in this process or on a Ray cluster."""

from fedkd.engines.local import Local
from fedkd.engines.ray import Ray

ENGINES: dict[str, type] = {"local": Local, "ray": Ray}
