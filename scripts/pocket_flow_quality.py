"""How well a pocket-flow draws: the share of right objects and styles, by pocket's judges.

python scripts/pocket_flow_quality.py .train/flow-1 [--sheet .train/flow-1.png]
"""

import argparse
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from pocket_flow import EMPTY_ROWS, open_folder
from pocket_training import sheet
from torch import Tensor

from erasure_datasets.canvas import OBJECTS, STYLES
from evaluation.drawing.pocket_plan import SEEDS, plan, shots
from evaluation.protocols.pocket import judge, score


def draw(prompts: list[str], noise: Tensor, settings: argparse.Namespace) -> Tensor:
    """uint8 in [0, 255], (n, 3, 64, 64), by diffusers' own pipeline."""
    pipeline = open_folder(settings.folder).to(settings.device)
    pipeline.set_progress_bar_config(disable=True)
    if settings.shift:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=settings.shift)
    parts = []
    for start in range(0, len(prompts), settings.batch):
        part = slice(start, start + settings.batch)
        parts.append(
            pipeline(
                prompts[part],
                latents=noise[part],
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                max_sequence_length=settings.rows,
                output_type="pt",
            ).images.cpu()
        )
    return torch.cat(parts).mul(255).round().byte()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--shift", type=float, help="the folder's own if not given")
    parser.add_argument("--rows", type=int, default=EMPTY_ROWS, help="rows of zeros after the text")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=256, help="the first so many of the plan")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sheet", type=Path, help="a PNG of all images; it needs every prompt")
    settings = parser.parse_args()
    chosen = plan(SEEDS[:1], None, [])[: settings.prompts]
    generator = torch.Generator().manual_seed(SEEDS[0])
    noise = torch.randn(len(chosen), 4, 16, 16, generator=generator)
    images = draw([shot.prompt for shot in shots(chosen)], noise, settings)
    labels = judge(images, chosen)
    pairs = [(*divmod(index, len(STYLES)), *seen[:2]) for (_, index), seen in labels.items()]
    right = torch.tensor([(o == seen_o, s == seen_s) for o, s, seen_o, seen_s in pairs])
    objects, styles = right.float().mean(0).tolist()
    clip = score(labels, [])[0]["CLIP"].value
    print(f"objects {objects:.4f}  styles {styles:.4f}  CLIP {clip:.4f}  (n {len(chosen)})")
    for kind, names, column in (("objects", OBJECTS, 0), ("styles", STYLES, 1)):
        wrong = [names[pair[column]] for pair in pairs if pair[column] != pair[column + 2]]
        print(f"wrong {kind}:", {name: wrong.count(name) for name in dict.fromkeys(wrong)})
    if settings.sheet:
        sheet(images.view(len(OBJECTS), len(STYLES), *images.shape[1:]), settings.sheet)
