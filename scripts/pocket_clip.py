"""The pocket suite's CLIP: its tokenizer, its contrastive training, and its text tower.

The text tower is saved as a diffusers text encoder.
"""

import json

import numpy as np
import open_clip
import torch
from pocket_training import (
    CPU,
    SUITE,
    WORK,
    Average,
    Budget,
    MuonAdam,
    load_images,
    log,
    record,
    save_half,
    sheet,
)
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.captions import all_phrases, caption, random_caption

POSITIONS = 32
CLIP_CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 24},
    "text_cfg": {
        "context_length": POSITIONS,
        "vocab_size": 0,
        "width": 128,
        "heads": 4,
        "layers": 4,
    },
    "quick_gelu": False,
}


def train_tokenizer() -> CLIPTokenizer:
    """Our own CLIP tokenizer: every byte, alone and at a word's end, and the captions' merges."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern=" ", behavior="removed"), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.BpeTrainer(vocab_size=4096, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(
        [*all_phrases(), "an image of the in with art photo painting drawing"], trainer
    )
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *("".join(pair) for pair in merges),
    ]
    words = [*dict.fromkeys(words), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    folder = SUITE / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False)
    )  # for transformers 4
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n"
    )
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=POSITIONS).save_pretrained(
        folder
    )
    return CLIPTokenizer.from_pretrained(folder)


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=POSITIONS, return_tensors="pt"
    ).input_ids


def new_clip(vocabulary_size: int) -> nn.Module:
    """Write the config, register it with open_clip, and build the model from it."""
    config = {**CLIP_CONFIG, "text_cfg": {**CLIP_CONFIG["text_cfg"], "vocab_size": vocabulary_size}}
    file = SUITE / "clip" / "pocket-clip.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config, indent=2) + "\n")
    open_clip.add_model_config(file)
    return open_clip.create_model("pocket-clip")


def contrastive_loss(similarity: Tensor, matches: Tensor) -> Tensor:
    """InfoNCE both ways with several right answers, from (n, n) logits.

    `matches` is bool (n, n), True where text j fits image i.
    """
    loss = similarity.new_zeros(())
    for logits, right in ((similarity, matches), (similarity.T, matches.T)):
        target = right.float() / right.sum(1, keepdim=True)
        loss = loss + F.cross_entropy(logits, target) / 2
    return loss


def shifted(images: Tensor, generator: torch.Generator, reach: int = 4) -> Tensor:
    """Shift the batch by up to `reach` pixels, repeating the border."""
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    y, x = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
    return padded[:, :, y : y + 64, x : x + 64]


def normalise(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> what open_clip's own transform for this model gives."""
    mean, std = (
        torch.tensor(v, device=images.device).view(3, 1, 1)
        for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (images.float() / 255 - mean) / std


def train(
    minutes: float,
    *,
    learning_rate: float = 2e-3,
    resume: bool = False,
    device: torch.device = CPU,
) -> None:
    """Train image and text tower together.

    Batches are 128 of the 256 pairs, each with one image and one caption.
    """
    torch.manual_seed(0)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    tokenizer = train_tokenizer()
    model = new_clip(len(tokenizer)).to(memory_format=torch.channels_last).train()
    if resume:
        model.load_state_dict(
            {k: v.float() for k, v in load_file(SUITE / "clip" / "model.safetensors").items()}
        )
    model.to(device)
    images = load_images("train", 80)
    optimiser = MuonAdam(model, learning_rate, adam_only=("embedding", "attnpool.positional"))
    budget, average = Budget(minutes), Average(model, 0.99)
    for step in budget.steps():
        half = rng.permutation(256)[:128]
        pairs = [divmod(int(pair), len(STYLES)) for pair in half]
        picked = images[
            torch.randint(len(images), (128,), generator=generator), torch.from_numpy(half)
        ]
        drawn = [random_caption(o, s, rng) for o, s in pairs]
        matches = torch.tensor(
            [[not (has_o and o != i) and not (has_s and s != j)
              for (o, s), (_, has_o, has_s) in zip(pairs, drawn, strict=True)]
             for i, j in pairs]
        )  # fmt: skip
        ids = tokens(tokenizer, [text for text, _, _ in drawn])
        x = normalise(shifted(picked.to(device).float(), generator)).contiguous(
            memory_format=torch.channels_last
        )
        image, text, scale = model(x, ids.to(device))
        loss = contrastive_loss(scale * image @ text.T, matches.to(device))
        loss.backward()
        optimiser.step(budget.rate())
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(50)))
        average.update()
        if step % 20 == 0:
            log.info(
                "clip %5d  %4.1f min  loss %.4f", step, budget.progress() * minutes, loss.item()
            )
    average.copy_to(model)
    model.to(CPU)
    save_half(model.state_dict(), SUITE / "clip" / "model.safetensors")
    save_text_encoder(model, tokenizer)
    accuracy = retrieval(model.eval(), tokenizer)
    log.info("clip: held-out retrieval top-1 %.4f", accuracy)
    record("clip", {"minutes": minutes, "steps": budget.step, "retrieval_top1": round(accuracy, 4)})


@torch.no_grad()
def retrieval(model: nn.Module, tokenizer: CLIPTokenizer) -> float:
    """Share of held-out renders whose nearest of the 256 sentences is their own.

    The sheet shows the nearest image of each sentence, objects down, styles across.
    """
    text = model.encode_text(
        tokens(tokenizer, [caption(o, s) for o in OBJECTS for s in STYLES]), normalize=True
    )
    images = load_images("test", 4).flatten(0, 1)
    scores = torch.cat(
        [model.encode_image(normalise(part), normalize=True) @ text.T for part in images.split(128)]
    )
    found = images[scores.argmax(0)].view(len(OBJECTS), len(STYLES), 3, 64, 64)
    sheet(found, WORK / "clip.png")
    return float((scores.argmax(1) == torch.arange(len(images)) % 256).float().mean())


def save_text_encoder(model: nn.Module, tokenizer: CLIPTokenizer) -> None:
    """Save open_clip's text tower as transformers' CLIPTextModel, checking that they agree."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=POSITIONS, hidden_act="gelu",
        projection_dim=128, dtype="float32", bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    encoder = CLIPTextModel(config)
    theirs, ours = model.state_dict(), {}
    ours["embeddings.token_embedding.weight"] = theirs["token_embedding.weight"]
    ours["embeddings.position_embedding.weight"] = theirs["positional_embedding"]
    for kind in ("weight", "bias"):
        ours[f"final_layer_norm.{kind}"] = theirs[f"ln_final.{kind}"]
        for layer in range(4):
            old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            parts = theirs[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                ours[f"{new}.self_attn.{name}_proj.{kind}"] = part
            renames = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1",
                       "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
                       "mlp.c_proj": "mlp.fc2"}  # fmt: skip
            for before, after in renames.items():
                ours[f"{new}.{after}.{kind}"] = theirs[f"{old}.{before}.{kind}"]
    prefix = (
        "text_model."
        if any(name.startswith("text_model.") for name in encoder.state_dict())
        else ""
    )
    encoder.load_state_dict({prefix + name: tensor for name, tensor in ours.items()})
    ids = tokens(tokenizer, ["A cat image in Sketch style.", ""])
    with torch.no_grad():
        want = model.eval().encode_text(ids)
        got = encoder.eval()(ids).pooler_output @ model.text_projection
    if not torch.allclose(want, got, atol=1e-4):
        raise SystemExit("the converted text encoder does not agree with open_clip's text tower")
    folder = SUITE / "text_encoder"
    config.save_pretrained(folder)
    save_half(
        {f"text_model.{name}": tensor for name, tensor in ours.items()},
        folder / "model.safetensors",
    )
