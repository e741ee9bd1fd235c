"""The demo's page: what stands where, and what answers a visitor. Needs Gradio."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from threading import Event
from typing import Any

import gradio as gr
from PIL import Image

from erasure.errors import ErasureError, SettingError
from evaluation.demo.studio import (
    LONGEST,
    MOST_GUIDANCE,
    MOST_RUNS,
    MOST_SEEDS,
    MOST_STEPS,
    SHOWN,
    Picture,
    Studio,
    Tell,
    attacks,
)
from evaluation.demo.values import Page, names_of, whole

WAITING = 16  # requests in line before the page says that it is busy
KEPT_SECONDS = 3600  # pictures on the disk
REMEMBERED = 1000  # visitors who have closed the page
STYLE = """
.gradio-container { max-width: min(72rem, 100vw) !important; margin: 0 auto !important }
.gradio-container :is(.main, .contain, .contain > .column, .gr-accordion, .gr-accordion .column) { min-width: 0 !important; max-width: 100% }
footer { display: none !important }
.veiled img { filter: blur(22px) }
.pixelated img { image-rendering: pixelated }
:is(#gallery, #attacked) { min-width: 0 !important }
:is(#gallery, #attacked) .grid-wrap { height: auto; max-height: none; overflow-x: auto }
:is(#gallery, #attacked) .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(7rem, 14rem)); grid-auto-rows: auto }
:is(#gallery, #attacked) .thumbnail-item { aspect-ratio: auto; height: auto; display: block; box-shadow: none }
:is(#gallery, #attacked) .thumbnail-item img { aspect-ratio: 1; height: auto }
:is(#gallery, #attacked) .caption-label { position: static; opacity: 1 !important; max-width: none; white-space: normal; border: 0; background: none; padding: .35rem .5rem; font-size: .8rem; line-height: 1.35 }
@media (max-width: 640px) { #attacked .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) } }
"""  # noqa: E501
Parts = dict[str, Any]  # a page's components by name


def theme() -> gr.themes.Base:
    """Fonts of this machine only, since the page fetches nothing; colours that can be read."""
    text = "*body_text_color"
    return gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        block_title_text_color=text, block_label_text_color=text,
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
    )  # fmt: skip


class Stopped(Exception):  # noqa: N818  it was asked for
    """The visitor pressed Stop."""


class Answers:
    """What the page's buttons do, for each visitor; errors that a visitor can mend are shown."""

    def __init__(self, studio: Studio) -> None:
        self._studio, self._pressed = studio, dict[str | None, Event]()
        self._is_closing, self._gone = Event(), deque[str | None](maxlen=REMEMBERED)

    def compare(
        self, runs: list[str], prompt: str, seed: float, steps: float, guidance: float,
        count: float, visitor: gr.Request, progress: gr.Progress = gr.Progress(),
    ) -> tuple[Any, ...]:  # fmt: skip
        """Slider, what the judges say, gallery, and the pictures to choose from."""
        with self._watching(visitor, progress) as tell:
            numbers = (whole("seed", seed), whole("steps", steps), whole("seeds", count))
            if not isinstance(guidance, (int, float)):
                raise SettingError(f"guidance must be a number; got {guidance!r}.")
            rows = self._studio.draw(
                names_of(runs), prompt or "", numbers[0], numbers[1], guidance, numbers[2], tell
            )
        pictures = [picture for row in rows for picture in row]
        shown = [(picture.image, picture.caption) for picture in pictures]
        return *_pair(pictures, 1), gr.Gallery(shown, columns=len(rows[0])), pictures

    def choose(self, pictures: list[Picture], chosen: gr.SelectData) -> tuple[Any, ...]:
        """Slider and judges for another of the pictures drawn last."""
        index = chosen.index
        is_one = isinstance(index, int) and 0 <= index < len(pictures or [])
        return _pair(pictures, index) if is_one else (gr.skip(), gr.skip())  # type: ignore[arg-type]

    def fight(
        self, runs: list[str], concept: str, attack: str,
        visitor: gr.Request, progress: gr.Progress = gr.Progress(),
    ) -> tuple[str, list[tuple[Image.Image, str]]]:  # fmt: skip
        """The outcome in a sentence, and the pictures that it was judged by."""
        with self._watching(visitor, progress) as tell:
            found = self._studio.attack((names_of(runs) or [""])[0], concept, attack, tell)
        return found.told(attack), found.pictures(attack)

    def stop(self, visitor: gr.Request) -> None:
        """Whatever this visitor has running ends at its next step."""
        if visitor.session_hash in self._pressed:
            self._pressed[visitor.session_hash].set()

    def stop_all(self) -> None:
        """Whatever anyone has running or in line ends at its next step."""
        self._is_closing.set()

    def leave(self, visitor: gr.Request) -> None:
        """As `stop`, of a visitor who has closed the page; what waits in line is not begun."""
        self._gone.append(visitor.session_hash)
        self.stop(visitor)

    def switch(self, runs: list[str]) -> tuple[Any, ...]:
        """Lists and defaults of the first run chosen."""
        if not runs or not set(names_of(runs)) <= self._studio.runs.keys():
            return (gr.skip(),) * 4
        own, how = self._studio.prompts(runs[0]), self._studio.sampling(runs[0])
        erased = self._studio.erased(runs[0])
        return (
            gr.Dropdown(list(own.items()), value=next(iter(own.values()))),
            gr.Dropdown(erased, value=erased[0]), how.steps, how.guidance,
        )  # fmt: skip

    @contextmanager
    def _watching(self, visitor: gr.Request, progress: gr.Progress) -> Iterator[Tell]:
        pressed = self._pressed[visitor.session_hash] = Event()

        def tell(what: str, done: int, total: int) -> None:
            is_gone = visitor.session_hash in self._gone
            if pressed.is_set() or is_gone or self._is_closing.is_set():
                raise Stopped
            progress((done, total), desc=what)

        try:
            yield tell
        except Stopped as stopped:
            raise gr.Error(
                "Stopped; nothing of it was kept.", duration=4, print_exception=False
            ) from stopped
        except ErasureError as error:
            raise gr.Error(escape(self._studio.told(error)), print_exception=False) from error
        finally:
            self._pressed.pop(visitor.session_hash, None)


def lay_out(studio: Studio) -> gr.Blocks:
    """The whole page; it opens the first run's model."""
    with Page(
        title="Before and after an erasure", analytics_enabled=False,
        delete_cache=(KEPT_SECONDS, KEPT_SECONDS),
    ) as page:  # fmt: skip
        gr.Markdown("# Before and after\nThe same prompt from the same noise, by each model.")
        with gr.Row():
            with gr.Column(min_width=300):
                parts = _questions(studio)
            with gr.Column(min_width=300):
                parts |= _slider(studio)
        gr.Markdown("One row per seed. Choose a picture to see it in the slider.")
        parts["gallery"] = _gallery(studio, "gallery")
        parts["drawn"] = gr.State([])
        with gr.Accordion("Attack it", open=False, elem_id="siege"):
            parts |= _siege(studio)
        answers = Answers(studio)
        _wire(answers, parts, _looks(studio))
        page.unload(answers.leave)
    page.stop_all = answers.stop_all
    return page.queue(max_size=WAITING, default_concurrency_limit=4)


def _questions(studio: Studio) -> Parts:
    names = list(studio.runs)
    prompts, how = list(studio.prompts(names[0]).items()), studio.sampling(names[0])
    run = gr.Dropdown(
        names, value=names[:1], multiselect=True, max_choices=MOST_RUNS, label="Erased models",
        elem_id="run",
    )  # fmt: skip
    thing = gr.Dropdown(prompts, label="Ask for", elem_id="thing")
    prompt = gr.Textbox(
        prompts[0][1], label="Prompt", max_length=LONGEST, lines=2, elem_id="prompt"
    )
    draw = gr.Button("Draw", variant="primary", elem_id="draw")
    with gr.Accordion("Seeds, steps and guidance", open=False):
        seed = gr.Number(188000, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
        count = gr.Slider(1, MOST_SEEDS, 2, step=1, label="Seeds, from this one on")
        steps = gr.Slider(1, MOST_STEPS, how.steps, step=1, label="Steps")
        guidance = gr.Slider(0, MOST_GUIDANCE, how.guidance, step=0.5, label="Guidance")
    gr.Examples([[text] for text in studio.examples()], [prompt], label="Examples")
    return {
        "run": run, "thing": thing, "prompt": prompt, "draw": draw,
        "seed": seed, "count": count, "steps": steps, "guidance": guidance,
    }  # fmt: skip


def _slider(studio: Studio) -> Parts:
    slider = gr.ImageSlider(
        label="un-erased | erased", type="pil", max_height=SHOWN, elem_id="slider",
        interactive=False, format="png", buttons=[], elem_classes=_looks(studio),
    )  # fmt: skip
    unveil = gr.Checkbox(
        label="Show the pictures unblurred", visible=studio.is_unsafe, elem_id="unveil"
    )
    return {"slider": slider, "judged": gr.Markdown(elem_id="judged"), "unveil": unveil}


def _siege(studio: Studio) -> Parts:
    gr.Markdown(
        "A minute at most that tries to bring the concept back from the first model chosen; "
        "`erasure attack` measures it in full."
    )
    erased = studio.erased(next(iter(studio.runs)))
    with gr.Row():
        concept = gr.Dropdown(erased, value=erased[0], label="Concept", elem_id="concept")
        attack = gr.Dropdown(attacks(), value="paraphrase", label="Attack", elem_id="attack")
    with gr.Row():
        begin = gr.Button("Attack", elem_id="begin")
        stop = gr.Button("Stop", variant="stop", elem_id="stop")
    outcome = gr.Markdown(elem_id="outcome")
    attacked = _gallery(studio, "attacked", columns=4)
    return {
        "concept": concept, "attack": attack, "begin": begin, "stop": stop,
        "outcome": outcome, "attacked": attacked,
    }  # fmt: skip


def _gallery(studio: Studio, name: str, columns: int = 2) -> gr.Gallery:
    return gr.Gallery(
        show_label=False, elem_id=name, format="png", buttons=[], columns=columns, height="auto",
        allow_preview=False, object_fit="contain", elem_classes=_looks(studio),
    )  # fmt: skip


def _looks(studio: Studio) -> list[str]:
    """The classes of what is blurred until someone asks to see it, and of what has few pixels."""
    return ["veiled"] * studio.is_unsafe + ["pixelated"] * studio.is_small


def _wire(answers: Answers, parts: Parts, looks: list[str]) -> None:
    def of(*names: str) -> list[Any]:
        return [parts[name] for name in names]

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    heavy: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
    parts["draw"].click(
        answers.compare, of("run", "prompt", "seed", "steps", "guidance", "count"),
        of("slider", "judged", "gallery", "drawn"), api_name="compare",
        show_progress_on=of("slider"), **heavy,
    )  # fmt: skip
    parts["begin"].click(
        answers.fight, of("run", "concept", "attack"), of("outcome", "attacked"),
        api_name="attack", show_progress_on=of("outcome"), **heavy,
    )  # fmt: skip
    parts["stop"].click(answers.stop, None, None, queue=False, **private)
    parts["gallery"].select(answers.choose, parts["drawn"], of("slider", "judged"), **private)
    parts["thing"].input(lambda text: text, parts["thing"], parts["prompt"], **private)
    parts["run"].input(
        answers.switch, parts["run"], of("thing", "concept", "steps", "guidance"), **private
    )
    veiled, plain = of("slider", "gallery", "attacked"), [n for n in looks if n != "veiled"]
    parts["unveil"].change(
        lambda is_shown: [gr.update(elem_classes=plain if is_shown else looks) for _ in veiled],
        parts["unveil"], veiled, **private,
    )  # fmt: skip


def _pair(pictures: Sequence[Picture], index: int) -> tuple[Any, str]:
    """The slider's two pictures, and what the judges say: one beside its un-erased model's."""
    if not pictures[index].is_erased:
        index += 1
    after = pictures[index]
    before = next(p for p in reversed(pictures[:index]) if not p.is_erased)
    said = [f"**{p.of}**: {p.seen}" for p in (before, after) if p.seen]
    return (before.image, after.image), "  \n".join([*said, f"seed {after.seed}"])
