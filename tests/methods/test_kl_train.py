"""The KL trainer on tiny models: its loss against full logits, its reference, its batches, what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import yaml
from axolotl.core.training_args import AxolotlTrainingArguments
from axolotl.utils.dict import DictDefault
from datasets import Dataset, load_from_disk
from peft import LoraConfig, get_peft_model
from support import axolotl_cli as cli
from support import tiny
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from axolotl_safety import SafetyPlugin
from axolotl_safety.config import KLConfig
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.data.types import Outcome
from axolotl_safety.methods.kl.chunks import Head
from axolotl_safety.methods.kl.collator import KLCollator, collator_for
from axolotl_safety.methods.kl.model import check_logits, evaluating, find_heads, hidden_states
from axolotl_safety.methods.kl.trainer import trainer_class
from axolotl_safety.pipeline import writer as handoff
from axolotl_safety.util.errors import ConfigError, ModelError

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture(scope="module")
def folder(models):
    return models("qwen3")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def load(folder, lora=True, moved=False, dtype=torch.float32, **changes):
    """A tiny model; ``moved`` takes the adapter (or all weights) away from its start."""
    config = AutoConfig.from_pretrained(folder, **changes)
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="sdpa")
    if lora:
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(**(LORA | (lora if isinstance(lora, dict) else {}))))
    if moved:
        move(model)
    return model


def move(model, size=0.2):
    make = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=make).to(parameter)


def make_rows(lengths=(17, 31, 23, 12), benign=(0, 1, 0, 1), prompt=5):
    """Rows as the hand-off writes them: benign or not, of different lengths."""
    make = torch.Generator().manual_seed(3)
    rows = []
    for length, kl in zip(lengths, benign, strict=True):
        ids = torch.randint(5, 300, (length,), generator=make).tolist()
        labels = [-100] * prompt + ids[prompt:]
        mask = [0] * prompt + [kl] * (length - prompt)
        rows.append({"input_ids": ids, "attention_mask": [1] * length, "labels": labels, "kl_mask": mask})
    return rows


def make_trainer(tmp_path, model, tokenizer, kl=None, rows=None, packed=False, **changes):
    args = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 2,
        "max_steps": 3,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "remove_unused_columns": True,
    }
    data = Dataset.from_list(make_rows() if rows is None else rows)
    cls, kwargs = collator_for(DictDefault(sample_packing=packed, model_config_type="qwen3"), is_eval=False)
    collator = cls(tokenizer, padding=True, pad_to_multiple_of=8, return_tensors="pt", **kwargs)
    return trainer_class(KLConfig(**(kl or {})))(
        model=model,
        args=AxolotlTrainingArguments(**(args | changes)),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        eval_data_collator=collator,
        processing_class=tokenizer,
    )


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def close(first, second, **tolerance):
    assert first.keys() == second.keys() and first
    for name in first:
        torch.testing.assert_close(first[name], second[name], **({"rtol": 1e-3, "atol": 1e-6} | tolerance))


def plain_loss(policy_logits, reference_logits, rows, mode, weight):
    """The documented loss from full logits, row by row, as plainly as it can be written."""
    ce_sum = kl_sum = trained = 0
    for row, zq, zp in zip(rows, policy_logits, reference_logits, strict=True):
        for t in range(1, len(row["input_ids"])):
            if row["labels"][t] == -100:
                continue
            trained += 1
            logq, logp = zq[t - 1].log_softmax(-1), zp[t - 1].log_softmax(-1).detach()
            benign = (row.get("kl_mask") or [0] * (t + 1))[t]
            if benign:
                kl_sum = kl_sum + (logp.exp() * (logp - logq)).sum()
            if not benign or mode == "add":
                ce_sum = ce_sum - logq[row["labels"][t]]
    return (ce_sum + weight * kl_sum) / trained


def all_logits(model, rows):
    return [model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in rows]


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "weight"), [("replace", 1.0), ("add", 0.5)])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_loss_and_gradients_equal_the_plain_formula(tmp_path, folder, tokenizer, lora, mode, weight):
    """Padded batch of four lengths; one row is of another type and has no mask. In float64: no rounding to hide in."""
    rows = make_rows()
    rows[3]["kl_mask"] = None
    model = load(folder, lora, dtype=torch.float64)
    start = load(folder, lora, dtype=torch.float64)
    trainer = make_trainer(tmp_path, model, tokenizer, {"mode": mode, "weight": weight}, rows)
    move(model)
    model.train()
    batch = trainer.data_collator([dict(row) for row in rows])
    trainer.compute_loss(model, batch).backward()
    ours = gradients(model)
    with torch.no_grad():
        reference = all_logits(start, rows)
    loss = plain_loss(all_logits(model, rows), reference, rows, mode, weight)
    loss.backward()
    theirs = gradients(model)
    assert trainer.compute_loss(model, batch).item() == pytest.approx(loss.item(), rel=1e-9)
    close(ours, theirs, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["off", "reentrant", "not-reentrant"])
def test_gradient_checkpointing_changes_nothing(tmp_path, folder, tokenizer, checkpointing):
    found = []
    for use in (None, checkpointing):
        model = load(folder)
        trainer = make_trainer(tmp_path, model, tokenizer)
        move(model)
        if use is not None:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": use})
        model.train()
        trainer.compute_loss(model, trainer.data_collator(make_rows())).backward()
        found.append(gradients(model))
    close(*found)


def test_packed_samples_give_the_same_loss_as_padded_ones(tmp_path, folder, tokenizer):
    rows = make_rows()
    model = load(folder)
    padded = make_trainer(tmp_path, model, tokenizer)
    packed = make_trainer(tmp_path, model, tokenizer, packed=True)
    move(model)
    samples = [
        {"position_ids": list(range(len(row["input_ids"]))), **{k: v for k, v in row.items() if k != "attention_mask"}}
        for row in rows
    ]
    batch = packed.data_collator(samples)
    assert batch["input_ids"].shape[0] == 1 and "attention_mask" not in batch
    packed.compute_loss(model, batch).backward()
    first = gradients(model)
    padded.compute_loss(model, padded.data_collator(make_rows())).backward()
    close(first, gradients(model))


def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path, folder, tokenizer):
    """Rows of 12 and 40 tokens: averaging the means of micro-batches would give another step.

    One row is trained from its first token on, which nothing predicts and which must not be counted.
    """
    rows = make_rows((12, 40, 33, 9), (1, 0, 1, 1))
    rows[1]["labels"] = rows[1]["input_ids"]
    ends = []
    for size, steps in [(4, 1), (2, 2), (1, 4)]:
        model = load(folder)
        cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer = make_trainer(tmp_path, model, tokenizer, rows=rows, optim="sgd", **cut | {"learning_rate": 0.5})
        move(model)
        start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            reference = all_logits(load(folder, lora=False), rows)
            expected = plain_loss(all_logits(model, rows), reference, rows, "replace", 1.0).item()
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)
        ends.append({name: p.detach() - start[name] for name, p in model.named_parameters() if p.requires_grad})
    close(ends[0], ends[1])
    close(ends[0], ends[2])
    assert max(change.abs().max() for change in ends[0].values()) > 1e-4


def test_one_policy_pass_and_a_reference_pass_over_benign_rows_only(tmp_path, folder, tokenizer):
    model = load(folder)
    trainer = make_trainer(tmp_path, model, tokenizer)
    passes = []
    model.get_base_model().get_decoder().register_forward_hook(
        lambda module, args, output: passes.append((len(output[0]), torch.is_grad_enabled(), module.training))
    )
    model.train()
    trainer.compute_loss(model, trainer.data_collator(make_rows()))
    assert passes == [(2, False, False), (4, True, True)]
    passes.clear()
    trainer.compute_loss(model, trainer.data_collator(make_rows(benign=(0, 0, 0, 0))))
    assert passes == [(4, True, True)]


def test_a_batch_without_trained_tokens_is_zero_and_trains(tmp_path, folder, tokenizer):
    model = load(folder)
    trainer = make_trainer(tmp_path, model, tokenizer)
    rows = [row | {"labels": [-100] * len(row["labels"])} for row in make_rows()]
    loss = trainer.compute_loss(model, trainer.data_collator(rows))
    loss.backward()
    assert loss.item() == 0


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lora", "reference"), [(True, "auto"), (True, "copy"), (False, "auto"), (True, "top_k"), (False, "top_k")]
)
def test_kl_is_zero_at_the_first_step_and_grows(tmp_path, folder, tokenizer, lora, reference):
    trainer = make_trainer(tmp_path, load(folder, lora), tokenizer, {"reference": reference, "k": 600}, max_steps=4)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4 and 0 <= logged[0]["kl"] <= 1e-9
    assert all(1e-6 < entry["kl"] < 1 and 1 < entry["ce"] < 10 for entry in logged[1:] if "kl" in entry)
    assert any("kl" in entry for entry in logged[1:])
    measured = trainer.evaluate()
    assert measured["eval_kl"] > 1e-6 and measured["eval_ce"] > 1


def test_kl_pulls_back_what_cross_entropy_pulled_away(tmp_path, folder, tokenizer):
    model = load(folder)
    trainer = make_trainer(tmp_path, model, tokenizer, rows=make_rows(benign=(1, 1, 1, 1)), max_steps=40)
    move(model, 0.1)
    before = trainer.evaluate()["eval_kl"]
    trainer.train()
    assert trainer.evaluate()["eval_kl"] < 0.1 * before


def test_the_reference_is_deterministic_under_dropout_and_modes_come_back(tmp_path, folder, tokenizer):
    model = load(folder, {"lora_dropout": 0.5}, attention_dropout=0.5)
    trainer = make_trainer(tmp_path, model, tokenizer)
    model.train()
    model.get_base_model().model.norm.eval()  # a module that the user froze by hand stays as it is
    modes = {name: module.training for name, module in model.named_modules()}
    batch = trainer.data_collator(make_rows())
    benign = batch["kl_mask"][:, 1:] != 0
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    seen = []
    for _ in range(2):
        divergence = trainer._reference.look(model, inputs, benign, None)
        with torch.no_grad(), evaluating(model):
            hidden, _ = hidden_states(model, model.get_base_model(), inputs)
        seen.append(divergence(hidden[:, :-1][benign], find_heads(model)[0]).item())
    assert seen[0] == seen[1] <= 1e-9
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert trainer.compute_loss(model, batch).item() != trainer.compute_loss(model, batch).item()


def test_what_was_frozen_stays_frozen_and_what_trains_still_trains(tmp_path, folder, tokenizer):
    model = load(folder)
    next(p for name, p in model.named_parameters() if "lora_A" in name).requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    trainer = make_trainer(tmp_path, model, tokenizer)
    trainer.compute_loss(model, trainer.data_collator(make_rows())).backward()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_bfloat16_starts_at_zero_too(tmp_path, folder, tokenizer):
    trainer = make_trainer(tmp_path, load(folder, dtype=torch.bfloat16), tokenizer, per_device_train_batch_size=4)
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] <= 1e-6 < kl[-1] < 1


def test_a_saved_head_is_told_from_the_original(tmp_path, folder, tokenizer):
    model = load(folder, {"modules_to_save": ["lm_head"]}, tie_word_embeddings=False)
    trainer = make_trainer(tmp_path, model, tokenizer, rows=make_rows(benign=(1, 1, 1, 1)))
    assert trainer.evaluate()["eval_kl"] <= 1e-9
    policy, original = find_heads(model)
    assert policy.weight_VD is not original.weight_VD
    with torch.no_grad():
        policy.weight_VD.add_(0.05 * torch.randn_like(policy.weight_VD))
    assert trainer.evaluate()["eval_kl"] > 1e-4
    trainer.compute_loss(model, trainer.data_collator(make_rows())).backward()
    assert policy.weight_VD.grad.any() and original.weight_VD.grad is None


def test_stored_entries_find_their_tokens_in_packed_batches(tmp_path, folder, tokenizer):
    """Each position's entry is the one that full logits give there, whatever the order and the packing."""
    model = load(folder, lora=False)
    trainer = make_trainer(tmp_path, model, tokenizer, {"reference": "top_k", "k": 7}, packed=True)
    trainer._store_top_k()
    rows = trainer.train_dataset.to_list()
    order = [2, 3, 0, 1]
    batch = trainer.data_collator([rows[i] for i in order])
    benign = batch["kl_mask"][0] != 0
    ids, logprobs, rest = trainer._reference._table.rows(batch["kl_index"][0][benign])
    expected = []
    for i in order:
        logq = all_logits(model, [rows[i]])[0].log_softmax(-1)
        expected += [logq[t - 1] for t, kl in enumerate(rows[i]["kl_mask"]) if kl]
    expected = torch.stack(expected)
    torch.testing.assert_close(expected.topk(7).values, logprobs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(expected.gather(1, ids.long()), logprobs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logprobs.exp().sum(1) + rest.exp(), torch.ones(len(rest)))


def test_axolotl_evaluate_hands_over_datasets(tmp_path, folder, tokenizer):
    trainer = make_trainer(tmp_path, load(folder, lora=False), tokenizer, {"reference": "top_k"})
    found = trainer.evaluate(trainer.eval_dataset, metric_key_prefix="train")
    assert 0 <= found["train_kl"] <= 1e-9 and found["train_ce"] > 1
    with pytest.raises(ConfigError, match="own datasets only"):
        trainer.evaluate(Dataset.from_list(make_rows()))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("Gemma2", {"final_logit_softcapping": 2.0, "head_dim": 32}),
        ("Granite", {"logits_scaling": 8.0}),
        ("Cohere", {"logit_scale": 0.0625}),
        ("Llama", {}),
    ],
)
def test_scaled_and_capped_families(tmp_path, tokenizer, monkeypatch, family, change):
    import transformers

    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "vocab_size": 600, "pad_token_id": 0, "attn_implementation": "sdpa"}
    torch.manual_seed(0)
    build = getattr(transformers, f"{family}ForCausalLM")
    base = build(getattr(transformers, f"{family}Config")(**shape, **change)).double()
    with torch.no_grad():
        base.get_input_embeddings().weight *= 20  # logits large enough for cap and scale to matter
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"]))
    trainer = make_trainer(tmp_path, model, tokenizer)
    rows = make_rows()
    with torch.no_grad():
        reference = all_logits(model, rows)
    move(model)
    loss = trainer.compute_loss(model, trainer.data_collator(make_rows()))
    assert loss.item() == pytest.approx(
        plain_loss(all_logits(model, rows), reference, rows, "replace", 1.0).item(), rel=1e-6
    )
    if change:
        trainer._checked = trainer._reference._checked = False
        monkeypatch.setattr("axolotl_safety.methods.kl.model.logit_transform", lambda config: (1.0, None))
        with pytest.raises(ModelError, match="not its output head times its last hidden states"):
            trainer.compute_loss(model, trainer.data_collator(make_rows()))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_check_logits_fails_closed_on_nan():
    head = Head(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    hidden = torch.ones(1, 2, 4)
    check_logits(hidden, hidden[:, -1:] @ head.weight_VD.T, head, "fake")
    with pytest.raises(ModelError, match="largest difference nan"):
        check_logits(hidden * float("nan"), hidden[:, -1:] @ head.weight_VD.T, head, "fake")


@pytest.mark.parametrize(
    ("lora", "kl", "words"),
    [
        ({"init_lora_weights": "pissa"}, {}, "start as 'pissa'.*reference: copy"),
        ({"init_lora_weights": "olora"}, {"reference": "adapter"}, "start as 'olora'"),
        ({"init_lora_weights": False}, {}, "start as False"),
        ({"bias": "lora_only"}, {}, "biases that stay"),
        ({"target_modules": ["q_proj", "lm_head"]}, {}, "lm_head|output head"),
        (False, {"reference": "adapter"}, "no adapter"),
    ],
)
def test_models_without_a_sound_reference_are_refused(tmp_path, models, lora, kl, words):
    folder = models("r1")  # Qwen2: its attention has biases
    with pytest.raises((ConfigError, ModelError), match=words):
        make_trainer(tmp_path, load(folder, lora), AutoTokenizer.from_pretrained(folder), kl)


def test_pissa_works_with_a_frozen_copy(tmp_path, folder, tokenizer):
    model = load(folder, {"init_lora_weights": "pissa"})
    trainer = make_trainer(tmp_path, model, tokenizer, {"reference": "copy"})
    assert trainer.evaluate()["eval_kl"] <= 1e-9
    move(model, 0.05)
    assert trainer.evaluate()["eval_kl"] > 1e-5


def test_parameters_trained_beside_the_adapter_are_refused(tmp_path, folder, tokenizer):
    model = load(folder)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(ModelError, match="norm.weight' is trained besides the adapter"):
        make_trainer(tmp_path, model, tokenizer)


def test_trainer_arguments_and_data_that_do_not_fit_are_refused(tmp_path, folder, tokenizer):
    with pytest.raises(ConfigError, match="label smoothing"):
        make_trainer(tmp_path, load(folder), tokenizer, label_smoothing_factor=0.1)
    rows = [{key: value for key, value in row.items() if key != "kl_mask"} for row in make_rows()]
    with pytest.raises(ConfigError, match="no kl_mask column"):
        make_trainer(tmp_path, load(folder), tokenizer, rows=rows)
    trainer = make_trainer(tmp_path, load(folder), tokenizer)
    batch = trainer.data_collator(make_rows())
    del batch["kl_mask"]
    with pytest.raises(ConfigError, match="another plugin's collator"):
        trainer.compute_loss(trainer.model, batch)


def config(**changes):
    base = {"base_model": "m", "safety": {"kl": {}}, "datasets": [{"path": "p", "type": "axolotl_safety.thinksafe"}]}
    return DictDefault(base | {"adapter": "lora"} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datasets": [{"path": "p", "type": "chat_template"}]}, "no entry of datasets"),
        ({"rl": "dpo"}, "rl: 'dpo'"),
        ({"fsdp_config": {"fsdp_version": 2}}, "fsdp_config.*ZeRO-1/2"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "ZeRO-3"),
        ({"deepspeed": "deepspeed_configs/zero3_bf16.json"}, "ZeRO-3"),
        ({"context_parallel_size": 2}, "context_parallel_size: 2"),
        ({"torch_compile": True}, "torch_compile: false"),
        ({"relora": True}, "relora merges"),
        ({"peft_init_lora_weights": "pissa_niter_16"}, "pissa_niter_16.*reference: copy"),
        ({"peft": {"loftq_config": {"loftq_bits": 4}}}, "start as 'loftq'"),
        ({"adapter": None, "safety": {"kl": {"reference": "adapter"}}}, "no adapter: is set"),
        ({"adapter": "ia3"}, "'ia3' is not known"),
        ({"safety": {"kl": {"weight": 0}}}, "safety.kl.weight"),
        ({"safety": {"kl": {"wieght": 1}}}, "did you mean 'weight'"),
        ({"safety": {"kl": {"mode": "both"}}}, "'replace' or 'add'"),
    ],
)
def test_yaml_that_cannot_work_is_refused_at_once(changes, words):
    with pytest.raises(ConfigError, match=words):
        prepare_config(config(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"deepspeed": {"zero_optimization": {"stage": 2}}},
        {"peft_init_lora_weights": "pissa", "safety": {"kl": {"reference": "copy"}}},
        {"adapter": None},
    ],
)
def test_yaml_that_can_work_is_not(changes):
    prepare_config(config(**changes))


def test_every_hook_is_silent_without_kl():
    from axolotl.core.trainers.base import AxolotlTrainer

    plugin = SafetyPlugin()
    for cfg in (DictDefault(safety={}), DictDefault(), DictDefault(safety={"kl": {}}, rl="grpo")):
        assert plugin.get_trainer_cls(cfg) is None and plugin.get_training_args(cfg) is None
        assert plugin.get_collator_cls_and_kwargs(cfg) is None and plugin.get_training_args_mixin() is None
        plugin.post_trainer_create(cfg, object())
    on = DictDefault(safety={"kl": {"weight": 0.5}}, sample_packing=True)
    assert issubclass(plugin.get_trainer_cls(on), AxolotlTrainer) and plugin.get_trainer_cls(on).settings.weight == 0.5
    assert plugin.get_collator_cls_and_kwargs(on)[0] is KLCollator
    with pytest.raises(ConfigError, match="the trainer is object"):
        plugin.post_trainer_create(on, object())


# --- batches and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_collator_pads_cuts_and_fills_the_mask(tokenizer, side):
    from axolotl.utils.collators import DataCollatorForSeq2Seq

    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path, padding_side=side)
    collate = KLCollator(tokenizer, DataCollatorForSeq2Seq, padding=True, pad_to_multiple_of=8, return_tensors="pt")
    rows = make_rows((6, 9, 7), (1, 1, 1), prompt=2)
    rows[0]["kl_mask"] += [1, 1]  # Axolotl's truncation cuts the ids and leaves our column long
    rows[2]["kl_mask"] = None
    batch = collate([dict(row) for row in rows])
    assert batch["kl_mask"].shape == batch["labels"].shape == (3, 16) and batch["kl_mask"].dtype == torch.int8
    benign = batch["labels"] != -100
    benign[2] = False
    assert torch.equal(batch["kl_mask"] != 0, benign)


@pytest.mark.parametrize("nested", [False, True])
def test_collator_packs_as_axolotl_does(tokenizer, nested):
    from axolotl.utils.collators import V2BatchSamplerDataCollatorForSeq2Seq as Packed

    rows = make_rows((6, 9, 7), (1, 0, 1), prompt=2)
    for row in rows:
        row["position_ids"] = list(range(len(row["input_ids"])))
        del row["attention_mask"]
    del rows[1]["kl_mask"]
    collate = KLCollator(tokenizer, Packed, padding=True, pad_to_multiple_of=8, return_tensors="pt")
    batch = collate([[dict(row) for row in rows]] if nested else [dict(row) for row in rows])
    plain = [{key: value for key, value in row.items() if key != "kl_mask"} for row in rows]
    theirs = Packed(tokenizer, padding=True, pad_to_multiple_of=8)([plain] if nested else plain)
    assert set(batch) == set(theirs) | {"kl_mask"} and "attention_mask" not in batch
    assert all(torch.equal(batch[key], theirs[key]) for key in theirs)
    assert batch["kl_mask"][0].tolist() == [0, 0, 1, 1, 1, 1] + [0] * 9 + [0, 0, 1, 1, 1, 1, 1] + [0, 0]


def outcomes():
    common = {"entry": 0, "source": "s", "prompt": "p", "status": "accepted", "prompt_ids": (1, 2)}
    return [
        Outcome(row_id="a", label="harmful", response_ids=(3, 4), **common),
        Outcome(row_id="b", label="benign", response_ids=(5, 6, 7), **common),
        Outcome(row_id="c", label="benign", **(common | {"status": "rejected"})),
    ]


def test_the_hand_off_writes_the_mask_only_when_asked(tmp_path):
    off, train_off = handoff.write_dataset(tmp_path, outcomes(), {})
    on, train_on = handoff.write_dataset(tmp_path, outcomes(), {}, kl=True)
    assert off != on and load_from_disk(str(train_off)).column_names == ["input_ids", "attention_mask", "labels"]
    assert off == "acdc65337441fca5c54639df"  # as before there was a KL: other people's caches keep working
    table = load_from_disk(str(train_on))
    assert table["kl_mask"][:] == [[0, 0, 0, 0], [0, 0, 1, 1, 1]]
    assert table.features["kl_mask"].feature.dtype == "int8"
    assert handoff.read_hash(train_on) == on and handoff.read_hash(train_off) == off
    harmful = [outcome for outcome in outcomes() if outcome.label == "harmful"]
    assert handoff.write_dataset(tmp_path, harmful, {})[0] != handoff.write_dataset(tmp_path, harmful, {}, kl=True)[0]


def test_benign_positions_skip_what_is_never_predicted():
    from axolotl_safety.methods.kl.top_k import benign_positions

    assert benign_positions([7, 8, -100, 9], [1, 1, 1, 1, 1]).tolist() == [1, 3]
    assert benign_positions([7, 8], None).tolist() == [] and benign_positions([7, 8], None).dtype == np.int64


# --- Axolotl's own command --------------------------------------------------------------------------------------------


def logged(output, key):
    return [float(value) for value in re.findall(rf"'{key}': '?([-+0-9.e]+)", output)]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """One data stage for both runs."""
    return tmp_path_factory.mktemp("safety")


@pytest.mark.e2e
@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_axolotl_trains_the_lab_model_with_kl(tmp_path, work_dir, adapter):
    """LoRA packed, mixed with ordinary rows and evaluated; QLoRA padded with gradient accumulation."""
    config = yaml.safe_load((cli.ROOT / "yaml" / "lab_thinksafe_kl.yml").read_text())
    config |= {"max_steps": 3, "logging_steps": 1, "output_dir": str(tmp_path / "model")}
    config |= {"dataset_prepared_path": str(tmp_path / "prepared"), "micro_batch_size": 4}
    config |= {"lr_scheduler": "constant", "warmup_steps": 0, "learning_rate": 0.01}
    config["safety"] |= {"work_dir": str(work_dir), "max_rows": 24}
    if adapter == "lora":
        config |= {"sample_packing": True, "val_set_size": 0.2, "eval_steps": 3, "gradient_checkpointing": True}
        config |= {"micro_batch_size": 1}
        chat = [
            {"messages": [{"role": "user", "content": f"sort {i}"}, {"role": "assistant", "content": "done"}]}
            for i in range(6)
        ]
        path = tiny.write_rows(tmp_path / "chat.jsonl", chat)
        config["datasets"].append({"path": str(path), "type": "chat_template"})
    else:
        config |= {"adapter": "qlora", "load_in_4bit": True, "gradient_accumulation_steps": 2}
    code, output = cli.run("train", config, tmp_path)
    assert code == 0, output[-3000:]
    kl, ce = logged(output, "kl"), logged(output, "ce")
    assert len(kl) >= 2 and len(ce) == 3 and kl[0] <= 1e-6 and all(1e-9 < value < 5 for value in kl[1:])
    if adapter == "lora":
        assert logged(output, "eval_kl") and logged(output, "eval_ce")
    (manifest,) = cli.manifests(work_dir)
    rows = load_from_disk(str(work_dir / "datasets" / manifest["hash"] / "train"))
    assert {any(mask) for mask in rows["kl_mask"]} == {True, False}
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()
