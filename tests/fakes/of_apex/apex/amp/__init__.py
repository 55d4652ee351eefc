"""apex.amp as https://nvidia.github.io/apex/amp.html describes it, for one model, one optimizer and one loss."""

from .frontend import initialize, load_state_dict, master_params, reset, scale_loss, state_dict

__all__ = ["initialize", "load_state_dict", "master_params", "reset", "scale_loss", "state_dict"]
