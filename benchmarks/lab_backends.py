"""The lab's recipes through every engine backend, by `axolotl preprocess`: the same rows asked, and as many accepted.

    python benchmarks/lab_backends.py --vllm-python .venv-vllm/bin/python
    python benchmarks/lab_backends.py --backends transformers,ray --recipes lab_dgr

``vllm`` runs in the environment of --vllm-python; ``openai`` asks a vLLM server that is started from it for the run;
``ray`` runs two transformers workers as actors of a local Ray. Draws differ between backends, so the accepted rows do
too; how many are accepted must not. The last line is JSON: ``runs``, and per recipe ``gap``, the largest difference in
acceptance to the first backend in points, of candidates (a point or two is sampling noise) and of rows. Exit code 1
where a run fails or a gap reaches 5 points.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from axolotl_safety.commands.demo import OFFLINE

ROOT = Path(__file__).resolve().parents[1]
BOUND = 5.0  # points
_START_SECONDS = 300
SERVER = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
SERVER["TORCHDYNAMO_DISABLE"] = "1"  # nothing is compiled: these machines may have no compiler
LENGTH = "2048"  # the lab model's window in tokens


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/models", timeout=2).close()
    except OSError:
        return False
    return True


@contextmanager
def vllm_server(
    python: Path, log: Path, options: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A vLLM server with the lab's model on this machine; yields its base URL.

    Args:
        python: interpreter that has vLLM.
        log: file for what it prints.
        options: more of its command line.
        environ: more of its environment.

    Raises:
        click.ClickException: it did not come up within five minutes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(ROOT / "examples/lab/model")]
    command += ["--served-model-name", "lab", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    # Chunked prefill with a seed per request ends vLLM's CPU engine ("CPU Generator does not use offset").
    command += ["--enforce-eager", "--no-enable-chunked-prefill"]
    command += ["--max-model-len", LENGTH, "--max-num-batched-tokens", LENGTH, *options]
    told = os.environ | OFFLINE | SERVER | dict(environ or {})
    with open(log, "wb") as out:
        server = subprocess.Popen(command, env=told, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(url):
            if server.poll() is not None or time.monotonic() > deadline:
                end = log.read_text(errors="replace")[-2000:]
                raise click.ClickException(f"the vLLM server did not come up:\n{end}")
            time.sleep(1)
        yield url
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def preprocess(
    recipe: str, backend: str, engine: dict[str, Any], folder: Path, seed: int | None = None
) -> dict[str, Any]:
    """One recipe through one backend.

    Returns:
        Rows and candidates asked and accepted over the entries that generate, and seconds.

    Raises:
        click.ClickException: `axolotl preprocess` failed.
    """
    folder.mkdir(parents=True)
    config = yaml.safe_load((ROOT / "yaml" / f"{recipe}.yml").read_text(encoding="utf-8"))
    config["safety"] |= {"engine": engine, "work_dir": str(folder / "safety")}
    if seed is not None:
        config["safety"]["seed"] = seed
    config |= {"dataset_prepared_path": str(folder / "prepared"), "output_dir": str(folder / "model")}
    (folder / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    log, started = folder / "log.txt", time.monotonic()
    command = [str(Path(sys.executable).with_name("axolotl")), "preprocess", str(folder / "config.yml")]
    with open(log, "wb") as out:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | OFFLINE, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        end = log.read_text(errors="replace")[-3000:]
        raise click.ClickException(f"{recipe} on {backend}: exit code {done.returncode}\n{end}")
    latest = json.loads((folder / "safety" / "datasets" / "latest.json").read_text())
    manifests = [
        json.loads((folder / "safety" / "datasets" / name / "manifest.json").read_text()) for name in latest.values()
    ]
    funnels = [manifest["funnel"] for manifest in manifests]
    counts = {key: sum(f[key] for f in funnels) for key in ("taken", "asked", "accepted_candidates", "accepted")}
    return {
        "recipe": recipe,
        "backend": backend,
        "engine": sorted({manifest["engine"]["backend"] for manifest in manifests}),
        **counts,
        "accepted_rows_pct": round(100 * counts["accepted"] / counts["taken"], 1),
        "accepted_candidates_pct": round(100 * counts["accepted_candidates"] / counts["asked"], 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def gaps(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per recipe, the largest difference in acceptance to its first run, in points."""
    found: dict[str, dict[str, float]] = {}
    for recipe in dict.fromkeys(run["recipe"] for run in runs):
        first, *others = [run for run in runs if run["recipe"] == recipe]
        found[recipe] = {}
        for part in ("rows", "candidates"):
            key = f"accepted_{part}_pct"
            found[recipe][part] = round(max((abs(run[key] - first[key]) for run in others), default=0.0), 1)
    return found


def comma(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in value.split(",") if name.strip()]


@click.command()
@click.option("--backends", callback=comma, default="transformers,ray,vllm,openai", show_default=True)
@click.option("--recipes", callback=comma, default="lab_dgr,lab_thinksafe", show_default=True)
@click.option("--vllm-python", type=click.Path(path_type=Path), default=ROOT / ".venv-vllm" / "bin" / "python")
@click.option("--seed", type=int, help="other draws than the recipes' own")
def main(backends: list[str], recipes: list[str], vllm_python: Path, seed: int | None) -> None:
    """Runs all of them and prints what was accepted."""
    vllm_python = vllm_python.absolute()
    engines: dict[str, dict[str, Any]] = {
        "transformers": {"backend": "transformers"},
        "ray": {"backend": "ray", "ray_worker": "transformers", "replicas": 2},
        "vllm": {"backend": "vllm", "python": str(vllm_python), "max_num_seqs": 64},
        "openai": {"backend": "openai", "model": "lab"},
    }
    if unknown := [name for name in backends if name not in engines]:
        raise click.BadParameter(f"unknown backends {unknown}; known are {', '.join(engines)}")
    runs: list[dict[str, Any]] = []

    def run_all(backend: str, engine: dict[str, Any], folder: Path) -> None:
        for recipe in recipes:
            runs.append(preprocess(recipe, backend, engine, folder / f"{recipe}-{backend}", seed))
            click.echo(
                "{recipe} on {backend}: {accepted} of {taken} rows, {accepted_candidates} of {asked} candidates "
                "({accepted_candidates_pct} %), {seconds} s".format(**runs[-1])
            )

    with tempfile.TemporaryDirectory() as name:
        for backend in backends:
            if backend == "openai":
                log = Path(name) / "server.txt"
                try:
                    with vllm_server(vllm_python, log) as url:
                        run_all(backend, engines[backend] | {"base_url": url}, Path(name))
                except click.ClickException:
                    click.echo(f"the server's last words:\n{log.read_text(errors='replace')[-4000:]}", err=True)
                    raise
            else:
                run_all(backend, engines[backend], Path(name))
    found = gaps(runs)
    click.echo(json.dumps({"runs": runs, "gap": found}))
    raise SystemExit(any(value >= BOUND for parts in found.values() for value in parts.values()))


if __name__ == "__main__":
    main()
