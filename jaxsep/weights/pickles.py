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
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
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
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = max(i for i, value in enumerate(stack) if value is _MARK)
        values = stack[at + 1 :]
        del stack[at:]
        return values

    for opcode, argument, _ in pickletools.genops(stream):
        name, value = opcode.name, cast(Any, argument)
        if name in _LITERALS:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            (result,) = stack
            return result
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_SET":
            stack.append(set())
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "LIST":
            stack.append(since_mark())
        elif name == "DICT":
            stack.append(_pairs(since_mark()))
        elif name == "FROZENSET":
            stack.append(frozenset(since_mark()))
        elif name == "APPEND":
            values = [stack.pop()]
            _extend(stack[-1], values)
        elif name in ("APPENDS", "ADDITEMS"):
            values = since_mark()
            _extend(stack[-1], values)
        elif name == "SETITEM":
            pair = [stack.pop(), stack.pop()]
            _update(stack[-1], pair[::-1])
        elif name == "SETITEMS":
            values = since_mark()
            _update(stack[-1], values)
        elif name == "GLOBAL":
            stack.append(find(value.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(find(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            stack.append(_call(called, arguments))
        elif name == "BUILD":
            stack.pop()  # attributes of an object: nothing that weights are made of
            if not isinstance(stack[-1], dict | Inert):
                raise ValueError("it sets attributes of something that is no object")
        elif name == "BINPERSID":
            stack.append(persistent(stack.pop()))
        else:
            raise ValueError(f"opcode {name}")
    raise ValueError("it has no end")


def _call(called: Any, arguments: Any) -> Any:
    if isinstance(called, Inert):
        return Inert(called.name)
    if not isinstance(called, _Function) or not isinstance(arguments, tuple):
        raise ValueError("it calls something that is no function")
    return called.call(*arguments)


def _extend(container: Any, values: list[Any]) -> None:
    if isinstance(container, list):
        container.extend(values)
    elif isinstance(container, set):
        container.update(values)
    elif not isinstance(container, Inert):
        raise ValueError("it appends to something that is no list")


def _update(container: Any, values: list[Any]) -> None:
    if isinstance(container, dict):
        container.update(_pairs(values))
    elif not isinstance(container, Inert):
        raise ValueError("it sets items of something that is no dict")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))
