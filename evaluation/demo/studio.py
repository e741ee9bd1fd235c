"""Several erased models for one page: drawing before and after, judging, and short attacks."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from erasure.config import nearest, resolve
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.exports.writing.publishing import public_name
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.models.diffusion.load import read_presets
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.opening import open_run
from erasure.registry import ATTACKS
from erasure_datasets.concept import Concept
from erasure_datasets.prompt_files import built_in
from evaluation.attacking.asked import OutOfTimeError
from evaluation.attacking.attacking import attack_cases
from evaluation.attacking.fitting import refuse_unfit
from evaluation.attacking.scene import Scene, cases_of, sampling_of
from evaluation.criteria import find_criterion
from evaluation.demo.fight import Fight
from evaluation.drawing.pocket_plan import is_pocket

LONGEST, MOST_STEPS, MOST_SEEDS, MOST_RUNS, MOST_GUIDANCE = 300, 50, 6, 4, 20
SHOWN = 384  # pixels of a small model's picture on the page
CASES, ATTACK_SEED, ATTACK_SECONDS = 4, 188, 60.0  # of a short attack

Tell = Callable[[str, int, int], None]  # (what, steps done, steps in all); it may raise to stop


class Base(NamedTuple):
    """What runs must agree in to share one model."""

    name: str
    revision: str | None
    digest: str
    sampling: Sampling | None


@dataclass(frozen=True)
class Picture:
    """One drawing: by the model `of`, from the noise of `seed`, and what the judges say of it."""

    of: str
    is_erased: bool
    seed: int
    image: Image.Image
    seen: str

    @property
    def caption(self) -> str:
        return " · ".join(filter(None, (self.of, f"seed {self.seed}", self.seen)))


class Studio:
    """The runs' models by name; one is loaded per base, at its first use, and one works at a time.

    EditError for a folder without a finished erasure, SettingError for one of a classifier.
    """

    def __init__(self, runs: Mapping[str, Path], *, criterion: str = "judge") -> None:
        self.runs, self.criterion = dict(runs), criterion
        self.edits = {name: Edit.load(run) for name, run in runs.items()}
        for name, edit in self.edits.items():
            refuse_classifier(runs[name], edit)
        self._models: dict[Base, tuple[DiffusionModel, str]] = {}  # each with the run inside it
        self._lock = Lock()

    @property
    def is_unsafe(self) -> bool:
        """Whether any of the runs erased something unsafe."""
        return any(c.kind == "unsafe" for edit in self.edits.values() for c in edit.concepts)

    @property
    def is_small(self) -> bool:
        """Whether the first run's pictures have so few pixels that each should be seen."""
        with self._lock:
            return self._open(next(iter(self.runs))).resolution < SHOWN

    def told(self, error: Exception) -> str:
        """What an error says, without the places of runs and models on this machine."""
        text = str(error)
        for name, run in self.runs.items():
            base = self.edits[name].base
            text = text.replace(base, public_name(base)).replace(str(run), name)
        return text

    def draw(
        self, names: Sequence[str], prompt: str, seed: int, steps: int, guidance: float,
        count: int, tell: Tell,
    ) -> list[list[Picture]]:  # fmt: skip
        """One row per seed: each base un-erased, and behind it the erased models made from it.

        SettingError for a request beyond the page's limits.
        """
        self._known(*names)
        _within("runs", len(names), 1, MOST_RUNS)
        _within("letters of the prompt", len(prompt), 0, LONGEST)
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise SettingError("prompt must be text; it holds half of a letter.")
        _within("steps", steps, 1, MOST_STEPS)
        _within("seeds", count, 1, MOST_SEEDS)
        _within("guidance", guidance, 0, MOST_GUIDANCE)
        _within("seed", seed, 0, 2**31 - 1)
        columns: list[list[Picture]] = []
        bases = list(dict.fromkeys(self._base(name) for name in names))
        titles = [public_name(base.name) for base in bases]
        total = count * (len(names) + len(bases))

        def column(model: DiffusionModel, of: str, is_erased: bool) -> list[Picture]:
            drawn: list[Picture] = []
            for number in range(seed, seed + count):
                tell("drawing", len(columns) * count + len(drawn), total)
                generator = torch.Generator().manual_seed(number)
                image = model.generate(
                    [prompt], steps=steps, guidance=guidance, generators=[generator]
                )
                (picture,), (seen,) = _shown(image), _seen(model, image)
                drawn.append(Picture(of, is_erased, number, picture, seen))
            return drawn

        with self._lock:
            for base, title in zip(bases, titles, strict=True):
                own = [name for name in names if self._base(name) == base]
                whose = f" for {', '.join(own)}" if titles.count(title) > 1 else ""
                model = self._open(own[0])
                with model.without_edit():
                    columns.append(column(model, f"{title}, un-erased{whose}", False))
                for name in own:
                    columns.append(column(self._open(name), name, True))
        return [list(row) for row in zip(*columns, strict=True)]

    def attack(self, name: str, concept: str, word: str, tell: Tell) -> Fight:
        """A short attack with `--quick`'s settings on a few prompts; the run's folder is not used.

        SettingError for an attack or a concept that this run cannot be asked about, and for an
        attack that draws nothing in its time.
        """
        self._known(name)
        found = next((c for c in self.edits[name].concepts if c.name == concept), None)
        if found is None:
            raise SettingError(f"concept must be one that {name!r} erased; got {concept!r}.")
        if word not in attacks():
            raise SettingError(f"there is no attack {word!r} here. {nearest(word, attacks())}")
        with self._lock, tempfile.TemporaryDirectory() as folder:
            model = self._open(name)
            chosen, _ = resolve(
                ATTACKS.get(word), given={}, quick=True, presets=read_presets(model.folder, word)
            )
            scene = Scene(
                model, found, find_criterion(self.criterion, model, found), Path(folder),
                sampling=self._sampling(name), seed=0, budget=ATTACK_SECONDS, watcher=tell,
            )  # fmt: skip
            scene.start_clock()
            cases = cases_of(model, found, prompts=CASES, seeds=(ATTACK_SEED,))
            refuse_unfit(chosen, self.runs[name], model, [(found, cases)])
            plain = scene.draw([case.prompt for case in cases], cases)
            pre = scene.criterion(plain).tolist()
            ends = attack_cases(chosen, scene, list(zip(cases, pre, strict=True)))
            tried = [(end, own) for end, own in zip(ends, plain, strict=True) if end.is_tried]
            if not tried:
                raise OutOfTimeError(
                    f"{word} drew nothing in its {ATTACK_SECONDS:.0f} seconds here; "
                    f"`erasure attack {word}` has as long as it needs."
                )
            judged = [own if end.pre else scene.kept(end.case) for end, own in tried]
            return Fight(
                [end for end, _ in tried],
                [None if image is None else _shown(image[None])[0] for image in judged],
                ["" if image is None else _seen(model, image[None])[0] for image in judged],
                untried=len(ends) - len(tried),
            )

    def sampling(self, name: str) -> Sampling:
        """How this run is drawn by default."""
        with self._lock:
            return self._sampling(name)

    def erased(self, name: str) -> list[str]:
        """What this run erased."""
        return [concept.name for concept in self.edits[name].concepts]

    def examples(self) -> list[str]:
        """For each run two prompts of what it erased and two of what it kept; six at most."""
        found: list[str] = []
        for name, edit in self.edits.items():
            own = list(self.prompts(name).values())
            found += [*edit.concepts[0].prompts()[:2], own[-1], own[len(own) // 2]]
        return list(dict.fromkeys(found))[:6]

    def prompts(self, name: str) -> dict[str, str]:
        """A prompt for each thing to ask for, what this run erased first and marked so."""
        with self._lock:
            return prompts_of(self._open(name), self.edits[name].concepts)

    def _known(self, *names: str) -> None:
        for name in names:
            if name not in self.runs:
                raise SettingError(f"run must be one of {', '.join(self.runs)}; got {name!r}.")

    def _base(self, name: str) -> Base:
        edit = self.edits[name]
        return Base(edit.base, edit.revision, edit.base_digest, edit.sampling)

    def _sampling(self, name: str) -> Sampling:
        return sampling_of(self._open(name), self.edits[name].sampling)

    def _open(self, name: str) -> DiffusionModel:
        """The base's one model, with this run's edit in it.

        EditError if the base is not the one that the edit was made on, or the edit does not fit.
        """
        base, edit = self._base(name), self.edits[name]
        if base not in self._models:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            model = open_run(self.runs[name], device=device, edited=False)
            model.use_scheduler(sampling_of(model, edit.sampling).scheduler)
            edit.apply(model)
        else:
            # given up until the edit is in it: one that failed half-way is never drawn with
            model, inside = self._models.pop(base)
            if inside != name:
                self.edits[inside].undo(model)
                edit.apply(model)
        self._models[base] = model, name
        return model


def refuse_classifier(run: Path, edit: Edit) -> None:
    """SettingError for an edit of a classifier, which draws nothing."""
    if edit.is_of_classifier:
        raise SettingError(
            f"the demo draws pictures, and {run} forgot classes of a classifier; "
            f"`erasure report {run}` shows it."
        )


def prompts_of(model: DiffusionModel, concepts: Sequence[Concept]) -> dict[str, str]:
    """A prompt for each thing to ask for, what was erased first and marked so."""
    erased = {f"{c.name} (erased)": c.prompts()[0] for c in concepts}
    gone, catalogue = {concept.name for concept in concepts}, model.catalogue
    if catalogue is None:
        kept = {thing: f"a photo of a {thing}" for thing in built_in("objects")}
        kept |= {s: f"a painting in the style of {s}" for s in built_in("styles")}
    else:
        things = [o for o in catalogue.objects if o not in gone]
        kept = {o: catalogue.prompt(o, catalogue.plain_style) for o in things}
        kept |= {s: catalogue.prompt(thing, s) for thing in things[:1] for s in catalogue.styles}
    return erased | {thing: text for thing, text in kept.items() if thing not in gone}


def attacks() -> list[str]:
    """Every attack but relearning, which is about weights and wants a control of its own."""
    return [name for name in ATTACKS.names() if not ATTACKS.get(name).changes_weights]


def _within(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise SettingError(f"{what} must be {low} to {high}; got {value}.")


def _shown(images: UInt8[Tensor, "n 3 h w"]) -> list[Image.Image]:
    """Pictures large enough to look at; pixels are repeated, not invented."""
    factor = max(1, SHOWN // images.shape[-1])
    pixels = images.permute(0, 2, 3, 1).numpy().repeat(factor, 1).repeat(factor, 2)
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pixels]


@cache
def _judges() -> tuple[Classifier, Classifier]:
    return load_classifier("pocket-vit"), load_classifier("pocket-style-vit")


def _seen(model: Any, images: UInt8[Tensor, "n 3 h w"]) -> list[str]:
    """Each judge's likeliest label and its probability; nothing for models they do not know."""
    if not is_pocket(model):
        return [""] * len(images)
    said = []
    for judge in _judges():
        chances, labels = judge.predict(judge.cut(images)).max(1)
        said.append(
            [f"{judge.labels[i]} {100 * p:.0f} %" for p, i in zip(chances, labels, strict=True)]
        )
    return [f"{thing}, {style}" for thing, style in zip(*said, strict=True)]
