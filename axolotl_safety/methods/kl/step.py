"""Cross-entropy and forward KL from the same hidden states, as one step's loss of transformers' trainer.

Nothing of Axolotl is needed here, so that the loss can be run where only transformers and PEFT are.

With ``labels`` shifted by one (position t predicts token t + 1), the first position of ``labels`` and ``kl_mask`` falls
away. A predicted token is *trained* where its label is not -100, and *benign* where it is trained and its ``kl_mask``
is 1; rows of other dataset types have no mask and no benign tokens. The loss of an optimisation step is

    (sum of CE over C + weight * sum of KL(reference || policy) over benign tokens) / (number of trained tokens)

where C is the trained tokens that are not benign (``mode: replace``) or all trained tokens (``mode: add``). The number
of trained tokens is counted over the whole step: all micro-batches of the gradient accumulation and all ranks. Every
token thus weighs the same wherever it lands, and a step does not depend on how it is cut into micro-batches.

The logged ``kl`` and ``ce`` are nats per benign token and per token of C since the last log line, unweighted.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from axolotl_safety.data.types import IGNORE, KL_MASK
from axolotl_safety.util.errors import ConfigError

from .collator import KL_INDEX
from .loss import forward_ce
from .model import causal_model, check_logits, find_heads, hidden_states
from .reference import FrozenModel, Stored, top_k_entries
from .top_k import build_table

if TYPE_CHECKING:
    from axolotl_safety.config import KLConfig

LOG = logging.getLogger(__name__)
_NOT_FOR_THE_MODEL = ("labels", KL_MASK, KL_INDEX, "num_items_in_batch")


class ForwardKLLoss(Trainer):
    """The loss. Stands below AxolotlTrainer in the method order, so that its own bookkeeping stays around it."""

    settings: KLConfig

    def prepare_kl(self) -> None:
        """Refuse what cannot work and set up the reference; called once, before any step.

        Raises:
            ConfigError: the trainer's arguments do not go with the loss.
            ModelError: the model or its adapter does not.
        """
        self._check_arguments()
        inner = causal_model(self.model)
        if "logits_to_keep" not in inspect.signature(inner.forward).parameters:
            raise ConfigError(
                f"safety.kl: {type(inner).__name__} cannot be asked for its last logits alone (no logits_to_keep), so "
                "the loss's memory would not be bounded. Train this model without safety.kl."
            )
        columns = getattr(self.train_dataset, "column_names", None)
        if columns and KL_MASK not in columns:
            raise ConfigError(
                f"safety.kl: the training data has no {KL_MASK} column (it has {', '.join(columns)}), so nothing would "
                "be compared with the reference. Was it prepared without safety.kl? Run axolotl preprocess again."
            )
        find_heads(self.model)
        self._chunk_bytes = self.settings.chunk_mb * 2**20
        self._reference: FrozenModel | Stored | None = None
        if self.settings.reference != "top_k":  # the table needs the datasets and is made when they are used
            self._reference = FrozenModel(self.model, self.settings.reference, self._chunk_bytes)
        self._checked = False
        self._indexed: list[tuple[Any, Any]] = []  # datasets as given, and with the table's index
        self._sums: dict[str, Tensor] = {}
        # The step's token count, over shifted labels, must reach compute_loss for every model family.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = True
        name = self._reference.name if self._reference else f"top_k ({self.settings.k})"
        LOG.info("KL on benign tokens: %s, weight %g, reference: %s", self.settings.mode, self.settings.weight, name)

    def _check_arguments(self) -> None:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        faults = {
            "several GPUs in one process (DataParallel)": self.args.n_gpu > 1,
            "FSDP, which shards the output head": self.is_fsdp_enabled,
            "DeepSpeed ZeRO-3, which shards the output head": plugin is not None and plugin.zero_stage == 3,
            "torch_compile": self.args.torch_compile,
            "label smoothing": bool(self.args.label_smoothing_factor),
            "another loss function": self.compute_loss_func is not None,
        }
        for fault, present in faults.items():
            if present:
                raise ConfigError(
                    f"safety.kl does not work with {fault}. Train with one process per GPU under DDP or ZeRO-1/2 and "
                    "without that option, or without safety.kl."
                )

    def _store_top_k(self) -> None:
        """Make the table of a ``top_k`` reference, once, while the model is untouched."""
        if self._reference is not None:
            return
        names = [name for name in ("train_dataset", "eval_dataset") if getattr(self, name, None) is not None]

        def look(ids_1T: Tensor, positions_N: Tensor) -> Any:
            with self.accelerator.autocast():
                return top_k_entries(self.model, ids_1T, positions_N, self.settings.k, self._chunk_bytes)

        table, datasets = build_table([getattr(self, name) for name in names], look)
        for name, dataset in zip(names, datasets, strict=True):
            self._indexed.append((getattr(self, name), dataset))
            setattr(self, name, dataset)
        self._reference = Stored(table, self._chunk_bytes)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; a stored reference is taken first, before a checkpoint is loaded."""
        self._store_top_k()
        return super().train(*args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate; a stored reference is taken first where nothing was trained yet.

        ``axolotl evaluate`` hands over the very datasets that the trainer was built with.
        """
        self._store_top_k()
        known = next((indexed for given, indexed in self._indexed if given is eval_dataset), eval_dataset)
        return super().evaluate(known, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep our columns where the trainer drops those that the model does not know."""
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in (KL_MASK, KL_INDEX) if name not in self._signature_columns]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """One micro-batch's share of the step's loss; see the module's docstring."""
        targets_BT = inputs["labels"][:, 1:]
        trained_BT = targets_BT != IGNORE
        if KL_MASK not in inputs:
            raise ConfigError(
                "safety.kl: a batch came without kl_mask, so another plugin's collator stands in our place. List "
                "axolotl_safety.SafetyPlugin first, or remove safety.kl."
            )
        benign_BT = trained_BT & (inputs[KL_MASK][:, 1:] != 0)
        index_BT = inputs[KL_INDEX][:, 1:] if KL_INDEX in inputs else None
        if isinstance(self._reference, Stored) and index_BT is None:
            raise ConfigError("safety.kl.reference: top_k knows the trainer's own datasets only; set copy for others.")
        ce_BT = trained_BT & ~benign_BT if self.settings.mode == "replace" else trained_BT
        model_inputs = {key: value for key, value in inputs.items() if key not in _NOT_FOR_THE_MODEL}
        policy = self.accelerator.unwrap_model(model)

        # Before the policy's pass: an adapter must not be switched between that and the backward pass.
        divergence = None
        if benign_BT.any():
            with self.accelerator.autocast():
                divergence = self._reference.look(policy, model_inputs, benign_BT, index_BT)
        hidden_BTD, logits_B1V = hidden_states(model, causal_model(policy), model_inputs)
        head, _ = find_heads(policy)
        if not self._checked:
            check_logits(hidden_BTD, logits_B1V, head, type(causal_model(policy)).__name__)
            self._checked = True
        hidden_BTD = hidden_BTD[:, :-1]

        ce_sum = forward_ce(hidden_BTD[ce_BT], targets_BT[ce_BT], head, self._chunk_bytes) * ce_BT.sum()
        loss, kl_sum = ce_sum, torch.zeros_like(ce_sum)
        if divergence is not None:
            kl_sum = divergence(hidden_BTD[benign_BT], head) * benign_BT.sum()
            loss = loss + self.settings.weight * kl_sum
        self._add(model.training, ce_sum, ce_BT.sum(), kl_sum, benign_BT.sum())

        loss = loss / (trained_BT.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages over ranks what is a share of the whole
        return (loss, {"loss": loss}) if return_outputs else loss

    def _add(self, training: bool, *sums: Tensor) -> None:
        """Count what the next log line shows."""
        key, total = "train" if training else "eval", torch.stack([value.detach().float() for value in sums])
        self._sums[key] = self._sums[key] + total if key in self._sums else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add ``ce`` and ``kl`` (``eval_ce`` and ``eval_kl``) over all ranks since the last such line."""
        loss = next((name for name in logs if name == "loss" or name.endswith("_loss")), None)
        key, prefix = "train" if loss == "loss" else "eval", (loss or "").removesuffix("loss")
        if loss and key in self._sums:
            ce, ce_tokens, kl, benign = self.accelerator.reduce(self._sums.pop(key), "sum").tolist()
            if ce_tokens:
                logs[f"{prefix}ce"] = ce / ce_tokens
            if benign:
                logs[f"{prefix}kl"] = kl / benign
        super().log(logs, start_time)
