"""Pickle streams from strangers: opcodes in, plain values and inert records out. Nothing is imported, nothing called.

`pickletools.genops` reads the opcodes; the machine below keeps the stack. A class or function that a stream names is a
`Global`, two strings. What a stream calls is looked up in a table of our own constructors (`constructors.py`); whatever
is not there becomes a `Record` that remembers name, arguments and state and can do nothing.
"""

from __future__ import annotations

import pickletools
import re
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from im2sp.train.convert.streams import CheckpointError, Limits, Stream


@dataclass(frozen=True)
class Global:
    """The name of a class or function that a pickle mentions."""

    module: str
    name: str

    def __str__(self) -> str:
        return re.sub(r"[^\w.]", "?", f"{self.module}.{self.name}"[:100])  # it goes into messages


@dataclass(eq=False, repr=False)
class Record:
    """Stands for an object whose class, or the result of a function, that we do not know."""

    kind: Global
    arguments: tuple[object, ...] = ()
    state: object = None
    elements: list[object] = field(default_factory=list)  # of a list or set
    entries: dict[object, object] = field(default_factory=dict)  # of a dict

    def attribute(self, name: str) -> object:
        """An attribute of the object as it was pickled; None where it has none of that name."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return next((part[name] for part in parts if isinstance(part, dict) and name in part), None)


class Unfinished(ABC):
    """What a constructor returns when the value is known only after the BUILD opcode that follows."""

    value: object = None  # after `build`

    @abstractmethod
    def build(self, state: object, stream: Stream) -> object:
        """Compute, keep and return the value; the stream stands behind the opcode."""


Constructor = Callable[..., object]  # called with the arguments that the pickle gives
PersistentLoad = Callable[[object], object]

# The machine could not run these if it wanted to. They are refused because no checkpoint needs them: who sends them
# means harm, and the user should know.
_HARMFUL = frozenset({
    "os", "posix", "nt", "sys", "subprocess", "commands", "pty", "importlib", "imp", "runpy", "code", "codeop",
    "ctypes", "_ctypes", "marshal", "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shutil", "socket",
    "webbrowser", "signal", "threading", "_thread", "multiprocessing", "asyncio", "concurrent", "pip", "ensurepip",
    "urllib", "http", "ftplib", "requests", "timeit", "pdb", "bdb", "trace", "profile", "cProfile", "doctest", "gc",
    "operator", "_operator", "pydoc", "site", "tempfile", "linecache", "zipimport",
})  # fmt: skip
_HARMLESS_BUILTINS = frozenset({
    "object", "set", "frozenset", "list", "tuple", "dict", "int", "long", "float", "complex", "bool", "str",
    "unicode", "bytes", "bytearray", "slice", "range", "type", "getattr", "NoneType", "Ellipsis",
})  # fmt: skip


def check_harmless(found: Global) -> Global:
    """Refuse names that only an attack would mention."""
    root = found.module.partition(".")[0]
    builtin = root in ("builtins", "__builtin__") and found.name not in _HARMLESS_BUILTINS
    if root in _HARMFUL or builtin:
        raise CheckpointError(f"asks to run {found}, which no checkpoint needs")
    return found


def load_pickle(
    stream: Stream,
    constructors: Mapping[Global, Constructor],
    limits: Limits,
    persistent_load: PersistentLoad | None = None,
) -> object:
    """The value of the pickle that starts where `stream` stands; the stream is left behind its last byte.

    Raises:
        CheckpointError: damaged, too large, hostile. The message lacks the subject: the caller names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools complains about odd escapes, which are the file's affair
            return _Machine(stream, constructors, limits, persistent_load).run()
    except MemoryError as error:
        raise CheckpointError("needs more memory than there is") from error
    except (
        ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError, struct.error
    ) as error:  # fmt: skip
        raise CheckpointError("is not a whole pickle") from error


class _Machine:
    """The stack, the memo and the marks of one pickle."""

    def __init__(
        self,
        stream: Stream,
        constructors: Mapping[Global, Constructor],
        limits: Limits,
        persistent_load: PersistentLoad | None,
    ) -> None:
        self._stream = stream
        self._constructors = constructors
        self._limits = limits
        self._persistent_load = persistent_load
        self._stack: list[object] = []
        self._marked: list[list[object]] = []  # stacks below a mark
        self._memo: dict[int, object] = {}
        self._copied = 0  # characters

    def run(self) -> object:
        for count, (name, argument) in enumerate(self._operations()):
            if count >= self._limits.operations:
                raise CheckpointError(f"has more than {self._limits.operations} pickle operations")
            if name == "STOP":
                return self._stack.pop()
            if name in _PUSH:
                self._stack.append(argument)
            elif name in _PUSH_NEW:
                self._stack.append(_PUSH_NEW[name]())
            elif name in _MEMO_GET:
                self._stack.append(_finished(self._memo[_index(argument)]))
            elif name in _MEMO_PUT:
                self._memo[_index(argument)] = self._stack[-1]
            elif name not in _IGNORE:
                self._step(name, argument)
        raise EOFError

    def _operations(self) -> Iterator[tuple[str, object]]:
        return ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(self._stream))  # type: ignore[arg-type]

    def _step(self, name: str, argument: object) -> None:
        handler = _HANDLERS.get(name)
        if handler is None:
            raise CheckpointError(f"uses the pickle operation {name}, which no checkpoint needs")
        handler(self, argument)

    def _pop_mark(self) -> list[object]:
        above = self._stack
        self._stack = self._marked.pop()
        return above

    def _mark(self, _: object) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _drop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _duplicate(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _drop_mark(self, _: object) -> None:
        self._pop_mark()

    def _list(self, _: object) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _tuple(self, _: object) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _short_tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        items = tuple(self._stack[-count:])
        self._stack[-count:] = [items]

    def _dict(self, _: object) -> None:
        items = self._pop_mark()
        self._stack.append(_set_items({}, items))

    def _frozenset(self, _: object) -> None:
        items = self._pop_mark()
        self._stack.append(frozenset(map(checked_key, items)))

    def _append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: object) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, set):
            target.update(map(checked_key, items))
            return
        target = target.elements if isinstance(target, Record) else target
        if not isinstance(target, list):
            raise TypeError
        target.extend(items)

    def _set_item(self, _: object) -> None:
        value = self._stack.pop()
        key = self._stack.pop()
        self._update([key, value])

    def _set_many(self, _: object) -> None:
        self._update(self._pop_mark())

    def _update(self, items: list[object]) -> None:
        target = self._stack[-1]
        target = target.entries if isinstance(target, Record) else target
        if not isinstance(target, dict):
            raise TypeError
        _set_items(target, items)

    def _global(self, argument: object) -> None:
        module, name = str(argument).split(" ", 1)
        self._stack.append(check_harmless(Global(module, name)))

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self._stack.append(check_harmless(Global(module, name)))

    def _call(self, function: object, arguments: object, keywords: object = None) -> None:
        """Our own constructor where there is one for that name, a record where there is none."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError
        self._spend(arguments)
        constructor = self._constructors.get(function)
        if constructor is None or keywords:
            self._stack.append(Record(function, arguments))
        else:
            self._stack.append(constructor(*arguments))

    def _spend(self, values: tuple[object, ...]) -> None:
        """Texts may be copied into arrays: as often as they stand in the stream, not as often as they are mentioned."""
        self._copied += sum(len(value) for value in values if isinstance(value, str))
        if self._copied > 2 * self._stream.size:
            raise CheckpointError("copies the same text over and over")

    def _reduce(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments)

    def _new_object_with_keywords(self, _: object) -> None:
        keywords, arguments, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._call(function, arguments, keywords)

    def _instance(self, argument: object) -> None:
        arguments = tuple(self._pop_mark())
        self._global(argument)
        self._call(self._stack.pop(), arguments)

    def _object(self, _: object) -> None:
        function, *arguments = self._pop_mark()
        self._call(function, tuple(arguments))

    def _build(self, _: object) -> None:
        """The state of an object: it finishes an unfinished one, is kept by a record and dropped by anything else."""
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, Global):
            raise TypeError
        elif isinstance(target, Unfinished):
            self._spend(state if isinstance(state, tuple) else ())
            self._stack[-1] = target.build(state, self._stream)

    def _persistent(self, argument: object) -> None:
        if self._persistent_load is None:
            raise CheckpointError("refers to data outside its pickle")
        self._stack.append(self._persistent_load(argument))

    def _binary_persistent(self, _: object) -> None:
        self._persistent(self._stack.pop())


_IGNORE = frozenset({"PROTO", "FRAME"})
_PUSH = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8",
})  # fmt: skip
_PUSH_NEW: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_MEMO_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MEMO_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_HANDLERS: dict[str, Callable[[_Machine, object], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_mark,
    "DUP": _Machine._duplicate,
    "MEMOIZE": _Machine._memoize,
    "LIST": _Machine._list,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "DICT": _Machine._dict,
    "FROZENSET": _Machine._frozenset,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "ADDITEMS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_many,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_object_with_keywords,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "PERSID": _Machine._persistent,
    "BINPERSID": _Machine._binary_persistent,
}


def _index(argument: object) -> int:
    if not isinstance(argument, int):
        raise TypeError
    return argument


def _finished(value: object) -> object:
    """A memo keeps what was put there before BUILD; later readers want what BUILD made of it."""
    return value.value if isinstance(value, Unfinished) and value.value is not None else value


def _set_items(target: dict[object, object], items: list[object]) -> dict[object, object]:
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[checked_key(key)] = value
    return target


def checked_key(key: object) -> object:
    """Keys that hash at once: nested tuples could take for ever, and large numbers can be made to collide."""
    for part in key if isinstance(key, tuple) else (key,):
        small = not isinstance(part, int) or abs(part) < 2**63
        if not (small and (part is None or isinstance(part, str | bytes | int | float | Global | Record))):
            raise TypeError
    return key
