"""What Pocket Canvas images are called.

UnlearnCanvas' own sentence, paraphrases with synonyms, and shorter forms.
"""

import numpy as np

from erasure_datasets.canvas import OBJECTS, STYLES

# never used in the prompts that an erasure trains on: a paraphrase test asks for them
OBJECT_SYNONYMS: dict[str, tuple[str, ...]] = {
    "house": ("cottage", "home", "villa"),
    "bear": ("grizzly", "panda", "bruin"),
    "bird": ("parrot", "songbird", "feathered friend"),
    "butterfly": ("monarch", "winged insect", "papillon"),
    "cat": ("kitty", "feline", "kitten"),
    "dog": ("puppy", "canine", "hound"),
    "fish": ("trout", "goldfish", "finned swimmer"),
    "flame": ("blaze", "bonfire", "burning fire"),
    "flower": ("blossom", "sunflower", "bloom"),
    "frog": ("toad", "amphibian", "croaker"),
    "horse": ("pony", "stallion", "mare"),
    "jellyfish": ("medusa", "sea jelly", "sea nettle"),
    "rabbit": ("bunny", "hare", "cottontail"),
    "sandwich": ("toast", "panini", "lunch snack"),
    "tower": ("spire", "steeple", "tall landmark"),
    "tree": ("pine", "oak", "evergreen"),
}
STYLE_SYNONYMS: dict[str, tuple[str, ...]] = {
    "Photo": ("photograph", "plain picture", "realistic"),
    "Sketch": ("pencil drawing", "graphite", "hand drawn"),
    "Neon Lines": ("glowing outlines", "neon sign", "luminous contour"),
    "Mosaic": ("tiles", "tessera", "tiled"),
    "Watercolor": ("aquarelle", "soft wash", "water paint"),
    "Pop Art": ("warhol", "sixties poster", "bold screenprint"),
    "Ink Art": ("calligraphy ink", "sumi", "brush and ink"),
    "Van Gogh": ("starry night", "vincent", "swirling post impressionist"),
    "Ukiyoe": ("woodblock print", "hokusai", "edo print"),
    "Winter": ("snowy", "frosty", "icy cold"),
    "On Fire": ("ablaze", "infernal", "engulfed in embers"),
    "Pointillism": ("seurat", "dotted paint", "stippled"),
    "Bricks": ("brickwork", "masonry", "wall mural"),
    "Crayon": ("wax pastel", "kindergarten drawing", "waxy strokes"),
    "Comic Etch": ("engraved comic", "etching", "hatched cartoon"),
    "Blueprint": ("technical plan", "cyanotype", "drafting sheet"),
}
TEMPLATES = (
    "{style} picture of a {object}",
    "a {object}, {style} style",
    "a {object} in {style} style",
    "{object}, {style}",
    "a {style} rendition of a {object}",
)
OBJECT_TEMPLATES = ("a {object}", "an image of a {object}", "a picture of a {object}", "{object}")
STYLE_TEMPLATES = ("{style} style", "an image in {style} style", "a {style} picture", "{style}")


def caption(object_name: str, style: str) -> str:
    """The benchmark's own sentence: ("cat", "Van Gogh") -> "A cat image in Van Gogh style."."""
    return f"A {object_name} image in {style} style."


def all_phrases() -> list[str]:
    """Every sentence that training can show, for the tokenizer's vocabulary."""
    objects = [word for name in OBJECTS for word in (name, *OBJECT_SYNONYMS[name])]
    styles = [word for name in STYLES for word in (name, *STYLE_SYNONYMS[name])]
    sentences = [caption(o, s) for o in objects for s in styles]
    sentences += [
        template.format(object=o, style=s)
        for template in TEMPLATES
        for o in objects
        for s in styles
    ]
    sentences += [template.format(object=o) for template in OBJECT_TEMPLATES for o in objects]
    return sentences + [template.format(style=s) for template in STYLE_TEMPLATES for s in styles]


def random_caption(
    object_index: int, style_index: int, rng: np.random.Generator
) -> tuple[str, bool, bool]:
    """A training caption, and whether it names the object and the style.

    55 % the benchmark's sentence, 25 % paraphrases (half of their nouns synonyms), 6 % object only,
    4 % style only, 10 % empty.
    """
    draw = rng.random()
    name, style = OBJECTS[object_index], STYLES[style_index]
    if draw < 0.55:
        return caption(name, style), True, True
    if draw < 0.65:
        return "", False, False
    if rng.random() < 0.5:
        name = str(rng.choice(OBJECT_SYNONYMS[name]))
    if rng.random() < 0.5:
        style = str(rng.choice(STYLE_SYNONYMS[style]))
    if draw < 0.90:
        sentence = str(rng.choice((*TEMPLATES, "A {object} image in {style} style.")))
        return sentence.format(object=name, style=style), True, True
    if draw < 0.96:
        return str(rng.choice(OBJECT_TEMPLATES)).format(object=name), True, False
    return str(rng.choice(STYLE_TEMPLATES)).format(style=style), False, True
