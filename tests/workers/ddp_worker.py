"""The program that the tests of distribution start on several ranks; it does what its command line names."""

from __future__ import annotations

from workers import ddp_control, ddp_data, ddp_evaluation, ddp_guard, ddp_runs, ddp_weights
from workers.ddp_common import main

if __name__ == "__main__":
    parts = (ddp_weights, ddp_evaluation, ddp_control, ddp_data, ddp_runs, ddp_guard)
    main({name: value for part in parts for name, value in vars(part).items()})
