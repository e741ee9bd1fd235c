"""Which class a word means, among labels with commas and labels that two classes share."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from erasure.errors import SettingError
from erasure_datasets.concept import plain_name

NUMBERED = re.compile(r"(?P<name>.*?)\s*#(?P<number>\d+)")


class Labels:
    """A classifier's label names, in the order of its head; `owner` names it in errors."""

    def __init__(self, names: Sequence[str], owner: str) -> None:
        self.names, self.owner = tuple(names), owner
        self._counts = Counter(self.names)

    def title(self, number: int) -> str:
        """A name that only this class has: its label, with its number where others share that."""
        name = self.names[number]
        if name.strip() and self._counts[name] == 1:
            return name
        numbered = f"{name} #{number}".strip()
        return f"#{number}" if numbered in self._counts else numbered

    def find(self, word: str) -> int:
        """The class of a label, of a label's part before its comma, or of "134" or "#134".

        SettingError if there is none, or more than one.
        """
        found = self._whole(word) or self._alike(word, lambda name: name.split(",")[0])
        if not found:
            return self._numbered(word)
        if len(found) > 1:
            known = " or ".join(f"#{n} ({self.names[n]})" for n in found)
            raise SettingError(f"class {word!r} is more than one of {self.owner}; give {known}.")
        return found[0]

    def split(self, text: str) -> list[int]:
        """The classes of a text with commas; the longest stretch that is a label goes first."""
        if not isinstance(text, str):
            raise SettingError(f"class must be a text; got {text!r}.")
        parts, found = [part for part in text.split(",") if part.strip()], list[int]()
        while parts:
            taken = next((n for n in range(len(parts), 1, -1) if self._is_label(parts[:n])), 1)
            found.append(self.find(",".join(parts[:taken]).strip()))
            parts = parts[taken:]
        return found

    def _is_label(self, parts: list[str]) -> bool:
        return bool(self._whole(",".join(parts).strip()))

    def _whole(self, word: str) -> list[int]:
        exact = [number for number, name in enumerate(self.names) if name == word]
        return exact or self._alike(word, lambda name: name)

    def _alike(self, word: str, part: Callable[[str], str]) -> list[int]:
        wanted = plain_name(word)
        found = [
            number for number, name in enumerate(self.names) if plain_name(part(name)) == wanted
        ]
        return found if wanted else []

    def _numbered(self, word: str) -> int:
        named = NUMBERED.fullmatch(word.strip())
        text = named["number"] if named else word.strip()
        if text.isascii() and text.isdigit() and int(text) < len(self.names):
            number = int(text)
            if not named or plain_name(named["name"]) in ("", plain_name(self.names[number])):
                return number
        shown = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
        raise SettingError(
            f"{self.owner} has no class {word!r}. Known: {shown}; or #0 to #{len(self.names) - 1}."
        )
