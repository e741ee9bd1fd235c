"""What a diffusion model was trained to make small, of pictures at hand."""

from torch import Tensor
from torch.nn import functional as F

from erasure.methods.shared.training_data import Pictures, draw
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.run import Run


def noise_loss(model: DiffusionModel, pictures: Pictures, batch: int, run: Run) -> Tensor:
    """mean (predict(x_t, t, x's prompt) - target)^2 over this process's part of a random batch."""
    z0, prompts, _, t, noise = draw(pictures, batch, model, run)
    said = model.predict(model.add_noise(z0, noise, t), t, model.encode(prompts))
    return F.mse_loss(said, model.target(z0, noise, t))
