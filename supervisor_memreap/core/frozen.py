"""Values of several fields that never change, which a class gets by being derived from Frozen; and copies. Pure."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

if TYPE_CHECKING:
    from dataclasses import Field
    from dataclasses import replace as replace  # noqa: PLC0414 - for others too

    from typing_extensions import dataclass_transform  # only the type checker needs it
else:

    def dataclass_transform(**_options):
        return lambda kind: kind

    def replace(value, /, **changes):
        """As dataclasses.replace, for classes without __post_init__, in a tenth of its time."""
        if not changes.keys() <= value.__dataclass_fields__.keys():
            unknown = changes.keys() - value.__dataclass_fields__.keys()
            raise TypeError(f"{type(value).__name__} has no {', '.join(sorted(unknown))}")
        other = object.__new__(type(value))
        object.__setattr__(other, "__dict__", {**value.__dict__, **changes})
        return other


@dataclass_transform(frozen_default=True)
class Frozen:
    """A frozen dataclass whose functions are written once, here, and not compiled for each class.

    dataclass() compiles six functions, 1 ms for each class, and this takes 0.03 ms: a listener starts with 70 such
    classes. An object takes twice as long to make, so what is made for each worker at each look is a dataclass.
    A default is an attribute of the class, so it must be one that never changes.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    _names: ClassVar[dict[str, None]] = {}
    _needed: ClassVar[frozenset[str]] = frozenset()
    """Those without a default."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(init=False, repr=False, eq=False)(cls)
        cls._names = {field.name: None for field in fields(cls)}
        cls._needed = frozenset(field.name for field in fields(cls) if field.default is MISSING)

    if not TYPE_CHECKING:  # each class has arguments of its own

        def __init__(self, *args, **given):
            if not given and len(args) == len(self._names):  # as most are made: in a quarter of the time
                object.__setattr__(self, "__dict__", dict(zip(self._names, args)))
                return
            values = dict(zip(self._names, args), **given)
            if len(args) + len(given) > len(values) or not self._needed <= values.keys() <= self._names.keys():
                raise TypeError(f"{type(self).__name__} takes {', '.join(self._names)}")
            object.__setattr__(self, "__dict__", values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Frozen) and type(self) is type(other):
            return self._values() == other._values()
        return NotImplemented  # the other one is asked

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in zip(self._names, self._values()))
        return f"{type(self).__qualname__}({values})"

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._names)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")
