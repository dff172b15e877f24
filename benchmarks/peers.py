"""The data stage against its peers: four clients, one vLLM server on the CPU, the same prompts.

    python benchmarks/peers.py --vllm-python .venv-vllm/bin/python --curator-python .venv-curator/bin/python
    python benchmarks/peers.py --vllm-python .venv-vllm/bin/python --requests 64 --rounds 1     # without curator

* **ours** is the stage itself, `run_stage` with ``backend: openai`` and its journal: ThinkSafe, the builtin guard, one
  attempt, prompts as they are. The prompts are harmless and the dataset calls them harmful, so every answer is taken
  apart, checked and rejected for not being a refusal: one completion per row is asked, and no score of an accepted one.
  (Prompts that the model happens to refuse at this seed are left out beforehand.)
* **curator** is bespokelabs-curator with its ``openai`` backend and its cache: every reply is appended to its file of
  responses. It can only ask for chat completions, so the server applies the template. It asks for token ids and
  log-probabilities as the stage must, so that the server does as much for it; a chat's log-probabilities come with each
  token's text and bytes. With ``--curator-asks text`` it asks for neither, which is what it needs by itself.
* **plain** is an asyncio loop over httpx, set up as the openai client sets it up, with a semaphore. It posts the very
  bodies that the stage was seen to post, in that order, retries a lost connection as that client does, keeps nothing.
* **lean** is the same loop over aiohttp, the library that curator uses: what a client can cost at least.

Server, model (the lab's), prompts, concurrency, sampling, length limit and the seed of each request are the same for
all: the same tokens are drawn, and the server's own count of them stands beside the figures. The prefix cache is off,
and every run has a folder of its own, so nothing is answered from a cache. Every round is begun by another
client.

Measured is, in seconds, from when the server sees the first of a run's prompts until the last result is kept: the last
write to the journal or to the file of responses, or the end of the loop. Imports, reading rows, tokenizers, the check
of the server before and the files of the finished dataset after are not in it. Besides, each a median of the runs:

* ``whole``: the whole call, in a process that has run once before.
* ``cpu``: CPU seconds of the client's process between the first prompt and the last result.
* ``server_cpu``: CPU seconds of the server's processes during the call.
* ``others``: how many cores everything else on the machine kept busy meanwhile. Far above 0, wall time says little;
  with --calm such a run is made again.
* ``under_way``: how many requests the server had at once, as a mean. A client that is slow to send the next one leaves
  it below --concurrency.
* ``again``: requests that the server saw more than once, because a connection was lost.

With --scored the rows are benign, the stage accepts most of them and has them scored; plain posts those bodies too, and
curator, which cannot, is left out.

The last line is JSON: medians over the rounds, and the ratios of the medians of the wall time.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil
from lab_backends import LENGTH, ROOT, vllm_server

from axolotl_safety.commands.demo import OFFLINE

MODEL = ROOT / "examples/lab/model"
PARTS = ROOT / "benchmarks/peerslib"
NEW_TOKENS = 160
MOST_SENTENCES = 12
WARM_UP = 64
MOST_REPEATS = 5
_MAKE_CURATOR = (
    "curator is left out. To have it: python -m venv .venv-curator && .venv-curator/bin/pip install "
    "bespokelabs-curator==0.1.31, then --curator-python .venv-curator/bin/python"
)
# Nothing is reported to anybody, nothing is looked for on the network, no terminal is drawn on.
_QUIET = {
    "TELEMETRY_ENABLED": "false",
    "CURATOR_VIEWER": "0",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_API_KEY": "none",
    "NO_PROXY": "127.0.0.1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
_TOKENS = re.compile(r"^vllm:generation_tokens_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Cost:
    """One client's run over all prompts."""

    seconds: float
    cpu: float
    whole: float
    tokens: int
    server_cpu: float
    others: float
    again: int
    under_way: float


@dataclass(frozen=True)
class Seen:
    """What a run looked like from outside of its client.

    Attributes:
        asked: bodies of requests for completions, and when they came.
        told: the client's own figures.
        tokens: drawn by the server.
        server_cpu: CPU seconds of the server's processes.
        others: cores that neither server nor client kept busy.
    """

    asked: list[dict[str, Any]]
    told: dict[str, Any]
    tokens: int
    server_cpu: float
    others: float


class Client:
    """A client's process, its library loaded."""

    def __init__(self, name: str, python: str, home: Path) -> None:
        environ = os.environ | OFFLINE | _QUIET | {"HOME": str(home)}  # curator writes there as it is imported
        if name == "curator":
            environ.pop("PYTHONPATH", None)  # what leads to this package would lead another environment astray
        self.name, self._log = name, home / f"{name}.log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [python, str(PARTS / "client.py"), name],
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "env": environ, "cwd": home},
            )
        self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"{self.name} ended:\n{self._log.read_text(errors='replace')[-3000:]}")
        return json.loads(line)

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Asks everything."""
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


class Bench:
    """The server, the prompts and what the stage asks for them."""

    def __init__(self, url: str, count: int, concurrency: int, scored: bool, text: bool, folder: Path) -> None:
        self._url, self._count, self._folder, self._scored, self._text = url, count, folder, scored, text
        self._asked, self._rows = folder / "asked.json", folder / "rows.jsonl"
        self._runs = 0
        self._take(make_prompts(count if scored else count + count // 2))
        self._job = {
            "url": url,
            "model": str(MODEL),
            "concurrency": concurrency,
            "new_tokens": NEW_TOKENS,
            "window": int(LENGTH),
            "label": "benign" if scored else "harmful",
        }

    def _take(self, prompts: Sequence[str]) -> None:
        self._by_ids = prompt_ids(prompts)
        self._rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))

    def watch(self, ours: Client) -> None:
        """Has the stage run and notes what it asks, for the others to ask the same.

        Raises:
            click.ClickException: it asks something else than one completion per prompt.
        """
        if not self._scored:
            accepted = {self._prompt_of(one["body"]) for one in self._run(ours).asked if scores(one["body"])}
            self._take([prompt for prompt in self._by_ids.values() if prompt not in accepted][: self._count])
        seen = self._run(ours)
        known = [one["body"] for one in seen.asked if self._prompt_of(one["body"]) is not None]
        others = sum(map(scores, known))
        if len(known) - others != self._count or (others and not self._scored):
            raise click.ClickException(
                f"the stage asked {len(known) - others} completions and {others} scores for {self._count} prompts"
            )
        self._write(known)
        click.echo(f"the stage asks {self._count} completions and {others} scores; {seen.tokens} tokens are drawn")

    def warm_up(self, client: Client) -> None:
        """A short run, so that what a client loads late is loaded."""
        few = self._folder / "few.json"
        few.write_text(json.dumps(json.loads(self._asked.read_text())[:WARM_UP]))
        self._run(client, few)

    def measure(self, client: Client) -> Cost:
        """One run over all prompts.

        Raises:
            click.ClickException: the server was not asked about all of them.
        """
        seen = self._run(client)
        known = [one for one in seen.asked if self._prompt_of(one["body"]) is not None]
        missing = {*self._by_ids.values()} - {self._prompt_of(one["body"]) for one in known}
        if missing:
            raise click.ClickException(f"{client.name} did not ask about {len(missing)} of the prompts")
        again = len(known) - len(json.loads(self._asked.read_text()))
        first, kept, samples = min(one["came"] for one in known), seen.told["kept"], seen.told["cpu"]
        under_way = sum(one["left"] - one["came"] for one in known) / (kept - first)
        cpu, whole = cpu_at(samples, kept) - cpu_at(samples, first), seen.told["ended"] - seen.told["started"]
        return Cost(kept - first, cpu, whole, seen.tokens, seen.server_cpu, seen.others, again, under_way)

    def _run(self, client: Client, asked: Path | None = None) -> Seen:
        self._runs += 1
        folder = self._folder / f"run{self._runs}"
        folder.mkdir()
        job = self._job | {"folder": str(folder), "rows": str(self._rows), "asked": str(asked or self._asked)}
        server = json.loads(self._get("/peers/taken"))["pid"]
        tokens, busy = self._tokens(), (busy_seconds(), cpu_seconds(server), cpu_seconds(client.pid))
        began = time.monotonic()
        told = client.run(job)
        took = time.monotonic() - began
        spent, ours, theirs = (
            now - then
            for now, then in zip((busy_seconds(), cpu_seconds(server), cpu_seconds(client.pid)), busy, strict=True)
        )
        taken = json.loads(self._get("/peers/taken"))["asked"]
        return Seen(taken, told, self._tokens() - tokens, ours, max(0.0, spent - ours - theirs) / took)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self._url.removesuffix("/v1") + path, timeout=30) as reply:
            return reply.read().decode()

    def _tokens(self) -> int:
        return int(sum(float(value) for value in _TOKENS.findall(self._get("/metrics"))))

    def _prompt_of(self, body: dict[str, Any]) -> str | None:
        """The prompt of ours that a body asks about, by ids or as a message."""
        ids = tuple(body.get("prompt") or ())
        if "messages" in body:
            return next((message["content"] for message in body["messages"]), None)
        if scores(body):  # prompt and response
            return next((prompt for known, prompt in self._by_ids.items() if ids[: len(known)] == known), None)
        return self._by_ids.get(ids)

    def _write(self, bodies: Iterable[dict[str, Any]]) -> None:
        """Every body, with what asks the same of a chat."""
        asked = [{"prompt": self._prompt_of(body), "body": body, "chat": self._chat(body)} for body in bodies]
        self._asked.write_text(json.dumps(asked))

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        told = {"logprobs", "return_token_ids"}
        kept = {key: value for key, value in body.items() if key not in {"model", "prompt", *told}}
        if not self._text and told <= set(body):
            kept |= {"logprobs": True, "top_logprobs": body["logprobs"], "return_token_ids": body["return_token_ids"]}
        return kept


def scores(body: dict[str, Any]) -> bool:
    """Whether a body asks for the log-probabilities of its prompt."""
    return body.get("prompt_logprobs") is not None


def make_prompts(count: int) -> list[str]:
    """Different harmless prompts of one to a dozen of the lab's sentences."""
    files = [ROOT / "examples/lab/data/benign.jsonl", *sorted((ROOT / "examples/lab/data/eval").glob("*/benign.jsonl"))]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    sentences = [json.loads(line)["prompt"] for line in lines]
    draw, made = random.Random(0), dict[str, None]()
    while len(made) < count:
        made[" ".join(draw.choices(sentences, k=draw.randint(1, MOST_SENTENCES)))] = None
    return list(made)


def prompt_ids(prompts: Iterable[str]) -> dict[tuple[int, ...], str]:
    """The prompts by their token ids in the model's template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    found = {}
    for prompt in prompts:
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        found[tuple(tokenizer.encode(text, add_special_tokens=False))] = prompt
    return found


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and those below it."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def busy_seconds() -> float:
    """CPU seconds of everything on the machine."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def cpu_at(samples: list[list[float]], when: float) -> float:
    """CPU seconds at a time, between the two samples around it."""
    place = min(max(bisect_left(samples, [when]), 1), len(samples) - 1)
    (before, low), (after, high) = samples[place - 1], samples[place]
    share = (when - before) / (after - before) if after > before else 0.0
    return low + (high - low) * min(max(share, 0.0), 1.0)


@contextmanager
def clients(pythons: dict[str, str], folder: Path) -> Iterator[dict[str, Client]]:
    """One process per client, ended at the end."""
    with ExitStack() as stack:
        started = {}
        for name, python in pythons.items():
            home = folder / name
            home.mkdir()
            started[name] = Client(name, python, home)
            stack.callback(started[name].close)
        yield started


def run_rounds(bench: Bench, started: dict[str, Client], rounds: int, calm: float | None) -> dict[str, list[Cost]]:
    """Every client once per round, each round begun by another."""
    bench.watch(started["ours"])
    for client in started.values():
        if client.name != "ours":
            bench.warm_up(client)
    costs: dict[str, list[Cost]] = {name: [] for name in started}
    for number in range(rounds):
        first = number % len(started)
        for name in [*started][first:] + [*started][:first]:
            costs[name].append(measured(bench, started[name], calm))
            click.echo(f"round {number + 1}, {name}: {describe(costs[name][-1])}")
    return costs


def measured(bench: Bench, client: Client, calm: float | None) -> Cost:
    """A run, again where the machine was busy with something else: the calmest of a few."""
    tries = [bench.measure(client)]
    while calm is not None and tries[-1].others > calm and len(tries) <= MOST_REPEATS:
        click.echo(f"again, other processes were busy: {client.name}, {describe(tries[-1])}")
        tries.append(bench.measure(client))
    return min(tries, key=lambda cost: cost.others)


def describe(cost: Cost) -> str:
    """A run in words."""
    cpu = f"CPU {cost.cpu:.2f} s, the server's {cost.server_cpu:.2f} s, others {cost.others:.2f} cores"
    return (
        f"{cost.seconds:.3f} s, {cpu}, whole {cost.whole:.2f} s, {cost.tokens} tokens, {cost.under_way:.1f} under way"
    )


def summary(costs: dict[str, list[Cost]]) -> dict[str, Any]:
    """Medians over the rounds."""
    middle = {name: statistics.median(cost.seconds for cost in seen) for name, seen in costs.items()}

    def over(other: str) -> float | None:
        return round(middle["ours"] / middle[other], 3) if other in middle else None

    found: dict[str, Any] = {name: round(middle[name], 3) if name in middle else None for name in ("ours", "curator")}
    found |= {name: round(middle[name], 3) for name in ("plain", "lean")}
    found |= {"ours_over_plain": over("plain"), "ours_over_curator": over("curator"), "ours_over_lean": over("lean")}
    for field in ("cpu", "server_cpu", "whole", "tokens", "others", "again", "under_way"):
        found[field] = {
            name: round(statistics.median(getattr(cost, field) for cost in seen), 3) for name, seen in costs.items()
        }
    return found | {"each": {name: [round(cost.seconds, 3) for cost in seen] for name, seen in costs.items()}}


@click.command(help="\b\n" + __doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--rounds", default=5, show_default=True)
@click.option("--requests", "count", default=512, show_default=True)
@click.option("--concurrency", default=64, show_default=True)
@click.option("--vllm-python", type=click.Path(path_type=Path), default=ROOT / ".venv-vllm" / "bin" / "python")
@click.option("--curator-python", type=click.Path(path_type=Path), help="interpreter that has bespokelabs-curator")
@click.option("--curator-asks", type=click.Choice(["same", "text"]), default="same", show_default=True)
@click.option("--calm", type=float, help="cores that other processes may keep busy during a run; else it is repeated")
@click.option("--scored", is_flag=True, help="with scores of what is accepted, without curator")
@click.option("--json", "target", default="-", show_default=True, help="Where the line of JSON goes.")
def main(
    rounds: int,
    count: int,
    concurrency: int,
    vllm_python: Path,
    curator_python: Path | None,
    curator_asks: str,
    scored: bool,
    calm: float | None,
    target: str,
) -> None:
    """Runs the rounds."""
    os.environ |= OFFLINE
    pythons = dict.fromkeys(("ours", "plain", "lean"), sys.executable)
    if curator_python and not scored:
        pythons["curator"] = str(curator_python.absolute())  # not resolved: a link would lose its environment
    elif not scored:
        click.echo(_MAKE_CURATOR, err=True)
    options = ["--max-num-seqs", str(concurrency), "--no-enable-prefix-caching", "--middleware", "peers_clock.Clock"]
    options += ["--disable-uvicorn-access-log"]
    environ = {"PYTHONPATH": str(PARTS), "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "server.txt"
        try:
            with (
                vllm_server(vllm_python.absolute(), log, options, environ) as url,
                clients(pythons, folder) as started,
            ):
                bench = Bench(url, count, concurrency, scored, curator_asks == "text", folder)
                costs = run_rounds(bench, started, rounds, calm)
        except (click.ClickException, OSError):
            click.echo(f"the server's last words:\n{log.read_text(errors='replace')[-4000:]}", err=True)
            raise
    figures = {"rounds": rounds, "requests": count} | summary(costs)
    figures |= {
        "concurrency": concurrency,
        "scored": scored,
        "curator_asks": curator_asks,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
    }
    with click.open_file(target, "w", encoding="utf-8") as out:
        out.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
