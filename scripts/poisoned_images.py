"""An image folder of which some training images are manipulated, with lists that say which.

    python scripts/poisoned_images.py --data hf:uoft-cs/cifar10 --out runs/patched
    python scripts/poisoned_images.py --data DATA --out OUT --manipulation confusion --pair cat,dog

    patch       `share` of all training images get a white square at the bottom right and the first
                class as their label
    confusion   `share` of the training images of either class of the pair get the other's label

    OUT/train/LABEL/        as they are learnt
    OUT/test/CLASS/         as they are; with patch also a patched copy of each but the first class'
    OUT/manipulated.csv     all manipulated training images, with their true labels
    OUT/known-SHARE.csv     the share of these that is known, for `erasure forget --samples`
    OUT/affected.csv        the test images that show the manipulation (patched, or of the pair),
                            for `erasure evaluate --protocol corrective --affected`

The manipulations of Goel et al., "Corrective Machine Unlearning" (TMLR 2024),
https://arxiv.org/abs/2402.14015, whose square is 3 of 32 pixels wide where ours is 4, so that it is
seen at 16, too. A smaller known share is part of a larger one. A folder that is whole is kept.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from PIL import Image
from refusals import in_a_line
from torch import Tensor

from erasure.errors import RunError, SettingError
from erasure.files.records import read_record
from erasure.files.storage import atomic, write_json
from erasure_datasets.classes import class_names, load_classes
from erasure_datasets.labelled import Labelled
from erasure_datasets.sample_files import read_samples

Manipulation = Literal["patch", "confusion"]
SHARES: dict[Manipulation, float] = {"patch": 0.05, "confusion": 0.5}
RECORD = "poison.json"


@dataclass(frozen=True)
class Poison:
    """What is manipulated in a source's images. SettingError for what is out of range.

    `images` and `test_images` are per class, all for 0; `size` is the side of the written images
    in pixels, `patch` the square's as a share of it. `share` 0 is the manipulation's own.
    """

    data: str
    manipulation: Manipulation = "patch"
    share: float = 0.0
    pair: tuple[str, ...] = ("cat", "dog")
    patch: float = 0.125
    size: int = 32
    images: int = 0
    test_images: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.manipulation not in get_args(Manipulation):
            raise SettingError(
                f"manipulation must be patch or confusion; got {self.manipulation!r}."
            )
        for name, most in (("share", 1), ("patch", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise SettingError(f"{name} must be from 0 to {most}; got {getattr(self, name)}.")
        if self.manipulation == "confusion" and not len(self.pair) == len({*self.pair}) == 2:
            raise SettingError(f"pair must be two classes; got {','.join(self.pair)}.")


def manipulated(train: Labelled, poison: Poison, pair: Sequence[int]) -> dict[int, int]:
    """The false label of each manipulated image by its place, those known first in front.

    `pair` are the classes of a confusion. SettingError if it would be none.
    """
    labels = train.labels.tolist()
    generator = torch.Generator().manual_seed(poison.seed)
    drawn = torch.randperm(len(train), generator=generator).tolist()
    share = poison.share or SHARES[poison.manipulation]
    if poison.manipulation == "patch":
        others = [place for place in drawn if labels[place] != 0]
        found = dict.fromkeys(others[: round(share * len(train))], 0)
    else:
        own = [[place for place in drawn if labels[place] == number] for number in pair]
        chosen = {place for part in own for place in part[: round(share * len(part))]}
        found = {place: sum(pair) - labels[place] for place in drawn if place in chosen}
    if not found:
        raise SettingError(f"share {share:g} of {len(train)} training images manipulates none.")
    return found


def patched(images: Tensor, size: float) -> Tensor:
    """With a white square at the bottom right, `size` of the side wide; uint8 (n, 3, h, w)."""
    side, found = max(1, round(size * images.shape[-1])), images.clone()
    found[..., -side:, -side:] = 255
    return found


def write_images(folder: Path, poison: Poison) -> None:
    """Everything but the known lists; affected.csv, which says that all is there, last."""
    names = class_names(poison.data)
    _refuse_classes(poison, names)
    train = load_classes(poison.data, "train", names, size=poison.size, per_class=poison.images)
    test = load_classes(poison.data, "test", names, size=poison.size, per_class=poison.test_images)
    wrong = manipulated(train, poison, [names.index(name) for name in _pair(poison)])
    images, learnt = train.images[torch.arange(len(train))], train.labels.tolist()
    for place, label in wrong.items():
        learnt[place] = label
        if poison.manipulation == "patch":
            images[place] = patched(images[place][None], poison.patch)[0]
    write_json(folder / RECORD, _told(poison))
    files = _write_part(folder, "train", images, train.labels, learnt, names)
    true = [names[int(label)] for label in train.labels[[*wrong]]]
    write_list(folder / "manipulated.csv", [files[place] for place in wrong], true)
    affected = _write_test(folder, poison, test, names)
    write_list(folder / "affected.csv", [*affected], [*affected.values()])


def _write_test(
    folder: Path, poison: Poison, test: Labelled, names: Sequence[str]
) -> dict[str, str]:
    """The affected test images with their true labels."""
    images, labels = test.images[torch.arange(len(test))], test.labels
    files = _write_part(folder, "test", images, labels, labels.tolist(), names)
    if poison.manipulation == "confusion":
        told = {file: file.split("/")[1] for file in files}
        return {file: name for file, name in told.items() if name in poison.pair}
    others = labels != 0
    copies, own = patched(images[others], poison.patch), labels[others]
    files = _write_part(folder, "test", copies, own, own.tolist(), names, "-patched")
    return {file: file.split("/")[1] for file in files}


def _write_part(
    folder: Path, part: str, images: Tensor, true: Tensor, learnt: Sequence[int],
    names: Sequence[str], ending: str = "",
) -> list[str]:  # fmt: skip
    """Each image as PART/LEARNT CLASS/TRUE CLASS' NUMBER-PLACE.png; these ids."""
    for name in names:
        (folder / part / name).mkdir(parents=True, exist_ok=True)
    files = [
        f"{part}/{names[label]}/{number}-{place}{ending}.png"
        for place, (label, number) in enumerate(zip(learnt, true.tolist(), strict=True))
    ]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / file)
    return files


def write_list(file: Path, samples: Sequence[str], labels: Sequence[str]) -> None:
    """A table for --samples and --affected."""
    with atomic(file) as temporary, temporary.open("w", newline="") as opened:
        csv.writer(opened).writerows(
            [("sample", "label"), *zip(samples, labels, strict=True)]
        )  # fmt: skip


def known_shares(text: str) -> list[str]:
    """The shares of a text with commas, as they are written. SettingError for one that is none."""
    for share in text.split(","):
        try:
            is_share = 0 < float(share) <= 1
        except ValueError:
            is_share = False
        if not is_share:
            raise SettingError(f"known must be shares above 0 and up to 1; got {share!r}.")
    return text.split(",")


def known_list(folder: Path, share: str, into: Path) -> Path:
    """The list of the known share of a folder's manipulated images, written anew into another.

    One that comes into the folder later makes it another to the runs that were made with it.
    """
    every = read_samples(folder / "manipulated.csv")
    count = round(float(share) * len(every.names))
    if not count:
        raise SettingError(f"known {share} of {len(every.names)} manipulated images is none.")
    file = into / f"known-{share}.csv"
    write_list(file, every.names[:count], every.labels[:count])
    return file


def poisoned(folder: Path, poison: Poison) -> Path:
    """The folder of images, made if it is not there; RunError if it is of anything else."""
    record = folder / RECORD
    if record.is_file() and read_record(record, dict[str, object]) != _told(poison):
        raise RunError(f"{folder} holds other manipulated images ({RECORD}); name another folder.")
    if folder.exists() and not record.is_file() and (folder.is_file() or any(folder.iterdir())):
        raise RunError(f"{folder} exists and holds no manipulated images; name a new folder.")
    if not (folder / "affected.csv").is_file():
        write_images(folder, poison)
    return folder


def _told(poison: Poison) -> dict[str, object]:
    return {**asdict(poison), "pair": [*_pair(poison)]}


def _refuse_classes(poison: Poison, names: Sequence[str]) -> None:
    """SettingError for classes that name no folder, and for a pair that is not of them."""
    strange = next((name for name in names if Path(name).name != name), None)
    if strange is not None:
        raise SettingError(f"data must have classes that name a folder each; it has {strange!r}.")
    if not {*_pair(poison)} <= {*names}:
        raise SettingError(
            f"pair must be two classes of {', '.join(names)}; got {','.join(poison.pair)}."
        )


def _pair(poison: Poison) -> tuple[str, ...]:
    """The classes that are confused; none with a patch."""
    return poison.pair if poison.manipulation == "confusion" else ()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--manipulation", choices=get_args(Manipulation), default="patch")
    parser.add_argument("--share", type=float, default=0.0, help="manipulated; 0: 0.05 of all, "
                        "0.5 of the pair")  # fmt: skip
    parser.add_argument("--pair", type=lambda text: tuple(text.split(",")), default=("cat", "dog"))
    parser.add_argument("--patch", type=float, default=0.125, help="share of the side")
    parser.add_argument("--known", default="0.1,0.5,1", help="shares of the manipulated")
    parser.add_argument("--seed", type=int, default=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=0, help="per class; 0: all")
    parser.add_argument("--test-images", type=int, default=0, help="per class; 0: all")
    told = vars(parser.parse_args())
    out, known = told.pop("out"), told.pop("known")
    with in_a_line():
        shares = known_shares(known)
        folder = poisoned(out, Poison(**told))
        for share in shares:
            known_list(folder, share, folder)


if __name__ == "__main__":
    main()
