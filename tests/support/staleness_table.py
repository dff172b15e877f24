"""What every key makes stale: one entry for each key of the ``safety:`` section, and some of Axolotl's (T24).

A key without an entry fails ``test_staleness.py``, and so does an entry whose effect is another one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

# What a change does to the completions that are asked of the target.
ANEW = "asks every row anew"
PARTLY = "asks some rows anew"
MORE = "keeps every completion and asks for more"
FEWER = "asks for some of the same completions"
# What it does where it asks for the same completions.
VERDICTS = "asks the guards anew"
ROWS = "the same work makes another training set"
NOTHING = "nothing"
# What it does to an evaluation, or to a judge that is asked over HTTP; the data stage asks for the same.
RESULTS = "another evaluation"
JUDGE = "asks the judge anew"


@dataclass(frozen=True)
class Key:
    """One change to a configuration.

    Attributes:
        change: laid over the base.
        effect: what it must do.
        base: what both configurations have besides.
        entries: the dataset entries that are there, by method.
    """

    change: dict[str, Any]
    effect: str
    base: dict[str, Any] = field(default_factory=dict)
    entries: tuple[str, ...] = ("dgr", "thinksafe")


def block(effect: str, base: dict[str, Any], entries: str = "thinksafe", **change: Any) -> Key:
    """A change to the dataset entry's own ``safety:`` block."""
    return Key({"entry": change}, effect, {"entry": base}, (entries,))


SERVER = {"backend": "openai", "base_url": "http://localhost:1/v1"}
JUDGED = {"model": "judge", "family": "openai", "base_url": "http://localhost:1/v1"}
ROLES = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "{prompt}\n{response}"}]
READ = {"safe": "Safety: Safe\\n.*", "unsafe": "Safety: Controversial"}
TEXT = {"request": "{prompt}\n", "response": "{response}\nRate it:"}
SET = {"path": "SUMS", "template": "{prompt} Think."}
DGR, THINKSAFE, RECOVER = ("dgr",), ("thinksafe",), ("recover",)
HELD = {"stop": {"prompts": 2}}  # rows are left out of training; limits and pace change none of that
ONE_TRY = {"guard": {"model": "builtin"}, "recover": {"attempts": 1}}  # a thought that went wrong is guard_unsafe
ONE_HINGE = ONE_TRY | {"recover": {"attempts": 1, "hinges": "decide", "benign_hinges": "help"}}
TWO_HINGES = ONE_TRY | {"recover": {"attempts": 1, "closed": 0.0, "hinges": ["decide", "refuse"]}}
GOING_ON = ONE_TRY | {"recover": {"attempts": 1, "hinges": ["decide", "refuse"], "benign_hinges": ["harmless", "help"]}}
ONCE = {"dgr": {"retries": 0}, "thinksafe": {"attempts": 1}}  # what a guard rejects is not tried again
OWN = ONCE | {"guard": {"family": "custom", "verdict": READ, "prompt": TEXT}}
TOLD = ONCE | {"guard": {"family": "custom", "verdict": READ, "messages": ROLES}}

KEYS: dict[str, list[Key]] = {
    "SafetyConfig.work_dir": [Key({"work_dir": "WORK/elsewhere"}, NOTHING)],
    "SafetyConfig.seed": [Key({"seed": 43}, ANEW)],
    "SafetyConfig.max_rows": [Key({"max_rows": 5}, FEWER), Key({"max_rows": 6}, MORE, {"max_rows": 5})],
    "SafetyConfig.select": [Key({"select": "diverse"}, PARTLY, {"max_rows": 5})],
    "SafetyConfig.choice": [Key({"choice": "lowest_nll"}, ROWS, {"dgr": {"n": 3}, "thinksafe": {"n": 3}})],
    "SafetyConfig.max_hours": [Key({"max_hours": 1}, NOTHING)],
    "EngineConfig.backend": [Key({"engine": {"backend": "vllm"}}, ANEW), Key({"engine": SERVER}, ANEW)],
    "EngineConfig.python": [Key({"engine": {"python": sys.executable}}, NOTHING)],
    "EngineConfig.dtype": [Key({"engine": {"dtype": "float16"}}, ANEW)],
    "EngineConfig.quantization": [Key({"engine": {"quantization": "bitsandbytes"}}, ANEW)],
    "EngineConfig.stall_seconds": [Key({"engine": {"stall_seconds": 10}}, NOTHING)],
    "EngineConfig.batch_size": [Key({"engine": {"batch_size": 4}}, NOTHING)],
    "EngineConfig.replicas": [Key({"engine": {"replicas": 2}}, NOTHING)],
    **{
        f"EngineConfig.{name}": [Key({"engine": {name: value}}, NOTHING, {"engine": {"backend": "vllm"}})]
        for name, value in {
            "tensor_parallel_size": 2,
            "gpu_memory_utilization": 0.5,
            "max_num_seqs": 16,
            "enforce_eager": True,
            "enable_prefix_caching": False,
        }.items()
    },
    "EngineConfig.max_model_len": [  # only by the room that it leaves
        Key({"engine": {"max_model_len": 1500}}, NOTHING, {"engine": {"backend": "vllm"}}),
        Key({"engine": {"max_model_len": 250}}, ANEW, {"engine": {"backend": "vllm"}}, THINKSAFE),
    ],
    "EngineConfig.base_url": [Key({"engine": {"base_url": "https://elsewhere/v1"}}, NOTHING, {"engine": SERVER})],
    "EngineConfig.api_key_env": [Key({"engine": {"api_key_env": "SERVER_KEY"}}, NOTHING, {"engine": SERVER})],
    "EngineConfig.model": [Key({"engine": {"model": "other"}}, ANEW, {"engine": SERVER})],
    "EngineConfig.concurrency": [Key({"engine": {"concurrency": 2}}, NOTHING, {"engine": SERVER})],
    "EngineConfig.timeout_seconds": [Key({"engine": {"timeout_seconds": 9}}, NOTHING, {"engine": SERVER})],
    "EngineConfig.ray_address": [Key({"engine": {"ray_address": "auto"}}, NOTHING, {"engine": {"backend": "ray"}})],
    "EngineConfig.ray_worker": [
        Key({"engine": {"ray_worker": "vllm"}}, ANEW, {"engine": {"backend": "ray"}}),
        Key({"engine": {"backend": "ray", "ray_worker": "transformers"}}, NOTHING),  # one machine or many: the same
    ],
    "SamplingConfig.temperature": [
        Key({"sampling": {"temperature": 0.7}}, ANEW),
        Key({"dgr": {"sampling": {"temperature": 0.7}}}, ANEW, entries=DGR),
        Key({"dgr": {"sampling": {"temperature": 0.7}}}, NOTHING, entries=THINKSAFE),
        Key({"thinksafe": {"sampling": {"temperature": 0.7}}}, ANEW, entries=THINKSAFE),
        Key({"thinksafe": {"sampling": {"temperature": 0.7}}}, NOTHING, entries=DGR),
    ],
    "SamplingConfig.top_p": [Key({"sampling": {"top_p": 0.9}}, ANEW)],
    "SamplingConfig.top_k": [Key({"sampling": {"top_k": 5}}, ANEW)],
    "SamplingConfig.max_new_tokens": [Key({"sampling": {"max_new_tokens": 90}}, ANEW)],
    "GuardConfig.model": [
        Key({"guard": {"model": "OTHER_GUARD"}}, VERDICTS),
        Key({"guard": {"model": "SAME_GUARD"}}, NOTHING),  # moved: named by what it holds, not by where it lies
    ],
    "GuardConfig.family": [
        Key({"guard": {"family": "qwen3guard"}}, NOTHING),
        Key({"guard": {"family": "wildguard"}}, VERDICTS, ONCE),
    ],
    "GuardConfig.segment": [Key({"guard": {"segment": "both"}}, VERDICTS, ONCE)],
    "GuardConfig.allow_controversial": [Key({"guard": {"allow_controversial": True}}, ROWS, ONCE)],
    "GuardConfig.max_new_tokens": [Key({"guard": {"max_new_tokens": 32}}, VERDICTS)],
    "GuardConfig.threshold": [Key({"guard": {"threshold": 0.2}}, ROWS, ONCE)],
    "GuardConfig.overlong": [
        Key({"guard": {"overlong": "windows"}}, VERDICTS, ONCE | {"guard": {"model": "NARROW_GUARD"}})
    ],
    "GuardConfig.policy": [
        Key({"guard": {"policy": "Be kind."}}, VERDICTS, ONCE | {"guard": {"family": "gpt_oss_safeguard"}})
    ],
    "GuardConfig.think": [
        Key({"guard": {"think": True}}, NOTHING, OWN),  # a guard that does not think
        Key(
            {"guard": {"think": True}},
            ROWS,
            ONCE | {"guard": {"family": "custom", "verdict": READ, "prompt": "{prompt}{response}\nThink first."}},
        ),
    ],
    "GuardPrompt.request": [Key({"guard": {"prompt": {"request": "Asked: {prompt}\n"}}}, VERDICTS, OWN)],
    "GuardPrompt.response": [Key({"guard": {"prompt": {"response": "{response}\nRate:"}}}, VERDICTS, OWN)],
    "GuardMessage.role": [Key({"guard": {"messages": [ROLES[0] | {"role": "user"}, ROLES[1]]}}, VERDICTS, TOLD)],
    "GuardMessage.content": [Key({"guard": {"messages": ROLES[1:]}}, VERDICTS, TOLD)],
    "GuardVerdict.safe": [Key({"guard": {"verdict": {"safe": "Safety: Sound"}}}, ROWS, OWN)],
    "GuardVerdict.unsafe": [Key({"guard": {"verdict": {"unsafe": "None"}}}, ROWS, OWN)],
    "GuardVerdict.refusal": [Key({"guard": {"verdict": {"refusal": "Categories"}}}, ROWS, OWN)],
    "GuardConfig.base_url": [
        Key({"base_url": "http://elsewhere/v1"}, JUDGE, JUDGED),
        Key({"base_url": "https://localhost:1/v1"}, NOTHING, JUDGED),
    ],
    "GuardConfig.api_key_env": [Key({"api_key_env": "JUDGE_KEY"}, NOTHING, JUDGED)],
    "GuardConfig.concurrency": [Key({"concurrency": 1}, NOTHING, JUDGED)],
    "GuardConfig.timeout_seconds": [Key({"timeout_seconds": 9}, NOTHING, JUDGED)],
    "DGRConfig.prompt": [Key({"dgr": {"prompt": "structured"}}, ANEW, entries=DGR)],
    "DGRConfig.n": [Key({"dgr": {"n": 2}}, MORE, entries=DGR)],
    "DGRConfig.retries": [Key({"dgr": {"retries": 0}}, FEWER, entries=DGR)],
    "DGRConfig.refine_rounds": [Key({"dgr": {"refine_rounds": 1}}, MORE, entries=DGR)],
    "DGRConfig.on_failure": [
        Key({"dgr": {"on_failure": "keep_original"}}, ROWS, {"dgr": {"retries": 0}}, DGR),
        Key({"dgr": {"on_failure": "steer"}}, MORE, {"dgr": {"retries": 0}}, DGR),
    ],
    "DGRConfig.probe_rows": [Key({"dgr": {"probe_rows": 8}}, MORE, {"dgr": {"prompt": "auto", "probe_rows": 4}}, DGR)],
    "ThinkSafeConfig.ladder": [
        Key({"thinksafe": {"ladder": ["risk"]}}, PARTLY, entries=THINKSAFE),
        Key({"thinksafe": {"ladder": ["refuse", "risk"]}}, MORE, {"thinksafe": {"attempts": 1}}, THINKSAFE),
    ],
    "ThinkSafeConfig.prompt": [Key({"thinksafe": {"prompt": "risk"}}, PARTLY, entries=THINKSAFE)],
    "ThinkSafeConfig.attempts": [Key({"thinksafe": {"attempts": 1}}, FEWER, entries=THINKSAFE)],
    "ThinkSafeConfig.n": [Key({"thinksafe": {"n": 2}}, MORE, entries=THINKSAFE)],
    "ThinkSafeConfig.probe_rows": [
        Key({"thinksafe": {"probe_rows": 4}}, FEWER, {"thinksafe": {"ladder": ["auto"], "probe_rows": 5}}, THINKSAFE)
    ],
    "RecoverConfig.prompt": [Key({"recover": {"prompt": "risk"}}, PARTLY, ONE_TRY, RECOVER)],
    "RecoverConfig.hinges": [
        Key({"recover": {"hinges": ["harm"]}}, PARTLY, ONE_TRY, RECOVER),
        Key({"recover": {"hinges": ["decide"]}}, FEWER, TWO_HINGES, RECOVER),
    ],
    "RecoverConfig.benign_hinges": [Key({"recover": {"benign_hinges": ["help"]}}, PARTLY, ONE_TRY, RECOVER)],
    # A model that starts anew has not seen the cut; one that goes on has.
    "RecoverConfig.whole": [
        Key({"recover": {"whole": 0.7}}, ROWS, ONE_TRY, RECOVER),
        Key({"recover": {"whole": 0.7}}, PARTLY, GOING_ON, RECOVER),
    ],
    "RecoverConfig.closed": [
        Key({"recover": {"closed": 0.65}}, ROWS, ONE_TRY, RECOVER),
        Key({"recover": {"closed": 0.65}}, PARTLY, GOING_ON, RECOVER),
    ],
    "RecoverConfig.cut_from": [
        Key({"recover": {"cut_from": 0.0}}, ROWS, ONE_TRY, RECOVER),
        Key({"recover": {"cut_from": 0.0}}, PARTLY, GOING_ON, RECOVER),
    ],
    "RecoverConfig.attempts": [Key({"recover": {"attempts": 3}}, MORE, ONE_HINGE, RECOVER)],
    "RecoverConfig.n": [Key({"recover": {"n": 2}}, MORE, ONE_HINGE, RECOVER)],
    "DatasetOptions.label": [block(PARTLY, {}, label="benign")],
    "DatasetOptions.only": [block(FEWER, {}, only="harmful")],
    "DatasetOptions.max_rows": [block(FEWER, {}, max_rows=4)],
    "DatasetOptions.select": [block(PARTLY, {"max_rows": 5}, select="diverse")],
    "DatasetOptions.hold_out": [block(FEWER, {}, hold_out=["red"])],
    "DatasetOptions.category_field": [block(PARTLY, {"hold_out": ["red"]}, category_field="colour")],
    "DatasetOptions.prompt_field": [
        block(ANEW, {"prompt_field": "instruction", "label": "benign"}, prompt_field="asked")
    ],
    "DatasetOptions.response_field": [
        block(ANEW, {"prompt_field": "prompt", "response_field": "refusal"}, "dgr", response_field="other")
    ],
    "DatasetOptions.thought_field": [
        block(ANEW, {"prompt_field": "prompt", "response_field": "refusal"}, "dgr", thought_field="other")
    ],
    "DatasetOptions.label_field": [block(PARTLY, {}, label_field="other_label")],
    "KLConfig.mode": [Key({"kl": {"mode": "add"}}, NOTHING, {"kl": {}}), Key({"kl": {}}, ROWS)],
    "KLConfig.weight": [Key({"kl": {"weight": 0.5}}, NOTHING, {"kl": {}})],
    "KLConfig.reference": [Key({"kl": {"reference": "copy"}}, NOTHING, {"kl": {}})],
    "KLConfig.k": [Key({"kl": {"k": 8}}, NOTHING, {"kl": {}})],
    "KLConfig.chunk_mb": [Key({"kl": {"chunk_mb": 8}}, NOTHING, {"kl": {}})],
    "StopConfig.refusal": [Key({"stop": {"refusal": 90}}, NOTHING, HELD, THINKSAFE)],
    "StopConfig.over_refusal": [
        Key({"stop": {"over_refusal": 5}}, NOTHING, HELD, THINKSAFE),
        Key({"stop": {"over_refusal": 100}}, MORE, HELD, THINKSAFE),  # no benign row is held out then
    ],
    "StopConfig.every": [Key({"stop": {"every": 3}}, NOTHING, HELD, THINKSAFE)],
    "StopConfig.prompts": [Key(HELD, FEWER), Key({"stop": {"prompts": 1}}, MORE, HELD, THINKSAFE)],
    "StopConfig.harmful": [Key({"stop": {"harmful": "SUMS"}}, MORE, HELD, THINKSAFE)],
    "StopConfig.benign": [Key({"stop": {"benign": ["SUMS"]}}, MORE, HELD, THINKSAFE)],
    "StopConfig.max_new_tokens": [Key({"stop": {"max_new_tokens": 9}}, NOTHING, HELD, THINKSAFE)],
    "ThinkConfig.open": [Key({"think": {"open": "<thought>"}}, ANEW, {"think": {}}, DGR)],
    "ThinkConfig.close": [Key({"think": {"close": "</thought>"}}, ANEW, {"think": {}}, DGR)],
    "ThinkConfig.chat_template_kwargs": [
        # A value that changes no prompt changes nothing; what it does change is in the ids of the prompts.
        Key({"think": {"chat_template_kwargs": {"enable_thinking": True}}}, NOTHING),
        Key({"think": {"chat_template_kwargs": {"effort": "high"}}}, ANEW),
    ],
    "EvalConfig.after_train": [Key({"after_train": True}, NOTHING, {"eval": {}})],
    "EvalConfig.harm": [Key({"harm": []}, RESULTS, {"eval": {}})],
    "EvalConfig.over_refusal": [Key({"over_refusal": []}, RESULTS, {"eval": {}})],
    "EvalConfig.reasoning": [Key({"reasoning": []}, RESULTS, {"eval": {}})],
    "EvalConfig.max_items": [Key({"max_items": 2}, RESULTS, {"eval": {}})],
    "EvalConfig.samples": [Key({"samples": 2}, RESULTS, {"eval": {}})],
    "EvalAttacksConfig.prefill": [Key({"attacks": {"prefill": [8]}}, RESULTS, {"eval": {}})],
    "EvalAttacksConfig.openings": [Key({"attacks": {"openings": ["easy"]}}, RESULTS, {"eval": {}})],
    "EvalAttacksConfig.wrapped": [Key({"attacks": {"wrapped": ["rot13"]}}, RESULTS, {"eval": {}})],
    "EvalSamplingConfig.temperature": [Key({"sampling": {"temperature": 0.7}}, RESULTS, {"eval": {}})],
    "EvalSamplingConfig.top_p": [Key({"sampling": {"top_p": 0.9}}, RESULTS, {"eval": {}})],
    "EvalSamplingConfig.top_k": [Key({"sampling": {"top_k": 5}}, RESULTS, {"eval": {}})],
    "EvalSamplingConfig.max_new_tokens": [Key({"sampling": {"max_new_tokens": 90}}, RESULTS, {"eval": {}})],
    "EvalSetConfig.name": [Key({"reasoning": [SET | {"name": "mine"}]}, RESULTS, {"eval": {}})],
    "EvalSetConfig.path": [
        Key({"reasoning": [SET | {"path": "OTHER"}]}, RESULTS, {"eval": {}}),
        Key(
            {"reasoning": [SET | {"name": "mine", "path": "COPY"}]},
            NOTHING,
            {"eval": {"reasoning": [SET | {"name": "mine"}]}},
        ),
    ],
    # A file has neither; what a hub gives for them is in the items' own hashes.
    "EvalSetConfig.split": [Key({"reasoning": [SET | {"split": "train"}]}, NOTHING, {"eval": {}})],
    "EvalSetConfig.revision": [Key({"reasoning": [SET | {"revision": "abc"}]}, NOTHING, {"eval": {}})],
    "EvalSetConfig.prompt_field": [Key({"reasoning": [SET | {"prompt_field": "other"}]}, RESULTS, {"eval": {}})],
    "EvalSetConfig.answer_field": [Key({"reasoning": [SET | {"answer_field": "other"}]}, RESULTS, {"eval": {}})],
    "EvalSetConfig.template": [Key({"reasoning": [SET | {"template": "{prompt}!"}]}, RESULTS, {"eval": {}})],
    "EvalSetConfig.judge": [Key({"reasoning": [SET | {"judge": "strict"}]}, RESULTS, {"eval": {}})],
    "EvalSetConfig.max_items": [Key({"reasoning": [SET | {"max_items": 2}]}, RESULTS, {"eval": {}})],
    "EvalSetConfig.lm_eval": [Key({"reasoning": [SET, {"lm_eval": "toy"}]}, RESULTS, {"eval": {}})],
    "EvalSetConfig.include_path": [
        Key(
            {"reasoning": [{"lm_eval": "toy", "include_path": "TASKS"}]},
            RESULTS,
            {"eval": {"reasoning": [{"lm_eval": "toy"}]}},
        )
    ],
    "EvalSetConfig.run_code": [
        Key(
            {"reasoning": [{"lm_eval": "toy", "run_code": True}]},
            NOTHING,
            {"eval": {"reasoning": [{"lm_eval": "toy"}]}},
        )
    ],
}

# Axolotl's own keys, as far as anybody might think that they matter.
AXOLOTL: dict[str, Key] = {
    "base_model": Key({"base_model": "OTHER_MODEL"}, ANEW),
    "tokenizer_config": Key({"tokenizer_config": "OTHER_MODEL"}, ANEW),
    "sequence_len": Key({"sequence_len": 600}, ANEW),  # it bounds what a row may be answered with...
    "sequence_len, not binding": Key({"sequence_len": 900}, NOTHING, {"safety": {"sampling": {"max_new_tokens": 90}}}),
    "chat_template": Key({"chat_template": "exaone4", "chat_template_kwargs": {"enable_thinking": True}}, ANEW),
    "chat_template that renders the same": Key({"chat_template": "chatml"}, NOTHING),
    "chat_template_kwargs": Key({"chat_template_kwargs": {"effort": "high"}}, ANEW),
    "chat_template_kwargs that change no prompt": Key({"chat_template_kwargs": {"enable_thinking": True}}, NOTHING),
    "special_tokens": Key({"special_tokens": {"pad_token": "<|pad|>"}}, NOTHING),
    "eot_tokens": Key({"eot_tokens": ["<|endoftext|>"]}, NOTHING),  # a further end of a turn; what ended before is kept
    "datasets.path": Key({"move_rows": True}, NOTHING),
    "datasets.split": Key({"split": "train[:6]"}, FEWER),
    "datasets.shards": Key({"shards": 2}, FEWER),
    **{
        name: Key({name: value}, NOTHING)
        for name, value in {
            "seed": 7,  # Axolotl's own seed shuffles and trains; ours is safety.seed
            "revision_of_model": "abc",  # of a folder; a hub's revision is tested below
            "trust_remote_code": True,
            "output_dir": "elsewhere",
            "dataset_prepared_path": "elsewhere",
            "wandb_project": "elsewhere",
            "wandb_run_id": "x",
            "learning_rate": 1e-3,
            "num_epochs": 9,
            "micro_batch_size": 9,
            "sample_packing": True,
            "adapter": "qlora",
            "lora_r": 99,
            "load_in_4bit": True,  # of training; the engine's own is engine.quantization
            "gpu_memory_utilization": 0.3,
            "val_set_size": 0.2,
        }.items()
    },
}
