"""The networks of "The Complexity Dynamics of Grokking" (arXiv 2412.09810) and a smaller one, as functions of weights.

Sizes, initialisation and constants are the paper's: vocabulary p + 2 (p is the operation, p + 1 the equals sign), width
128, 4 heads of 32, MLP of 512, post-LayerNorm blocks without a causal mask, biases everywhere. The positional table has
p + 2 rows of which four are ever read, as in the authors' code: dead weights, which a good measure prices at nothing.
One thing differs on purpose. The authors' attention sums the values over positions without the attention weights, so
their queries and keys never train; here attention is softmax(QKᵀ/√d)·V.

The third, `bilinear`, is a polynomial: a table for each operand, multiplied entry by entry, and an output table: a CP
decomposition of the p × p × p tensor of answers. It groks like the others (compare Gromov 2023, arXiv 2301.02679), in
seconds, and can become as small as its rule.

Only the logits after "=" are wanted, of sequences [a, op, b, =], so two things are skipped. The last block answers that
one position (with a single block its query is the same in every example). And the first block meets only 2p + 2
distinct (token, position) pairs, so these are projected once and looked up per example.
Every function takes the weights as a mapping, never copies them, and can be mapped over them with `torch.func.vmap`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

WIDTH = 128
HEADS = 4
EXPANSION = 4  # of the MLP in a block, and of the dense layers on four embeddings
MLP_LAYERS = 3
SEQUENCE = 4  # a, op, b, =
LAYER_NORM_EPS = 1e-6  # flax

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A network of modular arithmetic: the shapes of its weights, and logits from weights and operand pairs."""

    shapes: dict[str, tuple[int, ...]]
    logits: Callable[[Params, Tensor], Tensor]
    """(weights, pairs (n, 2) of int64 operands) -> (n, p + 2), bilinear: (n, p)"""

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh float32 weights as flax draws them: dense LeCun normal, embeddings of variance 1/width, biases zero."""
        return {name: _initial(name, shape, generator) for name, shape in self.shapes.items()}


def transformer(modulus: int, layers: int, width: int = WIDTH) -> Network:
    """The decoder; 242,547 weights for modulus 113 and one layer."""
    vocabulary = modulus + 2
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (vocabulary, width),
        "positional_embedding.weight": (vocabulary, width),
    }
    for layer in range(layers):
        block = f"layers.{layer}"
        for projection in ("query", "key", "value", "output"):
            shapes |= _dense(f"{block}.attention.{projection}", width, width)
        shapes |= _norm(f"{block}.attention_norm", width)
        hidden = EXPANSION * width
        shapes |= _dense(f"{block}.mlp.up", width, hidden) | _dense(f"{block}.mlp.down", hidden, width)
        shapes |= _norm(f"{block}.mlp_norm", width)
    shapes |= _dense("output", width, vocabulary)
    return Network(shapes, lambda params, pairs: _transformer_logits(params, pairs, modulus, layers))


def mlp(modulus: int, width: int = WIDTH) -> Network:
    """Four embeddings side by side, three dense layers (ReLU after the first two, as the authors have it), output."""
    vocabulary, hidden = modulus + 2, EXPANSION * width
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (vocabulary, width)}
    for layer in range(MLP_LAYERS):
        shapes |= _dense(f"layers.{layer}", hidden if layer else SEQUENCE * width, hidden)
    shapes |= _dense("output", hidden, vocabulary)
    return Network(shapes, lambda params, pairs: _mlp_logits(params, pairs, modulus))


def bilinear(modulus: int, width: int = WIDTH) -> Network:
    """Logits output · (left[a] ⊙ right[b]): no operation sign, no biases."""
    names = ("left_embedding", "right_embedding", "output")
    return Network({f"{name}.weight": (modulus, width) for name in names}, _bilinear_logits)


def build(architecture: str, modulus: int, layers: int, width: int = WIDTH) -> Network:
    """The network of that name in `ARCHITECTURES`; only the transformer has a number of `layers`."""
    if architecture == "transformer":
        return transformer(modulus, layers, width)
    return mlp(modulus, width) if architecture == "mlp" else bilinear(modulus, width)


ARCHITECTURES = ("transformer", "mlp", "bilinear")


def _dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    std = 1 / math.sqrt(shape[-1])  # fan in of a dense layer, width of an embedding
    if "embedding" in name:
        return torch.empty(shape).normal_(0, std, generator=generator)
    unit = 0.87962566103423978  # standard deviation of a standard normal cut at ±2
    return torch.nn.init.trunc_normal_(torch.empty(shape), 0, std / unit, -2 * std / unit, 2 * std / unit, generator)


def _linear(params: Params, name: str, x: Tensor) -> Tensor:
    return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])


def _layer_norm(params: Params, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], params[f"{name}.weight"], params[f"{name}.bias"], LAYER_NORM_EPS)


def _distinct_tokens(params: Params, modulus: int) -> Tensor:
    """The (2p + 2, width) rows that can stand at the first block: every a, op, every b, =."""
    token, position = params["embedding.weight"], params["positional_embedding.weight"]
    operands = token[:modulus]
    a, op = operands + position[0], (token[modulus] + position[1])[None]
    b, equals = operands + position[2], (token[modulus + 1] + position[3])[None]
    return torch.cat([a, op, b, equals])


def _rows(pairs: Tensor, modulus: int) -> Tensor:
    """For each pair (a, b) the four rows of `_distinct_tokens` that make its sequence: (n, 4)."""
    op = torch.full_like(pairs[:, 0], modulus)
    return torch.stack([pairs[:, 0], op, pairs[:, 1] + (modulus + 1), op + (modulus + 1)], dim=1)


def _transformer_logits(params: Params, pairs: Tensor, modulus: int, layers: int) -> Tensor:
    x = _first_block(params, _distinct_tokens(params, modulus), _rows(pairs, modulus), last_only=layers == 1)
    for layer in range(1, layers):
        x = _block(params, f"layers.{layer}", x, last_only=layer == layers - 1)
    return _linear(params, "output", x[:, -1])


def _first_block(params: Params, table: Tensor, rows: Tensor, *, last_only: bool) -> Tensor:
    """The block on distinct tokens, each projected once: table (r, width), rows (n, 4) -> (n, 1 or 4, width)."""
    key, value = _heads(params, "layers.0.attention.key", table), _heads(params, "layers.0.attention.value", table)
    if last_only:  # "=" asks the same question in every example
        query = _heads(params, "layers.0.attention.query", table[-1])
        scores = F.embedding(rows, (query * key).sum(-1))[:, None]
        x = table[-1]
    else:
        query = _heads(params, "layers.0.attention.query", table)
        scores_of_tokens = torch.einsum("qhd,khd->qkh", query, key).flatten(0, 1)
        scores = F.embedding(rows[:, :, None] * len(table) + rows[:, None, :], scores_of_tokens)
        x = F.embedding(rows, table)
    values = F.embedding(rows, value.flatten(1)).unflatten(-1, (HEADS, -1))
    return _after_attention(params, "layers.0", x, _attend(scores, values))


def _block(params: Params, block: str, x: Tensor, *, last_only: bool) -> Tensor:
    """A later block: (n, 4, width) -> (n, 1 or 4, width)."""
    key, value = _heads(params, f"{block}.attention.key", x), _heads(params, f"{block}.attention.value", x)
    if last_only:
        x = x[:, -1:]
    query = _heads(params, f"{block}.attention.query", x)
    scores = (query[:, :, None] * key[:, None]).sum(-1)
    return _after_attention(params, block, x, _attend(scores, value))


def _heads(params: Params, projection: str, x: Tensor) -> Tensor:
    """A query, key or value of every row of x, split into heads: (..., width) -> (..., heads, width/heads)."""
    return _linear(params, projection, x).unflatten(-1, (HEADS, -1))


def _attend(scores: Tensor, values: Tensor) -> Tensor:
    """softmax(scores / √d) · values: (n, queries, keys, heads), (n, keys, heads, d) -> (n, queries, width).

    Four keys are too few for a matrix product; multiply and add is five times faster on a CPU.
    """
    weights = (scores / math.sqrt(values.shape[-1])).softmax(2)
    return (weights[..., None] * values[:, None]).sum(2).flatten(-2)


def _after_attention(params: Params, block: str, x: Tensor, context: Tensor) -> Tensor:
    x = _layer_norm(params, f"{block}.attention_norm", x + _linear(params, f"{block}.attention.output", context))
    hidden = F.gelu(_linear(params, f"{block}.mlp.up", x), approximate="tanh")
    return _layer_norm(params, f"{block}.mlp_norm", x + _linear(params, f"{block}.mlp.down", hidden))


def _mlp_logits(params: Params, pairs: Tensor, modulus: int) -> Tensor:
    """The first layer sees four known places: it is applied to distinct tokens and its rows are added per example."""
    token, weight = params["embedding.weight"], params["layers.0.weight"]
    of_a, of_op, of_b, of_equals = weight.unflatten(1, (SEQUENCE, -1)).unbind(1)
    a, b = token[:modulus] @ of_a.T, token[:modulus] @ of_b.T
    same = token[modulus] @ of_op.T + token[modulus + 1] @ of_equals.T + params["layers.0.bias"]
    x = F.embedding(pairs[:, 0], a + same) + F.embedding(pairs[:, 1], b)
    for layer in range(1, MLP_LAYERS):
        x = _linear(params, f"layers.{layer}", F.relu(x))
    return _linear(params, "output", x)


def _bilinear_logits(params: Params, pairs: Tensor) -> Tensor:
    left, right = F.embedding(pairs[:, 0], params["left_embedding.weight"]), params["right_embedding.weight"]
    return left.mul(F.embedding(pairs[:, 1], right)) @ params["output.weight"].T
