"""Memory of a compiled XLA program, as its text says."""

import re
from typing import NamedTuple

import numpy as np

_BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1, "pred": 1}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<shape>\((?:[^=]|index=)*?\)|\S+) (?P<opcode>[\w-]+)\(",
    re.MULTILINE,
)
_HEADER = re.compile(r"(ENTRY )?%([\w.-]+)\b.*\{$")
_NAME = re.compile(r"%([\w.-]+)")
# Instruction that runs another computation -> the attribute that names it.
_CALLS = {"call": "to_apply", "while": "body", "async-start": "calls"}
# Instructions that only name memory which others have written.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")


class _Instruction(NamedTuple):
    shape: str
    opcode: str
    operands: list[str]
    line: str


def num_bytes(shape: str) -> int:
    """Returns the bytes of an array or a tuple of arrays, such as "(f32[16,3]{1,0}, s32[])"."""
    return sum(
        _BYTES.get(dtype, 0) * int(np.prod([int(size) for size in dims.split(",") if size]))
        for dtype, dims in ARRAY.findall(shape)
    )


def bytes_moved(text: str) -> int:
    """Returns the bytes that the kernels of a program read and write, if no cache helps.

    Each kernel reads its operands and writes its results once, and a loop runs once. Unlike XLA's
    analysis this counts the kernels of libraries, too, but not their scratch memory.

    Args:
      text: of the compiled program, from `Compiled.as_text`.
    """
    computations, entry, name = {}, "", ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = header[2]
            computations[name] = {}
            entry = name if header[1] else entry
        elif found := INSTRUCTION.match(line):
            operands = _NAME.findall(line[found.end() :].partition("), ")[0])
            computations[name][found["name"]] = _Instruction(
                found["shape"], found["opcode"], operands, line
            )
    return _moved(computations, entry)


def _moved(computations: dict[str, dict[str, _Instruction]], name: str) -> int:
    instructions, total = computations[name], 0
    for shape, opcode, operands, line in instructions.values():
        if opcode in _CALLS:
            called = re.search(rf"\b{_CALLS[opcode]}=%([\w.-]+)", line)
            total += _moved(computations, called[1]) if called else 0
        elif opcode not in _FREE and not opcode.endswith("-done"):
            scratch = opcode == "custom-call" and shape.startswith("(")
            total += num_bytes(re.sub(r"\bu8\[\d+\]", "", shape) if scratch else shape)
            total += sum(num_bytes(instructions[x].shape) for x in operands if x in instructions)
    return total
