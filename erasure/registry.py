"""Plug-ins of one form: a file in its folder with one decorated class, called by the file's stem.

They lie in this toolkit's folders, in any installed package that names its modules under the
entry-point group `erasure`, or in a file that the user names (`--plugin FILE.py`):

    [project.entry-points.erasure]
    my-attack = "my_package.my_attack"
"""

import hashlib
import importlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast

from erasure.config import module_names, nearest
from erasure.errors import SettingError

if TYPE_CHECKING:
    from erasure.edit import Edit
    from erasure.models.diffusion.model import DiffusionModel
    from erasure.training.run import Run
    from erasure_datasets.concept import Concept

GROUP = "erasure"
Kind = Literal["diffusion", "classifier"]
PluginT = TypeVar("PluginT", bound=type)
FormT = TypeVar("FormT")


class Method(Protocol):
    """What every diffusion method's dataclass offers."""

    def erase(self, model: "DiffusionModel", concepts: "list[Concept]", run: "Run") -> "Edit": ...


def name_of(plugin: type) -> str:
    """A plug-in's name: its file's stem with hyphens."""
    return plugin.__module__.rpartition(".")[2].replace("_", "-")


class Registry(Generic[FormT]):
    """Classes of one form by name: the stem of their file, with hyphens.

    `package` holds the toolkit's own, one module each, imported when they are asked for.
    """

    def __init__(self, noun: str, package: str, *, more: tuple[str, ...] = ()) -> None:
        self.noun, self.package, self._more = noun, package, more
        self._classes: dict[str, type[FormT]] = {}

    def register(self, plugin: PluginT) -> PluginT:
        """Class decorator. SettingError for a second class under one name."""
        name = name_of(plugin)
        known = self._classes.get(name)
        is_taken = name in self._own() and not plugin.__module__.startswith(f"{self.package}.")
        if name in self._more or is_taken or (known and known.__module__ != plugin.__module__):
            raise SettingError(
                f"the {self.noun} {name!r} is there already; rename {_file(plugin)}."
            )
        if known is not None and known.__qualname__ != plugin.__qualname__:
            raise SettingError(f"{_file(plugin)} must have one {self.noun}; it has two.")
        self._classes[name] = cast(type[FormT], plugin)
        return plugin

    def names(self) -> list[str]:
        """Every name; of the toolkit's own without importing any."""
        load_installed()
        return sorted({*self._own(), *self._classes})

    def known(self, name: str) -> str:
        """The name with hyphens, once it is known; SettingError lists near ones if it is not."""
        if not isinstance(name, str):
            raise SettingError(f"{self.noun} must be a name; got {name!r}.")
        word, names = name.replace("_", "-"), [*self.names(), *self._more]
        if word not in names:
            raise SettingError(f"there is no {self.noun} {name!r}. {nearest(word, names)}")
        return word

    def get(self, name: str) -> type[FormT]:
        """Import and return one class; SettingError lists near names if there is none."""
        word = self.known(name)
        if word in self._more:
            raise SettingError(f"{word} is no single {self.noun}.")
        if word not in self._classes:
            module = importlib.import_module(f"{self.package}.{word.replace('-', '_')}")
            if word not in self._classes:
                raise SettingError(f"{module.__file__} has no class decorated as {self.noun}.")
        return self._classes[word]

    def docstring(self, name: str) -> str:
        """That of the class's file, read without importing any of the toolkit's own."""
        if name in self._classes:
            return sys.modules[self._classes[name].__module__].__doc__ or ""
        return _docstring(self._place() / f"{name.replace('-', '_')}.py")

    def _own(self) -> list[str]:
        return module_names(self._place())

    def _place(self) -> Path:
        root, *rest = self.package.split(".")
        found = importlib.util.find_spec(root)
        folders = found.submodule_search_locations if found else None
        return Path(next(iter(folders or ["."])), *rest)


class Methods:
    """Erasing and forgetting methods, in a registry for each kind of model."""

    def __init__(self) -> None:
        self.kinds: dict[Kind, Registry[Method]] = {
            "diffusion": Registry("diffusion method", "erasure.methods.diffusion"),
            "classifier": Registry("classifier method", "erasure.methods.classifier"),
        }

    def register(self, method: PluginT) -> PluginT:
        """Class decorator: one with `erase` is for diffusion models, else for classifiers."""
        kind: Kind = "diffusion" if hasattr(method, "erase") else "classifier"
        return self.kinds[kind].register(method)

    def names(self, kind: Kind) -> list[str]:
        return self.kinds[kind].names()

    def get(self, kind: Kind, name: str) -> Any:
        return self.kinds[kind].get(name)


METHODS = Methods()
EXPORTS: Registry[Any] = Registry("export form", "erasure.exports.forms")
ATTACKS: Registry[Any] = Registry("attack", "evaluation.attacks", more=("all",))
PROTOCOLS: Registry[Any] = Registry("protocol", "evaluation.protocols")
CRITERIA: Registry[Any] = Registry("criterion", "evaluation.criteria")

_files: dict[str, str] = {}  # the files that the user named, with a digest of each


def plugin_source(plugin: type) -> dict[str, str]:
    """The user's file that a class comes from, with its digest; empty for any other class."""
    file = _file(plugin)
    return {file: _files[file]} if file in _files else {}


def load_plugin(file: Path) -> None:
    """Import a file, whose decorated classes are known by its stem then.

    SettingError, in one line, for one that is no Python file, fails, or registers nothing.
    """
    file = file.expanduser().resolve()
    if str(file) in _files:
        return
    if file.suffix != ".py" or not file.is_file():
        raise SettingError(f"plugin must be a Python file; got {file}.")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    before = _count()
    try:
        module_of(file, f"erasure_plugin_{digest[:16]}.{file.stem}")
    except (Exception, SystemExit) as error:  # whatever a user's file may do
        raise SettingError(f"{file} could not be loaded: {told(error)}.") from error
    if _count() == before:
        raise SettingError(f"{file} registers nothing; decorate its class (@ATTACKS.register).")
    _files[str(file)] = digest


def plugin_files() -> list[str]:
    """The files that the user named."""
    return list(_files)


def module_of(file: Path, name: str) -> ModuleType:
    """A user's file as a module of this name; ImportError if it is no Python file."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for the module they are in
    spec.loader.exec_module(module)
    return module


@cache
def load_installed() -> None:
    """Import what installed packages name in the entry-point group `erasure`."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:  # whatever a foreign package may do
            raise SettingError(
                f"the plug-in {entry.name} ({entry.value}) could not be loaded: {told(error)}."
            ) from error


def _count() -> int:
    registries = [*METHODS.kinds.values(), EXPORTS, ATTACKS, PROTOCOLS, CRITERIA]
    return sum(len(registry._classes) for registry in registries)


def _docstring(file: Path) -> str:
    import ast  # costs time, and is needed for lists alone

    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _file(plugin: type) -> str:
    return getattr(sys.modules.get(plugin.__module__), "__file__", None) or plugin.__module__


def told(error: BaseException) -> str:
    """An exception of foreign code in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if words else ''}{words}".rstrip(".")
