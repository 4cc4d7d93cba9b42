"""One model in several files: `model-00001-of-00003.safetensors` (or .bin) and an index that says what is where."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..contents import Claim, Contents
from ..faults import broken, guarded
from ..sources import read_json
from ..stored import Stored
from . import safetensors, torch_save

FORMAT = "sharded"

LARGEST_INDEX = 100_000_000  # bytes

_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<suffix>safetensors|bin)$")
_PLAIN_NAME = re.compile(r"^[^/\\\0]+\.(safetensors|bin)$")
_INDEX = re.compile(r"^(?P<stem>.+)\.(?P<suffix>safetensors|bin)\.index\.json$")


def claim(folder: Path, names: Sequence[str]) -> Iterator[Claim]:
    """Every set of shards, under its index where there is one, else under its first shard."""
    sets: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if match := _SHARD.match(name) or _INDEX.match(name):
            sets.setdefault((match["stem"], match["suffix"]), []).append(name)
    for (stem, suffix), files in sets.items():
        index = f"{stem}.{suffix}.index.json"
        alone = len(files) == 1 and (files != [index] or f"{stem}.{suffix}" in names)  # one file that needs no index
        if not alone:
            yield Claim(folder / (index if index in files else files[0]), tuple(folder / name for name in files))


def read(path: Path) -> Contents:
    """List the tensors of all shards."""
    with guarded(path, "reading the index of the shards"):
        wanted = _weight_map(path) if _INDEX.match(path.name) else None
        shards = sorted(set(wanted.values())) if wanted is not None else _siblings(path.name)
        tensors: dict[str, Stored] = {}
        skipped: dict[str, str] = {}
        reader = safetensors if shards[0].endswith(".safetensors") else torch_save
        for shard in shards:
            if not (path.parent / shard).is_file():
                raise broken(path, f"its shard {shard!r} is missing", "copy it there")
            contents = reader.read(path.parent / shard)
            skipped |= contents.skipped
            for name, stored in contents.tensors.items():
                if wanted is None or wanted.get(name) == shard:
                    tensors[name] = stored
                else:
                    skipped[name] = f"in {shard}, but not where the index says"
        lost = next((name for name in wanted or () if name not in tensors and name not in skipped), None)
        if lost is not None:
            raise broken(path, f"tensor {lost!r} is in none of the shards", "the index belongs to other shards")
        files = tuple(path.parent / shard for shard in shards)
        return Contents(f"{FORMAT} {reader.FORMAT}", tensors, skipped=skipped, files=files)


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor name → shard, every shard a plain file name beside the index."""
    index: Any = read_json(path, LARGEST_INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise broken(path, "has no weight_map", "it is not the index of a sharded model")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _PLAIN_NAME.match(shard):
            raise broken(path, f"names {str(shard)[:80]!r}, which is not a file beside it", "do not trust it")
    return weight_map


def _siblings(name: str) -> list[str]:
    match = _SHARD.match(name)
    assert match, name  # it was claimed by this pattern
    count = int(match["count"])
    return [f"{match['stem']}-{number:05d}-of-{count:05d}.{match['suffix']}" for number in range(1, count + 1)]
