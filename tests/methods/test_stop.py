"""Training that is judged while it runs, on tiny models: what it leaves untouched, where it ends, how it goes on."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from axolotl.core.trainers.base import AxolotlTrainer
from axolotl.core.training_args import AxolotlTrainingArguments
from axolotl.utils.dict import DictDefault
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from support import axolotl_cli as cli
from support import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from axolotl_safety.config import KLConfig
from axolotl_safety.config.stop import StopConfig
from axolotl_safety.data.development import Development, DevelopmentPrompt
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.methods.kl.collator import collator_for
from axolotl_safety.methods.kl.trainer import trainer_class
from axolotl_safety.methods.stop import callback as stopping
from axolotl_safety.methods.stop import decode
from axolotl_safety.methods.stop.callback import StopWhenEnough
from axolotl_safety.methods.stop.decode import greedy, undisturbed
from axolotl_safety.methods.stop.rule import Answer
from axolotl_safety.util.errors import ConfigError

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "lora_dropout": 0.2}


@pytest.fixture(scope="module")
def folder(models):
    return models("qwen3")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def load(folder, lora=True):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    if lora:
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(**LORA))
    return model


def development(tokenizer, count=8):
    tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,))
    made = [
        DevelopmentPrompt(label, text, text, tokens.prompt_ids(text), "rows.jsonl")
        for label in ("harmful", "benign")
        for text in (
            f"Please {'jinx' if label == 'harmful' else 'sort'} {'the ' * (n % 3)}lamp {n}" for n in range(count)
        )
    ]
    return Development(tuple(made), tokens.stop_token_ids, {"harmful": 20, "benign": 4})


def make_trainer(tmp_path, model, tokenizer, stop=None, kl=False, **changes):
    make = torch.Generator().manual_seed(3)
    rows = []
    for number in range(12):
        ids = torch.randint(5, 300, (14 + number,), generator=make).tolist()
        row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * 5 + ids[5:]}
        rows.append(row | ({"kl_mask": [number % 2] * len(ids)} if kl else {}))
    args = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "seed": 5,
    }
    data = Dataset.from_list(rows)
    cls, kwargs = collator_for(DictDefault(sample_packing=False, model_config_type="qwen3"), is_eval=False)
    collator = cls(tokenizer, padding=True, pad_to_multiple_of=8, return_tensors="pt", **kwargs)
    trainer = (trainer_class(KLConfig()) if kl else AxolotlTrainer)(
        model=model,
        args=AxolotlTrainingArguments(**(args | changes)),
        train_dataset=data,
        data_collator=collator,
        processing_class=tokenizer,
    )
    if stop is not None:
        tokens = TargetTokenizer(tokenizer, (tokenizer.eos_token_id,))
        told = tmp_path / "stop" / "training.json"
        trainer.add_callback(StopWhenEnough(trainer, stop, development(tokenizer), tokens, told))
    return trainer


def weights(model):
    return {name: p.detach().numpy().tobytes() for name, p in model.named_parameters() if p.requires_grad}


STOP = StopConfig(every=2, prompts=8, max_new_tokens=12)


def scripted(monkeypatch, by_step):
    """Answers by step, (share of the harmful refused, share of the benign); notes the steps that were judged."""
    judged = []

    def answers(self, model, label, begin, end):
        step = self._trainer.state.global_step
        if not judged or judged[-1] != step:
            judged.append(step)
        share = by_step(step)[label == "benign"]
        return [Answer(place < 8 * share, tokens=3) for place in range(begin, end)]

    monkeypatch.setattr(StopWhenEnough, "_answers", answers)
    return judged


@pytest.fixture(autouse=True)
def as_often_as_asked(monkeypatch):
    """Judging costs nothing."""
    monkeypatch.setattr(stopping, "next_due", lambda step, every, *_: step + every)


@pytest.mark.parametrize("kind", ["lora", "full", "kl"])
def test_a_run_that_never_passes_has_the_same_weights_as_one_without(tmp_path, folder, tokenizer, kind):
    found = {}
    for name, stop in (("without", None), ("with", STOP)):
        torch.manual_seed(0)
        model = load(folder, kind != "full")
        trainer = make_trainer(
            tmp_path / name, model, tokenizer, stop, kind == "kl", gradient_checkpointing=True, learning_rate=1e-3
        )
        trainer.train()
        found[name] = weights(trainer.model), random.random(), np.random.rand(), torch.rand(1).item()
    assert found["with"] == found["without"]
    said = json.loads((tmp_path / "with" / "stop" / "training.json").read_text())
    assert [one["step"] for one in said["judgements"]] == [2, 4, 6] and not said["passed"]
    assert all(one["tokens"] > 0 and one["refused"] == 0 for one in said["judgements"])
    assert "came to its end (step 6) without passing: at best 0.0 % of 8 harmful" in said["why"]


def test_nothing_of_the_model_or_the_generators_is_moved(folder):
    model = load(folder)
    model.train()
    frozen = model.base_model.model.model.layers[0]
    frozen.eval()  # somebody else's choice, which is kept
    before = {name: module.training for name, module in model.named_modules()}
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), undisturbed(model):
        assert not any(module.training for module in model.modules())
        random.random(), np.random.rand(), torch.rand(3)
        raise RuntimeError("inside")
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not frozen.training and model.training
    assert random.getstate() == state[0] and np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])


def test_decoding_in_batches_is_decoding_one_by_one(folder, tokenizer, monkeypatch):
    model = load(folder).eval()
    model.config.use_cache = False  # as training sets it
    with torch.no_grad():  # away from a start that writes one token for ever
        make = torch.Generator().manual_seed(2)
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=make)
    found = development(tokenizer)
    prompts = [one.prompt_ids for one in found.prompts]
    stops = found.stop_token_ids

    @torch.no_grad()
    def plainly(prompt):
        ids = list(prompt)
        for _ in range(10):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in stops:
                break
        return tuple(ids[len(prompt) :])

    wanted = [plainly(prompt) for prompt in prompts]
    assert len(set(wanted)) > 1
    assert greedy(model, prompts, stops, 10, batch=5) == wanted
    # An id that one of them wrote ends it, and what the batch pads with is none of it.
    ends = (wanted[0][3],)
    cut = [one[: one.index(ends[0]) + 1] if ends[0] in one else one for one in wanted]
    assert greedy(model, prompts, ends, 10) == cut and cut != wanted
    # Memory runs out: with fewer at once.
    sizes, batch = [], decode._batch

    def short(model, part, *rest):
        sizes.append(len(part))
        if len(part) > 4:
            raise torch.OutOfMemoryError("full")
        return batch(model, part, *rest)

    monkeypatch.setattr(decode, "_batch", short)
    assert greedy(model, prompts, stops, 10, batch=16) == wanted and sizes == [16, 8, 4, 4, 4, 4]
    monkeypatch.setattr(decode, "_batch", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        greedy(model, prompts, stops, 10)


@pytest.mark.parametrize("lora", [True, False])
def test_decoding_is_greedy_whatever_the_checkpoint_says_of_generation(folder, tokenizer, lora):
    model = load(folder, lora).eval()
    found = development(tokenizer)
    prompts, stops = [one.prompt_ids for one in found.prompts], found.stop_token_ids
    plain = greedy(model, prompts, stops, 10)
    said = {"repetition_penalty": 5.0, "suppress_tokens": [plain[0][0]], "max_time": 1e-9}
    holders = [one for one in model.modules() if "generation_config" in vars(one)]
    for one in holders:
        one.generation_config = GenerationConfig(**said)
    own = [one.generation_config for one in holders]
    assert greedy(model, prompts, stops, 10) == plain
    assert [one.generation_config for one in holders] == own and own[0].repetition_penalty == 5.0


def test_completions_stay_within_the_models_window(tmp_path, tokenizer, caplog):
    longest = max(len(one.prompt_ids) for one in development(tokenizer).prompts)
    folder = tiny.make_model(tmp_path / "model", positions=longest + 7)
    trainer = make_trainer(tmp_path, load(folder), tokenizer, STOP, max_steps=2)
    trainer.train()
    said = json.loads((tmp_path / "stop" / "training.json").read_text())
    assert 0 < said["judgements"][-1]["tokens"] <= 16 * 7
    wanted = f"window of {longest + 7} tokens behind a development prompt of {longest}: 7 are used"
    assert f"max_new_tokens: 12 does not fit into the model's {wanted}" in caplog.text
    none = make_trainer(tmp_path / "2", load(folder), tokenizer, STOP)
    none.model.config.max_position_embeddings = longest
    with pytest.raises(ConfigError, match=f"has {longest} tokens, and the model's window is {longest}: nothing"):
        none.train()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_first_step_that_passes_is_the_result(tmp_path, folder, tokenizer, kind, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "axolotl_safety")
    plain = make_trainer(tmp_path / "plain", load(folder, kind == "lora"), tokenizer, max_steps=4)
    plain.train()
    shares = {2: (1, 1), 4: (1, 0), 6: (1, 0)}
    judged = scripted(monkeypatch, lambda step: shares[step])
    model = load(folder, kind == "lora")
    trainer = make_trainer(tmp_path, model, tokenizer, STOP, save_strategy="steps", save_steps=100)
    trainer.train()
    assert judged == [2, 4] and trainer.state.global_step == 4
    assert weights(trainer.model) == weights(plain.model)
    assert (tmp_path / "out" / "checkpoint-4").is_dir()  # as at the last step
    said = json.loads((tmp_path / "stop" / "training.json").read_text())
    assert said["passed"] and said["step"] == 4 and said["max_steps"] == 6
    assert "safety.stop: enough at step 4 of 6: 100.0 % of 8 harmful" in caplog.text
    assert "judged every 2 steps, at most 3 times with at most 192 tokens each" in caplog.text
    assert "of training" in caplog.text.rpartition("judging took")[2]


def test_the_last_step_is_judged_whenever_it_comes(tmp_path, folder, tokenizer, monkeypatch):
    judged = scripted(monkeypatch, lambda step: (0, 0))
    make_trainer(tmp_path, load(folder), tokenizer, StopConfig(every=4, prompts=8)).train()
    assert judged == [4, 6]


def test_a_judgement_that_takes_long_makes_the_next_one_rarer(tmp_path, folder, tokenizer, monkeypatch, caplog):
    from axolotl_safety.methods.stop.rule import next_due

    caplog.set_level(logging.INFO, "axolotl_safety")
    monkeypatch.setattr(stopping, "next_due", next_due)
    clock = [0.0]
    monkeypatch.setattr(stopping.time, "perf_counter", lambda: clock[0])

    def answers(self, model, label, begin, end):
        clock[0] += 6.0
        return [Answer(False)] * (end - begin)

    step = AxolotlTrainer.training_step

    def second(self, *args, **kwargs):
        clock[0] += 10.0
        return step(self, *args, **kwargs)

    monkeypatch.setattr(AxolotlTrainer, "training_step", second)
    monkeypatch.setattr(StopWhenEnough, "_answers", answers)
    trainer = make_trainer(tmp_path, load(folder), tokenizer, StopConfig(every=1, prompts=8), max_steps=20)
    trainer.train()
    said = json.loads((tmp_path / "stop" / "training.json").read_text())
    # 6 s each; 15 % of 10 s per step pays for one in four.
    assert [one["step"] for one in said["judgements"]] == [1, 8, 12, 16, 20]
    assert said["seconds"] == {"training": 200.0, "judging": 36.0}  # at the end the benign prompts are asked, too
    assert "the next one is at step 8, so that it stays within 15 % of training time" in caplog.text


def test_a_resumed_run_keeps_its_history(tmp_path, folder, tokenizer, monkeypatch, caplog):
    shares = {2: (0.5, 0), 4: (1, 0.5), 6: (1, 0), 8: (0, 0)}
    judged = scripted(monkeypatch, lambda step: shares[step])
    whole = make_trainer(tmp_path / "whole", load(folder), tokenizer, STOP, max_steps=8)
    whole.train()
    assert judged == [2, 4, 6]
    judged.clear()
    saving = {"save_strategy": "steps", "save_steps": 2}
    killed = make_trainer(tmp_path, load(folder), tokenizer, STOP, max_steps=8, **saving)

    class Kill(stopping.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise KeyboardInterrupt

    killed.add_callback(Kill())
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert judged == [2, 4]
    judged.clear()
    caplog.set_level(logging.INFO, "axolotl_safety")
    again = make_trainer(tmp_path, load(folder), tokenizer, STOP, max_steps=8, **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert judged == [6] and again.state.global_step == 6
    assert weights(again.model) == weights(whole.model)
    said = json.loads((tmp_path / "stop" / "training.json").read_text())
    first = json.loads((tmp_path / "whole" / "stop" / "training.json").read_text())
    timeless = [[one | {"seconds": 0} for one in told["judgements"]] for told in (said, first)]
    assert timeless[0] == timeless[1] and [one["step"] for one in timeless[0]] == [2, 4, 6]
    assert "going on from step 4 with 2 judgements made before" in caplog.text
    done = make_trainer(tmp_path, load(folder), tokenizer, STOP, max_steps=8, **saving)
    with pytest.raises(ConfigError, match="step 6 that training would go on from has passed"):
        done.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))


def test_answers_are_read_as_an_evaluation_reads_them(tmp_path, folder, tokenizer):
    trainer = make_trainer(tmp_path, load(folder), tokenizer, STOP)
    (callback,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, StopWhenEnough))
    end = (tokenizer.eos_token_id,)

    def read(text, ended=True):
        return callback._read((*tokenizer.encode(text, add_special_tokens=False), *(end if ended else ())))

    thought = "<think>\nThey ask for something.\n</think>\n\n"
    refused = read(f"{thought}I'm sorry, but I can't help with that.")
    assert refused == Answer(True, False, False, refused.tokens) and refused.tokens > 20
    assert read(f"{thought}Take a soft cloth and rub it.") == Answer(
        False, False, False, read(thought + "Take a soft cloth and rub it.").tokens
    )
    cut = read("<think>\nThey ask for something, and I can't help with that.", ended=False)
    assert not cut.refused and cut.unfinished and not cut.broken  # a thought that is cut decides nothing
    assert read(thought).broken and read("<think>\nThey ask.").broken
    looping = read(f"{thought}{'I cannot help. ' * 60}")
    assert looping.broken and not looping.refused


RANKS = """
import json, os, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from methods import test_stop as t
rank, out = int(os.environ["RANK"]), Path({out!r})
t.stopping.next_due = lambda step, every, *_: step + every + 1000 * rank  # what rank 0 says holds
tokenizer = t.AutoTokenizer.from_pretrained({folder!r})
answers, seen = t.StopWhenEnough._answers, []
def noting(self, model, label, begin, end):
    found, step = answers(self, model, label, begin, end), self._trainer.state.global_step
    seen.append([step, label, [one.tokens for one in found]])
    return [t.Answer(label == "harmful" and step == 4, tokens=one.tokens) for one in found]
t.StopWhenEnough._answers = noting
trainer = t.make_trainer(out, t.load({folder!r}), tokenizer, t.UNEVEN, ddp_backend="gloo")
trainer.train()
log = [line for line in trainer.state.log_history if "stop/harmful" in line]
log = [dict((key, value) for key, value in line.items() if key.startswith("stop/")) for line in log]
told = dict(step=trainer.state.global_step, seen=seen, world=trainer.accelerator.num_processes, log=log)
(out / f"rank{{rank}}.json").write_text(json.dumps(told))
"""
UNEVEN = StopConfig(every=2, prompts=8, max_new_tokens=5)


def test_two_ranks_share_the_prompts_and_stop_together(tmp_path, folder, tokenizer):
    script = tmp_path / "ranks.py"
    tests = str(Path(__file__).parents[1])
    script.write_text(RANKS.format(tests=tests, out=str(tmp_path), folder=str(folder)))
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{cli.ROOT}:{tests}", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, cwd=cli.ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one["world"] == two["world"] == 2 and one["step"] == two["step"] == 4
    assert one["seen"] == two["seen"] and one["log"] == two["log"]
    assert [(step, label, len(found)) for step, label, found in one["seen"]] == [
        (2, "harmful", 8),
        (4, "harmful", 8),
        (4, "benign", 8),
    ]
    assert [line["stop/due"] for line in one["log"]] == [4, 6]


def test_prompts_come_back_in_their_order_from_every_rank(tmp_path, folder, tokenizer, monkeypatch):
    trainer = make_trainer(tmp_path, load(folder), tokenizer, STOP)
    (callback,) = (one for one in trainer.callback_handler.callbacks if isinstance(one, StopWhenEnough))
    model = trainer.model.eval()
    alone = callback._answers(model, "harmful", 1, 8)  # 7 prompts do not divide by 3
    parts = {}

    class Rank:
        num_processes = 3

        def __init__(self, process_index):
            self.process_index = process_index

    monkeypatch.setattr("accelerate.utils.gather_object", lambda found: parts.setdefault(len(parts), found[0]) and [])
    for rank in range(3):
        monkeypatch.setattr(trainer, "accelerator", Rank(rank))
        with pytest.raises(IndexError):
            callback._answers(model, "harmful", 1, 8)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda found: [parts[rank] for rank in range(3)])
    assert callback._answers(model, "harmful", 1, 8) == alone and [len(parts[rank]) for rank in range(3)] == [3, 2, 2]
