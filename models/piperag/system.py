"""Binds PipeRAG to the contract: ``base`` is trained by the harness's loop, the other variants measure what it was trained to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.piperag.chunks.database import DatabaseBackend, TokenDatabase
from models.piperag.config import CATALOGUE, Serving, interval_of, num_parameters, schedule_of
from models.piperag.data import TrainingTexts, neighbours_of, store_of, texts_of
from models.piperag.quality import rate
from models.piperag.retro.chunked import num_read_windows
from models.piperag.retro.network import Retro, next_token_loss, token_losses
from models.piperag.scheduling.choosing import Fixed
from models.piperag.scheduling.schedule import Schedule
from models.piperag.types import Tokens
from models.stores import StoreSpec
from models.system import Batch, Context, Outcome, ParamGroup, PhasePlan, Point, TrainData, TrainedSystem

#: Held-out texts that are rated side by side.
TEXTS_AT_ONCE = 64


class PipeRag(TrainedSystem):
    """See :mod:`models.piperag.config`."""

    catalogue = CATALOGUE

    def stores(self, point: Point) -> Sequence[StoreSpec]:
        """The token database."""
        return [store_of(point)]

    def data_label(self, point: Point) -> str:
        """``generated``; the hashes of a user's files are part of the store's identity."""
        return "generated" if point.data.corpus == "walks" else store_of(point).identity

    def inputs(self, point: Point) -> Mapping[str, Mapping[str, Any]]:
        """The run that trained the model, whatever it is served like."""
        if point.variant == "base":
            return {}
        return {"base": {"variant": "base", "repeat": 0, "data.serving": asdict(Serving())}}

    def plan(self, point: Point) -> PhasePlan | None:
        """Serving holds weights and index; how long it takes is what is measured."""
        if point.variant == "base":
            return None
        params = num_parameters(point.model)
        return PhasePlan(params=params, bytes_per_rank=4 * params, notes=["a served point: its seconds are what it measures"])

    # The base -------------------------------------------------------------------------------------------------------------

    def build_model(self, point: Point) -> nn.Module:
        """The network."""
        return Retro(point.model)

    def example_batch(self, point: Point, batch_size: int) -> Batch:
        """Shapes of :class:`models.piperag.data.TrainingTexts`."""
        length, c, k = point.data.sequence_tokens, point.model.chunk_tokens, point.model.neighbours
        windows = num_read_windows(length, c, c)
        return {
            "tokens": torch.zeros(batch_size, length, dtype=torch.long),
            "neighbours": torch.zeros(batch_size, windows, k, 2 * c, dtype=torch.long),
        }

    def param_groups(self, point: Point, model: nn.Module) -> Sequence[ParamGroup]:
        """Decay for matrices alone."""
        decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        return [ParamGroup(name="matrices", params=decayed), ParamGroup(name="scales", params=plain, weight_decay=0.0)]

    def loss(self, point: Point, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross entropy of the next token, RETRO's interval of a chunk."""
        return next_token_loss(model(batch["tokens"], batch["neighbours"], point.model.chunk_tokens), batch["tokens"])

    def open_data(self, point: Point) -> TrainData:
        """Training texts with their neighbours."""
        return TrainingTexts(point)

    def evaluate(self, point: Point, model: nn.Module, context: Context) -> Outcome:
        """Perplexity of held-out texts with fresh neighbours and with none, teacher-forced; all ranks together."""
        database = TokenDatabase.open(store_of(point).folder(point.data_root))
        texts, (index, weight) = self._held_out(point), context.shard(self._num_held_out(point))
        losses: dict[str, list[np.ndarray[Any, Any]]] = {"fresh": [], "none": []}
        for begin in range(0, len(index), TEXTS_AT_ONCE):
            chosen = texts[index[begin : begin + TEXTS_AT_ONCE]]
            found = neighbours_of(database, chosen, k=point.model.neighbours, nprobe=point.data.training_nprobe)
            for name, neighbours in (("fresh", found), ("none", np.zeros_like(found))):
                with torch.no_grad():
                    tokens, values = (torch.from_numpy(array).to(context.device) for array in (chosen, neighbours))
                    logits = model(tokens, values, point.model.chunk_tokens)
                    loss, _ = token_losses(logits, tokens, first=point.model.chunk_tokens)
                losses[name].append(loss.double().mean(1).cpu().numpy())
        kept = context.all_gather(weight) > 0
        fresh, none = (context.all_gather(np.concatenate(losses[name]))[kept] for name in ("fresh", "none"))
        return Outcome(
            metrics={"perplexity": _perplexity(fresh), "loss": float(fresh.mean()), "none_perplexity": _perplexity(none)},
            samples={"loss": fresh, "none_loss": none},
        )

    # Served points --------------------------------------------------------------------------------------------------------

    def execute(self, point: Point, context: Context) -> Outcome:
        """Train the base, or rate what it was trained to under a schedule."""
        return super().execute(point, context) if point.variant == "base" else self._quality(point, context)

    def _quality(self, point: Point, context: Context) -> Outcome:
        with context.phase("load"):
            backend = DatabaseBackend(str(store_of(point).folder(point.data_root)))
            model = Retro(point.model)
            model.load_state_dict(dict(context.input_weights("base")))
        texts, (index, weight) = self._held_out(point), context.shard(self._num_held_out(point))
        schedule = Schedule(schedule_of(point), point.model.chunk_tokens, interval_of(point), point.data.sequence_tokens)
        losses, serving = [], point.data.serving
        with context.phase("evaluate"):
            for begin in range(0, len(index), TEXTS_AT_ONCE):
                trace = rate(
                    model,
                    backend,
                    texts[index[begin : begin + TEXTS_AT_ONCE]],
                    schedule,
                    Fixed(serving.nprobe),
                    k=point.model.neighbours,
                    shifted=serving.shifted,
                )
                losses.append(trace.losses[:, schedule.chunk :].mean(1))
                context.progress("evaluate", min(begin + TEXTS_AT_ONCE, len(index)), len(index))
        kept = context.all_gather(weight) > 0
        loss = context.all_gather(np.concatenate(losses))[kept]
        return Outcome(
            metrics={
                "perplexity": _perplexity(loss),
                "loss": float(loss.mean()),
                "retrievals": float(len(schedule.retrievals)),
            },
            samples={"loss": loss},
        )

    def _num_held_out(self, point: Point) -> int:
        texts = texts_of(point, "eval").num_documents
        return min(point.data.serving.texts or texts, texts)

    def _held_out(self, point: Point) -> Tokens:
        return texts_of(point, "eval").take(range(self._num_held_out(point)))


def _perplexity(loss: np.ndarray[Any, Any]) -> float:
    return float(np.exp(loss.mean()))


SYSTEM = PipeRag()
