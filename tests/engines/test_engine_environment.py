from axolotl_safety.engines.local.launch import child_environment


def test_launcher_variables_are_dropped_and_the_rest_stays():
    environ = {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "GROUP_RANK": "0",
        "ROLE_RANK": "0", "ROLE_WORLD_SIZE": "8", "ROLE_NAME": "x", "MASTER_ADDR": "h", "MASTER_PORT": "1",
        "ACCELERATE_USE_FSDP": "1", "TORCHELASTIC_RUN_ID": "z", "FSDP_VERSION": "2", "RAY_ADDRESS": "h:1",
        "NCCL_ASYNC_ERROR_HANDLING": "1",
    }  # fmt: skip
    kept = {"HF_HOME": "/hf", "HF_TOKEN": "t", "CUDA_VISIBLE_DEVICES": "1", "https_proxy": "p", "NCCL_DEBUG": "INFO"}
    before = environ | kept
    child = child_environment(before)
    assert child == kept | {"TOKENIZERS_PARALLELISM": "false"}
    assert before == environ | kept


def test_only_expandable_segments_leaves_the_allocator_options():
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        value = "max_split_size_mb:128, expandable_segments:True,garbage_collection_threshold:0.8"
        child = child_environment({name: value})
        assert child[name] == "max_split_size_mb:128,garbage_collection_threshold:0.8"
        assert name not in child_environment({name: "expandable_segments:True"})
        assert child_environment({name: "backend:native"})[name] == "backend:native"


def test_another_interpreter_does_not_inherit_this_ones_paths():
    environ = {"PYTHONPATH": "/x", "PYTHONHOME": "/y", "VIRTUAL_ENV": "/z"}
    assert child_environment(environ, other_python=True) == {"TOKENIZERS_PARALLELISM": "false"}
    assert child_environment(environ)["PYTHONPATH"] == "/x"


def test_a_lane_gets_its_gpus_and_its_threads():
    child = child_environment({"CUDA_VISIBLE_DEVICES": "0,1,2", "OMP_NUM_THREADS": "8"}, devices=("1", "2"), threads=2)
    assert child["CUDA_VISIBLE_DEVICES"] == "1,2" and child["OMP_NUM_THREADS"] == "2"
    assert child_environment({}, devices=())["CUDA_VISIBLE_DEVICES"] == ""
