"""Attacks that try to bring an erased concept back: plug-ins, one file each."""

from evaluation.attacking.attack import Attack, by_level

__all__ = ["Attack", "by_level"]
