"""Hand an edited model back as a pipeline object of diffusers, in memory."""

import copy
from typing import Any

from diffusers import DiffusionPipeline

from erasure.exports.writing.publishing import checked
from erasure.models.diffusion.latent_diffusion import LatentDiffusion


def plain_pipeline(model: LatentDiffusion) -> DiffusionPipeline:
    """A pipeline with the model's edit in it, which nothing of this toolkit holds on to.

    Of a model that is a copy of a user's pipeline: the user's own again, in its precision and where
    it lies, with everything that it had beside; what was not edited is shared with it. Of any other
    model a copy, float32. SettingError for a value beyond what the precision holds.
    """
    if model.source is None:
        made = copy.deepcopy(model.pipeline)
        made.set_progress_bar_config(disable=False)
        for part in made.components.values():
            if hasattr(part, "requires_grad_"):
                part.requires_grad_(True)  # as a pipeline is when it is opened
        return made
    made: Any = copy.copy(model.source)
    current = model.parameters()
    for part in dict.fromkeys(name.partition(".")[0] for name in model.originals):
        network = copy.deepcopy(getattr(model.source, part))
        weights = dict(network.named_parameters(part))
        for name in model.originals.keys() & weights.keys():
            value = current[name].detach()
            weights[name].data.copy_(checked({name: value}, weights[name].dtype, part)[name])
        setattr(made, part, network)
    return made
