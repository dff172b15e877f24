"""The trainer's callback: judges at steps that are due, keeps the history in the trainer's log, and ends training.

Every rank decodes its part of the prompts on its own copy of the model; what they said is gathered, and what rank 0
makes of it holds for all. The history stands in the trainer's log, so that every checkpoint has it.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy

from axolotl_safety.config.stop import StopConfig
from axolotl_safety.data.development import Development
from axolotl_safety.data.refusal.detector import is_refusal
from axolotl_safety.data.tokenizer import TargetTokenizer, take_apart
from axolotl_safety.methods.checks import loops
from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.files import write_atomically

from .decode import greedy, room, undisturbed
from .rule import SHARE, Answer, Judgement, history, judge, next_due, passes, said, verdict

LOG = logging.getLogger(__name__)


class StopWhenEnough(TrainerCallback):
    """Ends training at the first step whose development prompts are refused and answered as they should be."""

    def __init__(self, trainer: Any, stop: StopConfig, development: Development, tokens: TargetTokenizer, *told: Path):
        """Remember what to judge by; nothing is asked yet.

        Args:
            trainer: whose model is judged.
            stop: the limits.
            development: the prompts.
            tokens: the tokenizer that the model is trained with.
            *told: where to write how it went.
        """
        self._trainer, self._stop, self._development = trainer, stop, development
        self._tokens, self._told = tokens, told
        self._prompts: dict[str, list[tuple[int, ...]]] = defaultdict(list)
        for prompt in development.prompts:
            self._prompts[prompt.label].append(prompt.prompt_ids)
        self._found: list[Judgement] = []
        self._due = self._every = stop.every
        self._began = self._spent = 0.0
        self._first = 0

    @property
    def _main(self) -> bool:
        return self._trainer.accelerator.is_main_process

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up the history of the checkpoint that training goes on from, and say what judging costs at most.

        Raises:
            ConfigError: that checkpoint had passed, or no completion fits behind the prompts.
        """
        self._fit()
        stop = self._stop
        self._found = history(state.log_history)
        if self._found and passes(self._found[-1], stop) and self._found[-1].step == state.global_step:
            raise ConfigError(
                f"safety.stop: the checkpoint of step {state.global_step} that training would go on from has passed: "
                f"{said(self._found[-1], stop)}. It is the result. To train on, remove safety.stop or raise its limits."
            )
        self._due = self._found[-1].due if self._found else stop.every
        self._began, self._spent, self._first = time.perf_counter(), 0.0, state.global_step
        if self._main:
            counts = {label: len(found) for label, found in self._prompts.items()}
            times = -(-(state.max_steps - state.global_step) // stop.every)
            benign = counts.get("benign", 0)
            LOG.info(
                "safety.stop: training ends when at least %g %% of %d harmful%s development prompts are refused; "
                "judged every %d steps, at most %d times with at most %d tokens each, and less often where that would "
                "take more than %d %% of training time",
                *(stop.refusal, counts["harmful"]),
                f" and at most {stop.over_refusal:g} % of {benign} benign" if benign else "",
                *(stop.every, times, sum(counts.values()) * stop.max_new_tokens, round(100 * SHARE)),
            )
            if self._found:
                LOG.info(
                    "safety.stop: going on from step %d with %d judgements made before, the last: %s",
                    *(state.global_step, len(self._found), said(self._found[-1], stop)),
                )

    def _fit(self) -> None:
        """Keep completions within the model's window: behind it, positions that are looked up end in an error."""
        prompts = [ids for found in self._prompts.values() for ids in found]
        longest, left = max(map(len, prompts)), room(self._model(), prompts)
        if left is None or left >= self._stop.max_new_tokens:
            return
        if left < 1:
            raise ConfigError(
                f"safety.stop: a development prompt has {longest} tokens, and the model's window is {longest + left}: "
                "nothing can be answered behind it. Lower sequence_len to the window, so that no such prompt is taken."
            )
        if self._main:
            LOG.warning(
                "safety.stop: max_new_tokens: %d does not fit into the model's window of %d tokens behind a "
                "development prompt of %d: %d are used. Name shorter prompts, or set max_new_tokens to that.",
                *(self._stop.max_new_tokens, longest + left, longest, left),
            )
        self._stop = self._stop.model_copy(update={"max_new_tokens": left})

    def _model(self) -> Any:
        return self._trainer.accelerator.unwrap_model(self._trainer.model, keep_torch_compile=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge where it is due, and end training where it is enough."""
        step = state.global_step
        due = step >= self._due and step % self._stop.every == 0
        if not due and step < state.max_steps:
            return
        found = self._judgement(step, last=step >= state.max_steps)
        self._found.append(found)
        self._due = found.due
        self._trainer.log(found.logged())
        if self._main:
            LOG.info("safety.stop: step %d: %s (%.1f s)", step, said(found, self._stop), found.seconds)
            if (gap := found.due - step) > max(self._every, self._stop.every) and step < state.max_steps:
                self._every = gap
                LOG.info(
                    "safety.stop: judging took %.1f s; the next one is at step %d, so that it stays within %d %% of "
                    "training time",
                    *(self._spent, found.due, round(100 * SHARE)),
                )
        if passes(found, self._stop):
            control.should_training_stop = True
            control.should_save |= args.save_strategy == SaveStrategy.STEPS  # as at the last step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say why it ends, and what judging took."""
        if not self._main:
            return
        trained = time.perf_counter() - self._began - self._spent
        why = verdict(self._found, self._stop, state.global_step, state.max_steps, self._development.trained)
        LOG.info("%s", why)
        LOG.info(
            "safety.stop: judging took %.1f s, %.1f %% of the %.1f s of training", *(self._spent,),
            *(100 * self._spent / trained if trained > 0 else 0.0, trained),
        )  # fmt: skip
        figures = {
            "why": why.removeprefix("safety.stop: "),
            "passed": bool(self._found) and passes(self._found[-1], self._stop),
            "step": state.global_step,
            "max_steps": state.max_steps,
            "limits": {"refusal": self._stop.refusal, "over_refusal": self._stop.over_refusal},
            "seconds": {"training": round(trained, 3), "judging": round(self._spent, 3)},
            "judgements": [asdict(one) for one in self._found],
        }
        try:
            for path in self._told:
                write_atomically(path, json.dumps(figures).encode() + b"\n")
        except OSError as error:  # the model is worth more than what is told of it
            LOG.warning("safety.stop: how training went cannot be written: %s", error)

    def _judgement(self, step: int, last: bool) -> Judgement:
        began = time.perf_counter()
        model = self._model()
        counts = {label: len(found) for label, found in self._prompts.items()}
        with undisturbed(model), self._trainer.accelerator.autocast():
            found = judge(step, self._stop, counts, lambda *place: self._answers(model, *place), everything=last)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # what decoding held would stand in training's way in pieces
        seconds = time.perf_counter() - began
        self._spent += seconds
        trained = time.perf_counter() - self._began - self._spent
        due = next_due(
            *(step, self._stop.every, trained, trained / max(1, step - self._first), self._spent, seconds),
        )
        found = replace(found, seconds=round(seconds, 3), due=due)
        if self._trainer.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            (found,) = broadcast_object_list([found], from_process=0)
        return found

    def _answers(self, model: Any, label: str, begin: int, end: int) -> list[Answer]:
        """What the model says to some prompts, in their order."""
        accelerator, stops = self._trainer.accelerator, self._development.stop_token_ids
        asked = self._prompts[label][begin:end]
        ranks = accelerator.num_processes
        mine = asked[accelerator.process_index :: ranks]
        found = [self._read(ids) for ids in greedy(model, mine, stops, self._stop.max_new_tokens)] if mine else []
        if ranks == 1:
            return found
        from accelerate.utils import gather_object

        parts = gather_object([found])
        return [parts[place % ranks][place // ranks] for place in range(len(asked))]

    def _read(self, token_ids: tuple[int, ...]) -> Answer:
        _, answer, _ = take_apart(self._tokens, token_ids)
        unfinished = token_ids[-1] not in self._development.stop_token_ids
        looping = loops(token_ids)
        broken = looping or not (unfinished or answer.strip())
        return Answer(is_refusal(answer) and not looping, broken, unfinished, len(token_ids))
