"""What visitors send the demo: values of the wrong kind are answered in words. Needs Gradio."""

from html import escape
from typing import Any

import gradio as gr

from erasure.errors import SettingError


class Page(gr.Blocks):
    """A page that answers requests of the wrong kind in words."""

    stop_all: Any = None

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        if not isinstance(inputs, list) or len(inputs) < len(block_fn.inputs):
            raise _wrong(f"{len(block_fn.inputs)} values must be sent")
        super().validate_inputs(block_fn, inputs)

    async def preprocess_data(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().preprocess_data(*args, **options)
        except Exception as error:  # each kind of part fails in its own way on foreign values
            raise _wrong(" ".join(str(error).split()) or type(error).__name__) from error


def _wrong(why: str) -> gr.Error:
    return gr.Error(
        escape(f"the values sent are not such as this page sends: {why}."), print_exception=False
    )


def whole(what: str, value: Any) -> int:
    """A number that a visitor sent; SettingError if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise SettingError(f"{what} must be a whole number; got {value!r}.")
    return int(value)


def names_of(runs: Any) -> list[str]:
    """The runs that a visitor chose; SettingError if they are no list of words."""
    if not isinstance(runs, list) or not all(isinstance(name, str) for name in runs):
        raise SettingError(f"run must be a list of names; got {runs!r}.")
    return runs
