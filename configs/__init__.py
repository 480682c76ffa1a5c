"""Hydra groups, nothing but YAML. ``config.yaml`` is the primary configuration; see ``docs/configuration.md``."""
