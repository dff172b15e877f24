"""``axolotl train`` with ``use_ray: true`` on a machine without a GPU: `python ray_train.py config.yml`.

Axolotl asks Ray for a GPU per training worker. That is all that is changed here.
"""

from __future__ import annotations

import sys
from typing import Any

import ray
import ray.train


def main(config: str) -> None:
    """Train in one worker of a Ray of its own."""
    scaling = ray.train.ScalingConfig

    def without_gpu(**wanted: Any) -> ray.train.ScalingConfig:
        return scaling(**wanted | {"use_gpu": False})

    ray.train.ScalingConfig = without_gpu
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    from axolotl.cli.train import do_cli

    sys.argv = sys.argv[:1]  # which Axolotl reads options from
    do_cli(config)


if __name__ == "__main__":
    main(sys.argv[1])
