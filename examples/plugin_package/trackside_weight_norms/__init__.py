"""The callback weight_norms for trackside."""

from trackside_weight_norms.callback import WeightNormsCallback

__all__ = ["WeightNormsCallback"]
