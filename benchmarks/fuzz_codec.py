"""Hostile .kolmo files: whatever the bytes, `decode` gives weights or one CodecError, soon and in little memory.

    python benchmarks/fuzz_codec.py [--minutes 10] [--seed 0]
    python benchmarks/fuzz_codec.py --atheris [libFuzzer options]      (pip install atheris: guided by coverage)

Prints what was tried, what came of it, the slowest input and the memory at its peak. An input that raises anything but
CodecError, or takes longer than a minute, ends the run and is left in fuzz-failure.kolmo.
"""

import argparse
import faulthandler
import re
import resource
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import zstandard
from kolmogram.engine.codec import container, header, plain, tensors
from kolmogram.engine.codec.coders import Coder
from kolmogram.engine.codec.container import MAGIC, VERSION, Entry, decode, encode, exact_code
from kolmogram.engine.codec.header import DTYPES, Signature, pack, varint
from kolmogram.engine.codec.representation import IDENTITY, ZERO, Basis, BasisKind, Kind, Representation
from kolmogram.engine.errors import CodecError

MAX_WEIGHTS = 1 << 18
PATIENCE = 60.0  # seconds for one input
FAILURE = Path("fuzz-failure.kolmo")


def seeds() -> list[bytes]:
    """Valid files of every coder, with every kind of tensor and basis."""
    rng = np.random.default_rng(0)

    def symbols(*shape: int, scale: float = 1.0) -> np.ndarray:
        return np.rint(rng.laplace(scale=scale, size=shape)).astype(np.int64)

    fourier, inherited = Basis(BasisKind.FOURIER, 17), Basis(BasisKind.INHERITED, 0, 1)
    codes = [
        ((20, 12), Representation(Kind.DIRECT, -20, 0, (fourier, IDENTITY), True, symbols(20, 12))),
        ((30, 12), Representation(Kind.FACTORS, 5, 0, (IDENTITY, inherited), False, symbols(42, 3, scale=4.0))),
        ((12, 9), Representation(Kind.DIRECT, 0, 0, (inherited, IDENTITY), False, symbols(12, 9, scale=1e4))),
        ((12,), Representation(Kind.DIRECT, -40, 32, symbols=symbols(12, 1))),
        ((300, 70), ZERO),
        ((0, 3), ZERO),
        ((2,), exact_code(torch.tensor([7, -1]))),
    ]
    types = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float32, torch.float32, torch.int64]
    entries = [Entry(Signature(f"t{k}", *pair[:1], types[k]), pair[1]) for k, pair in enumerate(codes)]
    return [encode(entries, coder=coder).data for coder in Coder]


def sealed(first: int, body: bytes) -> bytes:
    """A file whose checksum fits."""
    return MAGIC + bytes([first]) + zlib.crc32(body).to_bytes(4, "big") + body


def mutated(rng: np.random.Generator, seed: bytes) -> bytes:
    """A valid file with bytes changed, cut out, doubled or put in."""
    body = bytearray(seed[8:])
    for _ in range(int(rng.integers(1, 6))):
        at, length = int(rng.integers(len(body) + 1)), int(rng.integers(1, 9))
        match int(rng.integers(5)):
            case 0 if at < len(body):
                body[at] ^= 1 << int(rng.integers(8))
            case 1:
                body[at : at + length] = rng.bytes(length)
            case 2:
                del body[at : at + length]
            case 3:
                body[at:at] = body[at : at + length]
            case _:
                body[at:at] = bytes([int(rng.choice([0, 255]))]) * length
    return sealed(seed[3], bytes(body))


def invented(rng: np.random.Generator) -> bytes:
    """A good header of absurd tensors over a random stream."""
    sizes = (0, 1, 2, 3, 17, 300, 1024, 1025, 1 << 20, 1 << 40, 1 << 56)
    weights = np.array([0.3, 4, 4, 4, 4, 2, 2, 1, 0.02, 0.02, 0.02])
    signatures = [
        Signature(
            f"t{k}" if rng.random() < 0.99 else "t0",
            tuple(int(size) for size in rng.choice(sizes, int(rng.integers(0, 4)), p=weights / weights.sum())),
            DTYPES[int(rng.integers(len(DTYPES)))],
        )
        for k in range(int(rng.integers(1, 30)))
    ]
    names = pack(signatures)
    stream = rng.bytes(int(rng.integers(0, 400)))
    if rng.random() < 0.5:  # biased bits go deeper: they are what the models expect
        stream = bytes(np.frombuffer(stream, np.uint8) & np.frombuffer(rng.bytes(len(stream)), np.uint8))
    coder = int(rng.integers(4))
    if coder and rng.random() < 0.8:
        share = int(rng.integers(0, len(stream) // 4 + 1)) * 4
        stream = varint(share) + stream
    exact = zstandard.compress(rng.bytes(int(rng.integers(0, 5000)))) if rng.random() < 0.8 else b""
    parts = (varint(len(names)), names, varint(len(exact)), exact, stream)
    return sealed(coder << 5 | VERSION, b"".join(parts))


def attack(data: bytes, max_weights: int | None) -> str:
    """Decode one input; what became of it."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    FAILURE.write_bytes(data)
    try:
        found = decode(data, max_weights)
    except CodecError as error:
        return "refused: " + re.sub(r"'t\d+'|[\d,]+", "…", str(error))[:100]
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert all(isinstance(value, torch.Tensor) for value in found.values())
    return "decoded"


def guided() -> None:
    """libFuzzer on the body of a file."""
    import atheris  # pyright: ignore[reportMissingImports]

    parts = (container._tensors, container._open, header.unpack, tensors.code_tensor, tensors._code_basis)
    for function in (*parts, plain.AnsStream.matrix, plain.AnsStream._part, plain.BytesStream.matrix):
        atheris.instrument_func(function)  # these alone: compiled functions must stay as they are
    corpus = Path("fuzz-corpus")
    corpus.mkdir(exist_ok=True)
    for k, seed in enumerate(seeds()):
        (corpus / f"seed{k}").write_bytes(seed[3:4] + seed[8:])

    def one_input(data: bytes) -> None:
        if data:
            attack(sealed(data[0], data[1:]), MAX_WEIGHTS)

    atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], one_input)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, known, outcomes = np.random.default_rng(options.seed), seeds(), Counter[str]()
    for seed in known:
        decode(seed)  # compile before memory and time are watched
    before, began, slowest = peak(), time.perf_counter(), 0.0
    while time.perf_counter() - began < 60 * options.minutes:
        kind = rng.random()
        data = invented(rng) if kind < 0.5 else mutated(rng, known[int(rng.integers(len(known)))])
        start = time.perf_counter()
        outcomes[attack(data, None if rng.random() < 0.02 else MAX_WEIGHTS)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    FAILURE.unlink()
    for outcome, count in outcomes.most_common():
        print(f"{count:9,d}  {outcome}")
    print(
        f"{outcomes.total():,} files; slowest {slowest:.2f} s; memory at most {peak() - before:.0f} MB above the start"
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    guided() if "--atheris" in sys.argv[1:2] else main()
