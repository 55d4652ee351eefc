"""The program that trains many runs of one update on several ranks, one after the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.any_split import Split, told, trainer_of
from support.torch_models import weights_of

from workers.ddp_common import write

if __name__ == "__main__":
    folder, found = Path(sys.argv[1]), []
    for values in json.loads((folder / sys.argv[2]).read_text()):
        with told() as messages:
            trainer = trainer_of(Split(**values), str(folder / "out"))
            trainer.train()
        found.append({"weights": weights_of(trainer.model).tolist(), "told": messages})
    write(folder, found)
