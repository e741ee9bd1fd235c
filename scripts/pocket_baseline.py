"""Draw and judge the un-erased pocket model once, and ship the labels.

Writes baseline.json beside its weights.
"""

from pathlib import Path

from erasure.models.load import POCKET, load_model
from erasure.storage import write_json
from evaluation.protocols import pocket

if __name__ == "__main__":
    model = load_model("pocket")
    model.use_scheduler(pocket.SCHEDULER)
    chosen = pocket.plan(pocket.SEEDS, None, [])
    folder = Path("runs/pocket-baseline/images")
    images = pocket.draw(
        model, pocket.shots(chosen), folder, steps=pocket.STEPS, guidance=pocket.GUIDANCE
    )
    labels = pocket.judge(images, chosen)
    record: dict[str, list[list[float]]] = {}
    for (seed, _), (seen_object, seen_style, cosine) in labels.items():
        record.setdefault(str(seed), []).append([seen_object, seen_style, round(cosine, 4)])
    write_json(POCKET / "baseline.json", {"stamp": pocket.stamp(chosen), "labels": record})
    for name, score in pocket.score(labels, [])[0].items():
        print(f"{name}: {score.value:.4f} +- {score.stderr:.4f} (n {score.n})")
