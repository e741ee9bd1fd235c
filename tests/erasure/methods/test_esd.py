from collections.abc import Sequence
from pathlib import Path

import torch

from erasure.erasing import erase
from erasure.models.load import load_model
from erasure.paths import push_rows
from erasure_datasets.concept import Concept


def test_prompts_by_what_is_pushed() -> None:
    concept = [Concept("cat", "object", ("a {name} on a mat",), anchor="dog")]
    rows = {kind: push_rows(concept, kind)[0] for kind in ("prompt", "anchor", "concept")}
    cat, dog = "a cat on a mat", "a dog on a mat"
    assert rows == {
        "prompt": (cat, cat, cat, ""),
        "anchor": (cat, dog, cat, ""),
        "concept": (cat, cat, "cat", ""),
    }


def test_the_loss_is_the_papers(listed: Path, tmp_path: Path, monkeypatch) -> None:
    """The first step's loss, computed again from the untouched model in float64 by eq. 7."""
    import json

    from erasure.methods.diffusion import esd

    drawn = []
    points = esd.points
    monkeypatch.setattr(
        esd, "points", lambda *arguments: drawn.append(points(*arguments)) or drawn[-1]
    )
    erase(
        str(listed), "esd", ["cat"], out=tmp_path / "run", steps=1, batch_size=3, push=1.5, paths=2,
        sampling_steps=3, learning_rate=1e-4,
    )  # fmt: skip
    at = drawn[0]
    model = load_model(str(listed), dtype=torch.float64)
    model.alphas_cumprod = model.alphas_cumprod.double()

    def ask(texts: Sequence[str]) -> torch.Tensor:
        return model.predict(at.z_t.double(), at.t, model.encode(texts))

    wanted = ask(at.prompts[0]) - 1.5 * (ask(at.prompts[0]) - ask([""] * 3))
    want = (ask(at.prompts[0]) - wanted).square().mean().item()
    got = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["erase"]
    assert abs(got - want) < 1e-5 * max(1, want)


def test_training_approaches_its_target(listed: Path, tmp_path: Path) -> None:
    import json

    erase(
        str(listed), "esd", ["cat"], out=tmp_path / "run", steps=60, batch_size=4, paths=4,
        sampling_steps=4, learning_rate=1e-2, push=4.0,
    )  # fmt: skip
    losses = [
        json.loads(line)["erase"]
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
