"""Run the examples of the gallery and draw their pictures into docs/images/gallery.

python docs/make_gallery.py [NAME...]
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

GALLERY = Path(__file__).resolve().parents[1] / "examples" / "gallery"


def main(names: list[str]) -> None:
    sys.path.insert(0, str(GALLERY))
    picture = importlib.import_module("picture")
    every = [
        path.stem for path in sorted(GALLERY.glob("*.py")) if path.stem != "picture"
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in names or every:
            example = importlib.import_module(name)
            path = picture.run(name, example.train, example.draw, picture.PICTURES)
            # few colours keep the repository small
            Image.open(path).convert("RGB").quantize(96).save(path, optimize=True)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
