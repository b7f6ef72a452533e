"""The engines by name: Flower Grids that run one ClientApp in this process or on a Ray cluster."""

from fedkd.flower.local_grid import Local
from fedkd.flower.ray_grid import Ray

ENGINES: dict[str, type] = {"local": Local, "ray": Ray}
