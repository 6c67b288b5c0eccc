"""Dependence of samples on the worker that makes them: by the script's `worker_init_fn`, or by code that reads it."""

from __future__ import annotations

import dis
import multiprocessing
import os
from types import CodeType, FunctionType
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from plumb.core.printable import printable
from plumb.instrument.byte_code import names_in, with_inner
from plumb.instrument.callee import is_user_file
from plumb.instrument.dataset_facts import functions_of
from plumb.instrument.worker_init import users_init
from plumb.instrument.worker_init_effects import place_of_effect

_READS = frozenset(("get_worker_info", "_worker_info", "worker_info", "current_process", "parent_process"))
_PROCESS = "getpid"
# A function may have another name in the user's module.
_KNOWN: tuple[tuple[Any, str], ...] = (
    (get_worker_info, "get_worker_info"),
    (multiprocessing.current_process, "current_process"),
    (multiprocessing.parent_process, "parent_process"),
    (os.getpid, _PROCESS),
)
_COMPARES = ("COMPARE_OP", "IS_OP", "CONTAINS_OP")


def why_worker_matters(loader: Any) -> str | None:
    """Return how a map-style loader's samples may depend on which worker makes them; None if they do not.

    The sentence names the function and its line. In doubt they do.
    """
    if isinstance(loader.dataset, IterableDataset):
        return None
    init = users_init(loader.worker_init_fn)
    place = None if init is None else place_of_effect(init)
    if place is not None:
        return f"your worker_init_fn does more than seed generators ({place}), so each worker makes samples of its own"
    try:
        functions = functions_of({"dataset": loader.dataset, "collate_fn": loader.collate_fn})
    except Exception:
        return None
    found = next((found for found in map(_read_in, functions) if found is not None), None)
    return None if found is None else f"{found}, so a sample may depend on the worker that makes it"


def _read_in(function: FunctionType) -> str | None:
    """Return which name of a worker's identity a function reads, and where; None if it reads none."""
    code = function.__code__
    if not is_user_file(code.co_filename):
        return None
    names = names_in(code)
    meant = {name: name for name in names.attributes & (_READS | {_PROCESS})}
    for name in names.module_level:
        value = function.__globals__.get(name)
        meant.update((name, known) for each, known in _KNOWN if each is value)
    for name, known in meant.items():
        if known != _PROCESS or not all(_only_guards(inner, name) for inner in with_inner(code)):
            where = f"{printable(os.path.basename(code.co_filename))}:{_line(code, name)}"
            return f"{function.__qualname__} ({where}) reads {known}"
    return None


def _line(code: CodeType, name: str) -> int:
    for inner in with_inner(code):
        line = inner.co_firstlineno
        for instruction in dis.get_instructions(inner):
            line = _started(instruction) or line
            if instruction.argval == name:
                return line
    return code.co_firstlineno


def _started(instruction: dis.Instruction) -> int | None:
    """Return the line that begins with an instruction; Python 3.13 has another attribute for it."""
    line = getattr(instruction, "line_number", instruction.starts_line)
    return line if type(line) is int else None


def _only_guards(code: CodeType, name: str) -> bool:
    """Return whether the process's number is only compared, and stored in an attribute to be compared later.

    So a dataset opens its files anew in each process.
    """
    instructions = [each for each in dis.get_instructions(code) if each.opname not in ("CACHE", "NOP", "PRECALL")]
    stored: set[str] = set()
    for place, instruction in enumerate(instructions):
        if instruction.argval == name and instruction.opname.startswith("LOAD"):
            call = next((i for i in range(place, len(instructions)) if instructions[i].opname.startswith("CALL")), None)
            if call is None or not _is_compared(instructions, call, stored):
                return False
    for place, instruction in enumerate(instructions):
        is_read = instruction.opname.startswith("LOAD") and instruction.argval in stored
        if is_read and not _is_compared(instructions, place, stored):
            return False
    return True


def _is_compared(instructions: list[dis.Instruction], place: int, stored: set[str]) -> bool:
    """Return whether the value that an instruction pushes is compared, or stored under a name that is put in `stored`.

    Follows the value on the stack, below what other expressions push and pop there.
    """
    above = 0
    for later in instructions[place + 1 :]:
        name, count = later.opname, later.arg or 0
        if name in _COMPARES:
            return above <= 1
        if name in ("STORE_ATTR", "STORE_FAST") and above == (name == "STORE_ATTR"):
            stored.add(later.argval)
            return True
        if name.startswith("STORE") and above >= -dis.stack_effect(later.opcode, later.arg):
            # What lies above it is stored.
            above += dis.stack_effect(later.opcode, later.arg)
        elif name == "SWAP" and above in (0, count - 1):
            above = count - 1 - above
        elif name == "ROT_TWO" and above <= 1:
            above = 1 - above
        elif name in ("CALL", "CALL_METHOD", "CALL_FUNCTION"):
            above -= count + (name != "CALL_FUNCTION")
            if above < 1:
                return False
        elif name.startswith("UNARY") or name in ("LOAD_ATTR", "LOAD_METHOD"):
            if above < 1:
                return False
            above += dis.stack_effect(later.opcode, later.arg)
        elif name.startswith("LOAD") or name == "PUSH_NULL":
            above += dis.stack_effect(later.opcode, later.arg)
        else:
            return False
    return False
