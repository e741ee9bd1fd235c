"""A page that draws with and without the concept, from the same noise: a Space's own app.py.

It needs gradio, diffusers, transformers and safetensors, and nothing of erasure-toolkit.
"""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

import diffusers
import gradio as gr
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

HERE = Path(__file__).parent
TOLD = json.loads((HERE / "space.json").read_text(encoding="utf-8"))
MOST_STEPS, LONGEST, SHOWN = 50, 300, 384
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Pair:
    """One pipeline, and the weights by which the erased model differs from it."""

    def __init__(self) -> None:
        source = TOLD["base"] or str(HERE / "model")
        without = dict.fromkeys(TOLD["without"])
        pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(
            source, revision=TOLD["revision"], **without
        )
        scheduler = TOLD["sampling"]["scheduler"]
        if scheduler != type(pipeline.scheduler).__name__:
            kind = getattr(diffusers, scheduler)
            pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
        self.pipeline = pipeline.to(DEVICE)
        self.pipeline.set_progress_bar_config(disable=True)
        self.erased = load_file(HERE / "erased.safetensors")
        weights = {name: self.weight(name) for name in self.erased}
        self.before = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
        self.lock = Lock()

    def weight(self, name: str) -> torch.nn.Parameter:
        part, _, rest = name.partition(".")  # unet, text_encoder, ...
        return getattr(self.pipeline, part).get_parameter(rest)

    @torch.no_grad()
    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.weight(name).copy_(tensor)

    def draw(self, prompt: str, seed: int, steps: int, guidance: float) -> list[Image.Image]:
        """The un-erased model's picture and the erased one's."""
        pictures = []
        with self.lock:
            for tensors in (self.before, self.erased):
                self.put(tensors)
                drawn = self.pipeline(
                    prompt, num_inference_steps=steps, guidance_scale=guidance,
                    generator=torch.Generator().manual_seed(seed), height=TOLD["resolution"],
                    width=TOLD["resolution"], **TOLD["options"],
                )  # fmt: skip
                pictures.append(shown(drawn.images[0]))
        return pictures


def shown(picture: Image.Image) -> Image.Image:
    """Large enough to look at; pixels are repeated, not invented."""
    factor = max(1, SHOWN // picture.width)
    return Image.fromarray(np.asarray(picture).repeat(factor, 0).repeat(factor, 1))


PAIR = Pair()


def compare(prompt: str, seed: float, steps: float, guidance: float) -> tuple[Any, Any]:
    """Both pictures; an error in words for values that the page does not send."""
    if not isinstance(prompt, str) or len(prompt) > LONGEST:
        raise gr.Error(f"prompt must be text of at most {LONGEST} letters.", print_exception=False)
    limits = {"seed": (0, 2**31 - 1), "steps": (1, MOST_STEPS), "guidance": (0, 20)}
    for (name, (low, high)), value in zip(limits.items(), (seed, steps, guidance), strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise gr.Error(f"{name} must be a number.", print_exception=False)
        if not low <= value <= high:
            raise gr.Error(f"{name} must be {low} to {high}.", print_exception=False)
    before, after = PAIR.draw(prompt, int(seed), int(steps), float(guidance))
    return before, after


def lay_out() -> gr.Blocks:
    """The page."""
    prompts, how = TOLD["prompts"], TOLD["sampling"]
    with gr.Blocks(title=TOLD["title"], analytics_enabled=False) as page:
        gr.Markdown(f"# {TOLD['title']}\n{TOLD['told']}")
        with gr.Row():
            with gr.Column(min_width=300):
                thing = gr.Dropdown(list(prompts.items()), label="Ask for")
                prompt = gr.Textbox(
                    next(iter(prompts.values())), label="Prompt", max_length=LONGEST, lines=2
                )
                seed = gr.Number(188000, label="Seed", precision=0, minimum=0)
                steps = gr.Slider(1, MOST_STEPS, how["steps"], step=1, label="Steps")
                guidance = gr.Slider(0, 20, how["guidance"], step=0.5, label="Guidance")
                draw = gr.Button("Draw", variant="primary")
            before = gr.Image(label="un-erased", format="png", interactive=False)
            after = gr.Image(label="erased", format="png", interactive=False)
        thing.input(lambda text: text, thing, prompt, api_visibility="private")
        draw.click(compare, [prompt, seed, steps, guidance], [before, after], api_name="compare")
    return page.queue(max_size=16)


if __name__ == "__main__":
    port = os.environ.get("GRADIO_SERVER_PORT")
    lay_out().launch(server_port=int(port) if port else None, show_error=False)
