"""Stable Diffusion 1.x and 2.x (epsilon and v-prediction)."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from erasure.models.diffusion.model import Condition
from erasure.models.diffusion.noise_prediction import NoisePrediction


class StableDiffusion(NoisePrediction):
    """A StableDiffusionPipeline, with one text encoder."""

    towers = ("text_encoder",)
    tokenizers = ("tokenizer",)

    def states(self, condition: Condition) -> Float[Tensor, "b n d"]:
        return condition

    def pooled(self, condition: Condition) -> None:
        pass

    def onto_states(self, condition: Condition, seen: Condition) -> Condition:  # noqa: ARG002
        encoder = self.pipeline.text_encoder
        norm = next(m for n, m in encoder.named_modules() if n.endswith("final_layer_norm"))
        gain, bias = (part.to(condition) for part in (norm.weight, norm.bias))
        z = (condition - bias) / gain
        z = z - z.mean(-1, keepdim=True)
        z = z * z.shape[-1] ** 0.5 / z.norm(dim=-1, keepdim=True)
        return gain * z + bias

    def _read(self, ids: Sequence[Int[Tensor, "b n"]], prompts: Sequence[str]) -> Condition:  # noqa: ARG002
        return self._call("text_encoder", ids[0]).last_hidden_state

    def _ask(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self._call(self.backbone_name, z_t, t, condition).sample

    def _pipeline_inputs(self, condition: Condition) -> dict[str, Tensor]:
        return {"prompt_embeds": condition}
