"""A Hugging Face causal language model on a text file: mean nats per token.

The architecture comes from the run's own config.json, the tokens from its tokenizer (a model with a vocabulary of 256
and no tokenizer reads bytes). transformers is imported when the task is made; nothing is downloaded, and no code that
came with the checkpoint is run.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from ..checkpoints.location import local
from ..errors import TaskError
from .labels import drawn_labels
from .task import Task, check_module_names

if TYPE_CHECKING:
    from ..checkpoints import Run

_MAX_TOKENS = 16_384  # the loss is a mean; this many tokens fix it to about 0.02 nats and keep an evaluation affordable
_MAX_BLOCK = 512
_BYTES = 256

_CONFIG_FILES = ("*.json", "merges.txt", "vocab.txt", "*.model")  # of a model's config and tokenizer


class CausalLMTask(Task):
    """Next-token loss on consecutive blocks of a text.

    Tokens of one text depend on one another: there are description lengths of it, but no generalisation bounds.
    `tokens` (blocks, block length) int64; every block predicts its tokens 2..end, so `num_examples` counts those.
    """

    exchangeable = False

    def __init__(self, model: nn.Module, tokens: Tensor, *, batch_size: int = 8) -> None:
        self.device = tokens.device
        self._model = model.to(self.device).eval()
        self._tokens = tokens
        self._batch_size = batch_size
        self.num_examples = tokens[:, 1:].numel()
        self.num_classes = int(model.config.vocab_size)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    @classmethod
    def from_run(cls, run: "Run", text: str, device: torch.device | str = "cpu") -> "CausalLMTask":
        """The task of a run whose folder, or whose first checkpoint's folder, holds a transformers config.json."""
        if not text:
            raise TaskError("task causal-lm needs a text: write causal-lm:FILE.txt")
        path = Path(text)
        if not path.is_file():
            raise TaskError(f"{path}: no such text file for the causal-lm task")
        try:
            import transformers
        except ImportError:
            raise TaskError("task causal-lm needs transformers; install kolmogram[hf]") from None
        named = _config_folder(run)
        with local(named, *_CONFIG_FILES) as folder:
            try:
                config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            except (OSError, ValueError, KeyError) as error:
                raise TaskError(f"{named}/config.json: {' '.join(str(error).split())[:300]}") from error
            tokens = _tokenize(folder, path, int(config.vocab_size))
        limit = getattr(config, "max_position_embeddings", None) or _MAX_BLOCK
        block = min(limit, _MAX_BLOCK, len(tokens))
        if block < 2:
            raise TaskError(f"{path}: {len(tokens)} tokens are too few for a next-token loss")
        blocks = tokens[: len(tokens) // block * block].view(-1, block)
        return cls(model, blocks.to(device))

    def loss(self, params: Mapping[str, Tensor]) -> Tensor:
        return self.per_example_loss(params).mean()

    def per_example_loss(self, params: Mapping[str, Tensor]) -> Tensor:
        """(num_examples,) nats, one per predicted token, block after block."""
        return torch.cat([_nll(logits, targets) for logits, targets in self._predictions(params)])

    def sampled_loss(self, params: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """(num_examples,) nats of tokens drawn from the model's own predictions."""
        losses = []
        for logits, _ in self._predictions(params):
            losses.append(_nll(logits, drawn_labels(logits.flatten(0, 1), generator).view(logits.shape[:2])))
        return torch.cat(losses)

    @torch.no_grad()
    def error_rate(self, params: Mapping[str, Tensor]) -> float:
        """Share of tokens that the model would not have chosen."""
        wrong = sum((logits.argmax(-1) != targets).sum().item() for logits, targets in self._predictions(params))
        return wrong / self._tokens[:, 1:].numel()

    def _predictions(self, params: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """(batch, length − 1, vocabulary) float32 logits and their (batch, length − 1) targets."""
        check_module_names(self._model, params)
        weights: dict[str, Any] = dict(params)
        for batch in self._tokens.split(self._batch_size):
            output = functional_call(self._model, weights, kwargs={"input_ids": batch, "use_cache": False})
            yield output.logits[:, :-1].float(), batch[:, 1:]


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")


def _config_folder(run: "Run") -> Path:
    """The folder whose config.json names a transformers model type."""
    if run.config and "model_type" in run.config:
        return run.folder
    for checkpoint in run:
        for folder in (checkpoint.path, checkpoint.path.parent):
            if (folder / "config.json").is_file():
                return folder
    raise TaskError(f"{run.path}: no transformers config.json in the run or beside its checkpoints")


def _tokenize(folder: Path, text: Path, vocabulary: int) -> Tensor:
    """The first tokens of the file, (n,) int64."""
    import transformers

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        if vocabulary != _BYTES:
            raise TaskError(f"{folder}: no tokenizer beside config.json; copy tokenizer.json there")
        return torch.tensor(list(text.read_bytes()[:_MAX_TOKENS]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    read = text.read_text(encoding="utf-8", errors="replace")[: 16 * _MAX_TOKENS]
    return torch.tensor(tokenizer(read)["input_ids"][:_MAX_TOKENS])
