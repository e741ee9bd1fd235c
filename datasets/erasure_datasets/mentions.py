"""Whether a text names something, by whole words."""

import re
import unicodedata
from functools import cache

# scripts that put no blank between words: a name is found anywhere in them
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)


def mentions(text: str, name: str) -> bool:
    """Whether the text holds the name as whole words: "fish" is not in "jellyfish".

    Case, accents, and blanks, hyphens or underscores within the name do not count. The plural and
    the possessive of its last word do: "cats" and "cat's" mention cat, "a cat" mentions Cats.
    """
    folded, wanted = _folded(text), _pattern(name)
    return any(
        not _goes_on(folded, found.start() - 1, found.start())
        and not _goes_on(folded, found.end(), found.end() - 1)
        for found in wanted.finditer(folded)
    )


def _folded(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in apart if not "\u0300" <= letter <= "\u036f")
    return unicodedata.normalize("NFC", plain)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Finds the name at every place where it may begin, the longest form first."""
    words = [word for word in re.split(r"[\s_-]+", _folded(name)) if word]
    *before, last = words or [_folded(name)]
    forms = sorted(map(re.escape, _forms(last)), key=len, reverse=True)
    parts = [*map(re.escape, before), f"(?:{'|'.join(forms)})(?:['’]s)?"]
    return re.compile(r"[\s_-]*".join(parts))


def _forms(word: str) -> set[str]:
    """A word's singular and plural, by the regular rules of English."""
    forms = {word, word + "s"}
    if word.endswith(("s", "x", "z", "ch", "sh")):
        forms.add(word + "es")
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        forms.add(word[:-1])
        if word.endswith("ies"):
            forms.add(word[:-3] + "y")
        elif word[:-2].endswith(("s", "x", "z", "ch", "sh")) and word.endswith("es"):
            forms.add(word[:-2])
    return forms


def _goes_on(text: str, outside: int, inside: int) -> bool:
    """Whether a word goes on from the place `inside` to its neighbour `outside`."""
    if not 0 <= outside < len(text) or UNSPACED.match(text[inside]):
        return False
    return all(unicodedata.category(text[place])[0] in "LMN" for place in (outside, inside))
