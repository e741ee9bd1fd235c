"""Records as an evaluation and an attack leave them, from made-up labels and plain pictures."""

import json
from pathlib import Path

from PIL import Image

from erasure.models.diffusion.load import load_model
from evaluation.protocols import pocket


def judged(run: Path, concept: str, *, wrong: int, guidance: float = 3.0) -> None:
    """Scores as an evaluation writes them, from made-up labels: `wrong` target images survive."""
    model = load_model("pocket")
    found = model.catalogue.concept(concept)  # type: ignore[union-attr]
    chosen = pocket.plan((188,), None, [])
    pairs = pocket.catalogue().pairs()
    labels, left = {}, wrong
    for key in chosen:
        name, style = pairs[key[1]]
        seen = pocket.catalogue().objects.index(name)
        if name == concept:
            seen, left = (seen, left - 1) if left > 0 else ((seen + 1) % 16, left)
        labels[key] = (seen, pocket.catalogue().styles.index(style), 0.5)
    scores, per = pocket.score(labels, [found])
    record = {
        "protocol": "pocket",
        "scores": {k: vars(v) for k, v in scores.items()},
        "per_concept": {n: {k: vars(v) for k, v in own.items()} for n, own in per.items()},
        "baseline": {k: vars(v) for k, v in scores.items()},
        "stamp": {**pocket.stamp(chosen), "guidance": guidance},
        "labels": [[seed, index, *labels[seed, index][:2]] for seed, index in chosen],
    }
    (run / "scores").mkdir(exist_ok=True)
    (run / "scores" / "pocket.json").write_text(json.dumps(record))


def attacked(run: Path) -> None:
    """A paraphrase attack on cat, with pictures, that wins the second of its two cases."""
    rates = {
        name: {"value": value, "stderr": 0.3, "n": 2, "higher_is_better": False}
        for name, value in (("pre_ASR", 0.0), ("ASR", 0.5), ("control_ASR", 0.25))
    }
    cases = [
        {
            "case": {"name": name, "prompt": "A cat image in Photo style."},
            "found": {"success": success, "tries": 2, "prompt": f"a <kitty> {name}"},
            "success": success,
            "pre": False,
            "control": False,
            "control_tries": False,
        }
        for name, success in (("Photo_cat_seed188", False), ("Sketch_cat_seed188", True))
    ]
    record = {
        "attack": "paraphrase", "protocol": "attack-paraphrase", "seconds": 3.0, "baseline": {},
        "scores": rates, "stamp": {}, "per_concept": {
            "cat": {"criterion": "vit says cat", "is_cut_by_budget": False, "cases": cases,
                    "scores": rates, "baseline": {}}
        },
    }  # fmt: skip
    folders = "images/pocket", "images/pocket-base", "attacks/paraphrase/cat/images"
    for folder in folders:
        for entry in cases:
            place = run / folder / f"{entry['case']['name']}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (512, 512), "teal").save(place)
    (run / "attacks" / "paraphrase.json").write_text(json.dumps(record))
