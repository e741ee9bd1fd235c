"""docs/pocket-canvas.png: all 256 combinations of Pocket Canvas, objects down, styles across."""

from pathlib import Path

import torch

from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES, render
from evaluation.drawing.grid import grid

if __name__ == "__main__":
    rows = []
    for o in range(len(OBJECTS)):
        images = [
            torch.from_numpy(render(o, s, SPLITS["test"][o])).permute(2, 0, 1)
            for s in range(len(STYLES))
        ]
        rows.append(torch.stack(images))
    file = Path(__file__).parents[1] / "docs" / "pocket-canvas.png"
    grid(rows, OBJECTS, STYLES, zoom=1).quantize(256).save(file, optimize=True)
