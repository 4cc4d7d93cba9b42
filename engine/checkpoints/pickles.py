"""Reading a pickle as data: its opcodes are interpreted here, and none of them imports or calls anything.

Python's own unpickler builds objects by calling whatever the file names, and an allow-list (torch's `weights_only`)
refuses every checkpoint that also keeps its hyper-parameters. Here a class or function is only its name, an object only
the arguments it would have been made from, so any checkpoint can be read and no file can act.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

# Nothing in a checkpoint has a reason to name these. Reading on would be safe; the user should know what the file is.
_RUNS_CODE = {
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "pty",
    "shutil",
    "socket",
    "runpy",
    "importlib",
    "ctypes",
    "code",
}
_OPENS_OR_EVALUATES = {"eval", "exec", "execfile", "compile", "open", "input", "breakpoint", "__import__"}


class WouldRunCodeError(Exception):
    """The pickle names a function that exists to run code; the message is the function's name."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function by name, never imported."""

    name: str


class Unknown(dict):
    """An object of a class that is not imported: its entries, if it is a kind of dict, and what it was made from."""

    def __init__(self, kind: str, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.kind = kind
        self.args = args
        self.state: Any = None


def plain_key(key: Any) -> Any:
    """Only what has names matters, so only plain keys are kept, as text; None for any other."""
    return str(key) if isinstance(key, str | int) else None


def load(
    stream: IO[bytes],
    call: Callable[[str, tuple[Any, ...]], Any],
    persistent: Callable[[Any], Any],
    key: Callable[[Any], Any] = plain_key,
) -> Any:
    """The next pickle in `stream` as plain data.

    `call(name, args)` says what a call of the named global stands for, or NotImplemented, which makes it an Unknown;
    `persistent(id)` says what a persistent id stands for; `key(key)` under what an item of a dict is kept, if at all.
    """
    machine = _Machine(call, persistent, key)
    for opcode, argument, _ in pickletools.genops(stream):
        machine.execute(opcode.name, argument)
    return machine.stack.pop()


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack machine that a pickle is a program for."""

    def __init__(
        self,
        call: Callable[[str, tuple[Any, ...]], Any],
        persistent: Callable[[Any], Any],
        key: Callable[[Any], Any],
    ) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.call = call
        self.persistent = persistent
        self.key = key

    def execute(self, opcode: str, argument: Any) -> None:
        """Apply one opcode; grouped as in `pickletools`, the frequent ones first."""
        push, pop = self.stack.append, self.stack.pop
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                push(self.memo[argument])
            case "MARK":
                self.marks.append(len(self.stack))
            case _ if opcode in _CONSTANTS:
                push(_CONSTANTS[opcode])
            case _ if opcode in _CONTAINERS:
                push(_CONTAINERS[opcode]())
            case _ if opcode in _TUPLES:
                push(tuple(self._top(_TUPLES[opcode])))
            case "TUPLE":
                push(tuple(self._since_mark()))
            case "LIST" | "FROZENSET":
                push(self._since_mark())
            case "DICT":
                push(self._filled({}, self._since_mark()))
            case "SETITEM":
                pairs = self._top(2)
                self._filled(self.stack[-1], pairs)
            case "SETITEMS":
                pairs = self._since_mark()
                self._filled(self.stack[-1], pairs)
            case "APPEND":
                _extended(self.stack[-2], self._top(1))
            case "APPENDS" | "ADDITEMS":
                items = self._since_mark()
                _extended(self.stack[-1], items)
            case "GLOBAL":
                push(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                push(_named(*self._top(2)))
            case "REDUCE" | "NEWOBJ":
                push(self._called(*self._top(2)))
            case "NEWOBJ_EX":
                push(self._called(*self._top(3)[:2]))
            case "OBJ":
                function, *arguments = self._since_mark()
                push(self._called(function, tuple(arguments)))
            case "INST":
                push(self._called(_named(*argument.split(" ", 1)), tuple(self._since_mark())))
            case "BUILD":
                state = pop()
                if isinstance(self.stack[-1], Unknown):
                    self.stack[-1].state = state
            case "BINPERSID":
                push(self.persistent(pop()))
            case "PERSID":
                push(self.persistent(argument))
            case "EXT1" | "EXT2" | "EXT4":
                push(Unknown("an extension type", (argument,)))
            case "POP":
                if self.marks and self.marks[-1] == len(self.stack):
                    self.marks.pop()
                else:
                    pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                push(self.stack[-1])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NEXT_BUFFER" | "READONLY_BUFFER":
                raise ValueError("out-of-band buffers are not in the file")
            case _:  # what is left are the literals, which genops has parsed
                push(argument)

    def _top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the pickle's stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _filled(self, target: Any, pairs: list[Any]) -> Any:
        """`target` with alternating keys and values put in."""
        if isinstance(target, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                if (kept := self.key(key)) is not None:
                    target[kept] = value
        return target

    def _called(self, function: Any, arguments: Any) -> Any:
        arguments = arguments if isinstance(arguments, tuple) else ()
        name = function.name if isinstance(function, Global) else "an object"
        result = self.call(name, arguments)
        return Unknown(name, arguments) if result is NotImplemented else result


def _named(module: Any, name: Any) -> Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a class or function without a name")
    package = module.partition(".")[0]
    if package in _RUNS_CODE or (package in {"builtins", "__builtin__", "io", "_io"} and name in _OPENS_OR_EVALUATES):
        raise WouldRunCodeError(f"{module}.{name}"[:100])
    return Global(f"{module}.{name}")


def _extended(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
