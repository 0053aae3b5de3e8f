"""What devices say to each other in a compiled program, read from its text (optimised HLO)."""

import dataclasses
import math
import re

_BITS = {"pred": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16, "s64": 64, "u64": 64, "f64": 64}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast|ragged-all-to-all"
_LINE = re.compile(rf"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>.+?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices.

    Attributes:
      kind: as XLA names it, e.g. "all-reduce".
      arrays: ``(type, elements)`` of each array of its result on one device.
      participants: devices that take part together.
      hidden: instructions that run while it is under way; None for one that is waited for at once.
    """

    kind: str
    arrays: tuple[tuple[str, int], ...]
    participants: int
    hidden: int | None

    @property
    def num_bytes(self) -> int:
        """Of its result on one device."""
        return sum(_BITS.get(kind, 32) // 8 * size for kind, size in self.arrays)


def collectives(hlo: str) -> list[Collective]:
    """All collectives of a compiled program in the order of its text: ``jit(f).lower(...).compile().as_text()``."""
    lines, found = hlo.splitlines(), []
    for place, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        arrays = tuple(
            (kind, math.prod(map(int, filter(None, dims.split(","))))) for kind, dims in _ARRAY.findall(match["shape"])
        )
        hidden = None
        if match["start"]:
            hidden = _lines_until_done(lines[place + 1 :], match["name"])
            if match["kind"] == "all-gather":  # (all that is sent, all that is received)
                arrays = arrays[len(arrays) // 2 :]
            elif match["kind"] == "collective-permute":  # (what is sent, what is received, ...)
                arrays = arrays[1:2]
        found.append(Collective(match["kind"], arrays, _participants(line, hlo), hidden))
    return found


def num_donated(hlo: str) -> int:
    """Results of a compiled program that take the memory of an argument."""
    header = hlo.partition("\n")[0]
    aliases = re.search(r"input_output_alias=\{(.*?)\}, \w+=", header)
    return len(re.findall(r"(?:may|must)-alias", aliases[1])) if aliases else 0


def _lines_until_done(lines: list[str], name: str) -> int:
    for count, line in enumerate(lines):
        if re.search(rf"-done\(.*%?{re.escape(name)}\b", line):
            return count
    return 0


def _participants(line: str, hlo: str) -> int:
    """Size of the groups, in any of the forms in which XLA writes them."""
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", line):  # {{0,1},{2,3}}
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):  # [groups,size]<=[...]
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):  # mesh['a'=4,'b'=2] {'a'}
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        return math.prod(sizes[axis] for axis in re.findall(r"'(\w+)'", match[2]))
    if match := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return match[1].count("{")
    devices = re.search(r"num_partitions=(\d+)", hlo.partition("\n")[0])
    return int(devices[1]) if devices else 1
