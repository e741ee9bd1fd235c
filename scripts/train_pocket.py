"""Train one part of the pocket suite: `python scripts/train_pocket.py autoencoder --minutes 30`."""

import argparse
import importlib

import torch

STAGES = ("clip", "autoencoder", "unet", "judges")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, required=True, help="wall-clock budget")
    parser.add_argument(
        "--learning-rate", type=float, help="peak learning rate; the stage's own if not given"
    )
    parser.add_argument(
        "--resume", action="store_true", help="start from the suite's present weights"
    )
    parser.add_argument("--threads", type=int, help="CPU threads")
    settings = parser.parse_args()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    chosen = {"learning_rate": settings.learning_rate} if settings.learning_rate else {}
    stage = importlib.import_module(f"pocket_{settings.stage}")
    stage.train(settings.minutes, resume=settings.resume, **chosen)
