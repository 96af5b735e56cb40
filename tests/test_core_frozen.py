"""Frozen behaves as a frozen dataclass."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, fields

import pytest

from supervisor_memreap.core.frozen import Frozen, replace


class Size(Frozen):
    name: str
    size: int | None = None


class Measured(Size):
    at: float = 0.0


@dataclass(frozen=True)
class Twin:
    name: str
    size: int | None = None
    at: float = 0.0


def test_the_fields_are_those_of_the_class_and_of_the_classes_that_it_is_derived_from():
    value = Measured("a", at=2.0)
    assert [field.name for field in fields(value)] == ["name", "size", "at"]
    assert asdict(value) == asdict(Twin("a", at=2.0)) == {"name": "a", "size": None, "at": 2.0}
    assert dataclasses.replace(value, size=3) == Measured("a", 3, 2.0)
    assert repr(value) == "Measured(name='a', size=None, at=2.0)"
    assert copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize("kind", [Measured, Twin])
def test_a_copy_with_other_values_leaves_the_first_as_it_is(kind):
    value = kind("a", at=2.0)
    assert (replace(value, size=3), value) == (dataclasses.replace(value, size=3), kind("a", at=2.0))
    assert replace(value) == value
    with pytest.raises(TypeError, match="no other, sise"):
        replace(value, sise=3, other=4)
    with pytest.raises(FrozenInstanceError):
        replace(value, size=3).size = 4


def test_two_are_equal_if_their_class_and_all_values_are():
    assert Measured("a", 1) == Measured("a", 1, 0.0)
    assert hash(Measured("a", 1)) == hash(Measured("a", 1, 0.0)) == hash(Twin("a", 1))
    assert Measured("a", 1) != Measured("a", 2)
    assert Size("a", 1) != Measured("a", 1)
    assert Size("a", 1) != ("a", 1)


def test_one_of_another_type_is_asked_whether_it_is_equal_as_by_a_dataclass():
    class Any:
        def __eq__(self, _other: object) -> bool:
            return True

    for value in (Size("a"), Twin("a")):
        assert value == Any()
        assert value.__eq__(Measured("a")) is NotImplemented


@pytest.mark.parametrize(
    ("args", "named"),
    [((), {}), ((), {"size": 1}), (("a", 1, 2.0, 3), {}), (("a",), {"name": "b"}), (("a",), {"x": 1})],
)
def test_wrong_arguments_are_refused_as_by_a_dataclass(args, named):
    for kind in (Measured, Twin):
        with pytest.raises(TypeError):
            kind(*args, **named)


def test_nothing_can_be_set_or_deleted():
    for value in (Measured("a"), Twin("a")):
        with pytest.raises(FrozenInstanceError, match="cannot assign to field 'name'"):
            value.name = "b"  # type: ignore[misc]
        with pytest.raises(FrozenInstanceError, match="cannot delete field 'name'"):
            del value.name
