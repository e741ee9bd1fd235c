"""Draw and judge an un-erased built-in model once, and ship what was seen.

Its baseline.json has the judges' labels, its baseline.safetensors Pocket CLIP's features.

python scripts/pocket_baseline.py [pocket | pocket-one-step | pocket-flow]
"""

import sys
from pathlib import Path

import torch

from erasure.files.storage import write_json, write_tensors
from erasure.models.diffusion.load import load_model
from evaluation.protocols import pocket

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "pocket"
    model = load_model(name)
    how = model.sampling or pocket.SAMPLING
    model.use_scheduler(how.scheduler)
    chosen = pocket.plan(pocket.SEEDS, None, [])
    images = pocket.draw(
        model, pocket.shots(chosen), Path(f"runs/{name}-baseline/images"), steps=how.steps,
        guidance=how.guidance,
    )  # fmt: skip
    labels = pocket.judge(images, chosen)
    record: dict[str, list[list[float]]] = {}
    for (seed, _), (seen_object, seen_style, cosine) in labels.items():
        record.setdefault(str(seed), []).append([seen_object, seen_style, round(cosine, 4)])
    looks = torch.stack([*pocket.look(images, chosen).values()]).half()
    write_tensors(pocket.BASELINES[name].with_suffix(".safetensors"), {"looks": looks})
    write_json(pocket.BASELINES[name], {"stamp": pocket.stamp(chosen, how), "labels": record})
    for key, score in pocket.score(labels, [])[0].items():
        print(f"{key}: {score.value:.4f} +- {score.stderr:.4f} (n {score.n})")
