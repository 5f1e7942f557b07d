"""Reads pickles without running them.

Python's own unpickler calls whatever the file names. Here a machine of the pickle language's opcodes knows numbers,
strings, containers and the few names that its caller gives it; every other name is refused or, where the caller
allows it, becomes an `Inert` record that only remembers the name. No name of a file is ever imported.
"""

import io
import pickletools
import sys
from _compat_pickle import IMPORT_MAPPING  # the standard library's modules as Python 2 called them
from collections.abc import Callable, Mapping
from typing import Any, cast

from jaxsep.errors import JaxsepError

_MARK = object()
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
# Of the standard library, the only classes that files of weights mention with good reason.
_INNOCENT = {
    *("argparse.Namespace", "collections.Counter", "collections.defaultdict", "datetime.timedelta", "_codecs.encode"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("dict", "int", "list", "set", "tuple")),
}


class Inert:
    """A foreign class or object, of which only the name is known; what a file would do with it is not done."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"Inert({self.name})"


class _Function:
    """A name that the caller gave a function for."""

    def __init__(self, call: Callable[..., Any]):
        self.call = call


def load(
    stream: io.BytesIO,
    file: str,
    names: Mapping[str, Any],
    persistent: Callable[[Any], Any],
    foreign: bool = False,
) -> Any:
    """The object that the next pickle of a stream describes.

    Args:
        stream: at the first byte of a pickle; behind its last one afterwards.
        file: for messages.
        names: "module.name" -> what stands for it. The functions among them are all that is ever called.
        persistent: makes an object of a persistent id.
        foreign: take unknown names as `Inert`, except those of the standard library (`os.system`, `builtins.eval`).

    Raises:
        JaxsepError: a name that is not allowed, an opcode that no weights need, or a damaged pickle.
    """

    def find(name: str) -> Any:
        if name in names:
            return _Function(names[name]) if callable(names[name]) else names[name]
        standard = name.split(".")[0] in {*sys.stdlib_module_names, *IMPORT_MAPPING}
        if foreign and (name in _INNOCENT or not standard):
            return Inert(name)
        raise JaxsepError(f"{file}: names {name!r}, which has no place in a file of weights; refused, nothing was run")

    try:
        return _run(stream, find, persistent)
    except JaxsepError:
        raise
    except Exception as error:  # whatever a forged or cut stream makes of the stack
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise JaxsepError(f"{file}: damaged ({reason}); download it again") from None


def _run(stream: io.BytesIO, find: Callable[[str], Any], persistent: Callable[[Any], Any]) -> Any:
    machine = _Machine(find, persistent)
    for opcode, argument, _ in pickletools.genops(stream):
        name, value = opcode.name, cast(Any, argument)
        if name == "STOP":
            (result,) = machine.stack
            return result
        if name in _LITERALS:
            machine.push(value)
        elif name in _OPERATIONS:
            _OPERATIONS[name](machine, value)
        else:
            raise ValueError(f"opcode {name}")
    raise ValueError("it has no end")


class _Machine:
    """The stack and the memo of the pickle language."""

    def __init__(self, find: Callable[[str], Any], persistent: Callable[[Any], Any]):
        self.find, self.persistent = find, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        """The topmost values, the deepest first."""
        if len(self.stack) < count:
            raise ValueError("it takes more than it has put down")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def since_mark(self) -> list[Any]:
        """The values behind the last mark, which is taken away."""
        mark = max(i for i, value in enumerate(self.stack) if value is _MARK)
        values = self.pop(len(self.stack) - mark)
        return values[1:]

    def extend(self, values: list[Any]) -> None:
        """Adds to the list or set on top."""
        container = self.stack[-1]
        if isinstance(container, list):
            container.extend(values)
        elif isinstance(container, set):
            container.update(values)
        elif not isinstance(container, Inert):
            raise ValueError("it appends to something that is no list")

    def update(self, values: list[Any]) -> None:
        """Sets items, keys and values in turn, of the dict on top."""
        container = self.stack[-1]
        if isinstance(container, dict):
            container.update(_pairs(values))
        elif not isinstance(container, Inert):
            raise ValueError("it sets items of something that is no dict")

    def build(self) -> None:
        """Leaves out attributes of an object: nothing that weights are made of."""
        self.pop(1)
        if not isinstance(self.stack[-1], dict | Inert):
            raise ValueError("it sets attributes of something that is no object")

    def call(self) -> None:
        """Calls a function of the caller; an inert class makes an inert object."""
        called, arguments = self.pop(2)
        if isinstance(called, Inert):
            self.push(Inert(called.name))
        elif isinstance(called, _Function) and isinstance(arguments, tuple):
            self.push(called.call(*arguments))
        else:
            raise ValueError("it calls something that is no function")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


def _remember(machine: _Machine, number: int | None) -> None:
    machine.memo[len(machine.memo) if number is None else number] = machine.stack[-1]


# Opcode -> what it does, given its argument. All others are refused: INST and OBJ call, EXT looks up by number.
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_MARK),
    "POP": lambda machine, _: machine.pop(1),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, number: machine.push(machine.memo[number])),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": lambda machine, _: machine.push(_pairs(machine.since_mark())),
    "FROZENSET": lambda machine, _: machine.push(frozenset(machine.since_mark())),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.extend(machine.since_mark())),
    "SETITEM": lambda machine, _: machine.update(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "GLOBAL": lambda machine, name: machine.push(machine.find(name.replace(" ", "."))),
    "STACK_GLOBAL": lambda machine, _: machine.push(machine.find(".".join(machine.pop(2)))),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call()),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(*machine.pop(1))),
}
