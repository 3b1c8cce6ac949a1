"""`launch/kubernetes.yaml` sets what amdjax reads, and its parts agree."""

import pytest
import yaml

from amdjax.configs import default
from amdjax.recipes import RECIPES
from tests.tiny_run import ROOT


@pytest.fixture(scope="module")
def documents():
    text = (ROOT / "launch" / "kubernetes.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def jobset(documents):
    return documents["JobSet"]


@pytest.fixture(scope="module")
def job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


@pytest.fixture(scope="module")
def pod(job):
    return job["template"]["spec"]


@pytest.fixture(scope="module")
def environment(pod):
    (container,) = pod["containers"]
    return {entry["name"]: entry for entry in container["env"]}


def test_jobset_makes_the_first_pod_the_coordinator(jobset, pod, environment):
    network = jobset["spec"]["network"]
    assert network["enableDNSHostnames"] is True
    names = (jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"])
    host, port = environment["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
    assert host == f"{'-'.join(names)}-0-0.{network['subdomain']}"
    assert {"containerPort": int(port)} in pod["containers"][0]["ports"]


def test_jobset_runs_one_process_in_each_pod(job, environment):
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] > 1
    assert environment["JAX_NUM_PROCESSES"]["value"] == str(job["completions"])
    path = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_jobset_restarts_after_a_lost_pod_but_not_after_a_user_error(jobset, job, pod):
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 10
    assert job["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [2]  # amdjax's exit code for mistakes of the user
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert rule["targetReplicatedJobs"] == [jobset["spec"]["replicatedJobs"][0]["name"]]


def test_jobset_keeps_workdir_and_data_on_the_shared_disk(documents, pod):
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/disk"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    flags = dict(flag.lstrip("-").split("=") for flag in container["args"])
    assert flags["workdir"].startswith("/disk/")
    assert flags["config.data.data_dir"].startswith("/disk/")
    assert (RECIPES / flags["config"]).is_file()


def test_jobset_requests_memory_for_a_pod_and_its_shared_memory(pod):
    resources = pod["containers"][0]["resources"]
    assert int(resources["requests"]["cpu"]) > 0
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    (shared,) = (volume for volume in pod["volumes"] if volume["name"] == "memory")
    sizes = (resources["requests"]["memory"], shared["emptyDir"]["sizeLimit"])
    total, part = (int(size.removesuffix("Gi")) for size in sizes)
    assert total > part + default.get_config().data.memory_gib


def test_jobset_runs_as_the_user_of_the_image(pod):
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert f"USER {context['fsGroup']}:" in (ROOT / "launch" / "Dockerfile").read_text()


def test_manifests_are_valid(documents, jobset):
    validator = pytest.importorskip("kubernetes_validate")
    template = jobset["spec"]["replicatedJobs"][0]["template"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "amdjax"}, **template}
    for document in (documents["PersistentVolumeClaim"], job):
        validator.validate(document, validator.latest_version(), strict=True)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
