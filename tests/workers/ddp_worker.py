"""The program that the tests of distribution start on several ranks; it does what its command line names."""

from __future__ import annotations

from workers import ddp_control, ddp_data, ddp_evaluation, ddp_runs, ddp_weights
from workers.ddp_common import main

if __name__ == "__main__":
    main({**vars(ddp_weights), **vars(ddp_evaluation), **vars(ddp_control), **vars(ddp_data), **vars(ddp_runs)})
