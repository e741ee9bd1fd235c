"""What several concepts of one request ask instead of themselves, also where a prompt names two."""

import re
from collections.abc import Sequence

from erasure_datasets.concept import Concept, filled, without_article
from erasure_datasets.mentions import mentions


def aligned_prompts(concepts: Sequence[Concept]) -> list[tuple[str, str, str, str]]:
    """(prompt, the concept's name in it, what is wanted instead, the anchor's name in that).

    Other concepts of the request that a prompt names make way for their anchors too.
    """
    rows = []
    for concept in concepts:
        others = [other for other in concepts if other is not concept]
        for prompt, anchored in zip(concept.prompts(), concept.anchor_prompts(), strict=True):
            wanted = without(anchored, others)
            rows.append((prompt, concept.name, wanted, concept.anchor if wanted else ""))
    return rows


def anchored_pairs(concepts: Sequence[Concept]) -> list[tuple[str, str]]:
    """(prompt, what is wanted instead) of `aligned_prompts`, each once."""
    return list(dict.fromkeys((row[0], row[2]) for row in aligned_prompts(concepts)))


def without(text: str, concepts: Sequence[Concept]) -> str:
    """A text with these concepts replaced by their anchors, articles and all.

    It is empty if it names one that has none, and a prompt of the anchor alone where a name stands
    in a form that cannot be replaced.
    """
    for concept in concepts:
        if not mentions(text, concept.name):
            continue
        if not concept.anchor:
            return ""
        text = _replaced(text, concept)
        if mentions(text, concept.name):
            return concept.anchor_prompts()[0]
    return text


def _replaced(text: str, concept: Concept) -> str:
    """Where the name stands as words, in any case, or with the s of a plural."""

    def anchor(found: re.Match[str]) -> str:
        article, plural = found[1] or "", found[2] or ""
        if article.strip().lower() in ("a", "an"):
            put = filled("{a name}", concept.anchor)
            return put[:1].upper() + put[1:] if article[0].isupper() else put
        bare = without_article(concept.anchor) if found.start() else concept.anchor
        return article + bare + plural

    name = re.escape(concept.name)
    return re.sub(rf"(?<!\w)((?:an?|the)\s+)?{name}(e?s)?(?!\w)", anchor, text, flags=re.IGNORECASE)
