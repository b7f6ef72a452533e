"""Complete experiments, one YAML each, picked by ``scenario=NAME``."""
