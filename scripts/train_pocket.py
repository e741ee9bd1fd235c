"""Train one part of the pocket suite: `python scripts/train_pocket.py autoencoder --minutes 30`.

Each stage needs those before it: clip, autoencoder, unet, judges, one_step. Sample sheets lie in
`.train/`. `gold` trains the UNet anew without some concepts, into `.train/gold-SEED`. `flow` trains
a small Stable Diffusion 3 on the same latents, into `.train/flow-SEED`.
"""

import argparse
import importlib
import os
import shutil
from pathlib import Path

import torch

STAGES = ("clip", "autoencoder", "unet", "judges", "one_step", "gold", "flow")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, help="wall-clock budget; gold: at most")
    parser.add_argument("--without", action="append", default=[], help="gold: a concept left out")
    parser.add_argument("--seed", type=int, default=1, help="gold, flow: of everything drawn")
    parser.add_argument("--out", type=Path, help="flow: the folder to write")
    parser.add_argument("--width", type=int, default=160, help="flow: a multiple of 32")
    parser.add_argument("--batch", type=int, default=512, help="flow: images in a step")
    parser.add_argument(
        "--learning-rate", type=float, help="peak learning rate; the stage's own if not given"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="start from the suite's present weights; gold, flow: from its state",
    )
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--suite", type=Path, help="train a copy of the suite in this folder, not the shipped one"
    )
    settings = parser.parse_args()
    if settings.minutes is None and settings.stage != "gold":
        parser.error("--minutes is missing")
    if settings.without and settings.stage != "gold":
        parser.error("--without is for gold alone")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.suite:
        shipped = Path(__file__).parents[1] / "erasure" / "models" / "pocket"
        if not settings.suite.exists():
            shutil.copytree(shipped, settings.suite)
        os.environ["POCKET_SUITE"] = str(settings.suite.resolve())
    chosen = {"learning_rate": settings.learning_rate} if settings.learning_rate else {}
    if settings.stage == "gold":
        chosen |= {"without": settings.without, "seed": settings.seed}
    if settings.stage == "flow":
        chosen |= {name: getattr(settings, name) for name in ("seed", "out", "width", "batch")}
    stage = importlib.import_module(f"pocket_{settings.stage}")
    stage.train(
        settings.minutes,
        resume=settings.resume,
        device=torch.device(settings.device),
        **chosen,
    )
