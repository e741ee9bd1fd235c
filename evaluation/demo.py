"""`erasure demo`: a page on this machine that draws before and after, from the same noise."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from classifiers.predict import load_classifier
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.exporting import open_run
from erasure.models.diffusion import DiffusionModel, Sampling
from erasure.models.load import POCKET
from evaluation.scene import is_pocket, sampling_of

HOST, WAITING = "127.0.0.1", 16  # requests in line before the page says "busy"
LONGEST, MOST_STEPS, MOST_SEEDS, SHOWN = 300, 50, 6, 384


@dataclass
class Studio:
    """The runs' models, each opened once at its first use; one drawing at a time."""

    runs: dict[str, Path]
    _models: dict[str, DiffusionModel] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def draw(
        self, name: str, prompt: str, seed: int, steps: int, guidance: float, count: int
    ) -> tuple[list[Image.Image], list[Image.Image], list[str], list[str]]:
        """(before, after, what the judges see before, and after), one entry per seed.

        SettingError for a request beyond the page's limits.
        """
        _refuse(name not in self.runs, f"run must be one of {', '.join(self.runs)}; got {name!r}.")
        _refuse(len(prompt) > LONGEST, f"prompt must have at most {LONGEST} letters.")
        _refuse(not 1 <= steps <= MOST_STEPS, f"steps must be 1 to {MOST_STEPS}; got {steps}.")
        _refuse(not 1 <= count <= MOST_SEEDS, f"seeds must be 1 to {MOST_SEEDS}; got {count}.")
        _refuse(not 0 <= guidance <= 20, f"guidance must be 0 to 20; got {guidance}.")
        _refuse(not 0 <= seed < 2**31, f"seed must be 0 to {2**31 - 1}; got {seed}.")
        with self._lock:
            model = self._open(name)

            def images() -> UInt8[Tensor, "n 3 h w"]:
                generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
                return model.generate(
                    [prompt] * count, steps=steps, guidance=guidance, generators=generators
                )

            after = images()
            with model.without_edit():
                before = images()
        return _shown(before), _shown(after), _seen(model, before), _seen(model, after)

    def sampling(self, name: str) -> Sampling:
        """How this run is drawn by default."""
        with self._lock:
            return sampling_of(self._open(name), Edit.load(self.runs[name]).sampling)

    def examples(self, name: str) -> list[str]:
        """Two prompts that name what was erased, and two that do not."""
        concept = Edit.load(self.runs[name]).concepts[0]
        asked = concept.prompts()[:2]
        with self._lock:
            catalogue = self._open(name).catalogue
        if catalogue is None:
            return [*asked, "a photo of a mountain lake", "a drawing of a chair"]
        kept = catalogue.kept_pairs([concept])
        return [*asked, catalogue.prompt(*kept[0]), catalogue.prompt(*kept[len(kept) // 2])]

    def _open(self, name: str) -> DiffusionModel:
        if name not in self._models:
            model = open_run(self.runs[name])
            sampling = sampling_of(model, Edit.load(self.runs[name]).sampling)
            model.use_scheduler(sampling.scheduler)
            self._models[name] = model
        return self._models[name]


def _refuse(is_wrong: bool, message: str) -> None:
    if is_wrong:
        raise SettingError(message)


def _shown(images: UInt8[Tensor, "n 3 h w"]) -> list[Image.Image]:
    """Pictures large enough to look at; pixels are repeated, not invented."""
    factor = max(1, SHOWN // images.shape[-1])
    pixels = images.permute(0, 2, 3, 1).numpy().repeat(factor, 1).repeat(factor, 2)
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pixels]


def _seen(model: DiffusionModel, images: UInt8[Tensor, "n 3 h w"]) -> list[str]:
    """What the suite's judges call each image; nothing for models they do not know."""
    if not is_pocket(model):
        return [""] * len(images)
    objects, styles = (load_classifier(POCKET / name) for name in ("vit", "style-judge"))
    return [
        f"{objects.labels[o]}, {styles.labels[s]}"
        for o, s in zip(objects.predict(images), styles.predict(images), strict=True)
    ]


def build(runs: Sequence[Path]) -> Any:
    """The page, not yet served. EditError for a folder without a finished erasure."""
    try:
        import gradio as gr
    except ImportError as error:
        raise SettingError("the demo needs gradio: pip install 'erasure-toolkit[demo]'.") from error
    edits = {run: Edit.load(run) for run in runs}
    names = {
        f"{', '.join(c.name for c in edit.concepts)} erased by {edit.method} ({run})": run
        for run, edit in edits.items()
    }
    studio, first = Studio(names), next(iter(names))
    is_unsafe = any(c.kind == "unsafe" for edit in edits.values() for c in edit.concepts)

    def compare(
        name: str, prompt: str, seed: float, steps: float, guidance: float, count: float
    ) -> tuple[tuple[Image.Image, Image.Image], str, list[tuple[Image.Image, str]]]:
        try:
            before, after, was, now = studio.draw(
                name, prompt, int(seed), int(steps), guidance, int(count)
            )
        except SettingError as error:
            raise gr.Error(str(error)) from error
        judged = f"Judges see: **{was[0]}** before, **{now[0]}** after." if was[0] else ""
        pairs = [
            (picture, " · ".join(filter(None, (f"seed {int(seed) + i}, {when}", seen[i]))))
            for i in range(len(before))
            for picture, when, seen in ((before[i], "un-erased", was), (after[i], "erased", now))
        ]
        return (before[0], after[0]), judged, pairs

    with gr.Blocks(title="Before and after an erasure") as page:
        gr.Markdown("# Before and after\nThe same prompt from the same noise, by both models.")
        with gr.Row():
            with gr.Column(min_width=280):
                run = gr.Dropdown(list(names), value=first, label="Erased model", elem_id="run")
                prompt = gr.Textbox(
                    studio.examples(first)[0], label="Prompt", max_length=LONGEST, elem_id="prompt"
                )
                gr.Examples([[text] for text in studio.examples(first)], [prompt])
                sampling = studio.sampling(first)
                seed = gr.Number(188000, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
                steps = gr.Slider(1, MOST_STEPS, sampling.steps, step=1, label="Steps")
                guidance = gr.Slider(0, 20, sampling.guidance, step=0.5, label="Guidance")
                count = gr.Slider(1, MOST_SEEDS, 3, step=1, label="Seeds, from this one on")
                button = gr.Button("Draw", variant="primary", elem_id="draw")
            with gr.Column(min_width=320):
                slider = gr.ImageSlider(
                    label="un-erased | erased", type="pil", max_height=SHOWN, elem_id="slider",
                    interactive=False, format="png",
                )  # fmt: skip
                judged = gr.Markdown(elem_id="judged")
                veil = gr.Checkbox(not is_unsafe, label="Show pictures", visible=is_unsafe)
        gallery = gr.Gallery(label="Pairs", columns=2, elem_id="gallery", format="png")
        asked = [run, prompt, seed, steps, guidance, count]
        button.click(compare, asked, [slider, judged, gallery], api_name="compare")
        if is_unsafe:
            for part in (slider, gallery):
                part.visible = False
            veil.change(
                lambda shown: [gr.update(visible=shown)] * 2, veil, [slider, gallery],
                api_visibility="private",
            )  # fmt: skip
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def demo(runs: Sequence[Path], *, port: int = 7860) -> None:
    """Serve the page on 127.0.0.1 until it is interrupted. SettingError if the port is taken."""
    if not runs:
        raise SettingError("demo needs at least one run's folder.")
    page = build(runs)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingError(f"port {port} is taken; name another with --port.") from error
    page.launch(
        server_name=HOST, server_port=port, share=False, enable_monitoring=False,
        footer_links=[], show_error=False,
    )  # fmt: skip
