"""The environment that an engine's child process gets: the launcher's variables must not reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# A child that sees torchrun's rendezvous believes that it is a rank and waits for the others.
_LAUNCHER_NAMES = frozenset(
    """RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE NODE_RANK MASTER_ADDR MASTER_PORT
    NCCL_ASYNC_ERROR_HANDLING TORCH_NCCL_ASYNC_ERROR_HANDLING TORCH_DISTRIBUTED_DEBUG
    CROSS_RANK AXOLOTL_IS_PREPROCESS PMI_RANK PMI_SIZE OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE
    OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE""".split()
)
_LAUNCHER_PREFIXES = ("ROLE_", "ACCELERATE_", "TORCHELASTIC_", "FSDP_", "DEEPSPEED_", "RAY_")
_ALLOCATOR_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
# These tie an interpreter to one installation; another interpreter would import the wrong packages.
_INTERPRETER_NAMES = frozenset(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"))


def child_environment(
    environ: Mapping[str, str],
    other_python: bool = False,
    devices: Sequence[str] | None = None,
    threads: int | None = None,
) -> dict[str, str]:
    """Builds the environment of an engine's child.

    Args:
        environ: the parent's environment; it is not changed.
        other_python: whether the child runs under another interpreter than the parent.
        devices: the GPUs that the child may see, as ``CUDA_VISIBLE_DEVICES`` names them; None changes nothing.
        threads: threads of the child's numeric libraries; None changes nothing.

    Returns:
        A copy without the launcher's variables (ranks, rendezvous, Accelerate, FSDP, Ray), without the allocator option
        ``expandable_segments`` (it breaks vLLM's sleep-mode allocator; the other options stay), and with the
        tokenizers' thread pool off. Everything else stays: ``HF_*``, ``CUDA_VISIBLE_DEVICES``, proxies.
    """
    child = {
        name: value
        for name, value in environ.items()
        if name not in _LAUNCHER_NAMES
        and not name.startswith(_LAUNCHER_PREFIXES)
        and not (other_python and name in _INTERPRETER_NAMES)
    }
    for name in _ALLOCATOR_NAMES:
        if name in child:
            options = [option.strip() for option in child[name].split(",")]
            kept = [option for option in options if option and not option.startswith("expandable_segments")]
            if kept:
                child[name] = ",".join(kept)
            else:
                del child[name]
    child["TOKENIZERS_PARALLELISM"] = "false"
    if devices is not None:
        child["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    if threads is not None:
        child["OMP_NUM_THREADS"] = str(threads)
    return child
