"""S3T: train slice by slice in layers of adapters, so that an image is deleted by switching off.

Changes: adapters on the upper blocks' attention and the head, of what is left after the deletion.

Chowdhury, Choromanski, Sehanobish, Dubey, Chaturvedi, "Towards Scalable Exact Machine Unlearning
Using Parameter-Efficient Fine-Tuning" (ICLR 2025), https://arxiv.org/abs/2406.16257:

    stage i   adapters of the i-th group of blocks from the top, and the head, learn slices 1..i
    delete    an image of slice j: stages j and later are off, those before never saw it
    orders    each shard learns its slices in several orders; the longest stage alive is served

The deletion is exact: bit for bit, the model is one that was never given the deleted images. That
holds for what the base model itself has not seen; give one that was made without these data.

Choices
- It deletes single images, and refuses a class: that has some in every slice.
- The first request trains what that request leaves alive, and keeps it in RUN/slices. A later run
  with `trained` RUN only switches off: nothing is trained. It copies what is still alive; what
  saw the deleted images stays in RUN until RUN is removed.
- Its samples are all that the model is to be without: those that RUN deleted, too, as far as they
  are still among the images. Their ids are in RUN/requests.json.
- An image's slice follows from a digest of its id, so that it does not depend on other images; the
  authors cut the data as they lie in their file.
- The shards that live are one network, whose weights are the mean of theirs, also the head's;
  the paper averages their answers, and needs every network for each.
- Orders are rotations, evenly apart, and at most as many as slices.
- Adapters have rank-stabilised scale, alpha / sqrt(rank), and no dropout. Where query, key and
  value are one matrix, the adapter is on all; theirs are on query and value.
- The last epoch stays; the authors choose the best one by the test images.
"""

from dataclasses import asdict, dataclass
from math import ceil, sqrt
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.forgetting import Request
from erasure.methods.shared.learned_slices import RECORD, Learned, serve
from erasure.methods.shared.slices import Prefix, Slicing, stages
from erasure.models.classifier.blocks import Place, groups
from erasure.models.classifier.classifier import Classifier
from erasure.models.lora import Adapter, linears
from erasure.registry import METHODS
from erasure.training.batches import augmented, labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled

FOLDER = "slices"


@METHODS.register
@dataclass(frozen=True)
class S3T:
    """Sequence-aware sharded sliced training."""

    of_samples_alone: ClassVar = True
    shards: int = setting(5, quick=1, help="parts that learn apart (m)", at_least=1)
    slices: int = setting(4, quick=2, help="slices of each, a group of blocks for each (L)",
                          at_least=1)  # fmt: skip
    orders: int = setting(4, quick=1, help="in which each shard learns its slices (B)", at_least=1)
    epochs: int = setting(15, quick=1, help="passes of a stage over its slices", at_least=1)
    learning_rate: float = setting(2e-4, help="AdamW's, falling by a cosine", above=0)
    batch_size: int = setting(64, help="images per step", at_least=1)
    rank: int = setting(16, help="of the adapters", at_least=1)
    alpha: float = setting(16.0, help="the adapters' effect is alpha / sqrt(rank) B A", above=0)
    place: Place = setting("attention", help="which linears of a block are adapted")
    augment: bool = setting(False, help="shift, mirror and recolour the images")
    trained: str = setting("", help="an earlier run of s3t, whose slices are used; else they learn")

    def __post_init__(self) -> None:
        check(self)
        if self.orders > self.slices:
            raise SettingError(
                f"S3T.orders must be at most slices ({self.slices}), which they rotate; "
                f"got {self.orders}."
            )

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        cut = Slicing(self.shards, self.slices, self.orders, run.seed)
        blocks = groups(model, self.place)
        if len(blocks) < self.slices:
            raise SettingError(
                f"S3T.slices must be at most {len(blocks)}, the blocks of {model.name}; "
                f"got {self.slices}."
            )
        learned = self._learned(model, request, run)
        deleted = learned.record["deleted"]
        dead = {cut.place(sample) for sample in deleted}
        served = cut.served(dead)
        if not any(served):
            raise SettingError(
                f"nothing that was trained would be left: every order of all {self.shards} shards "
                f"begins with a slice that holds one of the {len(deleted)} deleted images. "
                "Delete fewer, raise S3T.shards or orders, or retrain."
            )
        adapted = [f"{name}.weight" for block in blocks for name in block]
        model.remember([*adapted, *model.weights("head")])
        if not learned.is_whole:
            part = request.forget.and_then(request.retain)
            for shard, left in enumerate(cut.left(dead)):
                for prefix in stages(left):
                    images = images_of(part, cut, shard, prefix)
                    self._train(model, learned, images, shard, prefix, run)
        serve(model, self.scale, [learned.of(shard, p) for shard, p in enumerate(served)])
        learned.keep(run.folder / FOLDER, dead, is_main=run.is_main)
        told = {f"shard {shard}": len(prefix) for shard, prefix in enumerate(served)}
        run.log_end(f"{request.stage} slices left", 0, told)

    @property
    def scale(self) -> float:
        return self.alpha / sqrt(self.rank)

    def _learned(self, model: Classifier, request: Request, run: Run) -> Learned:
        """What was learned and deleted before, with this request's images among the deleted."""
        settings = {name: value for name, value in asdict(self).items() if name != "trained"}
        own = run.folder / FOLDER
        place = own
        if self.trained and not (own / RECORD).is_file():
            place = checked_path(self.trained, "trained") / FOLDER
            if not (place / RECORD).is_file():
                raise SettingError(
                    f"S3T.trained must be a finished run of s3t; {self.trained} has no "
                    f"{FOLDER}/{RECORD}."
                )
        ids = sorted((*request.forget.ids, *request.retain.ids))
        found = Learned.found(place, model, run.seed, settings, ids)
        return found.without(request.forget.ids, request.retain.ids)

    def _train(
        self, model: Classifier, learned: Learned, images: Labelled, shard: int, prefix: Prefix,
        run: Run,
    ) -> None:  # fmt: skip
        """Let a stage learn, unless it has, on top of those before it."""
        if (shard, prefix) in learned.tensors:
            return
        serve(model, self.scale, [learned.of(shard, prefix[:-1])])
        name, dice = learned.name(shard, prefix), run.generator_for
        adapted = linears(model, self._modules(model, len(prefix)))
        adapter = Adapter.fresh(adapted, self.rank, self.scale * self.rank, dice(f"{name} adapter"))
        weights = {**adapter.weights(), **model.weights("head")}
        run.generator.set_state(dice(name).get_state())  # whatever was drawn before

        def loss(step: int) -> dict[str, Tensor]:
            x, right = labelled(model, images, self.batch_size, step, run, name)
            x = augmented(x, run) if self.augment else x
            return {"slices": F.cross_entropy(model.forward(x)[1], right)}

        if len(images):
            by = Optimiser("adamw", weight_decay=0.0, cosine=True)
            with adapter.on(model, adapted), run.unwatched():
                fit(
                    Learner(loss, weights, self.learning_rate, by), run=run, stage=name,
                    steps=self.epochs * ceil(len(images) / self.batch_size),
                )  # fmt: skip
        learned.add(shard, prefix, weights, is_main=run.is_main)

    def _modules(self, model: Classifier, stage: int) -> list[str]:
        """The linears that a stage adapts, counted from 1 at the top of the network."""
        blocks = groups(model, self.place)
        count = len(blocks) // self.slices
        first = len(blocks) - stage * count
        return [name for block in blocks[first : first + count] for name in block]


def images_of(part: Labelled, cut: Slicing, shard: int, prefix: Prefix) -> Labelled:
    """The images in these slices of a shard, in the order of their ids."""
    places = [
        place
        for place in sorted(range(len(part)), key=lambda place: part.ids[place])
        if cut.place(part.ids[place]) in {(shard, own) for own in prefix}
    ]
    return part.at(places)
