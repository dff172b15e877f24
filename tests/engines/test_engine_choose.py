"""Which engine is chosen, what an interpreter is asked, and what an engine must be able to do."""

import os
import subprocess
import sys
import venv

import pytest

from axolotl_safety.config import SafetyConfig
from axolotl_safety.engines.base import Sampling
from axolotl_safety.engines.choose import Interpreter, ask_interpreter, backend_named, choose_backend
from axolotl_safety.pipeline.engine_models import check_resampling
from axolotl_safety.util.errors import ConfigError


def chosen(vllm, gpu, transformers=True, **engine):
    return choose_backend(
        SafetyConfig(engine=engine).engine,
        ask=lambda python: Interpreter(python or sys.executable, vllm, transformers),
        has_gpu=lambda: gpu,
    )


@pytest.mark.parametrize(
    ("vllm", "gpu", "backend"),
    [
        ("0.23.0", True, "vllm"),
        ("0.32.0", True, "vllm"),
        ("1.2.3", True, "vllm"),
        ("0.32.0", False, "transformers"),
        ("0.19.1", True, "transformers"),
        ("", True, "transformers"),
        (None, True, "transformers"),
    ],
)
def test_auto_is_vllm_where_a_gpu_and_a_fitting_vllm_are(vllm, gpu, backend):
    assert chosen(vllm, gpu) == backend


def test_vllm_runs_on_a_cpu_when_it_is_asked_for():
    assert chosen("0.32.0", False, backend="vllm") == "vllm"


@pytest.mark.parametrize(("vllm", "said"), [("0.19.1", r"has vLLM 0\.19\.1"), ("", "unknown"), (None, "no vLLM")])
def test_a_vllm_that_does_not_fit_is_named_with_the_range_and_the_way_out(vllm, said):
    with pytest.raises(ConfigError, match=rf"{said}.*0\.20.*engine\.python"):
        chosen(vllm, True, backend="vllm")


def test_a_quantisation_that_the_chosen_engine_lacks_is_refused():
    assert chosen("0.32.0", True, quantization="fp8") == "vllm"
    with pytest.raises(ConfigError, match="fp8"):
        chosen(None, True, quantization="fp8")


def test_an_interpreter_is_asked_without_importing_what_it_has(tmp_path):
    """A fresh environment with a vLLM that cannot be imported: its version is read all the same."""
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    assert ask_interpreter(str(python)) == Interpreter(str(python), None, False)
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    package = os.path.join(subprocess.run(where, capture_output=True, text=True).stdout.strip(), "vllm")
    os.mkdir(package)
    assert ask_interpreter(str(python)).vllm is None  # an empty folder is no package
    with open(os.path.join(package, "__init__.py"), "w") as file:
        file.write("raise ImportError('operator torchvision::nms does not exist')")
    assert ask_interpreter(str(python)).vllm == ""
    with open(os.path.join(package, "_version.py"), "w") as file:
        file.write("__version__: str\n__version_tuple__: tuple\n__version__ = version = '0.21.0+cpu'\n")
    found = ask_interpreter(str(python))
    assert found.vllm == "0.21.0+cpu" and found.vllm_fits and not found.transformers


def test_an_interpreter_that_does_not_run_is_said_so(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 3\n")
    broken.chmod(0o755)
    assert "no such library" in ask_interpreter(str(broken)).fault
    with pytest.raises(ConfigError, match="does not run: no such library"):
        choose_backend(SafetyConfig(engine={"python": str(broken)}).engine)
    assert ask_interpreter(None).transformers


def test_resampling_needs_scores_at_the_sampling_temperature():
    warm, cool = {"dgr": Sampling(0.7, 1.0, 0, 64)}, {"dgr": Sampling(1.0, 1.0, 0, 64)}
    with pytest.raises(ConfigError, match=r"dgr 0\.7.*vllm.*temperature: 1\.0"):
        check_resampling("resample", warm, "vllm")
    check_resampling("resample", cool, "vllm")
    check_resampling("lowest_nll", warm, "vllm")
    check_resampling("resample", warm, "transformers")
    assert not backend_named("openai").any_temperature and backend_named("transformers").any_temperature
