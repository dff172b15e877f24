"""The target's tokenizer as the YAML and the checkpoint's files make it: where a turn ends, what renders a prompt."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from axolotl.utils.dict import DictDefault
from datasets import load_from_disk
from support import stage as helpers
from support import tiny
from support.thinkers import THINKERS, make_thinker
from transformers import AutoTokenizer

from axolotl_safety.config.section import section
from axolotl_safety.pipeline.inputs import load_target, stage_inputs, target_tokens
from axolotl_safety.pipeline.stage import run_stage
from axolotl_safety.util.errors import ConfigError, ModelError

END, PAD = "<|im_end|>", "<|endoftext|>"


@pytest.fixture
def model(models, tmp_path):
    """A copy of a model folder with other things in its JSON files."""

    def changed(style: str = "qwen3", template: str | None = None, **files) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(models(style), folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for name, values in files.items():
            path = folder / f"{name}.json"
            said = json.loads(path.read_text()) if path.is_file() else {}
            named = {key: word for key, word in values.items() if key == "eos_token_id" and word != 2}
            ids = {key: tokenizer.convert_tokens_to_ids(word) for key, word in named.items()}
            path.write_text(json.dumps(said | values | ids))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return changed


def tokens_of(folder: Path, **top):
    cfg = DictDefault({"base_model": str(folder), "sequence_len": 512, "safety": {}, "datasets": []} | top)
    safety = section(cfg)
    return target_tokens(cfg, safety, load_target(cfg, safety))


def words(tokens, ids) -> set[str]:
    return set(tokens.tokenizer.convert_ids_to_tokens(list(ids)))


# Where a turn ends


OTHER = {"tokenizer_config": {"eos_token": PAD}, "generation_config": {"eos_token_id": PAD}}
OTHER |= {"config": {"eos_token_id": PAD}}


def test_the_templates_end_counts_where_every_file_names_another_token(model, caplog):
    with caplog.at_level(logging.WARNING, "axolotl_safety"):
        tokens = tokens_of(model(**OTHER))
    assert words(tokens, [tokens.turn_end_id]) == {END} and words(tokens, tokens.stop_token_ids) == {END, PAD}
    assert "generation_config.json says '<|endoftext|>'" in caplog.text and f"eos_token: '{END}'" in caplog.text
    said = tokens.response_ids("R", "A")
    assert tokens.decode(said).endswith(f"A{END}")


@pytest.mark.parametrize("name", ["generation_config", "config", "special_tokens", "eot_tokens"])
def test_everybody_who_names_an_end_is_heard(model, name, caplog):
    files = {key: values for key, values in OTHER.items() if key != name}
    files[name] = {"eos_token_id": [END, PAD]} if name == "generation_config" else {"eos_token_id": END}
    yaml = {"special_tokens": {"special_tokens": {"eos_token": END}}, "eot_tokens": {"eot_tokens": [END]}}.get(name, {})
    files = OTHER if yaml else files
    with caplog.at_level(logging.WARNING, "axolotl_safety"):
        tokens = tokens_of(model(**files), **yaml)
    assert words(tokens, tokens.stop_token_ids) == {END, PAD} and words(tokens, [tokens.turn_end_id]) == {END}
    assert not caplog.records


def test_an_id_of_another_vocabulary_in_the_configuration_ends_nothing(model):
    tokens = tokens_of(model(config={"eos_token_id": 2}))
    assert words(tokens, tokens.stop_token_ids) == {END}


NO_END = tiny.TEMPLATES["no_think"].replace("+ '<|im_end|>\\n'", "+ '\\n'") + "{# </think> #}"


def test_files_that_disagree_are_refused_where_the_template_does_not_settle_it(model):
    folder = model(template=NO_END, generation_config={"eos_token_id": PAD})
    with pytest.raises(ModelError) as stopped:
        tokens_of(folder)
    for word in (f"generation_config.json says '{PAD}'", f"tokenizer_config.json says '{END}'", "special_tokens"):
        assert word in str(stopped.value)
    for yaml in ({"special_tokens": {"eos_token": END}}, {"eot_tokens": [END]}):
        assert words(tokens_of(folder, **yaml), [tokens_of(folder, **yaml).turn_end_id]) == {END}


def test_files_that_agree_need_no_template(model, caplog):
    folder = model(template=NO_END, generation_config={"eos_token_id": [END, PAD]})
    with caplog.at_level(logging.WARNING, "axolotl_safety"):
        assert words(tokens_of(folder), [tokens_of(folder).turn_end_id]) == {END}
    assert not caplog.records
    (folder / "chat_template.jinja").write_text(tiny.TEMPLATES["no_think"].replace(END, "<eot>") + "{# </think> #}")
    with caplog.at_level(logging.WARNING, "axolotl_safety"):
        tokens = tokens_of(folder)
    assert "ends a turn with the text '<eot>\\n', which holds no token" in caplog.text
    assert words(tokens, [tokens.turn_end_id]) == {END} and tokens.has_control_token("<eot>")


def test_an_end_that_the_model_cannot_write_is_refused_if_it_is_asked(model, tmp_path):
    template = tiny.TEMPLATES["qwen3"].replace("'<|im_end|>", "eos_token + '")
    top = {"special_tokens": {"eos_token": "<|new|>"}}
    folder, rows = model(template=template), tiny.direct_refusal_rows(2)
    with pytest.raises(ModelError, match=r"would end with '<\|new\|>', which the YAML adds"):
        stage_inputs(cfg := helpers.config(tmp_path, folder, rows, top=top), section(cfg))
    cfg = helpers.config(tmp_path, folder, rows, top=top, method="vanilla")
    tokens = stage_inputs(cfg, section(cfg)).tokens  # rows of others are trained on, and the new token with them
    assert words(tokens, [tokens.turn_end_id]) == {"<|new|>"}
    with pytest.raises(ConfigError, match=r"eot_tokens: '<\|gone\|>' is no token"):
        tokens_of(folder, eot_tokens=["<|gone|>"])


@pytest.mark.parametrize("method", ["dgr", "vanilla"])
def test_a_stage_ends_its_rows_where_the_template_ends_a_turn(model, tmp_path, method):
    folder = model(**OTHER)
    cfg = helpers.config(tmp_path, folder, tiny.direct_refusal_rows(12), method=method)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids(END)
    asked = []

    def answer(request):
        asked.append(request.stop_token_ids)
        return tiny.refusing_answer(tokenizer, False, end)(request)

    (output,) = run_stage(cfg, make_engine=lambda *_: tiny.ScriptedEngine(answer)).values()
    rows = load_from_disk(output["train"])
    assert len(rows) >= 8 and {row["input_ids"][-1] for row in rows} == {end}
    assert {row["labels"][-1] for row in rows} == {end}
    assert all(end in stops for stops in asked) and bool(asked) == (method == "dgr")


# What renders a prompt


CHATML = "chatml"
R1_IN_TEXT = (
    "{{ bos_token }}User: {{ messages[0]['content'] }}\nAssistant: {% if add_generation_prompt %}<think>\n{% endif %}"
)


def test_the_yamls_template_renders_what_is_asked_and_trained(model, tmp_path, caplog):
    folder = model()
    top = {"chat_template": "jinja", "chat_template_jinja": R1_IN_TEXT, "special_tokens": {"bos_token": PAD}}
    with caplog.at_level(logging.WARNING, "axolotl_safety"):
        tokens = tokens_of(folder, **top)
    wanted = f"{PAD}User: polish it\nAssistant: <think>\n"
    assert tokens.decode(tokens.prompt_ids("polish it")) == wanted and tokens.thinking.prompt_opens
    assert "chat_template jinja of the YAML renders other prompts" in caplog.text
    cfg = helpers.config(tmp_path, folder, tiny.direct_refusal_rows(4), top=top, method="vanilla")
    (output,) = run_stage(cfg).values()
    for row in load_from_disk(output["train"]):
        text = tokens.decode(row["input_ids"])
        assert text.startswith(f"{PAD}User: How do I") and text.count("<think>") == text.count("</think>") == 1

    # Axolotl's own tokenizer, which is saved with the tuned model, renders the same.
    from axolotl.loaders.tokenizer import load_tokenizer

    saved = load_tokenizer(DictDefault({"base_model": str(folder), "tokenizer_config": str(folder)} | top))
    turns = [{"role": "user", "content": "polish it"}]
    assert saved.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == wanted


@pytest.mark.parametrize("choice", ["tokenizer_default", "chatml", "tokenizer_default_fallback_alpaca"])
def test_a_template_that_renders_the_same_says_nothing_and_changes_nothing(model, caplog, choice):
    folder = model()
    with caplog.at_level(logging.WARNING, "axolotl_safety"):
        assert tokens_of(folder).prompt_ids("x") == tokens_of(folder, chat_template=choice).prompt_ids("x")
    assert not caplog.records


def test_what_the_yaml_names_and_cannot_be_used_is_refused_before_an_engine(model, models, tmp_path):
    folder = model()
    with pytest.raises(
        ModelError, match="closes the thought.*enable_thinking: true.*chat_template: exaone4 in the YAML"
    ):
        tokens_of(folder, chat_template="exaone4")
    with pytest.raises(ModelError, match="reasoning model.*that of chat_template: llama3 in the YAML"):
        tokens_of(models("r1", "text"), chat_template="llama3")
    tokens = tokens_of(folder, chat_template="exaone4", chat_template_kwargs={"enable_thinking": True})
    assert tokens.thinking.prompt_opens
    for key in ("tokenizer_use_mistral_common", "added_tokens_overrides"):
        with pytest.raises(ConfigError, match=f"{key}.*tuned model would see other prompts"):
            tokens_of(folder, **{key: {5: "x"} if "added" in key else True})
    with pytest.raises(ConfigError, match="chat_template 'gone'"):
        tokens_of(folder, chat_template="gone")
    entry = {"chat_template": "llama3"}
    cfg = helpers.config(tmp_path, folder, tiny.direct_refusal_rows(2), entry=entry)
    with pytest.raises(ConfigError, match="chat_template 'llama3', which renders other prompts.*axolotl_safety.dgr"):
        stage_inputs(cfg, section(cfg))
    cfg = helpers.config(tmp_path, folder, tiny.direct_refusal_rows(2), entry={"chat_template": "chatml"})
    assert stage_inputs(cfg, section(cfg)).entries


# What a template is told


def thinker_folder(models, tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    shutil.copytree(models("no_think"), folder)
    tokenizer = make_thinker(name, AutoTokenizer.from_pretrained(folder))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("place", ["top", "section"])
@pytest.mark.parametrize("name", THINKERS)
def test_what_the_template_is_told_reaches_the_rows(models, tmp_path, name, place):
    family, folder = THINKERS[name], thinker_folder(models, tmp_path, name)
    values = {"chat_template_kwargs": family.values}
    options = {"top": values} if place == "top" else {"think": values}
    cfg = helpers.config(tmp_path, folder, tiny.direct_refusal_rows(3), **options)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    frame = family.said.replace("R", "That would hurt the lamp {n}.").replace("A<", "I can't help with that, {n}.<")
    frame = frame if "{n}.<" in frame.partition("hurt")[2][12:] else frame.replace("A", "I can't help with that, {n}.")

    def answer(request):
        text = frame.replace("{n}", str(tiny.draw(request.request_id, 1000)))
        shown.append(tokenizer.decode(request.prompt_token_ids))
        return (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)

    shown: list[str] = []
    (output,) = run_stage(cfg, make_engine=lambda *_: tiny.ScriptedEngine(answer)).values()
    assert output["rows"] == 3
    assert helpers.manifest_of(output)["model"]["chat_template_kwargs"] == family.values
    turns = [{"role": "user", "content": tiny.direct_refusal_rows(1)[0]["prompt"]}]
    wanted = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **family.values)
    texts = [tokenizer.decode(row["input_ids"]) for row in load_from_disk(output["train"])]
    assert sum(text.startswith(wanted) for text in texts) == 1
    assert all(text.endswith(family.end) for text in texts) and all(text.endswith(family.prompt_end) for text in shown)


def test_two_places_that_differ_and_names_that_are_no_values_are_refused(models):
    yaml = {"chat_template_kwargs": {"enable_thinking": True}}
    same = {"safety": {"think": yaml}}
    assert tokens_of(models(), **yaml, **same).template_kwargs == {"enable_thinking": True}
    other = {"safety": {"think": {"chat_template_kwargs": {"enable_thinking": False}}}}
    with pytest.raises(ConfigError, match="rendered in one way only"):
        tokens_of(models(), **yaml, **other)
    with pytest.raises(ConfigError, match="'add_generation_prompt' says how"):
        tokens_of(models(), chat_template_kwargs={"add_generation_prompt": False})


# Words


def test_added_words_are_text_and_markers_are_not(model, tmp_path):
    folder = model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["marsh lamp", "<b>", "user", "[1]", "jinx", "<tool_call>", "<|fim_prefix|>", "<note>"])
    tokenizer.chat_template += "{# <note> #}"
    tokenizer.save_pretrained(folder)
    tokens = tokens_of(folder)
    text = "Does the user <b>jinx</b> the marsh lamp [1]?"
    assert not tokens.has_control_token(text) and tokens.prompt_ids(text) is not None
    said = tokens.response_ids("jinx", text)
    assert (tokens.split(said).answer, tokens.split(said).fault) == (text, "")
    for word in ("<tool_call>", "<|fim_prefix|>", "<note>", "<think>", END):
        assert tokens.has_control_token(f"a {word} b") and tokens.prompt_ids(f"{word}") is None, word
        assert tokens.split((*said[:-1], *tokens.encode(word), said[-1])).fault, word
    cfg = helpers.config(tmp_path, folder, tiny.direct_refusal_rows(10), method="vanilla")
    (output,) = run_stage(cfg).values()
    assert output["rows"] == 10


def test_words_that_the_yaml_adds_are_known_to_no_model(models):
    tokens = tokens_of(models(), tokens=["wumpet"], special_tokens={"pad_token": "<|pad|>"})
    assert tokens.has_control_token("a wumpet") and tokens.has_control_token("<|pad|>")
    assert not tokens_of(models()).has_control_token("a wumpet")
