"""The models that come with this package: their names and where they lie."""

from pathlib import Path

POCKET = Path(__file__).parent / "pocket"
ONE_STEP = "pocket-one-step"
GOLD = "pocket-gold"  # never saw some of the concepts, see gold/training.json
FLOW = "pocket-flow"
DIFFUSION = {"pocket": POCKET, ONE_STEP: POCKET, GOLD: POCKET, FLOW: POCKET / "flow"}
CLASSIFIERS = {"pocket-vit": POCKET / "vit", "pocket-style-vit": POCKET / "style-judge"}
