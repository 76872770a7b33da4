"""The proof: it holds for what is as it was recorded, and finds whatever is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project
from market import PRODUCT

from aigc_tasks.promote import proof, registry

pytestmark = pytest.mark.slow


def links(said: str) -> dict[str, str]:
    """Name and state of every line of the chain."""
    states = ("holds", "does not hold", "cannot be checked", "was not asked for")
    found = {}
    for line in said.splitlines():
        name, _, rest = line.partition("  ")
        for state in states:
            if rest.strip().startswith(state):
                found[name.strip()] = state
    return found


def test_it_holds_from_the_data_to_the_figures_with_the_training_repeated(live: Project) -> None:
    before = {
        file: file.stat().st_mtime_ns for file in live.path.rglob("*") if file.is_file() and "runs" not in str(file)
    }
    said = live.check("aigc", "verify", f"{PRODUCT}@champion", "--retrain")
    assert links(said) == dict.fromkeys(
        ["alias", "version", "run", "code", "data", "cleaning", "judge", "training", "weights", "samples", "figures"],
        "holds",
    )
    assert "the chain holds" in said
    changed = [str(file) for file, time in before.items() if file.stat().st_mtime_ns != time]
    assert [file for file in changed if "/.git/" not in file and "/.dvc/" not in file] == []
    assert len(live.runs()) == 3, "no run is added"
    assert live.check("git", "worktree", "list").count("\n") == 1


def test_without_retraining_it_says_so(live: Project) -> None:
    """In a folder of any name: DVC writes its settings in ASCII."""
    live.path = live.path.rename(live.path.with_name("Jürgens Projekt"))
    said = live.check("aigc", "verify", f"{PRODUCT}@1")
    assert links(said)["retraining"] == "was not asked for"
    assert "alias" not in links(said)
    assert "does not hold" not in said


def product_folder(project: Project) -> Path:
    """The product of version 2, in the store."""
    version = project.mlflow().get_model_version(PRODUCT, "2")
    (found,) = (project.path / "mlruns/artifacts").rglob(f"{version.source.removeprefix('models:/')}/artifacts")
    return found / "artifacts/product"


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    changed = change(content)
    assert changed != content
    path.write_bytes(changed)


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def cached(project: Project, output: str, name: str) -> Path:
    """Where DVC's cache keeps a file of an output."""
    folder = project.hashes()[output]
    cache = project.path / ".dvc/cache/files/md5"
    listing = json.loads((cache / folder[:2] / folder[2:]).read_text())
    digest = next(entry["md5"] for entry in listing if entry["relpath"] == name)
    return cache / digest[:2] / digest[2:]


def weights(project: Project) -> None:
    rewrite(product_folder(project) / "model.safetensors", flipped)


def figures(project: Project) -> None:
    rewrite(product_folder(project) / "quality.json", lambda old: old.replace(b'"fid_ratio": ', b'"fid_ratio": 0'))


def card(project: Project) -> None:
    rewrite(product_folder(project) / "model-card.md", lambda old: old.replace(b"Licence: CC BY", b"Licence: none, CC"))


def settings(project: Project) -> None:
    rewrite(product_folder(project) / "postprocess.json", lambda old: old.replace(b'"seed": 0', b'"seed": 1'))


def classes(project: Project) -> None:
    rewrite(product_folder(project) / "model.json", lambda old: old.replace(b'"3"', b'"x"'))


def served_code(project: Project) -> None:
    rewrite(product_folder(project).parents[1] / "served_model.py", lambda old: old + b"\nprint('owned')\n")


def provenance(project: Project) -> None:
    clean = project.hashes()["data/clean/digits"].encode()
    rewrite(product_folder(project) / "provenance.json", lambda old: old.replace(clean, b"0" * 32 + b".dir"))


def commit(project: Project) -> None:
    """Another one, whose code is another one."""
    rewrite(project.path / "aigc_tasks/model.py", lambda old: old + b"\n# another\n")
    project.check("git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-qam", "another")
    new = project.check("git", "rev-parse", "HEAD").strip().encode()
    old = project.check("git", "rev-parse", "HEAD~1").strip().encode()
    rewrite(product_folder(project) / "provenance.json", lambda content: content.replace(old, new))


def no_commit(project: Project) -> None:
    """As if nobody could know from which code it was made."""
    head = project.check("git", "rev-parse", "HEAD").strip().encode()
    rewrite(product_folder(project) / "provenance.json", lambda old: old.replace(b'"' + head + b'"', b"null"))


def tag(project: Project) -> None:
    project.mlflow().set_model_version_tag(PRODUCT, "2", "quality.fid_ratio", "0.1")


def run(project: Project) -> None:
    version = project.mlflow().get_model_version(PRODUCT, "2")
    project.mlflow().set_tag(version.run_id, "aigc.fingerprint", "0" * 64)


def alias(project: Project) -> None:
    project.mlflow().set_registered_model_alias(PRODUCT, "champion", "3")


def raw_data(project: Project) -> None:
    folder = project.hashes()["data/raw/digits"]
    cache = project.path / ".dvc/cache/files/md5"
    names = [entry["relpath"] for entry in json.loads((cache / folder[:2] / folder[2:]).read_text())]
    name = next(name for name in names if name.endswith(".parquet"))
    rewrite(cached(project, "data/raw/digits", name), flipped)


def clean_data(project: Project) -> None:
    rewrite(cached(project, "data/clean/digits", "train.npy"), flipped)


def judge(project: Project) -> None:
    rewrite(cached(project, "data/features/digits", "judge.safetensors"), flipped)


def trained(project: Project) -> None:
    rewrite(cached(project, "data/models/fair", "model.safetensors"), flipped)


def samples(project: Project) -> None:
    rewrite(cached(project, "data/samples/fair", "samples.npy"), flipped)


@pytest.mark.parametrize(
    ("tamper", "link"),
    [
        (weights, "version"), (figures, "version"), (card, "version"), (provenance, "version"), (tag, "version"),
        (settings, "version"), (classes, "version"), (served_code, "version"), (no_commit, "version"),
        (run, "run"), (alias, "alias"), (commit, "code"), (raw_data, "data"), (clean_data, "cleaning"),
        (judge, "judge"), (trained, "training"), (samples, "samples"),
    ],
)  # fmt: skip
def test_tampering_with_a_link_is_found(
    tamper: Callable[[Project], None], link: str, live: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the link is not waited for: the chain is made as it is read."""
    tamper(live)
    monkeypatch.chdir(live.path)
    which = "champion" if tamper is alias else "2"
    chain = proof.links(*registry.find(f"{PRODUCT}@{which}"), which, retrain=False)
    found = next(one for one in chain if one.name == link)
    assert found.state == proof.BROKEN, found
    chain.close()


def test_a_broken_chain_ends_with_1(live: Project) -> None:
    tag(live)
    done = live.run("aigc", "verify", f"{PRODUCT}@2")
    assert done.returncode == 1
    assert links(done.stdout)["version"] == "does not hold"
    assert "not what was registered: quality.fid_ratio" in done.stdout
    assert "THE CHAIN DOES NOT HOLD" in done.stdout


def test_what_cannot_be_checked_says_why(live: Project) -> None:
    shutil.rmtree(live.path / ".dvc/cache")
    done = live.run("aigc", "verify", f"{PRODUCT}@2")
    assert done.returncode == 2
    assert links(done.stdout)["data"] == "cannot be checked"
    assert "neither DVC's cache nor a remote has it" in done.stdout


def test_changes_that_were_not_committed_are_named(market: Project) -> None:
    market.edit(lambda p: p["recipes"]["fair"]["postprocess"].update(seed=4))
    market.check("dvc", "repro", "evaluate@fair")
    market.check("aigc", "promote", "fair")
    done = market.run("aigc", "verify", PRODUCT)
    assert done.returncode == 2
    assert links(done.stdout)["code"] == "cannot be checked"
    assert "params.yaml: recipes.fair.postprocess is not the one that postprocess@fair ran with" in done.stdout
    assert "changes that were not committed" in done.stdout
