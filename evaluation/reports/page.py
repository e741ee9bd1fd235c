"""A report as one self-contained HTML page: pictures embedded, no script, nothing fetched."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from erasure.errors import RunError
from evaluation.reports import plots

MEANING = {
    "UA": "the concept is gone: asked for it, the judge saw nothing that was erased; of a "
    "classifier, forgotten training images that are named wrongly",
    "UA_own": "asked for it, the judge saw something else, be it another erased concept",
    "UA_in": "UA on the prompts that it was erased by",
    "UA_out": "UA on the prompts that it was not erased by",
    "IRA": "the rest of its kind is still drawn",
    "CRA": "the other kind is still drawn",
    "CRA_target": "the other kind is still drawn where the concept was asked for",
    "CLIP": "cosine between image and prompt, on images without the concept",
    "FID": "distance between the distributions of images",
    "KID": "distance between the distributions of images, by kernels; 0 for alike sets, below 0 "
    "by chance",
    "perceptual": "how far images without the concept are from the un-erased model's",
    "pre_ASR": "drawn by a plain prompt",
    "ASR": "drawn under attack",
    "control_ASR": "drawn with random tokens of the same length",
    "control_tries_ASR": "the same, as many tries as the attack had",
    "named_ASR": "drawn under attack, by the criterion's yes whatever its probability",
    "ASR_gold": "the same attack on a model that never knew the concept",
    "excess": "drawn under attack, beyond what a model that never knew the concept draws",
    "judge_distance": "between its labels on the concept's prompts and gold's",
    "picture_distance": "between its pictures for the concept's prompts and gold's",
    "picture_distance_kept": "between its other pictures and gold's",
    "loss_gap_caption": "loss on the concept's pictures beyond gold's; below 0 it remembers",
    "loss_gap_empty": "the same under the empty prompt",
    "loss_gap_state": "the same under the best state of text that a search finds",
    "divergence": "how unlikely each of it and gold finds the other's pictures of the concept",
    "divergence_kept": "the same of other pictures",
    "relearn_ratio": "steps to relearn the concept over gold's; 1 is as never learned",
    "probe": "a linear probe tells the concept in its features; of classes in those of the best "
    "block",
    "Acc_f": "the forgotten classes or images are still recognised",
    "Acc_o": "classes of earlier requests are still recognised",
    "Acc_r": "the kept classes or training images are still recognised",
    "Acc_t": "test images are recognised",
    "RA": "other training images are recognised",
    "TA": "test images of what is kept are recognised",
    "Acc_corr": "what the manipulation touches is recognised by its true labels",
    "Acc_ret": "all other test images are recognised",
    "restored": "how much of what the manipulation cost came back; 0 as before, 1 all",
    "H": "harmonic mean of the drop in Acc_f and of Acc_r",
    "MIA": "forgotten training images that look never seen",
    "distance": "to the predictions of a model trained without them",
    "gap": "to a retrained model, the mean of the differences in UA, RA, TA and MIA",
    "leak": "forgotten images stand out among test images, beyond a retrained model; below 0 as "
    "still known, above 0 as unknown",
    "PrivLeak": "training images of what is forgotten stand out among held-out ones of the same "
    "classes, beyond a retrained model; below 0 as still known, above 0 as unknown",
    "min_Acc": "each kept class at its worst moment while the last request was learned, on average",
    "WC": "the same, with the forgotten share in the end as one more class",
    "WF10": "how far a kept class falls within ten looks at the probe, on average",
    "max_Acc_o": "earlier requests' classes at their best while the last was learned",
}
MADE_BY = "Made by erasure-toolkit."  # in every page's foot
WIDEST = 192  # pixels of an embedded picture; larger ones are shrunk


def render(found: Sequence[Mapping[str, Any]], groups: Mapping[str, Any]) -> str:
    """HTML of runs (`facts`) and their `rankings` by scores and by attacks."""
    return filled("report.html.jinja", runs=found, groups=groups, meaning=MEANING)


def filled(template: str, **values: object) -> str:
    """A template of this folder with values, the style and the drawings' frame."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "embedded": embedded, "shown": shown, "percent": lambda share: f"{100 * share:.1f}",
        "curve": plots.curve, "from_gold": plots.from_gold, "trade_off": plots.trade_off,
    }  # fmt: skip
    return environment.get_template(template).render(
        **values,
        made_by=MADE_BY,
        style=(here / "report.css").read_text(),
        frame={
            "width": plots.WIDTH,
            "height": plots.HEIGHT,
            "edge": plots.EDGE,
            "names": plots.NAMES,
        },
    )


def shown(score: Mapping[str, Any], end: str = "value") -> str:
    """A score, or an end of its interval, in its unit: rates in percent, else four digits."""
    value = score[end]
    return f"{value:.4g}" if score["unit"] == "number" else f"{100 * value:.1f}"


def embedded(name: str, folder: Path) -> str:
    """A picture of a run as a data: address; its own bytes if it is small, else a smaller JPEG.

    RunError if it cannot be read.
    """
    file, stream = folder / name, io.BytesIO()
    try:
        with Image.open(file) as picture:
            if max(picture.size) <= WIDEST and picture.format in ("PNG", "JPEG"):
                kind = picture.format.lower()
                picture.load()
                whole = base64.b64encode(file.read_bytes()).decode()
                return f"data:image/{kind};base64,{whole}"
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's, of damaged files
        raise RunError(f"{file} is no picture that can be read ({error}); remove it.") from error
    small.thumbnail((WIDEST, WIDEST))
    small.save(stream, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
