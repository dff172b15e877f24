"""A task of lm-eval by its name, run by lm-eval's own harness in a child process.

The harness loads the model itself (``--model hf``): neither our engine nor the journal has a part in it, so a task that
is killed starts again, while a finished one is read back. It cuts off the thought at ``think_end_token`` and does not
say which completions were truncated; both rates are therefore null.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from axolotl_safety.config import SafetyConfig
from axolotl_safety.data.tokenizer import TargetTokenizer
from axolotl_safety.engines.base import Sampling
from axolotl_safety.engines.local.launch import child_environment
from axolotl_safety.engines.queue import content_id
from axolotl_safety.util.errors import ConfigError, StageError
from axolotl_safety.util.files import make_folder, opener, write_atomically

from .figures import Measured
from .models import EvalModel

LOG = logging.getLogger(__name__)
_FILTERS = ("flexible-extract", "none")
_METRICS = ("math_verify", "exact_match", "acc", "prompt_level_strict_acc", "pass@1", "pass_at_k")


@dataclass(frozen=True)
class LmEvalTask:
    """A task, the folder of task files beside lm-eval's own (or None), how many of its prompts are asked, and whether
    it may run the code that the model writes."""

    name: str
    include_path: str | None
    limit: int | None
    run_code: bool = False


def run_task(
    task: LmEvalTask,
    model: EvalModel,
    tokens: TargetTokenizer,
    sampling: Sampling,
    safety: SafetyConfig,
    work_dir: Path,
) -> Measured:
    """Score one model on one task, or read back what was scored before.

    Raises:
        ConfigError: the task is a group, or lm-eval cannot run it.
    """
    arguments = command_line(task, model, tokens, sampling, safety)
    template = _template(tokens)
    asked = [task_files(task), *([] if template is None else [template])]
    key = content_id("lm_eval", version("lm_eval"), model.files.fingerprint, arguments, *asked)
    store = work_dir / "evaluations" / "lm_eval" / f"{key}.json"
    try:
        scored = json.loads(store.read_text(encoding="utf-8"))
        LOG.info("lm-eval %s of %s: found", task.name, model.name)
    except (OSError, ValueError):
        scored = _run(task, model, arguments, work_dir, None if template is None else tokens.with_template(template))
        write_atomically(store, json.dumps(scored).encode() + b"\n")
    outcomes = {item: (float(score),) for item, score in scored["scores"].items()}
    about = {
        "failed": 0,
        "truncation_rate": None,
        "unclosed_rate": None,
        "judge": f"lm-eval {version('lm_eval')} {scored['metric']} ({scored['filter']})",
        "heuristic": False,
    }
    return Measured(task.name, "reasoning", "correct", model.name, outcomes, about)


def command_line(
    task: LmEvalTask, model: EvalModel, tokens: TargetTokenizer, sampling: Sampling, safety: SafetyConfig
) -> list[str]:
    """lm-eval's arguments, but for where it writes."""
    spec, think = model.files.spec, tokens.thinking
    about = {
        "pretrained": spec.path,
        "tokenizer": tokens.tokenizer.name_or_path,
        "revision": spec.revision,
        "dtype": spec.dtype,
        "peft": spec.adapter,
        "trust_remote_code": spec.trust_remote_code or None,
        "load_in_4bit": True if spec.quantization == "bitsandbytes" else None,
        "think_end_token": think.close_ids[-1] if think.close_ids else think.close,
    }
    drawn = {"do_sample": False, "max_gen_toks": sampling.max_new_tokens}
    if sampling.temperature > 0:
        drawn |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        drawn |= {"top_k": sampling.top_k}
    made = ["--model", "hf", "--tasks", task.name, "--apply_chat_template", "--log_samples"]
    made += ["--model_args", *(f"{key}={value}" for key, value in about.items() if value is not None)]
    made += ["--gen_kwargs", *(f"{key}={value}" for key, value in drawn.items())]
    made += ["--batch_size", str(safety.engine.batch_size), "--seed", str(safety.seed)]
    made += ["--include_path", str(Path(task.include_path).absolute())] if task.include_path else []
    return made + (["--limit", str(task.limit)] if task.limit else [])


def task_files(task: LmEvalTask) -> list[str]:
    """Contents of the user's own task files, which decide what is asked."""
    if not task.include_path:
        return []
    return [path.read_text(encoding="utf-8") for path in sorted(Path(task.include_path).rglob("*.y*ml"))]


def _template(tokens: TargetTokenizer) -> str | None:
    """The chat template with the YAML's values in it; None where it is the tokenizer's own and is given none."""
    from transformers import AutoTokenizer

    values = tokens.template_kwargs
    template = tokens.tokenizer.chat_template
    if not values and AutoTokenizer.from_pretrained(tokens.tokenizer.name_or_path).chat_template == template:
        return None
    text = template.get("default", "") if isinstance(template, dict) else template
    given = ((name, "none" if value is None else json.dumps(value)) for name, value in sorted(values.items()))
    return "".join(f"{{%- set {name} = {value} -%}}" for name, value in given) + text


def _run(
    task: LmEvalTask, model: EvalModel, arguments: list[str], work_dir: Path, tokenizer: Any = None
) -> dict[str, Any]:
    """Scores of one model on one task, asked with this tokenizer where it is not the one that the arguments name."""
    logs = work_dir / "logs"
    make_folder(logs)
    log = logs / f"lm-eval-{re.sub(r'[^A-Za-z0-9_-]', '-', task.name)[:80]}-{os.getpid()}.log"
    LOG.info("lm-eval %s of %s: running; log %s", task.name, model.name, log)
    with tempfile.TemporaryDirectory(dir=work_dir) as folder:
        if tokenizer is not None:
            own = Path(folder) / "tokenizer"
            tokenizer.save_pretrained(own)
            arguments = [f"tokenizer={own}" if word.startswith("tokenizer=") else word for word in arguments]
        command = [sys.executable, "-m", "lm_eval", "run", *arguments, "--output_path", folder]
        command += ["--confirm_run_unsafe_code"] if task.run_code else []
        with open(log, "wb", opener=opener) as file:  # it prints prompts: not for the terminal
            code = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=child_environment(os.environ), check=False
            ).returncode
        if code:
            raise StageError(
                f"lm-eval ended with exit code {code} on task {task.name!r} of {model.name}; its log is {log}. "
                "`lm-eval ls tasks` lists the tasks, and `pip install lm-eval[math]` brings what its MATH tasks need."
            )
        found = sorted(Path(folder).rglob("samples_*.jsonl"))
        if len(found) != 1:
            raise ConfigError(
                f"safety.eval: lm-eval's {task.name!r} is a group of {len(found)} tasks; name each task for itself."
            )
        with open(found[0], encoding="utf-8") as lines:
            return read_samples(task.name, [json.loads(line) for line in lines])


def read_samples(name: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scores per document of the reading that counts: the flexible filter, and the metric nearest to correctness.

    Raises:
        ConfigError: the task gives no number per document.
    """
    filters = [one["filter"] for one in samples]
    chosen = next((word for word in _FILTERS if word in filters), filters[0] if filters else "")
    kept = [one for one in samples if one["filter"] == chosen]
    metrics = kept[0]["metrics"] if kept else []
    metric = next((word for word in _METRICS if word in metrics), metrics[0] if metrics else "")
    scores = {str(one["doc_id"]): one.get(metric) for one in kept}
    wrong = [score for score in scores.values() if not isinstance(score, (int, float)) or not math.isfinite(score)]
    if not scores or wrong:
        raise ConfigError(
            f"safety.eval: lm-eval's task {name!r} gives no number per document for {metric or 'any metric'!r}, so it "
            "cannot be compared pair by pair. Choose a task with exact_match or acc."
        )
    return {"metric": metric, "filter": chosen, "scores": scores}
