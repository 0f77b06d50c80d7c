"""Registries: a component's signature is its schema, its docstring its help.

A factory (function or class) registers under a name. Parameters *before* the bare ``*`` are
sizes known only at build time (``x_shape``, ``latent_dim``, ``num_features``): the builder hands
them in and they never stand in YAML. Parameters *after* it are the options of the YAML node::

    posteriors: Registry[Chain] = Registry("posteriors", "models.posteriors")

    @posteriors.register("gaussian")
    def gaussian(latent_dim: int, *, covariance: Literal["diagonal", "full"] = "diagonal"): ...

An option that is itself a component is annotated with its registry,
``warmup: Annotated[Warmup, warmups]``; it is validated as a node and built before it is passed.
Where the component must choose the sizes of its part, it asks for the factory instead of the
built thing: ``decoder: Annotated[Callable[..., nn.Module], decoders]``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from pydantic import GetCoreSchemaHandler, PydanticSchemaGenerationError
from pydantic_core import core_schema

from utils.startup import describe_failure

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One YAML option of a component: name, annotation and default (``REQUIRED`` if none)."""

    name: str
    annotation: Any
    default: Any

    @property
    def wants_factory(self) -> bool:
        """Whether a node given here is passed as a factory, to be called by the component."""
        choices = (self.annotation, *typing.get_args(self.annotation))  # it may be null, too
        declared = [typing.get_args(c)[0] for c in choices if typing.get_origin(c) is Annotated]
        return any(typing.get_origin(kind) is Callable for kind in declared)


REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered component: ``sizes`` come from the builder, ``options`` from YAML."""

    name: str
    factory: Callable[..., T]
    sizes: tuple[str, ...]
    options: tuple[Option, ...]

    @property
    def summary(self) -> str:
        """First line of the factory's docstring."""
        return (inspect.getdoc(self.factory) or "").split("\n", 1)[0]


@dataclass(frozen=True)
class Node:
    """A validated component of a configuration: which factory, with which options."""

    entry: Entry[Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name under which the component is registered."""
        return self.entry.name

    def build(self, **sizes: Any) -> Any:
        """Call the factory with the sizes it asks for and its options, nested nodes built first.

        Raises KeyError when the factory asks for a size that the builder does not have.
        """
        late = {option.name for option in self.entry.options if option.wants_factory}
        options = {
            key: value.build if key in late and value is not None else _build_nested(value, sizes)
            for key, value in self.options.items()
        }
        return self.entry.factory(**{name: sizes[name] for name in self.entry.sizes}, **options)

    def dump(self) -> dict[str, Any]:
        """The node as plain data, defaults included: what identifies a run."""
        return {"name": self.name} | {k: dump(v) for k, v in self.options.items()}


def dump(value: Any) -> Any:
    """Plain data (dicts, lists, scalars) of nodes nested anywhere in ``value``."""
    if isinstance(value, Node):
        return value.dump()
    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(item) for item in value]
    return value


def _build_nested(value: Any, sizes: Mapping[str, Any]) -> Any:
    if isinstance(value, Node):
        return value.build(**sizes)
    if isinstance(value, (list, tuple)):
        return [_build_nested(item, sizes) for item in value]
    return value


class Registry(Generic[T]):
    """Named factories of one kind, found by importing ``source`` (a module, or all of a package).

    Used as metadata, ``Annotated[T, registry]``, it validates a mapping ``{name: ..., options}``
    into a ``Node``.
    """

    def __init__(self, kind: str, source: str) -> None:
        self.kind = kind
        self._source = source
        self._entries: dict[str, Entry[T]] = {}
        self._imported = False
        self._unusable: list[Broken] = []

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator: make the factory available under ``name``.

        Raises ValueError when another factory already has the name.
        """

        def decorate(factory: F) -> F:
            self._refuse_taken(name, factory)
            self._entries[name] = _entry(name, factory)
            return factory

        return decorate

    def add(self, entry: Entry[T]) -> None:
        """Make a component available. Raises ValueError when another one has its name."""
        self._refuse_taken(entry.name, entry.factory)
        self._entries[entry.name] = entry

    def _refuse_taken(self, name: str, factory: Callable[..., T]) -> None:
        previous = self._entries.get(name)
        if previous is not None and previous.factory is not factory:
            raise ValueError(
                f"{self.kind}: the name {name!r} is registered twice, the first time in "
                f"{previous.factory.__module__}; take another name"
            )

    def unregister(self, name: str) -> None:
        """Forget a component: of a plugin that is no longer asked for, or of a test."""
        self._entries.pop(name, None)

    def __iter__(self) -> Iterator[Entry[T]]:
        self._discover()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def __getitem__(self, name: str) -> Entry[T]:
        self._discover()
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return [entry.name for entry in self]

    @property
    def broken(self) -> list[Broken]:
        """What is left out: modules that cannot be imported, components that YAML cannot give."""
        self._discover()
        return _import_all(self._source) + self._unusable

    def _discover(self) -> None:
        if self._imported:
            return
        self._imported = True
        left_out = {broken.module for broken in _import_all(self._source)}
        whole = {n: e for n, e in self._entries.items() if e.factory.__module__ not in left_out}
        self._entries = whole

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        choices = {}
        for entry in self:
            try:
                choices[entry.name] = _node_schema(entry, handler)
            except PydanticSchemaGenerationError as error:
                file = os.path.relpath(inspect.getsourcefile(entry.factory) or "?")
                reason = f"{file}: `{entry.name}`: {str(error).partition('. Set')[0]}"
                self._unusable.append(Broken(entry.factory.__module__, reason))
                self.unregister(entry.name)
        return core_schema.tagged_union_schema(choices, discriminator="name")


class Broken(NamedTuple):
    """A module, and where and why it or something in it is of no use, in one line."""

    module: str
    reason: str


@functools.cache
def _import_all(source: str) -> list[Broken]:
    """Import a module or all of a package, once; a broken file does not take the others along."""
    module = importlib.import_module(source)
    broken = []
    for info in pkgutil.iter_modules(getattr(module, "__path__", [])):
        name = f"{source}.{info.name}"
        try:
            importlib.import_module(name)
        except Exception as error:
            folder = Path(str(module.__file__)).parent
            broken.append(Broken(name, describe_failure(error, folder)))
    return broken


def _entry(name: str, factory: Callable[..., T]) -> Entry[T]:
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(target, include_extras=True)
    sizes: list[str] = []
    options: list[Option] = []
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            if parameter.name not in hints:
                raise ValueError(f"the option `{parameter.name}` of `{name}` needs a type")
            options.append(Option(parameter.name, hints[parameter.name], parameter.default))
        elif parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            sizes.append(parameter.name)
    return Entry(name, factory, tuple(sizes), tuple(options))


def _node_schema(entry: Entry[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    fields = {"name": core_schema.typed_dict_field(core_schema.literal_schema([entry.name]))}
    for option in entry.options:
        schema = handler.generate_schema(option.annotation)
        if option.default is not REQUIRED:
            schema = core_schema.with_default_schema(schema, default=option.default)
        fields[option.name] = core_schema.typed_dict_field(
            schema, required=option.default is REQUIRED
        )

    def to_node(values: dict[str, Any]) -> Node:
        return Node(entry, {key: item for key, item in values.items() if key != "name"})

    typed_dict = core_schema.typed_dict_schema(fields, extra_behavior="forbid")
    return core_schema.no_info_after_validator_function(to_node, typed_dict)
