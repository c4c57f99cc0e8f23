"""The files of `deploy/`, each run or checked by its own tool."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx2
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from tingdao import server, settings
from tingdao.settings import Settings

from .conftest import Server
from .front import Front

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def proxied(state, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nginx")
    trusted = {"TINGDAO_SERVER_TRUSTED_PROXIES": '["127.0.0.1"]'}
    instances = [Server(folder / name, TINGDAO_EMBEDDED_PATH=str(weights), **trusted) for name in ("one", "two")]
    try:
        for instance in instances:
            instance.wait_until_ready()
        front = Front(folder, instances)
        try:
            yield front.url, instances
        finally:
            front.stop()
    finally:
        for instance in instances:
            instance.stop()


def test_nginx_shares_requests_between_two_instances(proxied, recordings):
    url, instances = proxied
    audio = (recordings / "cards_001.flac").read_bytes()
    for _ in range(6):
        answer = httpx2.post(
            f"{url}/v1/audio/transcriptions", files={"file": audio}, data={"model": "default"}, timeout=60
        )
        assert answer.status_code == 200
    for instance in instances:
        instance.wait_for("request", 10, path="/v1/audio/transcriptions")


def test_nginx_passes_events_on_as_they_come(proxied, recordings):
    url, _ = proxied
    data = {"model": "default", "stream": "true"}
    files = {"file": (recordings / "jfk.flac").read_bytes()}
    with httpx2.stream("POST", f"{url}/v1/audio/transcriptions", files=files, data=data, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert "transcript.text.done" in lines[-2]
    assert lines[-1] == "data: [DONE]"


def test_nginx_leaves_refusals_to_the_service(proxied):
    url, _ = proxied
    answer = httpx2.post(f"{url}/v1/audio/transcriptions", files={"file": b"no audio" * 100}, data={"model": "default"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_audio")
    assert httpx2.get(f"{url}/metrics").status_code == 200  # this client is the machine itself


def test_one_instance_stops_and_the_other_serves(proxied, recordings):
    url, instances = proxied
    audio = (recordings / "cards_001.flac").read_bytes()
    assert instances[0].stop() == 0
    for _ in range(4):
        answer = httpx2.post(
            f"{url}/v1/audio/transcriptions", files={"file": audio}, data={"model": "default"}, timeout=60
        )
        assert answer.status_code == 200


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda", "Dockerfile.vllm"])
def test_dockerfiles_pass_hadolint(name):
    checked = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DEPLOY / name], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_systemd_unit_is_valid(tmp_path):
    unit = tmp_path / "tingdao.service"
    # The only thing missing here is the installed command.
    unit.write_text((DEPLOY / "tingdao.service").read_text().replace("/opt/tingdao/bin/tingdao", "/bin/true"))
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def filled_in(text: str) -> str:
    """A compose file with its variables replaced: by their defaults, or by `given`."""
    return re.sub(r"\$\{\w+(:\?[^}]*|:-(?P<default>[^}]*))?\}", lambda match: match["default"] or "given", text)


def check_settings(environment: dict[str, str], monkeypatch) -> Settings:
    """What variables mean to the service, every one of which it must know."""
    for name, value in environment.items():
        if name.startswith("TINGDAO_"):
            assert name in settings.variables()
            monkeypatch.setenv(name, value)
    return settings.load()


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("compose*.yaml")), ids=lambda file: file.name)
def test_compose_files_are_valid_and_whole(file, monkeypatch):
    compose = yaml.safe_load(filled_in(file.read_text()))
    PyCompose.from_yaml(yaml.safe_dump(compose))  # with its merges done; unknown fields are errors
    for service in compose["services"].values():
        assert set(service.get("networks", [])) <= {"default"}  # so that the files can be combined
        assert set(service.get("depends_on", [])) <= compose["services"].keys()
        for source in (volume.split(":")[0] for volume in service.get("volumes", [])):
            assert source in compose["volumes"] or source == "given" or (DEPLOY / source).exists()
        if "build" in service:
            assert (DEPLOY.parent / service["build"]["dockerfile"]).is_file()
            check_settings(service.get("environment", {}), monkeypatch)


def test_every_vllm_container_has_a_gpu_of_its_own_and_is_found(monkeypatch):
    compose = yaml.safe_load(filled_in((DEPLOY / "compose.vllm.yaml").read_text()))
    service = compose["services"].pop("tingdao")
    (upstream,) = check_settings(service["environment"], monkeypatch).vllm.upstreams
    devices = []
    for each in compose["services"].values():
        (device,) = each["deploy"]["resources"]["reservations"]["devices"]
        devices += device["device_ids"]
        (port,) = [part.removeprefix("--port=") for part in each["command"] if part.startswith("--port=")]
        assert [f"http://{alias}:{port}" for alias in each["networks"]["default"]["aliases"]] == [upstream]
    assert devices == [str(number) for number in range(8)]


KUBERNETES = DEPLOY / "kubernetes"


@pytest.fixture(scope="module")
def manifests():
    """By kind and name."""
    files = [KUBERNETES / name for name in yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]]
    found = [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]
    return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in found}


def test_kubernetes_manifests_fit_their_schemas(manifests):
    assert len(manifests) == 6
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, "1.32", strict=True)


def test_kubernetes_manifests_fit_each_other_and_the_service(manifests, monkeypatch):
    deployment = manifests["Deployment", "tingdao"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service", "tingdao"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget", "tingdao"]["spec"]["selector"]["matchLabels"] == labels
    scaled = manifests["HorizontalPodAutoscaler", "tingdao"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", "tingdao")
    assert "cpu" in container["resources"]["requests"]  # what the autoscaler's percentage is of

    monkeypatch.setenv("TINGDAO_CONFIG", str(KUBERNETES / "tingdao.toml"))
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    file = Path(environment.pop("TINGDAO_CONFIG"))
    found = check_settings(
        environment | {"TINGDAO_KEYS_DATABASE": "postgresql://x", "TINGDAO_VLLM_KEY": "x"}, monkeypatch
    )
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert (mounts["settings"], (KUBERNETES / file.name).is_file()) == (file.parent, True)
    assert found.audio.decoders == int(container["resources"]["requests"]["cpu"])
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] >= wait + found.server.drain_timeout_s + server.PARTING
    # Kubernetes would tell it of the Service in variables that look like settings.
    assert not pod["spec"]["enableServiceLinks"]
    state = re.search(r"TINGDAO_STATE_DIR=(\S+)", (DEPLOY / "Dockerfile").read_text())[1]
    user = re.search(r"USER (\d+)", (DEPLOY / "Dockerfile").read_text())[1]
    assert str(mounts["state"]) == state
    assert str(pod["spec"]["securityContext"]["runAsUser"]) == user

    service = manifests["Service", "qwen3-asr-pods"]
    name, (port,) = service["metadata"], service["spec"]["ports"]
    assert found.vllm.upstreams == (f"http://{name['name']}.{name['namespace']}.svc:{port['port']}",)
    policy = manifests["NetworkPolicy", "qwen3-asr-for-tingdao-only"]["spec"]
    assert policy["podSelector"]["matchLabels"] == service["spec"]["selector"]
    (rule,) = policy["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == labels
    assert rule["ports"][0]["port"] == port["targetPort"]


def test_values_for_vllms_chart_are_for_the_pods_that_are_looked_for(manifests):
    values = yaml.safe_load((KUBERNETES / "vllm-stack.values.yaml").read_text())
    (model,) = values["servingEngineSpec"]["modelSpec"]
    assert manifests["Service", "qwen3-asr-pods"]["spec"]["selector"]["model"] == model["name"]
    version = re.search(r"ARG VLLM=(\S+)", (DEPLOY / "Dockerfile.vllm").read_text())[1]
    assert model["tag"] == version
