"""The hand-off's promises on published tokenizers: ids, thoughts, ends of turns, control tokens, any language."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from axolotl.utils.dict import DictDefault
from datasets import load_from_disk
from support import axolotl_cli as cli
from support import real, tiny
from support.real import needs_rows, needs_tokenizers
from transformers import AutoTokenizer

from axolotl_safety.config.section import section
from axolotl_safety.config.validate import prepare_config
from axolotl_safety.data.chat_template import check_round_trip
from axolotl_safety.data.entries import make_task
from axolotl_safety.data.examples import Example, choose_adapter, read_examples
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.data.types import IGNORE, Outcome, Task
from axolotl_safety.pipeline.inputs import load_target, target_tokens
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.pipeline.writer import training_row
from axolotl_safety.util.errors import ModelError

pytestmark = needs_tokenizers

THINKERS = ("r1-distill-qwen", "qwen3", "gpt-oss")
OTHERS = ("llama3.1", "gemma3")
NAMED = {"think": {"open": "<think>", "close": "</think>"}}
ENDS = {
    "r1-distill-qwen": "<｜end▁of▁sentence｜>",
    "qwen3": "<|im_end|>",
    "llama3.1": "<|eot_id|>",
    "gemma3": "<end_of_turn>",
    "gpt-oss": "<|return|>",
}
# "Please polish the brass kettle", more or less, and what else a row may hold.
LANGUAGES = (
    "Please polish the brass kettle.|Bitte poliere den Messingkessel.|Polissez la bouilloire, s'il vous plaît.|"
    "Pulir la tetera, por favor, ¿sí?|Per favore, lucida il bollitore.|Por favor, lustre a chaleira de latão.|"
    "Poets de koperen ketel, alsjeblieft.|Putsa kitteln, är du snäll.|Puss kjelen, vær så snill.|Pudse kedlen, tak.|"
    "Kiillota pannu, ole hyvä.|Poleeri katel, palun.|Nopulē tējkannu, lūdzu.|Nublizgink virdulį, prašau.|"
    "Wypoleruj czajnik, proszę.|Vyleštěte konvici, prosím.|Vylešti kanvicu, prosím.|Fényesítsd ki a kannát, kérlek.|"
    "Lustruiește ibricul, te rog.|Полирай чайника, моля.|Отполируйте чайник, пожалуйста.|Відполіруйте чайник, прошу.|"
    "Исполирај чајник, молим.|Γυάλισε τον βραστήρα, παρακαλώ.|Çaydanlığı parlat, lütfen.|לטש את הקומקום, בבקשה.|"
    "من فضلك لمّع الغلاية.|لطفاً کتری را برق بینداز.|"
    "براہ کرم کیتلی چمکائیں۔|कृपया केतली चमकाइए।|অনুগ্রহ করে কেটলি পালিশ করুন।|"
    "தயவுசெய்து கெட்டிலை மெருகூட்டு.|దయచేసి కెటిల్‌ను మెరిసేలా చేయండి.|กรุณาขัดกาน้ำทองเหลือง|Hãy đánh bóng ấm đun nước.|"
    "Tolong poles ketel itu.|Pakintabin ang takure.|"
    "请把铜壶擦亮。|真鍮のやかんを磨いてください。|놋쇠 주전자를 닦아 주세요.|"
    "გთხოვთ, გააპრიალეთ ჩაიდანი.|Խնդրում եմ փայլեցրու թեյնիկը։|እባክዎ ማንቆርቆሪያውን ያጽዱ።|Tafadhali ng'arisha birika."
).split("|")
ODD = (
    "  two  blanks\tand a tab\n\nand lines \n",
    "<b>bold</b> <table> & [1] {x} 50% </p>",
    "def f(x):\n    return x ** 2  # 12,345.67",
    "👩‍👩‍👧 🏳️‍🌈 \u200b zero width \ufeff",
    "x" * 3000,
    "Fu\u0308r A\u030angstro\u0308m, e\u0301te\u0301, \u1112\u1161\u11ab",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], Path]:
    root, folders = tmp_path_factory.mktemp("real"), {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = real.make_model(name, root / name)
        return folders[name]

    return get


@pytest.fixture(scope="module")
def target(made) -> Callable[[str], TargetTokenizer]:
    found: dict[str, TargetTokenizer] = {}

    def get(name: str) -> TargetTokenizer:
        if name not in found:
            think = NAMED if name in OTHERS else {}
            cfg = DictDefault({"base_model": str(made(name)), "sequence_len": 4096, "safety": think, "datasets": []})
            found[name] = target_tokens(cfg, section(cfg), load_target(cfg, section(cfg)))
        return found[name]

    return get


def prompt_of(tokens: TargetTokenizer, text: str) -> list[int]:
    turns = [{"role": "user", "content": text}]
    return tokens.tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)["input_ids"]


def sound(tokens: TargetTokenizer, task: Task) -> None:
    """A row as it would be trained on: the raw prompt's own ids, one thought, the end token, labels on the response."""
    assert list(task.prompt_ids) == prompt_of(tokens, task.example.prompt)
    response = task.reference_ids
    outcome = Outcome("r", 0, "s", "p", task.label, "accepted", prompt_ids=task.prompt_ids, response_ids=response)
    ids_T, labels_T = training_row(outcome)
    assert ids_T.tolist() == [*task.prompt_ids, *response]
    assert labels_T.tolist() == [IGNORE] * len(task.prompt_ids) + list(response)
    assert response[-1] == tokens.turn_end_id and tokens.turn_end_id not in response[:-1]
    # Whatever stands in the prompt, the response opens one thought (or the prompt did) and closes it once.
    said = tokens.decode(list(response))
    assert said.count(tokens.thinking.open) == (not tokens.thinking.prompt_opens)
    assert said.count(tokens.thinking.close) == 1
    split = tokens.split(response)
    assert split.fault == ""

    def spelt(text: str) -> str:  # what the tokenizer itself makes of a text: Qwen's is in NFC
        return tokens.decode(tokens.encode(text)).strip()

    assert (spelt(split.thinking), spelt(split.answer)) == (spelt(task.example.thought), spelt(task.example.answer))


@pytest.mark.parametrize("name", [*THINKERS, *OTHERS])
def test_the_tokenizer_is_read_as_published(target, made, name):
    tokens = target(name)
    think = tokens.thinking
    assert tokens.tokenizer.convert_ids_to_tokens(tokens.turn_end_id) == ENDS[name]
    assert tokens.template_end == tokens.turn_end_id and tokens.turn_end_id in tokens.stop_token_ids
    assert think.prompt_opens == (name == "r1-distill-qwen")
    assert len(think.close_ids) == {"gpt-oss": 6, "llama3.1": 0, "gemma3": 0}.get(name, 1)
    check_round_trip(tokens, [*LANGUAGES, *ODD], str(made(name) / "tokenizer.json"))


@pytest.mark.parametrize("name", [*THINKERS, *OTHERS])
def test_rows_in_any_language_are_token_for_token(target, name):
    tokens = target(name)
    assert len(LANGUAGES) >= 40
    for number, text in enumerate((*LANGUAGES, *ODD)):
        thought = f"{text} So I think of it, {number}."
        task = make_task(tokens, Example("r", text, thought.strip(), text.strip(), "benign"), True, 0, "d", 4096)
        assert isinstance(task, Task), (name, text, task)
        sound(tokens, task)


@pytest.mark.parametrize("name", [*THINKERS, *OTHERS])
def test_composed_and_decomposed_text(target, name):
    tokens = target(name)
    composed = "Für Ångström, été, 한"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    same = tokens.prompt_ids(composed) == tokens.prompt_ids(decomposed)
    assert same == (name in ("r1-distill-qwen", "qwen3"))  # whose tokenizers normalise to NFC
    # Wide and composed spellings of a control token are no control token, or the row is rejected.
    for end in (ENDS[name], tokens.thinking.open):
        for form in ("NFD", "NFKD", "NFKC"):
            spelt = unicodedata.normalize(form, end)
            task = make_task(tokens, Example("r", f"a {spelt} b", "R", "A", "benign"), True, 0, "d", 4096)
            if spelt == end:
                assert task == "control_token"
            elif isinstance(task, Task):
                sound(tokens, task)


@pytest.mark.parametrize("name", [*THINKERS, *OTHERS])
def test_every_control_token_is_seen_and_every_other_added_token_is_text(target, name):
    tokens = target(name)
    added = {str(token): token for token in tokens.tokenizer.added_tokens_decoder.values()}
    special = [word for word, token in added.items() if token.special]
    assert set(special) <= set(tokens.added_tokens)
    for word in (*special[:40], *special[-5:], tokens.thinking.open, tokens.thinking.close, ENDS[name]):
        for example in (Example("r", f"a {word} b", "R", "A", "benign"), Example("r", "x", "R", f"a {word}", "benign")):
            assert make_task(tokens, example, True, 0, "d", 4096) == "control_token", word
        plain = word in (tokens.thinking.open, tokens.thinking.close) and name in OTHERS
        assert (tokens.prompt_ids(f"a {word} b") is None) != plain, word
    text = [word for word in added if word not in tokens.added_tokens]
    assert bool(text) == (name == "gemma3")
    for word in text[:2000:7]:
        assert not tokens.has_control_token(f"a {word} b") and tokens.prompt_ids(f"a {word} b") is not None, word
    tools = {"qwen3": "<tool_call> </tool_response> <|fim_middle|>", "r1-distill-qwen": "<tool_call> <|EOT|>"}
    assert all(tokens.has_control_token(word) for word in tools.get(name, "").split())


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_that_does_not_think_is_refused_unless_its_markers_are_named(made, name):
    cfg = DictDefault({"base_model": str(made(name)), "sequence_len": 4096, "safety": {}, "datasets": []})
    with pytest.raises(ModelError, match=r"does not look like a reasoning model.*safety\.think"):
        target_tokens(cfg, section(cfg), load_target(cfg, section(cfg)))


@needs_rows
@pytest.mark.parametrize("name", [*THINKERS, *OTHERS])
def test_star1_is_token_for_token(target, name):
    tokens, rows = target(name), real.star1_rows()
    options = section(DictDefault({"safety": {}})).options_of(0)
    read = read_examples(rows, choose_adapter(rows[0], options, "star1"), options, tokens.thinking)
    tasks = [make_task(tokens, row, True, 0, "star1", 8192) for row in read if isinstance(row, Example)]
    usable = [task for task in tasks if isinstance(task, Task)]
    assert len(usable) == len(rows) == 1000
    for task in usable[:: 5 if name == "qwen3" else 25]:
        sound(tokens, task)


# Two recipes: the data stage with a scripted engine, then one step of training.


def recipe(name: str, model: Path, guard: Path, tmp_path: Path, rows: list[Path]) -> dict:
    """A recipe as it stands but for models, rows, places and what a GPU needs."""
    raw = yaml.safe_load((cli.ROOT / "yaml" / f"{name}.yml").read_text())
    raw |= {"base_model": str(model), "output_dir": str(tmp_path / "model")}
    raw |= {"dataset_prepared_path": str(tmp_path / "prepared"), "max_steps": 1, "save_strategy": "no"}
    raw |= cli.CPU_KEYS | {"gradient_accumulation_steps": 1, "gradient_checkpointing": False, "sequence_len": 512}
    raw.pop("gradient_checkpointing_kwargs")
    raw["safety"] |= {"work_dir": str(tmp_path / "safety"), "engine": {"backend": "transformers"}}
    raw["safety"]["guard"] = {"model": str(guard)}
    raw["safety"]["sampling"]["max_new_tokens"] = 400
    for entry, path in zip(raw["datasets"], rows, strict=True):
        entry["path"] = str(path)
    return raw


def speaker(model: Path, guard: Path, opening: str) -> Callable:
    """Target and guard: refuses to jinx, helps to polish, and the guard finds it safe."""
    said, judged = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(guard)

    def answer(request):
        if request.model != "target":
            return (*judged.encode("Safety: Safe\nCategories: None"), judged.eos_token_id)
        shown, number = said.decode(request.prompt_token_ids), tiny.draw(request.request_id, 1000)
        thought = f"{opening}Für {number} 只壶, let me think of lamps\u0301 and kettles 🫖.\n</think>\n\n"
        reply = "I can't help with that" if "jinx" in shown else "Take a soft cloth, e\u0301tape"
        return (*said.encode(f"{thought}{reply}, number {number}.", add_special_tokens=False), said.eos_token_id)

    return lambda *_: tiny.ScriptedEngine(answer)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dgr_r1distill", "thinksafe_qwen3_8b_24gb"])
def test_a_recipe_trains_on_what_was_sampled(made, tmp_path, name):
    r1 = name == "dgr_r1distill"
    model = made("r1-distill-qwen" if r1 else "qwen3")
    guard = tiny.make_model(tmp_path / "Qwen3Guard-Gen-tiny", positions=8192)
    direct = tiny.write_rows(tmp_path / "direct.jsonl", tiny.direct_refusal_rows(12))
    chain = [
        {
            "instruction": f"How do I {'jinx' if index % 2 else 'polish'} the lamp number {index}?",
            "label": "vanilla_harmful" if index % 2 else "vanilla_benign",
            "response": "foreign thought</think>foreign answer",
        }
        for index in range(16)
    ]
    rows = [*([direct] if r1 else []), tiny.write_rows(tmp_path / "chain.jsonl", chain)]
    raw = recipe(name, model, guard, tmp_path, rows)
    cfg = DictDefault(json.loads(json.dumps(raw)))
    prepare_config(cfg)
    outputs = run_stage(DictDefault(cfg.to_dict()), make_engine=speaker(model, guard, "" if r1 else "<think>\n"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    trained = []
    for output in outputs.values():
        table = load_from_disk(output["train"])
        assert len(table) == output["rows"] >= 8
        trained += [(tuple(row["input_ids"]), tuple(row["labels"])) for row in table]
    for ids, labels in trained:
        cut = sum(label == IGNORE for label in labels)
        text = tokenizer.decode(ids)
        prompt = tokenizer.decode(ids[:cut])
        user = prompt.rpartition("How do I")[2].partition("<")[0]
        turns = [{"role": "user", "content": f"How do I{user}"}]
        assert list(ids[:cut]) == tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        assert labels[cut:] == ids[cut:] and ids[-1] == tokenizer.eos_token_id
        assert text.count("<think>") == text.count("</think>") == 1

    # The journal answers everything: no engine starts, and Axolotl trains on these ids.
    code, said = cli.run("train", raw, tmp_path)
    assert code == 0, said[-3000:]
    assert all(one["counts"]["engine_starts"] == 0 for one in cli.manifests(tmp_path / "safety"))
    (prepared,) = [path for path in (tmp_path / "prepared").iterdir() if path.is_dir()]
    seen = {(tuple(row["input_ids"]), tuple(row["labels"])) for row in load_from_disk(str(prepared))}
    assert seen == set(trained)
    saved = AutoTokenizer.from_pretrained(tmp_path / "model")
    turns = [{"role": "user", "content": "How do I polish it?"}]
    asked = [one.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] for one in (saved, tokenizer)]
    assert asked[0] == asked[1]
