"""The files that describe clusters say what Ray, Kubernetes and a shell understand."""

import copy
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# What the operator's API has under these keys, and of which type; read from KubeRay's
# ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go (authOptions: release 1.5.1).
JOB = {
    "entrypoint": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "rayClusterSpec": dict,
}
CLUSTER = {
    "rayVersion": str,
    "authOptions": dict,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
}
GROUP = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": dict,
    "template": dict,
}


def read(name: str):
    return yaml.safe_load((ROOT / name).read_text())


def test_rays_own_schema_takes_cluster_yaml():
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = util.prepare_config(copy.deepcopy(read("cluster.yaml")))

    util.validate_config(config)

    config["availble_node_types"] = {}  # the check can fail
    with pytest.raises(Exception, match="availble_node_types"):
        util.validate_config(config)


def test_cluster_yaml_has_a_cpu_head_spot_workers_a_bucket_and_a_token():
    config = read("cluster.yaml")
    types = config["available_node_types"]
    worker = types["gpu_worker"]
    options = " ".join(config["docker"]["run_options"])

    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    assert worker["resources"]["GPU"] == 1
    assert worker["min_workers"] == 0 < worker["max_workers"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "RAY_AUTH_MODE=token" in options
    assert "SHRINKGRID_STORE=s3://" in options
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    assert {".venv", ".git", "store"} <= set(config["rsync_exclude"])
    assert any("pip install" in line for line in config["setup_commands"])
    start = config["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start


def test_the_ray_job_has_the_fields_of_kuberays_api():
    job = read("deploy/kuberay.yaml")

    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert_fields(job["spec"], JOB)
    cluster = job["spec"]["rayClusterSpec"]
    assert_fields(cluster, CLUSTER)
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert_fields(group, GROUP)
        params = group["rayStartParams"]
        assert all(isinstance(value, str) for value in params.values())
    assert "--address auto" in job["spec"]["entrypoint"]


def assert_fields(value: dict, known: dict[str, type]) -> None:
    wrong = {k: v for k, v in value.items() if not isinstance(v, known.get(k, ()))}
    assert not wrong


def test_kubernetes_schema_takes_the_pods_of_the_ray_job():
    kubernetes = pytest.importorskip("kubernetes_validate")
    cluster = read("deploy/kuberay.yaml")["spec"]["rayClusterSpec"]
    version = kubernetes.latest_version()

    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        assert kubernetes.validate(pod, version, strict=True)
        pod["spec"]["contaners"] = []  # the check can fail
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(pod, version, strict=True)


def test_a_shell_reads_the_slurm_script():
    script = ROOT / "deploy" / "slurm.sh"

    done = subprocess.run(["bash", "-n", script], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr
    text = script.read_text()
    assert "RAY_AUTH_MODE=token" in text
    assert "--dashboard-host=127.0.0.1" in text


def test_every_documented_path_authenticates_and_names_files_that_exist():
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text()

    named = set(re.findall(r"(?:deploy|tests/cluster)/\w+\b(?:\.\w+)?", page))
    assert {"deploy/kuberay.yaml", "deploy/slurm.sh", "deploy/Dockerfile"} <= named
    assert all((ROOT / name).exists() for name in named)
