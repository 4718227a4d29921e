"""What infra/ describes holds by its schemas: no server is asked, no image is built."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from check_jsonschema import main as check
from kubernetes_validate import validate

from tests.workspace import ROOT

INFRA = ROOT / "infra"
COMPOSE = INFRA / "compose/compose.yaml"
SECRETS = {
    "POSTGRES_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "PREFECT_API_AUTH_STRING",
}
KUBERNETES = "1.32"
PINNED = re.compile(r".+:[\w.-]*\d[\w.-]*|\$\{\w+:-vl-distillery:\w+\}|vl-distillery:\w+")


def _texts():
    return [
        path for path in sorted(INFRA.rglob("*")) if path.suffix in (".yaml", ".json", ".example")
    ]


def _rendered(folder):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders kustomize, is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", INFRA / "kubernetes" / folder],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(yaml.safe_load_all(done.stdout))


def test_compose_files_follow_their_schema():
    paths = map(str, sorted((INFRA / "compose").glob("*.yaml")))
    with pytest.raises(SystemExit) as ended:
        check(["--builtin-schema", "vendor.compose-spec", *paths])
    assert not ended.value.code


def test_compose_starts_nothing_without_each_secret_and_shows_none():
    text = COMPOSE.read_text()
    assert set(re.findall(r"\$\{(\w+):\?[^}]+\}", text)) == SECRETS
    assert set(re.findall(r"\$\{(\w+)\}", text)) == set()
    example = (INFRA / "compose/secrets.env.example").read_text()
    assert set(re.findall(r"^(\w+)=$", example, re.M)) == SECRETS
    done = subprocess.run(
        ["git", "check-ignore", "infra/compose/secrets.env"], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0


def test_ports_are_open_on_this_machine_alone():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2 and all(port.startswith("${BIND:-127.0.0.1}:") for port in ports)


def test_images_are_pinned():
    texts = "\n".join(path.read_text() for path in _texts())
    images = re.findall(r"^ *image: (\S+)$", texts, re.M)
    images += re.findall(r"^ARG PYTHON=(\S+)", (INFRA / "images/Dockerfile").read_text(), re.M)
    assert len(images) > 6
    loose = [name for name in images if not PINNED.fullmatch(name) and name != "vl-distillery"]
    assert not [name for name in loose if not re.match(r"\d", name)]


def test_the_image_is_built_as_its_linter_wants_and_runs_as_no_root():
    path = INFRA / "images/Dockerfile"
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    text = path.read_text()
    assert re.findall(r"^USER (\S+)$", text, re.M) == ["10001:10001"]
    ignored = (INFRA / "images/Dockerfile.dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    copied = re.findall(r"^COPY ([\w. ]+) \./$", text, re.M)[0].split()
    assert set(copied) <= set(kept)


@pytest.mark.parametrize("folder", ["base", "cards", "jobs"])
def test_manifests_follow_the_schemas_of_kubernetes(folder):
    found = _rendered(folder)
    for one in found:
        validate(one, KUBERNETES, strict=True)
    pods = [one["spec"]["template"]["spec"] for one in found if "template" in one.get("spec", {})]
    assert len(pods) == 7
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert PINNED.fullmatch(container["image"])
            assert not container["securityContext"]["allowPrivilegeEscalation"]
    kinds = {one["kind"] for one in found}
    assert "Secret" not in kinds and "Ingress" not in kinds


def test_a_worker_with_a_card_asks_for_one():
    workers = [
        one
        for one in _rendered("cards")
        if one["kind"] == "Deployment" and one["metadata"]["name"] == "worker"
    ]
    container = workers[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"] == "vl-distillery:cuda"
    assert container["command"][3:5] == ["--pool", "gpu"]


@pytest.mark.parametrize(
    "path", sorted((INFRA / "work_pools").rglob("*.json")), ids=lambda p: p.stem
)
def test_templates_of_work_pools_name_variables_that_they_define(path):
    template = json.loads(path.read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])


def test_a_job_of_kubernetes_follows_its_schema():
    template = json.loads((INFRA / "work_pools/jobs/kubernetes.json").read_text())
    values = {name: body["default"] for name, body in template["variables"]["properties"].items()}
    values |= {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": []}
    job = _filled(template["job_configuration"]["job_manifest"], values)
    pod = job["spec"]["template"]["spec"]
    # Prefect's worker wants them here too; Kubernetes knows them in a job alone
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    validate(job, KUBERNETES, strict=True)
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}


def _filled(node, values):
    """Return a template with its variables replaced, as a worker does."""
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    if isinstance(node, str):
        if whole := re.fullmatch(r"\{\{ (\w+) \}\}", node):
            return values[whole[1]]
        return re.sub(r"\{\{ (\w+) \}\}", lambda found: str(values[found[1]]), node)
    return node


def test_no_file_names_a_secret_of_its_own():
    for path in _texts():
        assert not re.search(r"(PASSWORD|SECRET\w*KEY|AUTH_STRING)[:=] *['\"]?\w", path.read_text())


def test_paths_exist_that_files_name():
    for path in [*_texts(), INFRA / "images/Dockerfile", INFRA / "README.md"]:
        for name in re.findall(r"(?<!/)\binfra/[\w/.-]*\w", path.read_text()):
            made_by_the_reader = name == "infra/compose/secrets.env"
            assert made_by_the_reader or "$" in name or (ROOT / name).exists(), (path, name)


def test_an_allocation_of_slurm_has_one_card_and_says_what_it_lacks():
    script = INFRA / "slurm/worker.sbatch"
    asked = dict(re.findall(r"^#SBATCH --(\S+)=(\S+)$", script.read_text(), re.M))
    assert asked["gpus"] == asked["nodes"] == asked["ntasks"] == "1"
    assert asked["signal"].startswith("B:TERM@")  # B: to the script alone, and not to the run
    subprocess.run(["bash", "-n", script], check=True)
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, script], check=True)
    done = subprocess.run(["bash", script], env={}, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "PREFECT_API_URL: is not set; set it to" in done.stderr
