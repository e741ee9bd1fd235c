"""Which slice of the training data an image is in, and what is left when slices are deleted."""

import hashlib
from collections.abc import Iterable, Set
from dataclasses import dataclass

Slice = tuple[int, int]  # shard, slice
Prefix = tuple[int, ...]  # the slices of one shard that something was trained on, in their order


@dataclass(frozen=True)
class Slicing:
    """`shards` of so many `slices` each, learned in so many `orders`: rotations, evenly apart.

    The place of an image follows from its id and the seed alone: it is the same whatever other
    images there are.
    """

    shards: int
    slices: int
    orders: int
    seed: int

    def place(self, sample: str) -> Slice:
        digest = hashlib.sha256(f"{self.seed}:{sample}".encode()).digest()
        return divmod(int.from_bytes(digest[:8], "big") % (self.shards * self.slices), self.slices)

    def sequences(self) -> list[Prefix]:
        """The order of the slices in each of the orders."""
        starts = [number * self.slices // self.orders for number in range(self.orders)]
        return [tuple((start + i) % self.slices for i in range(self.slices)) for start in starts]

    def left(self, dead: Set[Slice]) -> list[list[Prefix]]:
        """For each shard, the longest prefix without a dead slice of each order that has one."""
        return [
            [prefix for order in self.sequences() if (prefix := before(order, shard, dead))]
            for shard in range(self.shards)
        ]

    def served(self, dead: Set[Slice]) -> list[Prefix]:
        """The longest of them for each shard, of equals the first; () where none is left."""
        return [max(left, key=len, default=()) for left in self.left(dead)]


def before(order: Prefix, shard: int, dead: Set[Slice]) -> Prefix:
    """The part of an order before its first dead slice."""
    count = next((i for i, own in enumerate(order) if (shard, own) in dead), len(order))
    return order[:count]


def stages(prefixes: Iterable[Prefix]) -> list[Prefix]:
    """Every beginning of these, each once, the shorter ones first."""
    found = {prefix[:length] for prefix in prefixes for length in range(1, len(prefix) + 1)}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))
