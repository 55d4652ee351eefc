"""Run configuration: files, overrides, and the objects that they describe."""

from trackside.config.run_config import load_config

__all__ = ["load_config"]
